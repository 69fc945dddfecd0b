"""Words, where two tokenizers meet: which word each token is part of, and token states pooled to words.

A word is what white space separates in the text. Tokenizers cut and normalize words in their own ways, but a word's
place in the text is the same to all of them.
"""

from itertools import chain

import numpy as np
import torch

# Beyond these code points Unicode has no white space.
_IS_SPACE = np.array([chr(code).isspace() for code in range(0x10000)])
# Far below any attention that float32 softmax gives a row of words, and far above where a division overflows.
_SMALLEST_MASS = 1e-12


def word_ids(encoding, texts, text_pairs=None):
    r"""Number, for each token, the word that it is part of.

    A token is part of the word (`\S+`) that holds its first character that is no white space: some tokenizers count
    the space before a word to its first token. Words are numbered from 0 in each row, those of the second text on
    from the first text's, including words that were cut off. So the numbers of two tokenizers are the same for the
    same word, also where the mask word stands for their own mask tokens.

    Args:
        encoding (`BatchEncoding`): what a fast tokenizer made of the texts, without overflowing parts.
        texts (`list[str]` of length `n`): exactly what it read, so after `write_mask_token`.
        text_pairs (`list[str]` of length `n`, *optional*): the second texts it read.

    Returns:
        `list[np.ndarray]` of length `n`: for each row int32 of shape `(length,)`, -1 for special tokens and for tokens
        of white space alone.

    Raises:
        ValueError: if the tokenizer is not a fast one.
    """
    if not encoding.is_fast:
        raise ValueError(
            "The texts were read by a tokenizer without a fast version (`tokenizer.is_fast` is False), which does not "
            "say where in the text a token stands, so its tokens cannot be matched with another tokenizer's. Load it "
            "with `AutoTokenizer.from_pretrained(..., use_fast=True)`, or distil logits and pooled states only."
        )
    rows = encoding.encodings
    sources = texts if text_pairs is None else list(chain.from_iterable(zip(texts, text_pairs, strict=True)))
    sources_per_row = 1 if text_pairs is None else 2
    first_character = np.cumsum([0, *(len(source) + 1 for source in sources)])
    word_of_character, next_filled = _words_of_characters(sources)
    words_before = np.concatenate([[0], word_of_character + 1])[first_character[:-1:sources_per_row]]

    lengths = np.array([len(row) for row in rows])
    row_of_token = np.repeat(np.arange(len(rows)), lengths)
    # Which of the row's texts a token comes from; none for special tokens.
    sequence = np.array([-1 if number is None else number for row in rows for number in row.sequence_ids], dtype=int)
    offsets = np.fromiter(chain.from_iterable(chain.from_iterable(row.offsets for row in rows)), dtype=np.int64)
    source = row_of_token * sources_per_row + np.maximum(sequence, 0)
    starts, ends = first_character[source] + offsets[::2], first_character[source] + offsets[1::2]
    character = next_filled[starts]
    in_word = (sequence >= 0) & (character < ends)
    words = word_of_character[np.where(in_word, character, 0)] - words_before[row_of_token]
    return np.split(np.where(in_word, words, -1).astype(np.int32), np.cumsum(lengths)[:-1])


def shared_words(student_word_ids, teacher_word_ids):
    """Find the words that both the student and the teacher see: a text may be cut earlier for one of them.

    Args:
        student_word_ids (`torch.Tensor` of shape `(batch_size, student_length)`): see `word_ids`, -1 for padding.
        teacher_word_ids (`torch.Tensor` of shape `(batch_size, teacher_length)`): the same for the teacher's tokens.

    Returns:
        `tuple[torch.Tensor, int]`: a bool mask of shape `(batch_size, num_words)`, and `num_words`, the highest number
        of a word plus 1 (at least 1, so that nothing pooled is ever without positions).
    """
    num_words = max(1, int(torch.maximum(student_word_ids.max(), teacher_word_ids.max())) + 1)
    student_words = _is_token_of(student_word_ids, num_words).any(dim=1)
    return student_words & _is_token_of(teacher_word_ids, num_words).any(dim=1), num_words


def pool_to_words(states, word_ids, num_words):
    """Average the states of each word's tokens, in float32, whatever autocast says.

    Args:
        states (`torch.Tensor` of shape `(batch_size, length, hidden_size)`): one vector a token.
        word_ids (`torch.Tensor` of shape `(batch_size, length)`): see `word_ids`, -1 for padding.
        num_words (`int`): words counted; tokens of higher ones are left out.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_words, hidden_size)`: 0 for words without a token.
    """
    with torch.autocast(states.device.type, enabled=False):
        return _shares(word_ids, num_words) @ states.float()


def pool_attention_to_words(attentions, word_ids, num_words, mask=None):
    """Turn attention between tokens into attention between words, in float32, whatever autocast says.

    Attention to a word is the sum over its tokens, attention from a word the mean over its tokens. What then goes to
    special tokens or to words left out is dropped, and the rest scaled to the sum 1.

    Args:
        attentions (`torch.Tensor` of shape `(batch_size, num_heads, length, length)`): probabilities, over the last
            dimension.
        word_ids (`torch.Tensor` of shape `(batch_size, length)`): see `word_ids`, -1 for padding.
        num_words (`int`): words counted.
        mask (`torch.Tensor` of shape `(batch_size, num_words)`, *optional*): the words to keep, see `shared_words`.
            Without it, what the teacher gives to words that only the teacher sees stays in its distribution.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_heads, num_words, num_words)`: rows and columns of words without a
        token, or left out, are 0; so are rows of words that attend to nothing but what is dropped.

    Reference:
        Clark et al. 2019, https://arxiv.org/abs/1906.04341, section 4.1, where special tokens count as words. Here
        they are left out, because tokenizers differ in them.
    """
    with torch.autocast(attentions.device.type, enabled=False):
        is_token_of = _is_token_of(word_ids, num_words)
        if mask is not None:
            is_token_of = is_token_of & mask.bool().unsqueeze(1)
        to_words = attentions.float() @ is_token_of.float().unsqueeze(1)
        from_words = _normalized(is_token_of).unsqueeze(1) @ to_words
        return from_words / from_words.sum(dim=-1, keepdim=True).clamp(min=_SMALLEST_MASS)


def _words_of_characters(sources):
    # For each character of all sources, each followed by a line break: the number of the word it is in (of the last
    # one before it, if in none), and the next character that is in a word.
    codes = np.frombuffer("".join(f"{source}\n" for source in sources).encode("utf-32-le"), dtype="<u4")
    is_space = _IS_SPACE[np.minimum(codes, len(_IS_SPACE) - 1)]
    begins_word = ~is_space & np.concatenate([[True], is_space[:-1]])
    next_filled = np.where(is_space, len(codes), np.arange(len(codes)))
    return np.cumsum(begins_word) - 1, np.minimum.accumulate(next_filled[::-1])[::-1]


def _is_token_of(word_ids, num_words):
    # (batch_size, length, num_words)
    return word_ids.unsqueeze(-1) == torch.arange(num_words, device=word_ids.device)


def _shares(word_ids, num_words):
    return _normalized(_is_token_of(word_ids, num_words))


def _normalized(is_token_of):
    # (batch_size, num_words, length): each token's share in the mean of its word.
    tokens_of = is_token_of.transpose(1, 2).float()
    return tokens_of / tokens_of.sum(dim=-1, keepdim=True).clamp(min=1)
