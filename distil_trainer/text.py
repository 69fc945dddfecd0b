"""What counts as a text, and the mask word that every tokenizer reads as its own mask token."""

import pyarrow as pa
import pyarrow.compute as pc

MASK_WORD = "[MASK]"
# Beyond white space, control and formatting characters: of these alone most tokenizers make nothing.
_VISIBLE = r"[^\s\pZ\p{Cc}\p{Cf}]"


def write_mask_token(texts, tokenizer):
    """Replace the neutral mask word in texts by the tokenizer's own mask token.

    A tokenizer without a mask token gets its unknown token, so that the word is never split into `[`, `MASK`, `]`.

    Args:
        texts (`list[str]` of length `n`): texts as augmentation wrote them.
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer that reads them next.

    Returns:
        `list[str]` of length `n`. The same list when nothing needs replacing.
    """
    mask_token = tokenizer.mask_token or tokenizer.unk_token
    if mask_token is None or mask_token == MASK_WORD:
        return texts
    replaced = pc.replace_substring(pa.array(texts, type=pa.large_string()), MASK_WORD, mask_token)
    return replaced.to_pylist()


def is_blank(texts):
    """Tell which texts are missing, empty, or hold white space and invisible characters (U+200B, U+FEFF) alone.

    Args:
        texts (`pyarrow.Array` or `pyarrow.ChunkedArray`): strings, of length `n`.

    Returns:
        `pyarrow.Array` or `pyarrow.ChunkedArray` of `n` booleans.
    """
    return pc.invert(pc.fill_null(pc.match_substring_regex(texts, _VISIBLE), False))


def check_texts(texts, *, source, column, first_row=0):
    """Refuse a column that holds anything but strings, and a row whose text is missing or blank.

    Args:
        texts (`pyarrow.Array` or `pyarrow.ChunkedArray`): the column, or some rows of it.
        source (`str`): what the rows come from, for the error.
        column (`str`): the column's name, for the error.
        first_row (`int`, *optional*, defaults to 0): row number of the first text.

    Raises:
        TypeError: if the column does not hold strings.
        ValueError: if a text is missing or blank, with its row number.
    """
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        raise TypeError(
            f"{source}: column {column!r} holds {texts.type}, but texts must be strings: name another column, or "
            "turn its values into texts."
        )
    row = pc.index(is_blank(texts), True).as_py()
    if row >= 0:
        raise ValueError(
            f"{source}: row {first_row + row} has {column}={texts[row].as_py()!r}, a missing or empty text, "
            "or one of invisible characters alone. A teacher would answer with whatever it thinks of nothing, and a "
            "student would learn that. Remove such rows (in recipes: --drop_empty_texts): `dataset.filter(lambda row: "
            f"any(map(str.isprintable, ''.join((row[{column!r}] or '').split()))))`."
        )
