"""The arguments that say what a recipe's transfer set is made of."""

import os
from dataclasses import dataclass, field

from distil_trainer.augmentation.near_duplicates import NEAR_THRESHOLD
from distil_trainer.augmentation.rule_settings import RuleSettings

# What `--language_model` is called where there is none to start from.
FROM_SCRATCH = "scratch"
# What is read only where another setting is given.
READ_WITH = {
    "unlabelled_files": ("unlabelled_share", "max_unlabelled_samples"),
    "generated_rows": (
        "language_model", "language_model_learning_rate", "language_model_num_train_epochs",
        "language_model_max_steps", "generation_temperature", "generation_top_k", "generation_top_p",
    ),
    "rewriting_copies": ("rewriting_model", "rewriting_share"),
}  # fmt: skip


@dataclass
class TransferSetArguments:
    """What the transfer set is made of: training texts, texts without labels, rewritten copies, generated texts."""

    copies: int = field(default=20, metadata={"help": "Copies tried per text by rules; 0 for the texts alone."})
    analyzer: str | None = field(
        default=None,
        metadata={
            "help": "What tags words: a spaCy pipeline, by name or folder; or kiwi for Korean, or kiwi:morphemes for "
            "texts that to_morphemes made."
        },
    )
    mask_probability: float = field(default=0.1, metadata={"help": "Chance that a word is masked."})
    replace_probability: float = field(
        default=0.1, metadata={"help": "Chance that a word gives way to one of its tag."}
    )
    ngram_probability: float = field(default=0.25, metadata={"help": "Chance of the n-gram step in a copy."})
    ngram_rule: str = field(default="mask", metadata={"help": "mask: mask the n-gram; keep: keep nothing else."})
    pool: str = field(default="types", metadata={"help": "Draw replacements by types or by frequency."})
    lower: bool = field(default=False, metadata={"help": "Lower-case every text."})
    augmentation_num_proc: int = field(default=2, metadata={"help": "Processes that augment."})
    unlabelled_files: list[str] | None = field(
        default=None,
        metadata={
            "help": "Files of texts without labels: .txt with one a line, or .csv, .tsv, .jsonl or .parquet with the "
            "training split's columns of texts. The teacher labels them."
        },
    )
    unlabelled_share: float | None = field(
        default=None,
        metadata={"help": "Share of texts without labels among all, before any is rewritten; by default all of both."},
    )
    max_unlabelled_samples: int | None = field(default=None, metadata={"help": "Keep this many of those texts."})
    generated_rows: int = field(default=0, metadata={"help": "Texts that a language model writes in addition."})
    language_model: str = field(
        default="openai-community/gpt2",
        metadata={
            "help": "That causal language model, fine-tuned on the training texts first: Hub id or folder; or scratch "
            "for a small GPT-2 with fresh weights, which writes poorly."
        },
    )
    language_model_learning_rate: float | None = field(
        default=None, metadata={"help": "Its peak learning rate; by default 5e-5, or 1e-3 for fresh weights."}
    )
    language_model_num_train_epochs: float = field(default=3.0, metadata={"help": "Its epochs."})
    language_model_max_steps: int = field(default=-1, metadata={"help": "Its steps, in place of epochs."})
    generation_temperature: float = field(default=1.0, metadata={"help": "Temperature at which it writes."})
    generation_top_k: int | None = field(
        default=None, metadata={"help": "It draws among so many tokens; by default among all."}
    )
    generation_top_p: float = field(
        default=1.0, metadata={"help": "It draws among the likeliest tokens of this mass; by default among all."}
    )
    rewriting_copies: int = field(
        default=0, metadata={"help": "Copies tried per text in which a masked language model fills in masked words."}
    )
    rewriting_model: str | None = field(default=None, metadata={"help": "That model: Hub id or folder."})
    rewriting_share: float = field(default=0.2, metadata={"help": "Share of words that it fills in."})
    near_duplicate_threshold: float | None = field(
        default=NEAR_THRESHOLD,
        metadata={
            "help": "Drop texts that are at least this similar to an evaluation text, above 0 and at most 1, before "
            "anything learns from them; null, in a YAML file, drops equal ones only."
        },
    )
    max_entropy_bits: float | None = field(
        default=None,
        metadata={"help": "Drop rows without gold labels about which the teacher is less certain than this entropy."},
    )
    drop_disagreements: bool = field(
        default=False,
        metadata={"help": "Drop rewritten copies whose label, by the teacher, is not that of their original."},
    )
    pseudo_labels: str = field(
        default="soft",
        metadata={
            "help": "What the student learns of the teacher: soft, its logits; hard, its labels alone, where there "
            "is no gold one."
        },
    )
    meta_pseudo_labels: None | str | dict = field(
        default=None,
        metadata={
            "help": "Let the teacher draw labels for the transfer set, learn from what they do to the student, and "
            "fine-tune the student on the training split last: settings of MetaPseudoLabelsArguments as a YAML "
            "mapping, {} for its defaults."
        },
    )
    self_training_rounds: int = field(
        default=0,
        metadata={"help": "Rounds in which the student becomes the teacher of a new one; 0 for one student alone."},
    )

    def __post_init__(self):
        for name in ("copies", "generated_rows", "rewriting_copies", "self_training_rounds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0.")
        for name in ("augmentation_num_proc", "max_unlabelled_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        RuleSettings(  # its checks
            text_column="text",
            text_pair_column=None,
            label_column="label",
            copies=self.copies or 1,
            mask_probability=self.mask_probability,
            replace_probability=self.replace_probability,
            ngram_probability=self.ngram_probability,
            ngram_lengths=(1, 5),
            ngram_rule=self.ngram_rule,
            pool=self.pool,
            keep_label=False,
            seed=0,
        )
        for name, low, high in (
            ("near_duplicate_threshold", 0, 1),
            ("generation_temperature", 0, float("inf")),
            ("generation_top_p", 0, 1),
            ("rewriting_share", 0, 1),
            ("max_entropy_bits", 0, float("inf")),
        ):
            value = getattr(self, name)
            if value is not None and not low < value <= high:
                raise ValueError(f"{name}={value} must be above {low}" + f" and at most {high}." * (high == 1))
        for file in self.unlabelled_files or ():
            if not os.path.isfile(file):
                raise ValueError(
                    f"unlabelled_files names {file!r}, which is not a file: give .txt, .csv, .tsv, .jsonl or .parquet "
                    "files."
                )
        if self.unlabelled_share is not None and not 0 < self.unlabelled_share < 1:
            raise ValueError(
                f"unlabelled_share={self.unlabelled_share} must be above 0 and below 1; leave it out to take every "
                "text of both kinds."
            )
        if self.pseudo_labels not in ("soft", "hard"):
            raise ValueError(f"pseudo_labels={self.pseudo_labels!r}: choose soft or hard.")
        self._refuse_settings_without_effect()

    def _refuse_settings_without_effect(self):
        """Refuse what would be ignored in silence."""
        defaults = type(self).__dataclass_fields__
        for needed, names in READ_WITH.items():
            given = [name for name in names if getattr(self, name) != defaults[name].default]
            if given and not getattr(self, needed):
                raise ValueError(
                    f"{given[0]}={getattr(self, given[0])!r} without --{needed}: it would have no effect. Give "
                    f"--{needed} too, or leave it out."
                )
        if self.rewriting_copies and self.rewriting_model is None:
            raise ValueError(
                f"rewriting_copies={self.rewriting_copies} without --rewriting_model: name a masked language model, "
                "such as distilbert/distilbert-base-uncased."
            )
