"""The mask word becomes each tokenizer's own mask token."""

import copy

from distil_trainer.text import MASK_WORD, write_mask_token


def test_the_mask_word_is_the_tokenizers_mask_token(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.mask_token = "<mask>"
    assert write_mask_token([f"a {MASK_WORD} film", "b"], other) == ["a <mask> film", "b"]
    assert write_mask_token([f"a {MASK_WORD} film"], tokenizer) == ["a [MASK] film"]


def test_a_tokenizer_without_a_mask_token_reads_an_unknown_word(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.mask_token = None
    assert write_mask_token([f"a {MASK_WORD} film"], other) == ["a [UNK] film"]
