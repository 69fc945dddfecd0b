"""A table of word vectors, with a row for every token of a vocabulary: from a file or from the teacher."""

import logging
import os
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
import xxhash
from transformers import PreTrainedTokenizerBase

from distil_trainer.small_tokenizers import add_words, word_level_tokenizer
from distil_trainer.small_tokenizers.text_batches import text_batches
from distil_trainer.text import write_mask_token
from distil_trainer.vectors.files import check_vector_file, read_vectors, words_of_file
from distil_trainer.vectors.from_teacher import (
    check_teacher_states,
    frequency_weights,
    teacher_vectors,
    words_of_tokenizer,
)
from distil_trainer.vectors.surfaces import surfaces, tokens_in_order

logger = logging.getLogger(__name__)

# Of the settings tried on SST-2 these reached the lowest loss; in accuracy they could not be told apart.
_LAYERS, _SIF = (0, -1), None
_LOW_COVERAGE = 0.5
_RARE_SHARE = 0.1


class Coverage(NamedTuple):
    """How much of the texts has a vector from the source.

    Attributes:
        words (`float`): share of the vocabulary, special tokens left out.
        tokens (`float`): share of the tokens of the texts, unknown ones counted as not found.
    """

    words: float
    tokens: float


class WordVectors(NamedTuple):
    """A tokenizer and a vector for each of its tokens.

    Attributes:
        tokenizer (`PreTrainedTokenizerFast`): the tokenizer.
        vocabulary (`list[str]`): its tokens, in the order of their numbers.
        matrix (`np.ndarray` of shape `(len(vocabulary), size)`): their vectors, float32.
        coverage ([`Coverage`]): how much of the texts has a vector from the source.
    """

    tokenizer: PreTrainedTokenizerBase
    vocabulary: list
    matrix: np.ndarray
    coverage: Coverage


def word_vectors(
    texts,
    source,
    *,
    tokenizer=None,
    size=None,
    extra_words=0,
    vocab_size=None,
    lower=True,
    pairs=False,
    model_max_length=512,
    layers=_LAYERS,
    sif=_SIF,
):
    """Make word vectors for the vocabulary of texts, from a file or from the teacher.

    A word that the source does not have gets a vector drawn from a normal distribution with the mean and standard
    deviation of each column of the others, the same in every run. `[UNK]` is the mean of the rarest tenth of the words
    found, `[MASK]` the mean of all of them weighted by frequency, a word that says nothing. Other special tokens are
    zeros.

    Args:
        texts (`Iterable[str]`): texts that the student is trained on; read twice, in batches.
        source (`str`, `os.PathLike` or `tuple`): a file of GloVe, fastText or word2vec (`.txt`, `.vec`, `.bin`, also
            with `.gz`); or the teacher and its tokenizer, to distil the vectors from it.
        tokenizer (`PreTrainedTokenizerFast`, *optional*): the student's tokenizer, of words or of pieces. Default:
            [`word_level_tokenizer`] of the texts.
        size (`int`, *optional*): width of the vectors. Default: that of the file; from a teacher 300, or
            as many as its states and the number of words that it knows allow.
        extra_words (`int`, *optional*, defaults to 0): words that the default tokenizer takes beyond those of the
            texts: the first ones of the file, which is in order of frequency, or of the teacher's vocabulary. They are
            known when the student is served, though it was not trained on them. By default none, since 20,000 words
            of 300 numbers add 24 MB to a student.
        vocab_size, lower, pairs, model_max_length: of the default tokenizer, see [`word_level_tokenizer`].
        layers (`tuple[int, ...]`, *optional*, defaults to `(0, -1)`): the teacher's hidden states that are read, side
            by side; 0 is the embedding output, -1 the last.
        sif (`float`, *optional*): the vectors of a teacher are multiplied by `sif / (sif + p)`, where `p` is the share
            of a word in the texts, so that frequent words count less in a mean. Give 1e-3 for a bag whose table is
            frozen; a table that is trained learns it.

    Returns:
        [`WordVectors`]

    Raises:
        TypeError: if `texts` can be read only once or holds something else than strings, or `source` is neither.
        OSError: if the file is not there.
        ValueError: if the file is damaged, no word of the texts has a vector, or arguments do not fit together.

    Reference:
        Kim 2014, https://arxiv.org/abs/1408.5882, section 4.2: vectors of unknown words have the variance of the
        others. Here the distribution is a normal one, not uniform.

    Example:

    ```python
    >>> vectors = word_vectors(train["sentence"], (teacher, teacher_tokenizer), size=256)
    >>> student.set_word_vectors(vectors.matrix)
    ```
    """
    from_teacher = _is_teacher(source, layers, sif)
    _check_texts_and_tokenizer(
        texts, tokenizer, extra_words, (vocab_size, lower, pairs, model_max_length) == (None, True, False, 512)
    )
    if size is not None and size < 1:
        raise ValueError(f"size={size} must be at least 1.")
    if tokenizer is None:
        tokenizer = word_level_tokenizer(
            texts, vocab_size=vocab_size, lower=lower, pairs=pairs, model_max_length=model_max_length
        )
        if extra_words:
            more = words_of_tokenizer(source[1]) if from_teacher else words_of_file(source)
            tokenizer = add_words(tokenizer, more, limit=extra_words)

    vocabulary = tokens_in_order(tokenizer)
    counts = _count_tokens(tokenizer, texts)
    is_word = np.ones(len(vocabulary), dtype=bool)
    is_word[tokenizer.all_special_ids] = False
    words = [surface for surface, is_one in zip(surfaces(tokenizer), is_word, strict=True) if is_one]
    word_counts = counts[is_word]
    if from_teacher:
        vectors, is_found = teacher_vectors(*source, words, size, layers)
    else:
        vectors, is_found = read_vectors(source, [word.text for word in words], size)
    unknown = 0 if tokenizer.unk_token_id is None else counts[tokenizer.unk_token_id]
    coverage = _coverage(source, words, word_counts, is_found, unknown)

    _draw_missing(vectors, is_found, [token for token, is_one in zip(vocabulary, is_word, strict=True) if is_one])
    if from_teacher and sif is not None:
        vectors *= frequency_weights(word_counts, sif)[:, None].astype(np.float32)
    matrix = np.zeros((len(vocabulary), vectors.shape[1]), dtype=np.float32)
    matrix[is_word] = vectors
    _fill_special_rows(matrix, tokenizer, vectors[is_found], word_counts[is_found])
    return WordVectors(tokenizer, vocabulary, matrix, coverage)


def check_source(source, size):
    """Refuse a source that cannot give vectors of a width, before the texts are there: after a look at its beginning.

    Args:
        source (`str`, `os.PathLike` or `tuple`): see [`word_vectors`].
        size (`int`): the width that is needed.

    Raises:
        TypeError: if `source` is neither a path nor a teacher.
        OSError: if the file is not there.
        ValueError: if the file or the teacher gives no vectors of this width.
    """
    if _is_teacher(source, _LAYERS, _SIF):
        check_teacher_states(*source, size, _LAYERS)
    else:
        check_vector_file(source, size)


def _is_teacher(source, layers, sif):
    """Return whether the source is a teacher and not a file; refuse anything else."""
    if isinstance(source, tuple) and len(source) == 2:
        if sif is not None and not sif > 0:
            raise ValueError(f"sif={sif} must be above 0 (or None, to weigh all words alike): 0 makes all vectors 0.")
        return True
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            f"source is a {type(source).__name__}; word_vectors needs the path of a file of word vectors, or "
            "`(teacher, teacher_tokenizer)`."
        )
    if (layers, sif) != (_LAYERS, _SIF):
        raise ValueError(
            f"layers={layers} and sif={sif} with a file: they say how vectors are made of a teacher, and would be "
            "ignored. Leave them out; a file's vectors are taken as they are."
        )
    return False


def _check_texts_and_tokenizer(texts, tokenizer, extra_words, only_defaults):
    if isinstance(texts, Iterator):
        raise TypeError(
            f"texts is a {type(texts).__name__}, which can be read only once, and word_vectors reads texts twice. "
            "Give a list, or a column of a data set."
        )
    if extra_words < 0:
        raise ValueError(f"extra_words={extra_words} must be at least 0.")
    if tokenizer is not None and (extra_words or not only_defaults):
        raise ValueError(
            "tokenizer= is given, and so is extra_words, vocab_size, lower, pairs or model_max_length. Those are for "
            "the tokenizer that is made without, and would be ignored: make it with them, e.g. "
            "`word_level_tokenizer(texts, lower=False)`, or leave tokenizer= out."
        )


def _count_tokens(tokenizer, texts):
    counts = np.zeros(len(tokenizer), dtype=np.int64)
    for batch in text_batches(texts):
        batch = write_mask_token(list(batch), tokenizer)
        encoded = tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        numbers = np.fromiter(chain.from_iterable(encoded), dtype=np.int64)
        counts += np.bincount(numbers, minlength=len(counts))
    return counts


def _coverage(source, words, word_counts, is_found, unknown):
    found = word_counts[is_found].sum()
    if not found:
        shown = ", ".join(repr(words[row].text) for row in np.argsort(-word_counts, kind="stable")[:5])
        where = "the teacher's tokenizer" if isinstance(source, tuple) else f"the file {str(source)!r}"
        raise ValueError(
            f"No word of the texts is in {where}; the commonest ones are {shown}. All vectors would be random. Is the "
            "source in another language, or are its words written in another way (pieces, lower case, encoding)?"
        )
    coverage = Coverage(words=float(is_found.mean()), tokens=float(found / (word_counts.sum() + unknown)))
    if coverage.tokens < _LOW_COVERAGE:
        logger.warning(
            "Only %.1f %% of the tokens of the texts have a vector from the source; the others' are random. Make sure "
            "that its language and its way to write words (lower case, pieces) are those of the tokenizer.",
            100 * coverage.tokens,
        )
    return coverage


def _draw_missing(vectors, is_found, tokens):
    mean, std = vectors[is_found].mean(axis=0), vectors[is_found].std(axis=0)
    for row in np.flatnonzero(~is_found):
        # Seeded by the word, so that the other words have no influence on it.
        draws = np.random.default_rng(xxhash.xxh64_intdigest(tokens[row].encode()))
        vectors[row] = mean + std * draws.standard_normal(len(mean), dtype=np.float32)


def _fill_special_rows(matrix, tokenizer, found, counts):
    rare = np.argsort(counts, kind="stable")[: max(1, round(_RARE_SHARE * len(counts)))]
    unknown, neutral = found[rare].mean(axis=0), (counts / counts.sum()) @ found
    if np.allclose(unknown, neutral, rtol=1e-6, atol=1e-8):
        raise ValueError(
            f"The {len(found)} word(s) with a vector from the source have all the same, so [UNK] and [MASK] would not "
            "differ, and nothing could be learned from them. Give a source that knows more words of the texts."
        )
    if tokenizer.unk_token_id is not None:
        matrix[tokenizer.unk_token_id] = unknown
    if tokenizer.mask_token_id is not None:
        matrix[tokenizer.mask_token_id] = neutral
    if tokenizer.pad_token_id is not None:
        matrix[tokenizer.pad_token_id] = 0.0
