"""Text → more text: batched callables for `datasets.map`, language models that write, and the audit of all that."""

from distil_trainer.augmentation.audit import drop_duplicates_and_leaks, drop_leaks, operator_counts, texts_of
from distil_trainer.augmentation.generation import first_token_counts, generate_transfer_set
from distil_trainer.augmentation.kiwi import spaced_morphemes, to_morphemes
from distil_trainer.augmentation.language_model import fine_tune_language_model, load_language_model
from distil_trainer.augmentation.masked_rewriting import MaskedRewriter
from distil_trainer.augmentation.rules import RuleAugmenter
from distil_trainer.augmentation.small_gpt2 import small_gpt2

__all__ = [
    "MaskedRewriter",
    "RuleAugmenter",
    "drop_duplicates_and_leaks",
    "drop_leaks",
    "fine_tune_language_model",
    "first_token_counts",
    "generate_transfer_set",
    "load_language_model",
    "operator_counts",
    "small_gpt2",
    "spaced_morphemes",
    "texts_of",
    "to_morphemes",
]
