"""The mask word becomes each tokenizer's own mask token."""

import copy

import pyarrow as pa
import pytest

from distil_trainer.text import MASK_WORD, check_texts, is_blank, write_mask_token


def test_the_mask_word_is_the_tokenizers_mask_token(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.mask_token = "<mask>"
    assert write_mask_token([f"a {MASK_WORD} film", "b"], other) == ["a <mask> film", "b"]
    assert write_mask_token([f"a {MASK_WORD} film"], tokenizer) == ["a [MASK] film"]


def test_a_tokenizer_without_a_mask_token_reads_an_unknown_word(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.mask_token = None
    assert write_mask_token([f"a {MASK_WORD} film"], other) == ["a [UNK] film"]


@pytest.mark.parametrize("blank", ["", " \t\n", None, "\u3000", "\u200b", "\ufeff \u200d", "\x00"])
def test_a_blank_text_is_refused_with_its_row_in_the_whole(blank):
    with pytest.raises(ValueError, match="the split: row 101 has sentence="):
        check_texts(pa.array(["good", blank, "bad"]), source="the split", column="sentence", first_row=100)


def test_texts_with_anything_visible_are_not_blank():
    texts = pa.chunked_array([["😀", "\u200d😀", "."], ["\ue000", "한", "", None]])
    assert is_blank(texts).to_pylist() == [False] * 5 + [True] * 2


def test_what_is_no_text_is_refused_by_its_type():
    with pytest.raises(TypeError, match="column 'sentence' holds int64"):
        check_texts(pa.array([1, 2]), source="the split", column="sentence")
