"""The settings of rule-based augmentation, checked."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RuleSettings:
    """The settings of [`RuleAugmenter.from_corpus`], checked."""

    text_column: str
    text_pair_column: str | None
    label_column: str
    copies: int
    mask_probability: float
    replace_probability: float
    ngram_probability: float
    ngram_lengths: tuple[int, int]
    ngram_rule: str
    pool: str
    keep_label: bool
    seed: int

    def __post_init__(self):
        self._check_column_names()
        if self.copies < 1:
            raise ValueError(
                f"copies={self.copies}: needed is at least 1, or no text would be rewritten. To keep the "
                "originals only, leave the augmentation out."
            )
        for name in ("mask_probability", "replace_probability", "ngram_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is not a probability: give a number from 0 to 1.")
        if self.mask_probability + self.replace_probability > 1:
            raise ValueError(
                f"mask_probability={self.mask_probability} and replace_probability={self.replace_probability} sum to "
                "more than 1. A word is masked or replaced, never both, so replacement would happen less often than "
                "asked: lower one of them."
            )
        if len(self.ngram_lengths) != 2 or not 1 <= self.ngram_lengths[0] <= self.ngram_lengths[1]:
            raise ValueError(
                f"ngram_lengths={self.ngram_lengths}: needed are the shortest and the longest n-gram in words, with "
                "1 <= shortest <= longest, such as (1, 5)."
            )
        for name, known in (("ngram_rule", ("mask", "keep")), ("pool", ("types", "frequency"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown: give {known[0]!r} or {known[1]!r}.")

    @property
    def text_columns(self):
        """The columns to rewrite (`list[str]`): one, or the two of a pair."""
        return [self.text_column] if self.text_pair_column is None else [self.text_column, self.text_pair_column]

    def _check_column_names(self):
        if self.text_pair_column == self.text_column:
            raise ValueError(
                f"text_column={self.text_column!r} and text_pair_column={self.text_pair_column!r} are one column: "
                "every pair would be a text and the same text again. Name the column of the second texts, or leave "
                "text_pair_column out where texts are single."
            )
        written = ["parent", "operators"] + ["rewritten"] * (self.text_pair_column is not None)
        for argument in ("text_column", "text_pair_column"):
            column = getattr(self, argument)
            if column in [*written, self.label_column]:
                raise ValueError(
                    f"{argument}={column!r}: a column of that name is written with other values ({', '.join(written)} "
                    f"and the labels of label_column={self.label_column!r}), and the texts would be lost. Name "
                    "another, or rename it by dataset.rename_column."
                )
        if self.label_column in written:
            raise ValueError(
                f"label_column={self.label_column!r}: a column of that name is written with other values, and the "
                "labels would be lost. Name another, or rename it by dataset.rename_column."
            )
