"""Meta Pseudo Labels: a teacher that learns from what its pseudo-labels do to the student.

Paper: Pham et al. 2020, https://arxiv.org/abs/2003.10580.
"""

from distil_trainer.meta_pseudo_labels.arguments import MetaPseudoLabelsArguments
from distil_trainer.meta_pseudo_labels.plot import plot_meta_pseudo_labels
from distil_trainer.meta_pseudo_labels.trainer import MetaPseudoLabelsTrainer

__all__ = ["MetaPseudoLabelsArguments", "MetaPseudoLabelsTrainer", "plot_meta_pseudo_labels"]
