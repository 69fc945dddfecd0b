"""predict_logits: the right logits in the right order, whatever the batches."""

import copy
import warnings

import numpy as np
import pytest
import torch
from transformers import GPT2Config, PretrainedConfig

from distil_trainer import inference
from distil_trainer.inference import length_sorted_batches, predict_logits, torch_runner
from distil_trainer.input_checks import check_padding, check_pairs
from distil_trainer.students import TransformerCnnConfig


def one_by_one(model, tokenizer, texts):
    with torch.no_grad():
        return torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts]).numpy()


@pytest.mark.parametrize("tokens_per_batch", [1, 40, 10_000])
def test_logits_do_not_depend_on_the_batches(teacher, tokenizer, reviews, tokens_per_batch):
    logits = predict_logits(torch_runner(teacher), tokenizer, reviews["sentence"], tokens_per_batch=tokens_per_batch)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, one_by_one(teacher, tokenizer, reviews["sentence"]), atol=1e-6)


def test_more_rows_than_a_window_keep_their_order(teacher, tokenizer, reviews, monkeypatch):
    whole = predict_logits(torch_runner(teacher), tokenizer, reviews["sentence"], reviews["sentence"])
    monkeypatch.setattr(inference, "_ROWS_PER_WINDOW", 7)
    windows = predict_logits(torch_runner(teacher), tokenizer, reviews["sentence"], reviews["sentence"])
    np.testing.assert_allclose(windows, whole, atol=1e-6)


def test_every_family_runs_with_the_inputs_it_names(any_family_model, tokenizer):
    logits = predict_logits(torch_runner(any_family_model), tokenizer, ["a good film", "bad"])
    assert logits.shape == (2, 2)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_equals_the_tokenizers_own(tokenizer, reviews, side, monkeypatch):
    monkeypatch.setattr(tokenizer, "padding_side", side)
    batches = []

    def runner(inputs):
        batches.append(inputs)
        return np.zeros((len(inputs["input_ids"]), 2), dtype=np.float32)

    texts = sorted(reviews["sentence"], key=lambda text: -len(text.split()))
    predict_logits(runner, tokenizer, texts, ["good film"] * 48, tokens_per_batch=10**6)
    expected = tokenizer(texts, ["good film"] * 48, padding=True, return_tensors="np")
    assert len(batches) == 1
    assert set(batches[0]) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(batches[0][name], values)
        assert batches[0][name].dtype == np.int64


def test_nothing_is_warned_of(teacher, tokenizer, recwarn, caplog):
    warnings.simplefilter("always")
    predict_logits(torch_runner(teacher), tokenizer, ["good", "a bad film"])
    assert not recwarn.list
    assert not caplog.records


def test_batches_keep_to_the_budget_and_hold_every_row_once():
    lengths = np.random.default_rng(0).integers(1, 60, size=500)
    batches = length_sorted_batches(lengths, 256)
    assert sorted(np.concatenate(batches)) == list(range(500))
    assert all(len(rows) * lengths[rows].max() <= 256 for rows in batches)
    longest = [lengths[rows].max() for rows in batches]
    assert longest == sorted(longest, reverse=True)


def test_a_row_over_the_budget_stands_alone():
    assert [rows.tolist() for rows in length_sorted_batches(np.array([3, 9, 3]), 6)] == [[1], [0, 2]]


def test_the_runner_puts_the_model_into_evaluation_mode_and_keeps_no_gradients(teacher, tokenizer):
    logits = torch_runner(teacher.train())({"input_ids": np.array([[2, 7, 3]]), "unknown": np.array([[1]])})
    assert not teacher.training
    assert isinstance(logits, np.ndarray)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_network_that_was_loaded_with_its_own_code_is_known_by_what_it_says(tokenizer):
    class BagConfig(PretrainedConfig):  # as transformers makes it of a folder's files
        model_type, reads_pairs, type_vocab_size = "embedding_bag", True, 1

    with pytest.raises(ValueError, match="embedding_bag of type_vocab_size=1: it reads single texts"):
        check_pairs(BagConfig(pad_token_id=0), tokenizer, "second")
    with pytest.raises(ValueError, match="The embedding_bag's configuration has pad_token_id=2, its tokenizer has 0"):
        check_padding(BagConfig(pad_token_id=2), tokenizer)


def test_a_transformer_cnn_reads_all_tokens_and_may_pad_with_any(tokenizer):
    check_padding(TransformerCnnConfig(GPT2Config(pad_token_id=7)), tokenizer)
    with pytest.raises(ValueError, match="gpt2 reads its last token"):
        check_padding(GPT2Config(pad_token_id=7), tokenizer)


def test_no_texts_are_refused(teacher, tokenizer):
    with pytest.raises(ValueError, match="texts is empty"):
        predict_logits(torch_runner(teacher), tokenizer, [])


def test_a_tokenizer_without_a_padding_token_is_refused(teacher, tokenizer):
    unpadded = copy.deepcopy(tokenizer)
    unpadded.pad_token = None
    with pytest.raises(ValueError, match="has no padding token"):
        predict_logits(torch_runner(teacher), unpadded, ["good"])
