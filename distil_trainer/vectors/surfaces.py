"""What stands in a text where a token is: the token without the marks of its tokenizer."""

import json
from typing import NamedTuple

from tokenizers import decoders


class Surface(NamedTuple):
    """A token as it is written in a text.

    Attributes:
        text (`str`): the letters, without `##`, `▁`, `Ġ` or `</w>`.
        begins_word (`bool`): whether it stands at the beginning of a word.
    """

    text: str
    begins_word: bool


def surfaces(tokenizer):
    """Return the surface of every token, in the order of their numbers.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): words, or pieces of any kind.

    Returns:
        `list[Surface]` of length `len(tokenizer)`

    Raises:
        TypeError: if the tokenizer is not a fast one.
        ValueError: if there are numbers without a token.
    """
    if not tokenizer.is_fast:
        raise TypeError(
            f"tokenizer={type(tokenizer).__name__} is a slow one, which does not say how it marks the pieces of "
            "words: load it with `AutoTokenizer.from_pretrained`."
        )
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    # White space is marked by the normalizer or by the pre-tokenizer.
    marks = json.dumps([state["normalizer"], state["pre_tokenizer"]], ensure_ascii=False)
    continuation = state["model"].get("continuing_subword_prefix") or ""
    end_of_word = state["model"].get("end_of_word_suffix") or ""
    decode_bytes = decoders.ByteLevel().decode if '"ByteLevel"' in marks else None
    space = " " if decode_bytes else "▁" if "▁" in marks else ""

    def surface(token):
        if decode_bytes:
            token = decode_bytes([token])
        begins_word = not (continuation and token.startswith(continuation)) and token.startswith(space)
        return Surface(token.removeprefix(continuation).removesuffix(end_of_word).strip(f"{space} "), begins_word)

    return [surface(token) for token in tokens_in_order(tokenizer)]


def tokens_in_order(tokenizer):
    """Return the tokens of a tokenizer in the order of their numbers (`list[str]`).

    Raises:
        ValueError: if there are numbers without a token.
    """
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    for number, (_, token_id) in enumerate(vocabulary):
        if number != token_id:
            raise ValueError(
                f"The tokenizer has {len(vocabulary)} tokens, but none of number {number}, and others up to "
                f"{vocabulary[-1][1]}. A table with a row for each token would give them the rows of others: make the "
                "numbers run from 0 without a gap."
            )
    return [token for token, _ in vocabulary]
