"""The rules of arXiv 1903.12136 on arrays of words: masking, same-tag replacement, n-gram sampling.

Every draw is a function of (seed, row, copy, side of a pair, position, purpose): rows do not depend on their batch.
"""

import itertools
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from distil_trainer.augmentation.corpus import CodedCorpus
from distil_trainer.augmentation.splitmix import GOLDEN, mix, unit_interval

OPERATORS = ("mask", "replace", "ngram")  # bit 0, 1, 2 of `Copies.operators`
_WORD_DRAW, _WORD_CHOICE, _WORD_ORDER = range(3)
_NGRAM_DRAW, _NGRAM_LENGTH, _NGRAM_START, _SIDE_DRAW = range(4)
# A bound on memory, about 100 bytes for each word; a text of any length is rewritten copy by copy if need be.
_WORDS_AT_ONCE = 500_000


class Copies(NamedTuple):
    """`k` rows of one text (`s = 1`) or of two (`s = 2`) as pieces, in order of parent and copy.

    Attributes:
        parents (`np.int64`, shape `(k,)`): position of the parent in the batch.
        operators (`np.int64`, shape `(s, k)`): a bit for each operator that hit the text; 0 for one left as it is.
        pieces (`np.int32`, shape `(sum(piece_counts),)`): indices into `CodedBatch.strings`; joined they are the text.
        piece_counts (`np.int64`, shape `(s * k,)`): the number of pieces of each text: all first ones, then all second
            ones.
    """

    parents: np.ndarray
    operators: np.ndarray
    pieces: np.ndarray
    piece_counts: np.ndarray

    def texts(self, strings):
        """Join the pieces: for each side a `pyarrow.LargeStringArray` of shape `(k,)`."""
        # They lie one after another in memory, so only the offsets change.
        _, offsets, characters = strings.take(pa.array(self.pieces)).buffers()
        ends = np.concatenate([[0], np.cumsum(self.piece_counts)])
        offsets = pa.py_buffer(np.frombuffer(offsets, np.int64)[ends])
        joined = pa.LargeStringArray.from_buffers(len(self.piece_counts), offsets, characters)
        return [joined.slice(side * len(self.parents), len(self.parents)) for side in range(len(self.operators))]


def sample_copies(batch, rows, pool, settings):
    """Rewrite each row `settings.copies` times; the original comes first, unchanged copies are left out.

    1. One uniform draw for each word: below `mask_probability` it is masked; in the next `replace_probability` it is
       replaced by another word of its tag, if there is one. If more than `n // 2` words are hit, a random choice of
       `n // 2` of them is edited. So a text of one word has no copies, and one of two or three words has one edit.
    2. With `ngram_probability` an n-gram is drawn: a length, uniform over those of `ngram_lengths` that fit, then a
       start, uniform over all. Rule "mask" masks it; a length fits while it and the words edited in step 1 are at most
       `n // 2` together. Rule "keep" keeps only it, without the text around; a length fits below `n`; a copy that
       would be nothing but masks is left out.

    Of a pair a draw says whether the first text, the second or both are rewritten so, a third each; with draws of
    their own, and each by its own number of words.

    Args:
        batch ([`CodedBatch`]): `b` texts; of pairs, `b` first texts and then `b` second texts.
        rows (`np.ndarray`, shape `(b,)`): their row indices in the data set, the key of their random draws.
        pool ([`WordPool`]): the words to replace with.
        settings ([`RuleSettings`]): the rules' settings.

    Yields:
        [`Copies`], in order of parent and copy; several for a large batch, so that memory has a bound.
    """
    parents, numbers = np.divmod(np.arange(len(rows) * (settings.copies + 1)), settings.copies + 1)
    words_of_rows = batch.lengths.reshape(len(settings.text_columns), len(rows)).sum(axis=0)
    part = np.cumsum(words_of_rows[parents]) // _WORDS_AT_ONCE
    cuts = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(parents)]
    for start, end in itertools.pairwise(cuts):
        yield _sample(batch, rows, parents[start:end], numbers[start:end], pool, settings)


def _sample(batch, rows, parents, numbers, pool, settings):
    """Make the copies with these parents and numbers; number 0 is the original."""
    sides = np.arange(len(settings.text_columns))[:, None]
    side_keys = _copy_keys(settings.seed, rows[parents], numbers, sides)
    untouched = (_draw_untouched(side_keys[0], sides) | (numbers == 0)).ravel()
    keys, texts = side_keys.ravel(), (sides * len(rows) + parents).ravel()
    lengths = batch.lengths[texts]
    copy_of, position = _ranges(lengths)
    source = (np.cumsum(batch.lengths) - batch.lengths)[texts][copy_of] + position
    word_keys = keys[copy_of] + GOLDEN * (4 * position.astype(np.uint64) + np.uint64(4))
    words = batch.words[source]

    masked, replaced = _draw_edits(batch, source, copy_of, lengths, word_keys, pool, settings)
    masked[untouched[copy_of]] = replaced[untouched[copy_of]] = False
    chosen = np.flatnonzero(replaced)
    words[chosen] = pool.draw(words[chosen], batch.tags[source[chosen]], _uniform(word_keys[chosen], _WORD_CHOICE))
    edits = np.bincount(copy_of[masked | replaced], minlength=len(lengths))
    start, size = _draw_ngrams(keys, lengths, edits, settings)
    size[untouched] = 0

    in_ngram = (position >= start[copy_of]) & (position < (start + size)[copy_of])
    is_window = (size > 0) & (settings.ngram_rule == "keep")
    shown = in_ngram | ~is_window[copy_of]
    if settings.ngram_rule == "mask":
        replaced &= ~in_ngram
        words[in_ngram] = CodedCorpus.MASK
    words[masked] = CodedCorpus.MASK

    def happened(hit):
        return np.bincount(copy_of[hit & shown], minlength=len(lengths)) > 0

    operators = 1 * happened(masked) + 2 * happened(replaced) + 4 * (size > 0)
    only_masks = (operators > 0) & ~happened(words != CodedCorpus.MASK)
    operators, only_masks = operators.reshape(len(sides), -1), only_masks.reshape(len(sides), -1)
    kept = (numbers == 0) | (operators.any(axis=0) & ~only_masks.any(axis=0))
    kept_texts = np.tile(kept, len(sides))
    pieces, piece_counts = _assemble(batch, kept_texts, texts, copy_of, source, words, shown, is_window)
    return Copies(parents[kept], operators[:, kept], pieces, piece_counts)


def _draw_edits(batch, source, copy_of, lengths, word_keys, pool, settings):
    """Draw the masked and the replaced words of each copy, at most half of its words."""
    can_mask = batch.words != CodedCorpus.MASK
    can_replace = can_mask & (pool.choices(batch.words, batch.tags) > 0)
    draw = _uniform(word_keys, _WORD_DRAW)
    masked = (draw < settings.mask_probability) & can_mask[source]
    replaced = (draw >= settings.mask_probability) & can_replace[source]
    replaced &= draw < settings.mask_probability + settings.replace_probability

    hit = masked | replaced
    counts = np.bincount(copy_of[hit], minlength=len(lengths))
    too_many = counts > lengths // 2
    candidates = np.flatnonzero(hit & too_many[copy_of])
    order = _uniform(word_keys[candidates], _WORD_ORDER)
    candidates = candidates[np.lexsort((order, copy_of[candidates]))]
    _, rank = _ranges(counts[too_many])
    undone = candidates[rank >= (lengths // 2)[copy_of[candidates]]]
    masked[undone] = replaced[undone] = False
    return masked, replaced


def _draw_ngrams(keys, lengths, edits, settings):
    """Draw the start and size of each copy's n-gram; size 0 where there is none."""
    shortest, longest = settings.ngram_lengths
    longest = np.minimum(longest, lengths // 2 - edits if settings.ngram_rule == "mask" else lengths - 1)
    happens = (_uniform(keys, _NGRAM_DRAW) < settings.ngram_probability) & (longest >= shortest)
    size = shortest + (_uniform(keys, _NGRAM_LENGTH) * (longest - shortest + 1)).astype(np.int64)
    size = np.where(happens, size, 0)
    start = (_uniform(keys, _NGRAM_START) * (lengths - size + 1)).astype(np.int64)
    return start, size


def _draw_untouched(keys, sides):
    """Draw which sides of each copy stay as they are, with the keys of the first texts: shape `(s, k)`."""
    if len(sides) == 1:
        return np.zeros((1, len(keys)), bool)
    rewritten = (3 * _uniform(keys, _SIDE_DRAW)).astype(np.int64)  # 0: the first text, 1: the second, 2: both
    return rewritten == 1 - sides


def _assemble(batch, kept, texts, copy_of, source, words, shown, is_window):
    """Lay out gap, word, gap, ..., word, gap for each kept copy; a window has no gap at its ends."""
    copies = np.flatnonzero(kept)
    texts = texts[copies]
    chosen = np.flatnonzero(shown & kept[copy_of])
    word_counts = np.bincount(copy_of[chosen], minlength=len(kept))[copies]
    piece_counts = 2 * word_counts + 1
    ends = np.cumsum(piece_counts)
    row, position = _ranges(word_counts)
    place = (ends - piece_counts)[row] + 2 * position
    pieces = np.empty(piece_counts.sum(), np.int32)
    pieces[place] = np.where(
        is_window[copies][row] & (position == 0), CodedCorpus.EMPTY, batch.gaps[source[chosen] + texts[row]]
    )
    pieces[place + 1] = words[chosen]
    last_gaps = batch.gaps[np.cumsum(batch.lengths + 1) - 1]
    pieces[ends - 1] = np.where(is_window[copies], CodedCorpus.EMPTY, last_gaps[texts])
    return pieces, piece_counts


def _ranges(counts):
    """Return `0` repeated `counts[0]` times, `1` repeated `counts[1]` times, ..., and the place within each run."""
    run = np.repeat(np.arange(len(counts)), counts)
    return run, np.arange(len(run)) - np.repeat(np.cumsum(counts) - counts, counts)


def _copy_keys(seed, rows, numbers, sides):
    """Return the keys of copies, shape `(s, k)`; second texts draw like copies of numbers that no first text has."""
    row_keys = mix(mix(np.array([seed % 2**64], np.uint64)) + GOLDEN * rows.astype(np.uint64))
    numbers = numbers.astype(np.uint64) + (sides.astype(np.uint64) << np.uint64(63))
    return mix(row_keys + GOLDEN * numbers)


def _uniform(keys, purpose):
    """Draws from [0, 1) for one of the purposes at the top of the file."""
    return unit_interval(mix(keys + GOLDEN * np.array([purpose], np.uint64)))
