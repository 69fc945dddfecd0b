"""The words of a text as a tokenizer sees them, and the tokens that can stand in a word's place."""

from typing import NamedTuple

import numpy as np


class Word(NamedTuple):
    """A word: in which text of a row, from which to which character, from which to which token."""

    side: int
    start: int
    end: int
    first_token: int
    last_token: int


class Vocabulary(NamedTuple):
    """Tokens as texts.

    Attributes:
        surfaces (`list[str]` of length `vocab_size`): each token as text, without white space around it.
        continues (`np.ndarray` of bool, shape `(vocab_size,)`): whether no space comes before it, in a text.
        forbidden (`np.ndarray` of bool, shape `(2, vocab_size)`): which tokens cannot stand for a word; row 0 for a
            word after a space (or for any word, where the tokenizer does not tell), row 1 for one without.
    """

    surfaces: list
    continues: np.ndarray
    forbidden: np.ndarray


def read_vocabulary(tokenizer, vocab_size):
    """Find out what each token is as text, and where it can stand.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): of any kind.
        vocab_size (`int`): tokens that the model knows, which may be more than the tokenizer has.

    Returns:
        `Vocabulary`
    """
    # After another token, because only there a tokenizer of any kind shows whether a token begins a word.
    before = tokenizer("a", add_special_tokens=False).input_ids
    start = len(tokenizer.decode(before, clean_up_tokenization_spaces=False))
    texts = tokenizer.batch_decode(
        [[*before, token] for token in range(len(tokenizer))], clean_up_tokenization_spaces=False
    )
    surfaces = [text[start:] for text in texts] + [""] * (vocab_size - len(texts))
    continues = np.array([bool(surface) and not surface[0].isspace() for surface in surfaces])
    is_word = np.array([bool(surface.strip()) and "\ufffd" not in surface for surface in surfaces])
    is_word[tokenizer.all_special_ids] = False
    forbidden = np.stack([~is_word | continues, ~is_word | ~continues])
    return Vocabulary([surface.strip() for surface in surfaces], continues, forbidden)


def find_words(encoded, row, texts, mask_token_id):
    """Find the words of a row that can be rewritten: all that the tokenizer read, but for mask words.

    Args:
        encoded (`BatchEncoding`): from a fast tokenizer, with `offset_mapping`.
        row (`int`): the row in it.
        texts (`list[str]`): the row's text, or both of its texts.
        mask_token_id (`int`): the mask token.

    Returns:
        `list[Word]`, in order.
    """
    words, last = [], None
    tokens, offsets = encoded["input_ids"][row], encoded["offset_mapping"][row]
    for position, place in enumerate(zip(encoded.sequence_ids(row), encoded.word_ids(row), strict=True)):
        if None in place:  # what the tokenizer added
            continue
        start, end = offsets[position]
        if place == last:
            words[-1] = words[-1]._replace(end=end, last_token=position)
        else:
            words.append(Word(place[0], start, end, position, position))
        last = place
    found = []
    for word in words:
        surface = texts[word.side][word.start : word.end]
        if surface.strip() and mask_token_id not in tokens[word.first_token : word.last_token + 1]:
            # Some tokenizers count the space before a word as part of it.
            found.append(word._replace(start=word.end - len(surface.lstrip())))
    return found
