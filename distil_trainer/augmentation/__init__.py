"""Text → more text: batched callables for `datasets.map`, language models that write, and the audit of all that."""

from distil_trainer.augmentation.audit import drop_duplicates_and_leaks, drop_leaks, operator_counts, texts_of
from distil_trainer.augmentation.kiwi import spaced_morphemes, to_morphemes
from distil_trainer.augmentation.rules import RuleAugmenter

# Language models are imported from their own modules: they need torch, which rules do without.
__all__ = [
    "RuleAugmenter",
    "drop_duplicates_and_leaks",
    "drop_leaks",
    "operator_counts",
    "spaced_morphemes",
    "texts_of",
    "to_morphemes",
]
