"""Rule-based augmentation of single sentences for distillation: masking, same-tag replacement, n-gram sampling.

Paper: Tang et al. 2019, "Distilling Task-Specific Knowledge from BERT into Simple Neural Networks", arXiv 1903.12136.
"""

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa

from distil_trainer.augmentation.corpus import CodedCorpus, WordPool
from distil_trainer.augmentation.sampling import OPERATORS, sample_copies

logger = logging.getLogger(__name__)

# Part of every fingerprint: raise it when the same settings give other rows, or `datasets` serves the old ones.
_RULES_VERSION = 1
_OPERATOR_NAMES = ["original"] + [
    "+".join(name for bit, name in enumerate(OPERATORS) if bits >> bit & 1) for bits in range(1, 2 ** len(OPERATORS))
]


class RuleAugmenter:
    """A callable for `Dataset.map` that follows each text with rewritten copies of it.

    Made by [`RuleAugmenter.from_corpus`]. Each row gets the columns

    - the text column: white space and all else between the words is that of the parent;
    - `parent` (`int64`): the row index of the text in the source data set;
    - `operators` (`string`): `"original"`, or what shows in the text: `"mask"`, `"replace"`, `"ngram"`, joined by `+`;
    - the label column, if the data set has it: the gold label on originals; on copies -1 (no label; a null where
      labels are not integers), or the gold label with `keep_label`.

    The original comes first. Copies equal to it or to one another are left out, so a text has at most `copies`. What a
    row becomes depends on the augmenter, the row index and the text alone: not on the batch size, the number of
    processes or the other rows.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from distil_trainer import RuleAugmenter

    >>> dataset = Dataset.from_dict({"sentence": ["a moving film with a great cast"], "label": [1]})
    >>> augmenter = RuleAugmenter.from_corpus(dataset["sentence"], copies=4, replace_probability=0.0, seed=1)
    >>> transfer = dataset.map(augmenter, batched=True, with_indices=True, remove_columns=dataset.column_names)
    >>> transfer[0]["operators"]
    'original'
    ```
    """

    def __init__(self, corpus, settings):
        self.corpus = corpus
        self.settings = settings
        self._pool = WordPool(corpus, by_frequency=settings.pool == "frequency")

    @classmethod
    def from_corpus(
        cls,
        texts,
        analyzer=None,
        text_column="sentence",
        label_column="label",
        copies=20,
        mask_probability=0.1,
        replace_probability=0.1,
        ngram_probability=0.25,
        ngram_lengths=(1, 5),
        ngram_rule="mask",
        pool="types",
        lower=False,
        keep_label=False,
        seed=0,
        num_proc=None,
    ):
        """Analyze a corpus, from which words are replaced, and return the augmenter.

        Each distinct text of the corpus is tagged here, once; texts that come later and are not in it are tagged then.
        With a spaCy pipeline the tags are kept in the cache of `datasets`.

        Args:
            texts (`Iterable[str]`): the corpus, as a rule the texts of the training split.
            analyzer (`str` or `Callable`, *optional*): what finds words and tags. The name or folder of a spaCy
                pipeline (coarse tags where it gives them, else fine ones), or a callable from a text to a list of
                `(surface, tag, start, length)`. `None` splits at white space without tags: no word is replaced then.
            text_column (`str`, *optional*, defaults to `"sentence"`): the column to rewrite.
            label_column (`str`, *optional*, defaults to `"label"`): the column of gold labels. May be absent.
            copies (`int`, *optional*, defaults to 20): how often each text is rewritten.
            mask_probability (`float`, *optional*, defaults to 0.1): the share of words that become the mask word.
            replace_probability (`float`, *optional*, defaults to 0.1): the share of words replaced by another of
                their tag.
            ngram_probability (`float`, *optional*, defaults to 0.25): the share of copies with an n-gram step.
            ngram_lengths (`tuple[int, int]`, *optional*, defaults to `(1, 5)`): shortest and longest n-gram.
            ngram_rule (`str`, *optional*, defaults to `"mask"`): `"mask"` masks the n-gram; `"keep"` keeps only
                it (the paper's rule).
            pool (`str`, *optional*, defaults to `"types"`): whether each word of a tag is drawn alike
                (`"types"`), or as often as the corpus has it (`"frequency"`).
            lower (`bool`, *optional*, defaults to `False`): lower-case all texts, originals too, but not the mask
                word. Words are tagged before.
            keep_label (`bool`, *optional*, defaults to `False`): give copies the gold label of their parent.
            seed (`int`, *optional*, defaults to 0): the seed of all draws.
            num_proc (`int`, *optional*): processes for the analysis. Use 1 for a pipeline that runs on a GPU.

        Returns:
            [`RuleAugmenter`]

        Raises:
            ImportError: if the analyzer needs spaCy and it is not installed.
            OSError: if there is no spaCy pipeline of that name or in that folder.
            TypeError: if `texts` is one string, a text is no string, or `analyzer` is neither a name nor a callable.
            ValueError: if a setting is out of range, the corpus has no texts, a text is empty, or the words of an
                analyzer do not stand in the text where it says.

        Reference:
            arXiv 1903.12136, "Data Augmentation for Distillation". Departures: at most half of a text's words are
            edited; a word is never replaced by itself; the n-gram is masked unless `ngram_rule="keep"`; the number of
            copies is an upper bound, since unchanged and repeated ones are left out.
        """
        settings = RuleSettings(
            text_column=text_column,
            label_column=label_column,
            copies=copies,
            mask_probability=mask_probability,
            replace_probability=replace_probability,
            ngram_probability=ngram_probability,
            ngram_lengths=tuple(ngram_lengths),
            ngram_rule=ngram_rule,
            pool=pool,
            keep_label=keep_label,
            seed=seed,
        )
        if isinstance(analyzer, Path):
            analyzer = str(analyzer)
        if not (analyzer is None or isinstance(analyzer, str) or callable(analyzer)):
            raise TypeError(
                f"analyzer={analyzer!r} is a {type(analyzer).__name__}; needed is the name or folder of a spaCy "
                "pipeline, a callable from a text to a list of (surface, tag, start, length), or None."
            )
        if isinstance(texts, str):
            raise TypeError(
                f"texts={texts[:40]!r} is one string, which would be read as a corpus of single letters: give a list "
                "of texts, such as dataset['sentence']."
            )
        texts = list(texts)
        if not texts:
            raise ValueError(
                "texts has no rows: the corpus gives the words to replace with, and without it none would be "
                "replaced. Give the texts of the training split."
            )
        _check_texts(texts, range(len(texts)), "texts")
        corpus = CodedCorpus.from_texts(texts, analyzer, lower, num_proc)
        if replace_probability > 0 and not corpus.tags:
            logger.warning(
                f"analyzer={analyzer!r} gives no tags, so no word is replaced by another of its tag: "
                f"replace_probability={replace_probability} has no effect, and the copies are masked only. Give a "
                'spaCy pipeline (analyzer="en_core_web_sm" or a folder; pip install "distil_trainer[augment]"), or a '
                "callable that returns tags; or set replace_probability=0."
            )
        return cls(corpus, settings)

    def __call__(self, batch, indices=None):
        """Augment a batch.

        Args:
            batch (`dict[str, list]`): columns of `b` rows.
            indices (`list[int]` of length `b`): the row indices; `map` passes them with `with_indices=True`.

        Returns:
            `dict[str, list]` of the columns that the class describes, each text followed by its copies.

        Raises:
            TypeError: if `indices` is missing, or a text is no string.
            ValueError: if a column is missing, or a text is empty.
        """
        settings = self.settings
        if indices is None:
            raise TypeError(
                "RuleAugmenter was called without row indices, on which its random draws depend: use "
                "dataset.map(augmenter, batched=True, with_indices=True, remove_columns=dataset.column_names)."
            )
        needed = [settings.text_column] + [settings.label_column] * settings.keep_label
        for column in needed:
            if column not in batch:
                raise ValueError(
                    f"the data set has no column {column!r}; it has {sorted(batch)}. Give the right one as "
                    f"{'text_column' if column == settings.text_column else 'label_column, or set keep_label=False'}."
                )
        texts = list(batch[settings.text_column])
        _check_texts(texts, indices, f"column {settings.text_column!r}")
        rows = np.asarray(indices, np.int64)
        coded = self.corpus.encode(texts)
        copies = sample_copies(coded, rows, self._pool, settings)
        rewritten = _join(coded.strings, copies)
        kept = _first_occurrences(rewritten, copies.parents)
        parents, operators = copies.parents[kept], copies.operators[kept]
        columns = {
            settings.text_column: rewritten.take(kept).to_pylist(),
            "parent": rows[parents],
            "operators": np.array(_OPERATOR_NAMES, dtype=object)[operators].tolist(),
        }
        if settings.label_column in batch:
            labels = list(batch[settings.label_column])
            columns[settings.label_column] = _labels(labels, parents, operators > 0, settings.keep_label)
        return columns

    def __getstate__(self):
        """Settings as one string and the corpus as bytes: the fingerprint is then the same in every process."""
        return {
            "version": _RULES_VERSION,
            "settings": json.dumps(dataclasses.asdict(self.settings)),
            "corpus": self.corpus,
        }

    def __setstate__(self, state):
        settings = json.loads(state["settings"])
        settings["ngram_lengths"] = tuple(settings["ngram_lengths"])
        self.__init__(state["corpus"], RuleSettings(**settings))


@dataclasses.dataclass(frozen=True)
class RuleSettings:
    """The settings of [`RuleAugmenter.from_corpus`], checked."""

    text_column: str
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


def _check_texts(texts, indices, source):
    for text, index in zip(texts, indices, strict=True):
        if not isinstance(text, str):
            raise TypeError(
                f"{source}, row {index}: {text!r} is a {type(text).__name__}, needed is a string: correct or remove "
                "the row, such as by dataset.filter(lambda row: isinstance(row[column], str))."
            )
        if not text.strip():
            raise ValueError(
                f"{source}, row {index}: the text {text!r} is empty, and a teacher's logits for it would mean "
                "nothing. Correct or remove the row, such as by dataset.filter(lambda row: row[column].strip())."
            )


def _join(strings, copies):
    """Join each copy's pieces: they lie one after another in memory, so only the offsets change."""
    _, offsets, characters = strings.take(pa.array(copies.pieces)).buffers()
    ends = np.concatenate([[0], np.cumsum(copies.piece_counts)])
    offsets = np.frombuffer(offsets, np.int64)[ends]
    return pa.LargeStringArray.from_buffers(len(copies.piece_counts), pa.py_buffer(offsets), characters)


def _first_occurrences(texts, parents):
    """Indices of the rows whose text did not occur before with the same parent, in order."""
    codes = texts.dictionary_encode()
    keys = parents * len(codes.dictionary) + codes.indices.to_numpy()
    return np.sort(np.unique(keys, return_index=True)[1])


def _labels(labels, parents, is_copy, keep_label):
    unlabelled = -1 if all(label is None or isinstance(label, (int, np.integer)) for label in labels) else None
    return [
        unlabelled if copy and not keep_label else labels[parent]
        for parent, copy in zip(parents.tolist(), is_copy.tolist(), strict=True)
    ]
