"""Rule-based augmentation of sentences and pairs for distillation: masking, same-tag replacement, n-gram sampling.

Paper: Tang et al. 2019, "Distilling Task-Specific Knowledge from BERT into Simple Neural Networks", arXiv 1903.12136.
"""

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa

from distil_trainer.augmentation.analyzers import AnalyzerError, write_texts
from distil_trainer.augmentation.corpus import CodedCorpus, WordPool
from distil_trainer.augmentation.rule_settings import RuleSettings
from distil_trainer.augmentation.sampling import OPERATORS, sample_copies

logger = logging.getLogger(__name__)

# Part of every fingerprint: raise it when the same settings give other rows, or `datasets` serves the old ones.
_RULES_VERSION = 1
_OPERATOR_NAMES = ["original"] + [
    "+".join(name for bit, name in enumerate(OPERATORS) if bits >> bit & 1) for bits in range(1, 2 ** len(OPERATORS))
]
_REWRITTEN_NAMES = ["none", "first", "second", "both"]


class RuleAugmenter:
    """A callable for `Dataset.map` that follows each text, or pair of texts, with rewritten copies of it.

    Made by [`RuleAugmenter.from_corpus`]. Each row gets the columns

    - the text column, or both of a pair: white space and all else between the words is that of the parent (with
      `analyzer="kiwi:morphemes"` it is one space);
    - `parent` (`int64`): the row index of the text in the source data set;
    - `operators` (`string`): `"original"`, or what shows in the row: `"mask"`, `"replace"`, `"ngram"`, joined by `+`;
    - `rewritten` (`string`), for pairs alone: the texts that differ from the parent's: `"none"` on originals, or
      `"first"`, `"second"`, `"both"`;
    - the label column, if the data set has it: the gold label on originals; on copies -1 (no label; a null where
      labels are not integers), or the gold label with `keep_label`.

    The original comes first. Copies equal to it or to one another are left out, so a row has at most `copies`. What a
    row becomes depends on the augmenter, the row index and the row's texts alone: not on the batch size, the number of
    processes or the other rows.

    A copy of a pair has its first text, its second or both rewritten, by a draw of a third each; a text that is not
    drawn is that of the parent. The two texts of a pair have draws of their own: were they the same sentence, they
    would still be rewritten differently. So the shares of the column `rewritten` differ a little from a third: where
    the rules change nothing in a text that was drawn, it does not count.

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

    Pairs of texts, which give their words to one corpus:

    ```python
    >>> from itertools import chain

    >>> pairs = Dataset.from_dict({"question1": ["is this film any good"], "question2": ["is it a good film"]})
    >>> columns = {"text_column": "question1", "text_pair_column": "question2"}
    >>> augmenter = RuleAugmenter.from_corpus(
    ...     chain(pairs["question1"], pairs["question2"]), **columns, replace_probability=0.0
    ... )
    >>> transfer = pairs.map(augmenter, batched=True, with_indices=True, remove_columns=pairs.column_names)
    >>> transfer.column_names
    ['question1', 'question2', 'parent', 'operators', 'rewritten']
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
        text_pair_column=None,
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
        With spaCy or Kiwi the tags are kept in the cache of `datasets`.

        Args:
            texts (`Iterable[str]`): the corpus, as a rule the texts of the training split; of pairs, those of both
                columns: `itertools.chain(train["sentence1"], train["sentence2"])`.
            analyzer (`str` or `Callable`, *optional*): what finds words and tags. The name or folder of a spaCy
                pipeline (coarse tags where it gives them, else fine ones); `"kiwi"` or `"kiwi:morphemes"` for Korean;
                or a callable from a text to a list of `(surface, tag, start, length)`: see [`analyze_texts`]. `None`
                splits at white space without tags: no word is replaced then.
            text_column (`str`, *optional*, defaults to `"sentence"`): the column to rewrite.
            text_pair_column (`str`, *optional*): the column of second texts, where rows are pairs.
            label_column (`str`, *optional*, defaults to `"label"`): the column of gold labels. May be absent.
            copies (`int`, *optional*, defaults to 20): how often each text, or pair, is rewritten.
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
            ImportError: if the analyzer needs spaCy or Kiwi and it is not installed.
            OSError: if there is no spaCy pipeline of that name or in that folder.
            TypeError: if `texts` is one string, a text is no string, or `analyzer` is neither a name nor a callable.
            ValueError: if a setting is out of range, two columns have one name, the corpus has no texts, a text is
                empty or cannot be written as UTF-8, or the analyzer fails on a text or returns words that do not
                stand in it where it says; the error names the row.

        Reference:
            arXiv 1903.12136, "Data Augmentation for Distillation". Departures: at most half of a text's words are
            edited; a word is never replaced by itself; the n-gram is masked unless `ngram_rule="keep"`; the number of
            copies is an upper bound, since unchanged and repeated ones are left out. Of pairs the paper rewrites the
            first text, the second and both in turn; here a draw decides, as in the authors' code, so that one copy a
            row rewrites second texts too, and both.
        """
        settings = RuleSettings(
            text_column=text_column,
            text_pair_column=text_pair_column,
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
                "pipeline, 'kiwi', 'kiwi:morphemes', a callable from a text to a list of (surface, tag, start, "
                "length), or None."
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
        try:
            corpus = CodedCorpus.from_texts(texts, analyzer, lower, num_proc)
        except AnalyzerError as error:
            raise ValueError(f"texts, row {texts.index(error.text)}: {error}") from error
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
            `dict[str, list]` of the columns that the class describes, each row followed by its copies.

        Raises:
            TypeError: if `indices` is missing, or a text is no string.
            ValueError: if a column is missing, or a text is empty or cannot be written as UTF-8.
        """
        settings = self.settings
        if indices is None:
            raise TypeError(
                "RuleAugmenter was called without row indices, on which its random draws depend: use "
                "dataset.map(augmenter, batched=True, with_indices=True, remove_columns=dataset.column_names)."
            )
        _check_columns(batch, settings)
        texts = []
        for column in settings.text_columns:
            texts.extend(batch[column])
            _check_texts(texts[-len(indices) :], indices, f"column {column!r}")
        rows = np.asarray(indices, np.int64)
        try:
            parents, operators, texts = self._copies(texts, rows)
        except AnalyzerError as error:
            raise ValueError(f"row {rows[texts.index(error.text) % len(rows)]}: {error}") from error
        is_rewritten, kept = _compare(texts, parents)
        parents = parents[kept]
        operators = np.bitwise_or.reduce(operators * is_rewritten)[kept]
        columns = {
            column: rewritten.take(kept).to_pylist()
            for column, rewritten in zip(settings.text_columns, texts, strict=True)
        }
        columns |= {"parent": rows[parents], "operators": np.array(_OPERATOR_NAMES, object)[operators].tolist()}
        if settings.text_pair_column is not None:
            first, second = is_rewritten[:, kept]
            columns["rewritten"] = np.array(_REWRITTEN_NAMES, object)[first + 2 * second].tolist()
        if settings.label_column in batch:
            labels = list(batch[settings.label_column])
            columns[settings.label_column] = _labels(labels, parents, operators > 0, settings.keep_label)
        return columns

    def _copies(self, texts, rows):
        """Return the parents of all copies, the operators `(s, k)` and, for each side, the texts of shape `(k,)`."""
        coded = self.corpus.encode(texts)
        parts = list(sample_copies(coded, rows, self._pool, self.settings))
        sides = zip(*(part.texts(coded.strings) for part in parts), strict=True)
        return (
            np.concatenate([part.parents for part in parts]),
            np.concatenate([part.operators for part in parts], axis=1),
            [write_texts(pa.concat_arrays(side), self.corpus.analyzer) for side in sides],
        )

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


def _check_columns(batch, settings):
    arguments = {
        "text_column": settings.text_column,
        "text_pair_column": settings.text_pair_column,
        "label_column, or set keep_label=False": settings.label_column if settings.keep_label else None,
    }
    for argument, column in arguments.items():
        if column is not None and column not in batch:
            raise ValueError(
                f"the data set has no column {column!r}; it has {sorted(batch)}. Give the right one as {argument}."
            )


def _check_texts(texts, indices, source):
    for text, index in zip(texts, indices, strict=True):
        if not isinstance(text, str):
            raise TypeError(
                f"{source}, row {index}: {text!r} is a {type(text).__name__}, needed is a string: correct or remove "
                "the row, such as by dataset.filter(lambda row: isinstance(row[column], str))."
            )
        if not text.strip():
            raise ValueError(
                f"{source}, row {index}: the text {text[:40]!r} is empty, and a teacher's logits for it would mean "
                "nothing. Correct or remove the row, such as by dataset.filter(lambda row: row[column].strip())."
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{source}, row {index}: the text {text[:40]!r} has {text[error.start]!r} at character {error.start}, "
                "half of a character (a lone surrogate), which neither UTF-8 nor a data set can hold. It comes of "
                "text that was cut or decoded in the wrong place: read it again, or repair it by "
                'text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").'
            ) from error


def _compare(texts, parents):
    """Say which texts differ from the parent's, shape `(s, k)`, and which rows to keep: the first of equal ones."""
    codes = pa.concat_arrays(texts).dictionary_encode()
    size, codes = len(codes.dictionary), codes.indices.to_numpy().astype(np.int64).reshape(len(texts), -1)
    starts = np.flatnonzero(np.diff(parents, prepend=-1))
    originals = np.repeat(starts, np.diff(starts, append=len(parents)))
    keys = codes[0]
    if len(codes) == 2:
        keys = np.unique(codes[0] * size + codes[1], return_inverse=True)[1]
    kept = np.unique(parents * (keys.max(initial=0) + 1) + keys, return_index=True)[1]
    return codes != codes[:, originals], np.sort(kept)


def _labels(labels, parents, is_copy, keep_label):
    given = [label for label in labels if label is not None]
    unlabelled = -1 if given and all(isinstance(label, (int, np.integer)) for label in given) else None
    return [
        unlabelled if copy and not keep_label else labels[parent]
        for parent, copy in zip(parents.tolist(), is_copy.tolist(), strict=True)
    ]
