"""The rules of arXiv 1903.12136 on arrays of words: masking, same-tag replacement, n-gram sampling.

Every draw is a function of (seed, row, copy, position, purpose), so rows do not depend on how they are batched.
"""

from typing import NamedTuple

import numpy as np

from distil_trainer.augmentation.corpus import CodedCorpus

OPERATORS = ("mask", "replace", "ngram")  # bit 0, 1, 2 of `Copies.operators`
_WORD_DRAW, _WORD_CHOICE, _WORD_ORDER = range(3)
_NGRAM_DRAW, _NGRAM_LENGTH, _NGRAM_START = range(3)


class Copies(NamedTuple):
    """`k` texts as pieces, in order of parent and copy.

    Attributes:
        parents (`np.int64`, shape `(k,)`): position of the parent in the batch.
        operators (`np.int64`, shape `(k,)`): a bit for each operator that changed the text; 0 for the original.
        pieces (`np.int32`, shape `(sum(piece_counts),)`): indices into `CodedBatch.strings`; joined they are the text.
        piece_counts (`np.int64`, shape `(k,)`): the number of pieces of each text.
    """

    parents: np.ndarray
    operators: np.ndarray
    pieces: np.ndarray
    piece_counts: np.ndarray


def sample_copies(batch, rows, pool, settings):
    """Rewrite each text `settings.copies` times; the original comes first, unchanged copies are left out.

    1. One uniform draw for each word: below `mask_probability` it is masked; in the next `replace_probability` it is
       replaced by another word of its tag, if there is one. If more than `n // 2` words are hit, a random choice of
       `n // 2` of them is edited. So a text of one word has no copies, and one of two or three words has one edit.
    2. With `ngram_probability` an n-gram is drawn: a length, uniform over those of `ngram_lengths` that fit, then a
       start, uniform over all. Rule "mask" masks it; a length fits while it and the words edited in step 1 are at most
       `n // 2` together. Rule "keep" keeps only it, without the text around; a length fits below `n`; a copy that
       would be nothing but masks is left out.

    Args:
        batch ([`CodedBatch`]): `b` texts.
        rows (`np.ndarray`, shape `(b,)`): their row indices in the data set, the key of their random draws.
        pool ([`WordPool`]): the words to replace with.
        settings ([`RuleSettings`]): the rules' settings.

    Returns:
        [`Copies`]
    """
    per_text = settings.copies + 1
    lengths = np.repeat(batch.lengths, per_text)  # of each copy; copy 0 is the original
    is_original = np.tile(np.arange(per_text) == 0, len(rows))
    keys = _copy_keys(settings.seed, rows, per_text)
    copy_of, position = _ranges(lengths)
    first_word = np.cumsum(batch.lengths) - batch.lengths
    source = np.repeat(first_word, per_text)[copy_of] + position
    word_keys = keys[copy_of] + _GOLDEN * (4 * position.astype(np.uint64) + np.uint64(4))
    words = batch.words[source]

    masked, replaced = _draw_edits(batch, source, copy_of, lengths, word_keys, pool, settings)
    masked[is_original[copy_of]] = replaced[is_original[copy_of]] = False
    chosen = np.flatnonzero(replaced)
    words[chosen] = pool.draw(words[chosen], batch.tags[source[chosen]], _uniform(word_keys[chosen], _WORD_CHOICE))
    edits = np.bincount(copy_of[masked | replaced], minlength=len(lengths))
    start, size = _draw_ngrams(keys, lengths, edits, settings)
    size[is_original] = 0

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
    kept = is_original | ((operators > 0) & happened(words != CodedCorpus.MASK))
    pieces, piece_counts = _assemble(batch, kept, copy_of, source, words, shown, is_window, per_text)
    return Copies(np.flatnonzero(kept) // per_text, operators[kept], pieces, piece_counts)


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


def _assemble(batch, kept, copy_of, source, words, shown, is_window, per_text):
    """Lay out gap, word, gap, ..., word, gap for each kept copy; a window has no gap at its ends."""
    copies = np.flatnonzero(kept)
    parents = copies // per_text
    chosen = np.flatnonzero(shown & kept[copy_of])
    word_counts = np.bincount(copy_of[chosen], minlength=len(kept))[copies]
    piece_counts = 2 * word_counts + 1
    ends = np.cumsum(piece_counts)
    row, position = _ranges(word_counts)
    place = (ends - piece_counts)[row] + 2 * position
    pieces = np.empty(piece_counts.sum(), np.int32)
    pieces[place] = np.where(
        is_window[copies][row] & (position == 0), CodedCorpus.EMPTY, batch.gaps[source[chosen] + parents[row]]
    )
    pieces[place + 1] = words[chosen]
    last_gaps = batch.gaps[np.cumsum(batch.lengths + 1) - 1]
    pieces[ends - 1] = np.where(is_window[copies], CodedCorpus.EMPTY, last_gaps[parents])
    return pieces, piece_counts


def _ranges(counts):
    """Return `0` repeated `counts[0]` times, `1` repeated `counts[1]` times, ..., and the place within each run."""
    run = np.repeat(np.arange(len(counts)), counts)
    return run, np.arange(len(run)) - np.repeat(np.cumsum(counts) - counts, counts)


def _copy_keys(seed, rows, per_text):
    row_keys = _mix(_mix(np.array([seed % 2**64], np.uint64)) + _GOLDEN * rows.astype(np.uint64))
    return _mix(row_keys[:, None] + _GOLDEN * np.arange(per_text, dtype=np.uint64)).ravel()


def _uniform(keys, purpose):
    """Draws from [0, 1) for one of the purposes at the top of the file."""
    return (_mix(keys + _GOLDEN * np.array([purpose], np.uint64)) >> np.uint64(11)) * 2.0**-53


def _mix(state):
    """SplitMix64 (Steele, Lea, Flood 2014): a bijection of 64-bit integers that looks random."""
    state = state + _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
