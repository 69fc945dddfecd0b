import copy

import pytest
import torch

from distil_trainer.collator import DistillationCollator

ROWS = [
    {"input_ids": [2, 7, 8, 3], "teacher_logits": [0.5, -1.25], "labels": 1},
    {"input_ids": [2, 9, 3], "teacher_logits": [2.0, 0.0], "labels": -1},
]


def test_rows_are_padded_to_the_longest_and_the_mask_follows_the_lengths(tokenizer):
    batch = DistillationCollator(tokenizer)(ROWS)
    assert batch["input_ids"].tolist() == [[2, 7, 8, 3], [2, 9, 3, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch["input_ids"].dtype == batch["attention_mask"].dtype == torch.int64
    assert "token_type_ids" not in batch


def test_teacher_logits_are_stacked_in_float32(tokenizer):
    logits = DistillationCollator(tokenizer)(ROWS)["teacher_logits"]
    assert logits.dtype == torch.float32
    assert logits.tolist() == [[0.5, -1.25], [2.0, 0.0]]


@pytest.mark.parametrize("column", ["labels", "label"])
def test_missing_labels_of_every_kind_become_minus_100(tokenizer, column):
    rows = [{"input_ids": [2, 3], column: label} for label in (0, None, -1, -100, 2)]
    assert DistillationCollator(tokenizer)(rows)["labels"].tolist() == [0, -100, -100, -100, 2]


def test_a_batch_holds_neither_labels_nor_logits_where_the_rows_have_none(tokenizer):
    assert set(DistillationCollator(tokenizer)([{"input_ids": [2, 3]}])) == {"input_ids", "attention_mask"}


def test_a_tokenizer_that_pads_on_the_left_is_followed(tokenizer):
    left = copy.deepcopy(tokenizer)
    left.padding_side = "left"
    rows = [{**row, "token_type_ids": [0] * (len(row["input_ids"]) - 1) + [1]} for row in ROWS]
    batch = DistillationCollator(left)(rows)
    assert batch["input_ids"].tolist() == [[2, 7, 8, 3], [0, 2, 9, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1], [0, 0, 0, 1]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_token_columns_are_those_of_tokenizer_pad(tokenizer, side):
    padder = copy.deepcopy(tokenizer)
    padder.padding_side = side
    encoded = padder(["the film is great", "bad"], ["a plot", "dull but warm"])
    rows = [{name: encoded[name][index] for name in encoded} for index in range(2)]
    expected = padder.pad(encoded, return_tensors="pt")
    batch = DistillationCollator(padder)(rows)
    assert set(batch) == set(expected) == {"input_ids", "attention_mask", "token_type_ids"}
    for name in expected:
        assert torch.equal(batch[name], expected[name])


def test_a_tokenizer_without_padding_token_is_refused(tokenizer):
    unpadded = copy.deepcopy(tokenizer)
    unpadded.pad_token = None
    with pytest.raises(ValueError, match="no padding token"):
        DistillationCollator(unpadded)


def test_the_missing_padding_token_of_a_teacher_is_refused_too(tokenizer):
    unpadded = copy.deepcopy(tokenizer)
    unpadded.pad_token = None
    with pytest.raises(ValueError, match="teacher's tokenizer .* has no padding token"):
        DistillationCollator(tokenizer, unpadded)


TWO_SIDED = [
    {
        "input_ids": [2, 7, 3],
        "word_ids": [-1, 0, -1],
        "teacher_input_ids": [0, 40, 41, 42, 1],
        "teacher_token_type_ids": [0, 0, 0, 0, 2],
        "teacher_word_ids": [-1, 0, 0, 1, -1],
    },
    {
        "input_ids": [2, 7, 8, 9, 3],
        "word_ids": [-1, 0, 1, 2, -1],
        "teacher_input_ids": [0, 1],
        "teacher_token_type_ids": [0, 2],
        "teacher_word_ids": [-1, -1],
    },
]


@pytest.fixture
def teacher_tokenizer(tokenizer):
    """One that pads with another token, on the left, and with token type 3."""
    other = copy.deepcopy(tokenizer)
    other.pad_token, other.padding_side = "[MASK]", "left"
    other._pad_token_type_id = 3
    return other


def test_the_teachers_tokens_are_padded_with_its_own_token_on_its_own_side(tokenizer, teacher_tokenizer):
    batch = DistillationCollator(tokenizer, teacher_tokenizer)(TWO_SIDED)
    assert batch["input_ids"].tolist() == [[2, 7, 3, 0, 0], [2, 7, 8, 9, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["word_ids"].tolist() == [[-1, 0, -1, -1, -1], [-1, 0, 1, 2, -1]]
    assert batch["teacher_input_ids"].tolist() == [[0, 40, 41, 42, 1], [4, 4, 4, 0, 1]]
    assert batch["teacher_attention_mask"].tolist() == [[1, 1, 1, 1, 1], [0, 0, 0, 1, 1]]
    assert batch["teacher_token_type_ids"].tolist() == [[0, 0, 0, 0, 2], [3, 3, 3, 0, 2]]
    assert batch["teacher_word_ids"].tolist() == [[-1, 0, 0, 1, -1], [-1, -1, -1, -1, -1]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_a_padding_side_that_is_given_goes_before_the_tokenizers(tokenizer, teacher_tokenizer):
    collator = DistillationCollator(tokenizer, teacher_tokenizer, padding_side="left", teacher_padding_side="right")
    batch = collator(TWO_SIDED)
    assert batch["attention_mask"].tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert batch["teacher_attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]


def test_rows_without_the_teachers_tokens_make_a_batch_of_the_students_alone(tokenizer, teacher_tokenizer):
    batch = DistillationCollator(tokenizer, teacher_tokenizer)(ROWS)
    assert set(batch) == {"input_ids", "attention_mask", "teacher_logits", "labels"}


def test_float_labels_are_float32_with_nan_where_unlabelled(tokenizer):
    rows = [{"input_ids": [2, 3], "labels": label} for label in (None, 0.5, float("nan"), -1.0)]
    labels = DistillationCollator(tokenizer)(rows)["labels"]
    expected = torch.tensor([float("nan"), 0.5, float("nan"), -1.0])
    torch.testing.assert_close(labels, expected, atol=0, rtol=0, equal_nan=True)


def test_lists_of_labels_are_float32_of_shape_rows_by_labels(tokenizer):
    rows = [{"input_ids": [2, 3], "labels": labels} for labels in ([1, 0, 1], [float("nan")] * 3)]
    labels = DistillationCollator(tokenizer)(rows)["labels"]
    assert (labels.dtype, labels[0].tolist(), labels[1].isnan().all()) == (torch.float32, [1.0, 0.0, 1.0], True)
