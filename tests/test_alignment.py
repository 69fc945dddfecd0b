"""Words are the same for every tokenizer, and what is pooled to them is the mean of their tokens."""

import random
import re
from types import SimpleNamespace

import pytest
import torch
from foreign_tokenizers import byte_level_tokenizer, sentence_piece_tokenizer
from vocabulary import WORDS

from distil_trainer.alignment import pool_attention_to_words, pool_to_words, shared_words, word_ids
from distil_trainer.text import write_mask_token


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def tokenizers(tokenizer):
    return [tokenizer, byte_level_tokenizer(), byte_level_tokenizer(trim_offsets=False), sentence_piece_tokenizer()]


def _expected(encoding, row, texts):
    """Word numbers by the definition: spans of `\\S+`, counted through all texts of the row."""
    spans = [[match.span() for match in re.finditer(r"\S+", text)] for text in texts]
    numbers = []
    for (start, end), source in zip(encoding[row].offsets, encoding[row].sequence_ids, strict=True):
        filled = [] if source is None else [at for at in range(start, end) if not texts[source][at].isspace()]
        if not filled:
            numbers.append(-1)
            continue
        before = len(spans[0]) if source else 0
        word = next(number for number, (first, last) in enumerate(spans[source]) if first <= filled[0] < last)
        numbers.append(before + word)
    return numbers


def _random_texts(generator, count):
    pieces = [*WORDS, "don't", "naïve-ish", "東京", "U+1F600😀", "x.y,z", "\u200b", "[MASK]", "re[MASK]ly"]
    gaps = [" ", "  ", "\t", "\n", "\u3000", "\xa0 "]
    texts = []
    for _ in range(count):
        words = generator.choices(pieces, k=generator.randint(1, 9))
        texts.append("".join(generator.choice(["", *gaps]) + word + generator.choice(gaps) for word in words))
    return texts


@pytest.mark.parametrize("paired", [False, True], ids=["single", "pair"])
def test_a_token_is_part_of_the_word_that_holds_its_first_character_that_is_no_space(tokenizers, paired):
    generator = random.Random(3)
    texts = [_random_texts(generator, 40) for _ in range(1 + paired)]
    for tokenizer in tokenizers:
        read = [write_mask_token(column, tokenizer) for column in texts]
        encoding = tokenizer(*read, truncation=True, max_length=24)
        found = word_ids(encoding, *read)
        for row, numbers in enumerate(found):
            assert len(numbers) == len(encoding["input_ids"][row])
            assert numbers.tolist() == _expected(encoding.encodings, row, [column[row] for column in read])


def test_a_hand_worked_row_has_the_same_words_for_tokenizers_that_cut_them_differently(tokenizers):
    text = " the [MASK]  tedious film"
    word_level, byte_level, _, sentence_piece = tokenizers
    assert word_ids(word_level([text]), [text])[0].tolist() == [-1, 0, 1, 2, 3, -1]
    [read] = write_mask_token([text], byte_level)
    tokens = byte_level([read])
    assert " ".join(tokens.tokens()) == "<s> Ġthe Ġ <mask> Ġ Ġ t ed iou s Ġf il m </s>"
    assert word_ids(tokens, [read])[0].tolist() == [-1, 0, -1, 1, -1, -1, 2, 2, 2, 2, 3, 3, 3, -1]
    tokens = sentence_piece([read])
    assert " ".join(tokens.tokens()) == "▁the ▁ <mask> ▁ ▁ t ed i ou s ▁fi l m </s>"
    assert word_ids(tokens, [read])[0].tolist() == [0, -1, 1, -1, -1, 2, 2, 2, 2, 2, 3, 3, 3, -1]


def test_words_of_the_second_text_count_on_from_all_words_of_the_first(tokenizers):
    first, second = "good " * 40, "bad plot"
    for tokenizer in tokenizers:
        encoding = tokenizer([first], [second], truncation="only_first", max_length=16)
        numbers = word_ids(encoding, [first], [second])[0]
        assert set(numbers[numbers >= 40].tolist()) == {40, 41}
        assert 0 <= numbers[(numbers >= 0) & (numbers < 40)].max() < 15


def test_a_text_of_which_no_token_is_left_has_no_words(tokenizer):
    encoding = tokenizer(["good film", "bad"], truncation=True, max_length=2)
    assert [row.tolist() for row in word_ids(encoding, ["good film", "bad"])] == [[-1, -1], [-1, -1]]


def test_a_tokenizer_without_offsets_is_refused():
    with pytest.raises(ValueError, match="without a fast version.*use_fast=True"):
        word_ids(SimpleNamespace(is_fast=False), ["good"])


# Row 0 has words 0 (two tokens), 1 and 3; row 1 has word 2 only. The rest is special or padding.
WORD_IDS = torch.tensor([[-1, 0, 0, 1, 3, -1], [-1, 2, -1, -1, -1, -1]])


def test_only_words_that_both_sides_see_are_shared():
    teacher = torch.tensor([[0, 1, 1, 2], [-1, -1, -1, -1]])
    mask, num_words = shared_words(WORD_IDS, teacher)
    assert num_words == 4
    assert mask.tolist() == [[True, True, False, False], [False] * 4]
    assert shared_words(teacher, WORD_IDS)[0].equal(mask)


def test_a_batch_without_any_word_has_one_that_is_masked():
    nothing = torch.full((2, 3), -1)
    mask, num_words = shared_words(nothing, nothing)
    assert (mask.tolist(), num_words) == ([[False], [False]], 1)
    assert pool_to_words(torch.randn(2, 3, 5), nothing, 1).tolist() == [[[0.0] * 5]] * 2
    assert pool_attention_to_words(torch.rand(2, 4, 3, 3), nothing, 1).abs().max() == 0


def test_a_word_is_the_mean_of_its_tokens_and_an_absent_one_is_zero():
    states = torch.arange(24.0).reshape(2, 6, 2)
    words = pool_to_words(states, WORD_IDS, 4)
    assert words[0].tolist() == [[3.0, 4.0], [6.0, 7.0], [0.0, 0.0], [8.0, 9.0]]
    assert words[1].tolist() == [[0.0, 0.0], [0.0, 0.0], [14.0, 15.0], [0.0, 0.0]]


def test_words_beyond_the_number_counted_are_left_out():
    states = torch.arange(24.0).reshape(2, 6, 2)
    assert pool_to_words(states, WORD_IDS, 2).equal(pool_to_words(states, WORD_IDS, 4)[:, :2])


def test_pooled_states_pass_each_token_its_share_of_the_gradient_and_the_others_none():
    states = torch.randn(2, 6, 2, requires_grad=True)
    pool_to_words(states, WORD_IDS, 4).sum().backward()
    assert states.grad[..., 0].tolist() == [[0.0, 0.5, 0.5, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]]


def test_attention_to_a_word_is_summed_and_attention_from_it_averaged():
    word_ids = torch.tensor([[-1, 0, 0, 1]])
    attention = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.2, 0.1, 0.1, 0.6], [0.0, 0.3, 0.3, 0.4], [0.5, 0.2, 0.2, 0.1]])
    words = pool_attention_to_words(attention.expand(1, 2, 4, 4), word_ids, 3)
    # From word 0: ((0.1 + 0.1, 0.6) + (0.3 + 0.3, 0.4)) / 2 = (0.4, 0.5), then divided by 0.9.
    expected = torch.tensor([[4 / 9, 5 / 9, 0.0], [0.8, 0.2, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(words, expected.expand(1, 2, 3, 3), atol=1e-6, rtol=0)


def test_attention_to_words_left_out_is_dropped_and_the_rest_sums_to_one():
    attention = torch.softmax(torch.randn(2, 3, 6, 6), dim=-1)
    mask = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0]])
    words = pool_attention_to_words(attention, WORD_IDS, 4, mask)
    assert words[0, :, 1:3].abs().max() == words[0, :, :, 1:3].abs().max() == words[1].abs().max() == 0
    torch.testing.assert_close(words[0, :, [0, 3]].sum(dim=-1), torch.ones(3, 2), atol=1e-6, rtol=0)
    cut = pool_attention_to_words(attention[:1], torch.tensor([[-1, 0, 0, -1, 1, -1]]), 2)
    torch.testing.assert_close(words[:1, :, [0, 3]][..., [0, 3]], cut, atol=1e-6, rtol=0)


def test_words_as_tokens_leave_attention_as_it_is():
    attention = torch.softmax(torch.randn(2, 3, 5, 5), dim=-1)
    words = pool_attention_to_words(attention, torch.arange(5).expand(2, 5), 5)
    torch.testing.assert_close(words, attention, atol=1e-6, rtol=0)


def test_attention_that_all_goes_to_special_tokens_gives_zeros_and_finite_gradients():
    attention = torch.zeros(1, 1, 3, 3)
    attention[..., 0] = 1
    attention.requires_grad_(True)
    words = pool_attention_to_words(attention, torch.tensor([[-1, 0, 1]]), 2)
    words.square().sum().backward()
    assert words.abs().max() == 0
    assert torch.isfinite(attention.grad).all()


def test_attention_gradients_reach_tokens_of_words_only():
    scores = torch.randn(2, 3, 6, 6, dtype=torch.float32, requires_grad=True)
    pool_attention_to_words(torch.softmax(scores, dim=-1), WORD_IDS, 4).square().sum().backward()
    assert scores.grad[0, :, [0, 5]].abs().max() == 0
    assert scores.grad[0, :, 1:5, 1:5].abs().amax(dim=-1).min() > 1e-6


@pytest.mark.parametrize("pool, shape", [(pool_to_words, (2, 6, 7)), (pool_attention_to_words, (2, 3, 6, 6))])
def test_pooling_is_in_float32_under_autocast_and_for_half_precision_states(pool, shape):
    states = torch.rand(shape)
    expected = pool(states, WORD_IDS, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pool(states, WORD_IDS, 4).equal(expected)
    half = pool(states.bfloat16(), WORD_IDS, 4)
    assert half.dtype == torch.float32
    assert half.equal(pool(states.bfloat16().float(), WORD_IDS, 4))


@pytest.mark.parametrize("pool, shape", [(pool_to_words, (2, 6, 7)), (pool_attention_to_words, (2, 3, 6, 6))])
def test_padding_changes_nothing(pool, shape):
    states = torch.rand(shape)
    width = 2 if pool is pool_attention_to_words else 1
    padding = (0, 0) * (2 - width) + (0, 4) * width
    padded = torch.nn.functional.pad(states, padding, value=1e30)
    ids = torch.nn.functional.pad(WORD_IDS, (0, 4), value=-1)
    torch.testing.assert_close(pool(padded, ids, 4), pool(states, WORD_IDS, 4), atol=1e-6, rtol=0)
