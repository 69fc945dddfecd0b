"""Text → more text: batched callables for `datasets.map`, and the audit of what they wrote."""

from distil_trainer.augmentation.audit import drop_duplicates_and_leaks, drop_leaks, operator_counts, texts_of
from distil_trainer.augmentation.rules import RuleAugmenter

__all__ = ["RuleAugmenter", "drop_duplicates_and_leaks", "drop_leaks", "operator_counts", "texts_of"]
