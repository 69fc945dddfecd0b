"""Tokens without the marks of their tokenizers, whatever these are."""

import pytest
from foreign_tokenizers import byte_level_tokenizer, sentence_piece_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from distil_trainer.small_tokenizers import train_tokenizer, word_level_tokenizer
from distil_trainer.vectors.surfaces import surfaces, tokens_in_order

TEXTS = ["good goodness go bad badness naïve 한국"] * 9


def surface_of(tokenizer, token):
    return surfaces(tokenizer)[tokenizer.convert_tokens_to_ids(token)]


@pytest.mark.parametrize(
    ("tokenizer", "beginning", "within"),
    [
        (word_level_tokenizer(TEXTS), "goodness", None),
        (train_tokenizer(TEXTS, "wordpiece", vocab_size=60), "goodness", "##o"),
        (train_tokenizer(TEXTS, "bpe", vocab_size=60), "▁goodness", "o"),
        (train_tokenizer(TEXTS, "unigram", vocab_size=60), "▁good", "s"),
        (sentence_piece_tokenizer(), "▁the", "t"),
        (byte_level_tokenizer(), "Ġthe", "er"),
    ],
    ids=["word", "wordpiece", "bpe", "unigram", "sentencepiece", "byte-level"],
)
def test_the_marks_of_pieces_are_left_out(tokenizer, beginning, within):
    letters = beginning.strip("▁Ġ")
    assert surface_of(tokenizer, beginning) == (letters, True)
    if within:
        assert surface_of(tokenizer, within) == (within.strip("#"), False)


def test_the_bytes_of_a_piece_are_decoded():
    backend = Tokenizer(models.BPE({"Ã©t": 0, "ĠÃ©": 1, "íķľ": 2, "Ġ": 3}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert surfaces(tokenizer) == [("ét", False), ("é", True), ("한", False), ("", True)]


def test_the_end_of_a_word_is_no_part_of_it():
    backend = Tokenizer(models.BPE({"a": 0, "b</w>": 1}, [], end_of_word_suffix="</w>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert [surface.text for surface in surfaces(tokenizer)] == ["a", "b"]


def test_numbers_without_a_token_are_refused():
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 3}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    with pytest.raises(ValueError, match="3 tokens, but none of number 2, and others up to 3"):
        tokens_in_order(tokenizer)


def test_a_slow_tokenizer_is_refused():
    class Slow(PreTrainedTokenizerBase):
        is_fast = False

    with pytest.raises(TypeError, match="tokenizer=Slow is a slow one"):
        surfaces(Slow())
