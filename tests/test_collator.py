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
