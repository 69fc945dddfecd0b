"""The mask word: what augmentation writes into a text, and what every tokenizer reads as its own mask token."""

import pyarrow as pa
import pyarrow.compute as pc

MASK_WORD = "[MASK]"


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
