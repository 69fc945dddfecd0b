"""Texts a batch at a time, from any iterable, so that a data set's column is never a list as a whole."""

from collections.abc import Sequence
from itertools import islice

from distil_trainer.text import MASK_WORD

_TEXTS_PER_BATCH = 10_000


def text_batches(texts):
    """Read texts a batch at a time.

    Args:
        texts (`Iterable[str]`): a list, a column of a data set (`dataset["sentence"]`), a generator, ...

    Yields:
        `list[str]`

    Raises:
        TypeError: if `texts` is one string, or something in it is no string.
    """
    if isinstance(texts, str):
        raise TypeError(
            f"texts={texts[:40]!r} is one string, whose letters would be taken for texts. Give a list of strings, "
            "or a column of a data set."
        )
    if isinstance(texts, Sequence):
        # A column of a data set reads a slice from Arrow at once, but a row at a time where it is iterated over.
        starts = range(0, len(texts), _TEXTS_PER_BATCH)
        batches = (texts[start : start + _TEXTS_PER_BATCH] for start in starts)
    else:
        iterator = iter(texts)
        batches = iter(lambda: list(islice(iterator, _TEXTS_PER_BATCH)), [])
    first_row = 0
    for batch in batches:
        for row, text in enumerate(batch, first_row):
            if not isinstance(text, str):
                raise TypeError(
                    f"texts[{row}]={text!r} is of type {type(text).__name__}, but a text must be a string: remove "
                    "such rows, or turn their values into strings."
                )
        yield batch
        first_row += len(batch)


def training_batches(texts):
    """Read texts a batch at a time, the mask word left out: tokenizers have a token for it, and must learn none."""
    for batch in text_batches(texts):
        yield [text.replace(MASK_WORD, " ") for text in batch]
