"""Importance is what the loss feels of a head or neuron in each row, and nothing of batches or padding."""

import copy

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value, concatenate_datasets
from torch.nn import functional as F

from distil_trainer.labeling import TeacherLabeler
from distil_trainer.pruning import importance
from distil_trainer.pruning.gates import Gates, LayerUnits, layer_sizes
from distil_trainer.pruning.importance import magnitude_importance, random_importance, taylor_importance
from distil_trainer.students.encoder_layers import family_of


def flat(scores):
    return np.concatenate([units for layer in scores for units in layer])


def test_importance_is_the_mean_over_rows_of_the_slope_of_the_loss_at_the_gate(family_model, tokenizer, reviews):
    rows = reviews.select([0, 3, 5])
    measured = taylor_importance(family_model, tokenizer, rows)
    slopes = [LayerUnits(np.zeros(heads), np.zeros(neurons)) for heads, neurons in layer_sizes(family_model)]
    model = copy.deepcopy(family_model).double()
    gates = Gates(model)
    gates.open = [LayerUnits(heads.double(), neurons.double()) for heads, neurons in gates.open]
    gates.attach()
    for row in rows:
        inputs = tokenizer(row["sentence"], return_tensors="pt")
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        for layer, kind, number in ((0, "heads", 1), (3, "heads", 2), (0, "neurons", 5), (2, "neurons", 60)):
            gate, losses = getattr(gates.open[layer], kind), []
            for value in (1 + 1e-4, 1 - 1e-4):
                gate[number] = value
                with torch.no_grad():
                    losses.append(F.cross_entropy(model(**inputs).logits, torch.tensor([row["label"]])).item())
            gate[number] = 1.0
            getattr(slopes[layer], kind)[number] += abs(losses[0] - losses[1]) / 2e-4 / len(rows)
    tried = flat(slopes) > 0
    assert tried.sum() == 4
    np.testing.assert_allclose(flat(measured)[tried], flat(slopes)[tried], rtol=1e-3)


def test_neither_padding_nor_batches_have_a_part_in_it(family_model, tokenizer, reviews, monkeypatch):
    together = taylor_importance(family_model, tokenizer, reviews)
    monkeypatch.setattr(importance, "_TOKENS_PER_BATCH", 1)
    alone = taylor_importance(family_model, tokenizer, reviews)
    np.testing.assert_allclose(flat(together), flat(alone), rtol=1e-3, atol=1e-6)
    assert flat(alone).min() > 0


def test_a_dead_head_and_a_dead_neuron_have_none(family_model, tokenizer, reviews):
    family = family_of(family_model.config)
    layer = family_model.base_model.get_submodule(family.layers)[1]
    with torch.no_grad():
        values = layer.get_submodule(family.projections[2])
        values.weight[8:16] = 0
        values.bias[8:16] = 0
        layer.get_submodule(family.ffn_output).weight[:, 7] = 0
    scores = taylor_importance(family_model, tokenizer, reviews)
    assert np.flatnonzero(scores[1].heads == 0).tolist() == [1]
    assert np.flatnonzero(scores[1].neurons == 0).tolist() == [7]


def test_rows_without_a_label_add_nothing(model, tokenizer, reviews):
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
    unlabelled = Dataset.from_dict({"sentence": ["the film", "a plot"], "label": [-1, -1]}, features=features)
    both = taylor_importance(model, tokenizer, concatenate_datasets([reviews, unlabelled]))
    np.testing.assert_allclose(flat(both), flat(taylor_importance(model, tokenizer, reviews)), rtol=1e-4)


def test_labels_of_a_model_serve_where_there_are_no_gold_ones(model, tokenizer, reviews):
    unlabelled = reviews.remove_columns("label")
    logits = torch.tensor(TeacherLabeler(model, tokenizer).map(unlabelled)["teacher_logits"][:])
    with torch.no_grad():  # a label for one half of the rows, the other for the rest
        model.classifier.bias[0] -= (logits[:, 0] - logits[:, 1]).median()
    labelled = TeacherLabeler(model, tokenizer).map(unlabelled)
    scores = taylor_importance(model, tokenizer, labelled, label_column="teacher_label")
    assert np.isfinite(flat(scores)).all() and flat(scores).min() > 0


@pytest.mark.parametrize(
    "problem_type, labels",
    [
        ("multi_label_classification", [[index % 2, 1] for index in range(48)]),
        ("regression", [[index / 48, 0.5] for index in range(48)]),
    ],
)
def test_the_loss_is_that_of_the_task(model, tokenizer, reviews, problem_type, labels):
    rows = reviews.remove_columns("label").add_column("label", labels)
    model.config.problem_type = problem_type
    by_task = flat(taylor_importance(model, tokenizer, rows))
    assert np.isfinite(by_task).all() and by_task.min() > 0
    model.config.problem_type = "single_label_classification"
    assert not np.allclose(by_task, flat(taylor_importance(model, tokenizer, reviews)), rtol=0.1)


def test_the_hooks_are_gone_even_after_an_error(model, tokenizer, reviews, monkeypatch):
    def failing(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(importance, "gold_label_loss", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        taylor_importance(model, tokenizer, reviews)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_magnitude_is_the_sum_of_squared_weights(model):
    layer, scores = model.bert.encoder.layer[2], magnitude_importance(model)[2]
    attention = layer.attention
    projections = [attention.self.query, attention.self.key, attention.self.value]
    head = sum(module.weight[8:16].square().sum() for module in projections)
    head = head + attention.output.dense.weight[:, 8:16].square().sum()
    neuron = layer.intermediate.dense.weight[9].square().sum() + layer.output.dense.weight[:, 9].square().sum()
    assert (scores.heads[1], scores.neurons[9]) == pytest.approx((head.item(), neuron.item()), rel=1e-5)


def test_random_importance_depends_on_the_seed_alone(model):
    first, again, other = (flat(random_importance(model, seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.isclose(first, other).any()


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda rows: rows.remove_columns("label"), ValueError, "dataset has no column 'label'.*TeacherLabeler"),
        (lambda rows: rows.remove_columns("sentence"), ValueError, "dataset has no column 'sentence'"),
        (lambda rows: rows.select([0, 2, 4]), ValueError, "have the label 0 in column 'label'"),
        (lambda rows: rows.select([]), ValueError, "dataset has no rows"),
        (lambda rows: list(rows), TypeError, "dataset is a list"),
        (
            lambda rows: rows.remove_columns("label").add_column("label", [-1] * 48),
            ValueError,
            "dataset has no labelled row in column 'label'",
        ),
        (lambda rows: rows.map(lambda row: {"sentence": "film " * 90}), ValueError, "the model has positions for 80"),
    ],
)
def test_data_that_cannot_show_what_is_important_are_refused(model, tokenizer, reviews, change, error, message):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = 512
    with pytest.raises(error, match=message):
        taylor_importance(model, tokenizer, change(reviews))


def test_a_length_that_leaves_no_text_is_refused(model, tokenizer, reviews):
    with pytest.raises(ValueError, match="max_length=2: special tokens count too"):
        taylor_importance(model, tokenizer, reviews, max_length=2)
