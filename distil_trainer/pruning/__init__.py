"""Smaller encoders from trained ones: fewer heads, FFN neurons, layers and tokens, and back to their answers."""

from distil_trainer.pruning.gradual import GradualPruning
from distil_trainer.pruning.recovery import recover
from distil_trainer.pruning.structure import prune
from distil_trainer.pruning.vocabulary import prune_vocabulary

__all__ = ["GradualPruning", "prune", "prune_vocabulary", "recover"]
