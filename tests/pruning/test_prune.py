"""A pruned model is the model with those parts gated off, whatever its family, and however often it is pruned."""

import copy

import numpy as np
import pytest
import torch
from gated import assert_same, gated_logits, heads_left, logits_of
from transformers import (
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from distil_trainer import student_from_teacher
from distil_trainer.pruning import prune
from distil_trainer.pruning.checks import STOCK_CLASSES
from distil_trainer.pruning.gates import layer_sizes
from distil_trainer.pruning.importance import random_importance, taylor_importance
from distil_trainer.pruning.selection import encoder_flops, keep_most_important, keep_within_budget
from distil_trainer.pruning.surgery import rebuild

BUDGET = {"hidden_size": 32, "head_size": 8, "sequence_length": 128}


@pytest.mark.parametrize("given", [{"num_heads": 3, "intermediate_size": 24}, {"keep": 0.7}], ids=["sizes", "keep"])
def test_a_pruned_model_is_the_unpruned_one_with_those_parts_gated_off(family_model, given):
    pruned = prune(family_model, importance="random", seed=1, **given)
    scores = random_importance(family_model, 1)
    kept = keep_within_budget(scores, 0.7, **BUDGET) if "keep" in given else keep_most_important(scores, 3, 24)
    assert_same(logits_of(pruned), gated_logits(family_model, kept))
    assert not torch.allclose(logits_of(pruned), logits_of(family_model), atol=0.05)
    assert [tuple(map(len, layer)) for layer in kept] == layer_sizes(pruned)
    assert pruned.config.model_type.startswith("pruned_") == ("keep" in given)


def test_uniform_sizes_keep_the_model_type_and_are_written_into_the_configuration(family_model):
    pruned = prune(family_model, importance="magnitude", num_heads=3, intermediate_size=24)
    config = pruned.config
    assert config.model_type == family_model.config.model_type
    assert type(config) is type(family_model.config)
    assert getattr(config, "hidden_dim" if config.model_type == "distilbert" else "intermediate_size") == 24
    assert {len(heads) for heads in config.pruned_heads.values()} == {1}
    assert config.pruned_heads.keys() == {0, 1, 2, 3}
    assert (config.num_attention_heads, config.id2label) == (4, family_model.config.id2label)
    assert isinstance(pruned, STOCK_CLASSES[config.model_type])


def test_the_given_model_is_left_as_it_is(family_model, tokenizer, reviews):
    family_model.train()
    family_model.classifier.requires_grad_(False)
    before, config = copy.deepcopy(family_model.state_dict()), family_model.config.to_dict()
    wants_gradient = [parameter.requires_grad for parameter in family_model.parameters()]
    pruned = prune(family_model, tokenizer, reviews, num_heads=2, intermediate_size=16)
    assert all(torch.equal(family_model.state_dict()[name], weight) for name, weight in before.items())
    assert family_model.config.to_dict() == config
    assert family_model.training and not pruned.training
    assert [parameter.requires_grad for parameter in family_model.parameters()] == wants_gradient
    assert all(parameter.requires_grad for parameter in pruned.parameters())
    assert not any(module._forward_pre_hooks for each in (family_model, pruned) for module in each.modules())
    assert not {p.data_ptr() for p in pruned.parameters()} & {p.data_ptr() for p in family_model.parameters()}


def test_taylor_keeps_what_the_loss_feels_most(model, tokenizer, reviews):
    pruned = prune(model, tokenizer, reviews, num_heads=2, intermediate_size=16)
    scores = taylor_importance(model, tokenizer, reviews)
    assert_same(logits_of(pruned), gated_logits(model, keep_most_important(scores, 2, 16)))
    for heads, kept in zip(scores, heads_left(pruned), strict=True):
        assert heads.heads[kept].min() > np.delete(heads.heads, kept).max()


def test_layers_that_stay_are_those_of_student_from_teacher(family_model):
    shallow = student_from_teacher(family_model, num_layers=3)
    alone = prune(family_model, importance="magnitude", num_layers=3)
    assert type(alone) is type(family_model)
    assert_same(logits_of(alone), logits_of(shallow), atol=0)
    # Random importance is drawn for all four layers, of which 1, 2 and 4 stay.
    both = prune(family_model, importance="random", num_layers=3, num_heads=3, intermediate_size=24)
    kept = keep_most_important(random_importance(family_model, 0), 3, 24)
    assert_same(logits_of(both), gated_logits(shallow, [kept[0], kept[1], kept[3]]))


def test_pruned_twice_is_pruned_of_both(family_model, tmp_path):
    once = prune(family_model, importance="random", num_heads=3, intermediate_size=40, seed=1)
    twice = prune(once, importance="random", num_heads=2, intermediate_size=20, seed=2)
    first = keep_most_important(random_importance(family_model, 1), 3, 40)
    second = keep_most_important(random_importance(once, 2), 2, 20)
    kept = [(a.heads[b.heads], a.neurons[b.neurons]) for a, b in zip(first, second, strict=True)]
    assert_same(logits_of(twice), gated_logits(family_model, kept))
    for heads, (expected, _) in zip(heads_left(twice), kept, strict=True):
        np.testing.assert_array_equal(heads, expected)
    shallow = prune(twice, importance="magnitude", num_layers=2)
    assert [list(heads) for heads in heads_left(shallow)] == [list(kept[1][0]), list(kept[3][0])]


def test_widths_that_differ_and_then_do_not_change_the_model_type_and_back(model):
    uneven = prune(model, importance="random", keep=0.7, seed=1)
    assert uneven.config.model_type == "pruned_bert"
    assert uneven.config.intermediate_sizes == [size.neurons for size in layer_sizes(uneven)]
    even = prune(uneven, importance="magnitude", intermediate_size=min(uneven.config.intermediate_sizes))
    assert even.config.model_type == "bert"
    assert not hasattr(even.config, "intermediate_sizes")


def test_a_model_that_keeps_all_its_heads_is_of_the_stock_class(family_model):
    for given in ({"intermediate_size": 24}, {"keep": 1.0}, {"num_heads": 4}):
        pruned = prune(family_model, importance="magnitude", **given)
        assert type(pruned) is type(family_model)
        assert not getattr(pruned.config, "pruned_heads", None)
    assert_same(logits_of(pruned), logits_of(family_model), atol=0)


def test_a_budget_is_spent_but_for_less_than_a_head(family_model, tokenizer, reviews):
    total = encoder_flops(layer_sizes(family_model), **BUDGET)
    head = encoder_flops([(1, 0)], **BUDGET)
    for keep in (0.9, 0.5, 0.35):
        sizes = layer_sizes(prune(family_model, tokenizer, reviews, keep=keep))
        spent = encoder_flops(sizes, **BUDGET)
        block = encoder_flops([(0, 32)], **BUDGET)
        assert keep * total - max(head, block) < spent <= keep * total
        assert all(heads >= 1 and neurons in (32, 64) for heads, neurons in sizes)


def test_the_attention_implementation_and_half_precision_of_the_model(family_model):
    config = family_model.config
    eager = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").half()
    config.dtype = torch.float16
    for given in ({"num_heads": 2}, {"keep": 0.4}):
        pruned = prune(eager, importance="magnitude", **given)
        assert pruned.config._attn_implementation == "eager"
        assert {parameter.dtype for parameter in pruned.parameters()} == {torch.float32}
        assert pruned.config.dtype == torch.float32
    assert eager.dtype == torch.float16


def test_a_model_trained_in_mixed_precision_is_measured_without_it(model, tokenizer, reviews):
    expected = prune(model, tokenizer, reviews, num_heads=2)
    model._original_forward = model.forward
    model.forward = lambda **inputs: pytest.fail("the forward pass of the given model was run")
    assert_same(logits_of(prune(model, tokenizer, reviews, num_heads=2)), logits_of(expected), atol=0)


def test_pruning_draws_nothing_from_the_global_generator(model):
    state = torch.get_rng_state()
    prune(model, importance="random", num_heads=2)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "given, error, message",
    [
        ({}, ValueError, "nothing is to be pruned"),
        ({"num_heads": 0}, ValueError, "num_heads=0 must be from 1 to 4"),
        ({"num_heads": 5}, ValueError, "num_heads=5 must be from 1 to 4"),
        ({"num_heads": 2.0}, TypeError, "num_heads=2.0 must be an integer"),
        ({"intermediate_size": 65}, ValueError, "intermediate_size=65 must be from 1 to 64"),
        ({"intermediate_size": 0}, ValueError, "intermediate_size=0 must be from 1 to 64"),
        ({"num_layers": 0}, ValueError, "num_layers=0 must be from 1 to 4"),
        ({"num_layers": 5}, ValueError, "num_layers=5 must be from 1 to 4"),
        ({"keep": 0}, ValueError, r"keep=0 must be a share in \(0, 1\]"),
        ({"keep": 1.5}, ValueError, r"keep=1.5 must be a share in \(0, 1\]"),
        ({"keep": True}, ValueError, r"keep=True must be a share in \(0, 1\]"),
        ({"keep": 0.01}, ValueError, "one head and one neuron in each layer, which must stay, are 0.1"),
        ({"keep": 0.5, "num_heads": 2}, ValueError, "keep=0.5 with num_heads=2: keep= chooses the sizes itself"),
        ({"num_heads": 2, "importance": "movement"}, ValueError, "importance='movement' must be one of taylor"),
        ({"num_heads": 2, "sequence_length": 0}, ValueError, "sequence_length=0 must be at least 1"),
        ({"num_heads": 2, "importance": "taylor"}, ValueError, "importance is measured on labelled texts"),
    ],
)
def test_what_does_not_fit_is_refused(model, given, error, message):
    with pytest.raises(error, match=message):
        prune(model, **{"importance": "magnitude", **given})


def test_sizes_are_compared_with_the_smallest_layer(model):
    uneven = prune(model, importance="random", keep=0.7, seed=1)
    with pytest.raises(ValueError, match="num_heads=4 must be from 1 to"):
        prune(uneven, importance="magnitude", num_heads=4)


def test_an_unknown_architecture_is_refused_with_the_list_of_known_ones(model):
    stranger = GPT2ForSequenceClassification(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=8))
    with pytest.raises(ValueError, match=r"model_type='gpt2'.*bert, roberta, electra, distilbert"):
        prune(stranger, num_heads=1)
    with pytest.raises(ValueError, match="BertForTokenClassification"):
        prune(BertForTokenClassification(model.config), num_heads=1)
    for other in (torch.nn.Linear(2, 2), "a/path"):
        with pytest.raises(ValueError, match=r"model_type=''.*bert, roberta, electra, distilbert"):
            prune(other, num_heads=1)


def test_a_class_that_reads_the_encoder_in_another_way_is_refused(model):
    class WithoutPooler(BertForSequenceClassification):
        def forward(self, **inputs):
            return self.classifier(self.bert(**inputs).last_hidden_state[:, 0])

    with pytest.raises(ValueError, match="WithoutPooler.*with no other `forward`"):
        prune(WithoutPooler(model.config), importance="magnitude", num_heads=1)


@pytest.mark.parametrize("given", [{"num_heads": 2}, {"keep": 0.5}, {"importance": "magnitude", "num_heads": 2}])
def test_a_model_whose_weights_are_not_finite_is_refused(model, tokenizer, reviews, given):
    with torch.no_grad():
        model.bert.encoder.layer[2].attention.self.value.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"of the heads or neurons of layer \d is NaN or infinite"):
        prune(model, tokenizer, reviews, **given)


def test_a_tokenizer_of_another_model_is_refused(model, tokenizer, reviews):
    model.resize_token_embeddings(30)
    with pytest.raises(ValueError, match="has embeddings for 30: it is the tokenizer of another model"):
        prune(model, tokenizer, reviews, num_heads=2)


def test_pairs_are_measured_too(model, tokenizer, reviews):
    reviews = reviews.add_column("reply", reviews["sentence"][::-1])
    pairs = taylor_importance(model, tokenizer, reviews, text_pair_column="reply")
    kept = keep_most_important(pairs, 2, 16)
    pruned = prune(model, tokenizer, reviews, num_heads=2, intermediate_size=16, text_pair_column="reply")
    assert_same(logits_of(pruned), logits_of(rebuild(model, [0, 1, 2, 3], kept)), atol=0)
