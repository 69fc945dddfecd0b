"""Budgets worked out by hand."""

import numpy as np
import pytest

from distil_trainer.pruning.gates import LayerUnits
from distil_trainer.pruning.selection import encoder_flops, keep_most_important, keep_within_budget

# For a text of 1 token and states of width 1: a head of width 1 has 4 · 2 + 4 = 12, a neuron 4 operations.
TINY = {"hidden_size": 1, "head_size": 1, "sequence_length": 1}


def units(heads, neurons):
    return LayerUnits(np.array(heads, dtype=float), np.array(neurons, dtype=float))


def as_lists(kept):
    return [(layer.heads.tolist(), layer.neurons.tolist()) for layer in kept]


def test_operations_are_those_of_the_linear_maps_and_of_comparing_tokens():
    # 10 tokens: queries, keys, values and output 4 · 2 · 6 · 3 a token, scores and means 2 · 2 · 10 · 3 a token.
    assert encoder_flops([LayerUnits(1, 0)], 6, 3, 10) == 10 * (144 + 120)
    assert encoder_flops([LayerUnits(0, 1)], 6, 3, 10) == 10 * 24
    assert encoder_flops([LayerUnits(2, 5), LayerUnits(1, 0)], 6, 3, 10) == 3 * 2640 + 5 * 240


def test_the_most_important_stay_in_their_order_and_the_first_among_equals():
    scores = [units([1, 3, 2], [5, 5, 5, 9]), units([7, 7, 8], [0, 0, 0, 0])]
    assert as_lists(keep_most_important(scores, 2, 2)) == [([1, 2], [0, 3]), ([0, 2], [0, 1])]
    assert as_lists(keep_most_important(scores, None, 1)) == [([0, 1, 2], [3]), ([0, 1, 2], [0])]


def test_a_budget_buys_the_most_important_for_their_cost():
    # Costs: heads 12, neurons 4; in all 4 · 12 + 6 · 4 = 72, of which 0.65 are 46.8. One head and one neuron a layer
    # cost 32, which leaves 14.8. For each operation: heads 30/12 and 1/12, neurons 8/4 and 7/4, 2/4 and 1/4.
    scores = [units([40, 30], [9, 8, 7]), units([1, 1], [2, 2, 1])]
    assert as_lists(keep_within_budget(scores, 0.65, **TINY)) == [([0, 1], [0]), ([0], [0])]
    # Of 0.6, which are 43.2, there are 11.2 left: too few for the head, so the neurons are bought.
    assert as_lists(keep_within_budget(scores, 0.6, **TINY)) == [([0], [0, 1, 2]), ([0], [0])]
    # 0.75 are 54, enough for a head and whole layers of neurons, which are no blocks of 32: 48.
    assert as_lists(keep_within_budget(scores, 0.75, **TINY)) == [([0], [0, 1, 2]), ([0], [0, 1, 2])]


def test_neurons_are_bought_in_blocks_of_32_where_each_layer_can_have_one():
    generator = np.random.default_rng(0)
    scores = [units(generator.random(4), generator.random(100) ** 3) for _ in range(3)]
    kept = keep_within_budget(scores, 0.7, **TINY)
    assert all(len(layer.neurons) in (32, 64, 96, 100) for layer in kept)
    for layer, given in zip(kept, scores, strict=True):
        assert given.neurons[layer.neurons].min() > np.delete(given.neurons, layer.neurons).max()
    # One head and 32 neurons in each layer would be 0.313 of all.
    kept = keep_within_budget(scores, 0.3, **TINY)
    assert sum(12 * len(layer.heads) + 4 * len(layer.neurons) for layer in kept) <= 0.3 * 3 * (4 * 12 + 100 * 4)
    assert all(len(layer.heads) >= 1 and len(layer.neurons) >= 1 for layer in kept)


def test_the_share_of_a_shape_buys_that_shape():
    scores = [units([9, 1], [9] * 32 + [1] * 32)] * 2
    share = encoder_flops([LayerUnits(1, 32)] * 2, **TINY) / encoder_flops([LayerUnits(2, 64)] * 2, **TINY)
    assert [(len(layer.heads), len(layer.neurons)) for layer in keep_within_budget(scores, share, **TINY)] == [
        (1, 32)
    ] * 2


def test_a_budget_for_less_than_one_of_each_is_refused():
    with pytest.raises(ValueError, match="one head and one neuron in each layer, which must stay, are 0.4444 of"):
        keep_within_budget([units([40, 30], [9, 8, 7])], 0.4, **TINY)
