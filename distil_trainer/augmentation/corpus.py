"""A corpus as integers: each text's words, tags and gaps, found by the text's hash, and the words of each tag."""

from collections import Counter
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distil_trainer.augmentation.analyzers import analyze_corpus, analyze_texts, text_keys
from distil_trainer.text import MASK_WORD


class CodedBatch(NamedTuple):
    """A batch of `b` texts with `t` words in all, as integers.

    Attributes:
        strings (`pyarrow.LargeStringArray`): what `words` and `gaps` are indices into.
        lengths (`np.int64`, shape `(b,)`): the number of words of each text.
        words (`np.int32`, shape `(t,)`): the words.
        tags (`np.int32`, shape `(t,)`): their tags, indices into `CodedCorpus.tags`; -1 for none.
        gaps (`np.int32`, shape `(t + b,)`): the text before each word and, last, after the last one.
    """

    strings: pa.LargeStringArray
    lengths: np.ndarray
    words: np.ndarray
    tags: np.ndarray
    gaps: np.ndarray


class CodedCorpus:
    """The analysis of a corpus, so that no text is tagged twice and a batch of texts is a few array look-ups.

    Texts are found by a 64-bit hash; texts outside the corpus are analyzed when they come.

    Args:
        strings (`pyarrow.LargeStringArray`): every word and gap once; the first is `""`, the second the mask word.
        tags (`list[str]`): every tag once.
        texts (`pyarrow.Table`): a row for each distinct text, sorted by `key` (`uint64`), with `count` (how often it
            occurs) and the `int32` lists `words` and `tags` (`n` words each) and `gaps` (`n + 1`).
        analyzer (`str` or `Callable`, *optional*): see [`RuleAugmenter.from_corpus`].
        lower (`bool`): whether words and gaps are lower-cased, all but the mask word.
    """

    EMPTY, MASK = 0, 1

    def __init__(self, strings, tags, texts, analyzer, lower):
        self.strings, self.tags, self.texts, self.analyzer, self.lower = strings, tags, texts, analyzer, lower
        self._keys = texts["key"].to_numpy()

    @classmethod
    def from_texts(cls, texts, analyzer, lower, num_proc=None):
        """Analyze texts (`list[str]`), each distinct text once, in `num_proc` processes."""
        counts = Counter(texts)
        distinct = list(counts)
        strings = pa.array(["", MASK_WORD], pa.large_string())
        strings, tags, columns = _encode(
            analyze_corpus(distinct, analyzer, num_proc), strings, [], lower, grow_tags=True
        )
        table = pa.table({"key": text_keys(distinct), "count": np.fromiter(counts.values(), np.int64), **columns})
        return cls(strings, tags, table.sort_by("key").combine_chunks(), analyzer, lower)

    def encode(self, texts):
        """Return the [`CodedBatch`] of texts (`list[str]`)."""
        keys = text_keys(texts)
        rows = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        unknown = np.flatnonzero(self._keys[rows] != keys)
        strings, table = self.strings, self.texts.select(["words", "tags", "gaps"])
        if len(unknown):
            analysis = pa.table(analyze_texts([texts[i] for i in unknown], self.analyzer), schema=_ANALYSIS_SCHEMA)
            strings, _, columns = _encode(analysis, strings, self.tags, self.lower)
            rows[unknown] = len(table) + np.arange(len(unknown))
            table = pa.concat_tables([table, pa.table(columns)])
        table = table.take(rows).combine_chunks()
        words, tags, gaps = (table[name].combine_chunks() for name in ("words", "tags", "gaps"))
        lengths = pc.list_value_length(words).to_numpy().astype(np.int64)
        return CodedBatch(strings, lengths, *(lists.flatten().to_numpy() for lists in (words, tags, gaps)))

    def __getstate__(self):
        """Bytes and strings only: equal corpora are equal in every process, as the fingerprints of `map` need."""
        tables = (
            self.texts,
            pa.table({"strings": self.strings}),
            pa.table({"tags": pa.array(self.tags, pa.string())}),
        )
        return {"tables": [_to_bytes(table) for table in tables], "analyzer": self.analyzer, "lower": self.lower}

    def __setstate__(self, state):
        texts, strings, tags = (pa.ipc.open_stream(table).read_all() for table in state["tables"])
        strings = strings["strings"].combine_chunks()
        self.__init__(strings, tags["tags"].to_pylist(), texts, state["analyzer"], state["lower"])


class WordPool:
    """The words of a corpus by tag, from which a word is replaced by another of its tag.

    Args:
        corpus ([`CodedCorpus`]): the corpus.
        by_frequency (`bool`): draw a word as often as the corpus has it with this tag, instead of each word alike.
    """

    def __init__(self, corpus, by_frequency):
        words, tags = (pc.list_flatten(corpus.texts[name]).to_numpy() for name in ("words", "tags"))
        counts = np.repeat(corpus.texts["count"].to_numpy(), pc.list_value_length(corpus.texts["words"]).to_numpy())
        tagged = tags >= 0
        self._entries, inverse = np.unique(_entry_keys(words[tagged], tags[tagged]), return_inverse=True)
        weights = np.bincount(inverse, counts[tagged], minlength=len(self._entries)).astype(np.int64)
        self._ends = np.cumsum(weights if by_frequency else np.ones_like(weights))
        self._starts = np.concatenate([[0], self._ends])  # of each entry, and the end of all
        first = np.searchsorted(self._entries, _entry_keys(np.int64(0), np.arange(len(corpus.tags) + 1)))
        self._tag_bounds = self._starts[first]

    def choices(self, words, tags):
        """Return the weight of the words that each word can be replaced by: 0 where there is none. Shape `(t,)`."""
        own_start, own_weight = self._own(words, tags)
        return np.where(tags >= 0, self._tag_bounds[tags + 1] - self._tag_bounds[tags] - own_weight, 0)

    def draw(self, words, tags, uniform):
        """Return another word with the same tag for each word; `choices` must be above 0.

        Args:
            words, tags (`np.int32`, shape `(k,)`): the words to replace and their tags.
            uniform (`np.float64`, shape `(k,)`): draws from [0, 1).
        """
        own_start, own_weight = self._own(words, tags)
        low = self._tag_bounds[tags]
        choices = self._tag_bounds[tags + 1] - low - own_weight
        point = low + np.minimum((uniform * choices).astype(np.int64), choices - 1)
        point += np.where(point >= own_start, own_weight, 0)  # step over the word itself
        return (self._entries[np.searchsorted(self._ends, point, side="right")] & 0xFFFFFFFF).astype(np.int32)

    def _own(self, words, tags):
        """Where each word itself lies among the words of its tag: start and weight; weight 0 if it is not there."""
        if not len(self._entries):
            return np.zeros_like(words, np.int64), np.zeros_like(words, np.int64)
        wanted = _entry_keys(words, tags)
        entry = np.minimum(np.searchsorted(self._entries, wanted), len(self._entries) - 1)
        weight = np.where(self._entries[entry] == wanted, self._ends[entry] - self._starts[entry], 0)
        return self._starts[entry], weight


_ANALYSIS_SCHEMA = pa.schema({name: pa.list_(pa.string()) for name in ("words", "tags", "gaps")})


def _entry_keys(words, tags):
    return np.asarray(tags, np.int64) << 32 | np.asarray(words, np.int64)


def _encode(analysis, strings, tags, lower, grow_tags=False):
    """Turn lists of strings into lists of indices; return the strings and tags too, with the new ones added."""
    lists = {name: analysis[name].combine_chunks() for name in ("words", "tags", "gaps")}
    flat = {name: column.flatten().cast(pa.large_string()) for name, column in lists.items()}
    if lower:
        for name in ("words", "gaps"):
            is_mask = pc.equal(flat[name], MASK_WORD)
            flat[name] = pc.if_else(is_mask, flat[name], pc.utf8_lower(flat[name]))
    found = pc.unique(pa.concat_arrays([flat["words"], flat["gaps"]]))
    strings = pa.concat_arrays([strings, found.filter(pc.invert(pc.is_in(found, value_set=strings)))])
    if grow_tags:
        tags = sorted(tag for tag in pc.unique(flat["tags"]).to_pylist() if tag)
    tag_strings = pa.array(tags, pa.large_string())
    codes = {name: pc.index_in(flat[name], value_set=strings) for name in ("words", "gaps")}
    codes["tags"] = pc.fill_null(pc.index_in(flat["tags"], value_set=tag_strings), -1)
    columns = {name: pa.ListArray.from_arrays(lists[name].offsets, codes[name]) for name in ("words", "tags", "gaps")}
    return strings, tags, columns


def _to_bytes(table):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
