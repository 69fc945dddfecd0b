"""States of every architecture in one form: as many as layers, of the right pass, with padding aside."""

import copy
import gc
import logging
import warnings
import weakref

import pytest
import torch
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BartConfig,
    BertConfig,
    FNetConfig,
    FNetForSequenceClassification,
    FunnelConfig,
    FunnelForSequenceClassification,
    PretrainedConfig,
    T5Config,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from distil_trainer.input_checks import padding_side
from distil_trainer.states import ModelShape, StateReader, head_token, model_shape, pool_states, select_token
from distil_trainer.students import TransformerCnnConfig

EVERYTHING = ["hidden_states", "attentions", "queries", "keys", "values"]
WITH_RELATIONS = ["bert", "roberta", "electra", "distilbert", "bart", "gpt2", "t5"]
TEXTS = ["a good film", "the movie is not very good but the plot was brilliant", "bad"]


@pytest.fixture(params=WITH_RELATIONS)
def relational(request, teacher_zoo):
    return teacher_zoo(request.param)


class Wrapper(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, **inputs):
        return self.module(**inputs)


def batch_of(model, tokenizer, texts=TEXTS):
    tokenizer.padding_side = padding_side(model.config)
    return tokenizer(texts, padding=True, return_tensors="pt")


def readable(model):
    return EVERYTHING[:2] if model.config.model_type == "xlnet" else EVERYTHING


def read(model, batch, wanted):
    reader = StateReader(model, wanted)
    reader.attach()
    states = reader.read(model(**batch, **reader.forward_arguments))
    reader.detach()
    return states


def funnel():
    """Make a classifier whose layers of attention have parts of other names."""
    return FunnelForSequenceClassification(
        FunnelConfig(vocab_size=60, block_sizes=[1], d_model=16, n_head=2, d_head=8, d_inner=16, num_decoder_layers=1)
    )


def hooks_of(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def without_dropout(model):
    for module in model.modules():
        for name in ("p", "dropout", "activation_dropout"):
            if isinstance(vars(module).get(name), float):
                setattr(module, name, 0.0)
    return model


def test_the_shape_of_every_architecture_is_read(any_teacher):
    assert model_shape(any_teacher[0].config) == ModelShape(num_layers=3, hidden_size=32, num_heads=4)


def test_pruned_heads_are_not_counted():
    config = BertConfig(num_attention_heads=4, hidden_size=32, num_hidden_layers=3)
    config.pruned_heads = {0: [1], 1: [0, 2], 2: [3]}
    assert model_shape(config) == ModelShape(num_layers=3, hidden_size=32, num_heads=2)


def test_of_an_encoder_decoder_the_encoder_counts():
    bart = BartConfig(encoder_layers=3, decoder_layers=5, encoder_attention_heads=2, decoder_attention_heads=4)
    assert model_shape(bart) == ModelShape(3, 1024, 2)
    assert model_shape(T5Config(num_layers=3, num_decoder_layers=5, d_model=64, num_heads=2)) == ModelShape(3, 64, 2)


def test_a_configuration_without_layers_is_refused():
    with pytest.raises(ValueError, match="does not say num_hidden_layers.*distil this model from logits"):
        model_shape(PretrainedConfig())


def test_heads_of_decoders_read_the_last_token_and_those_of_encoders_the_first(teacher_zoo):
    last = {"bart", "gpt2", "xlnet", "t5"}
    for name in ["bert", "roberta", "electra", "distilbert", *last]:
        assert head_token(teacher_zoo(name)[0].config) == ("last" if name in last else "first")
    for name, where in (("bert", "first"), ("gpt2", "last")):
        assert head_token(TransformerCnnConfig(teacher_zoo(name)[0].config)) == where


def test_the_first_and_the_last_token_are_found_whatever_side_is_padded():
    states = torch.arange(24.0).view(3, 4, 2)
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [0, 1, 1, 0]])
    assert select_token(states, mask, "first").tolist() == [[0, 1], [10, 11], [18, 19]]
    assert select_token(states, mask.bool(), "last").tolist() == [[2, 3], [14, 15], [20, 21]]


def test_a_token_that_is_neither_first_nor_last_is_refused():
    with pytest.raises(ValueError, match="where='middle' must be 'first' or 'last'"):
        select_token(torch.zeros(1, 1, 1), torch.ones(1, 1), "middle")


def test_pooling_leaves_padding_aside_whatever_is_in_it():
    states = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [float("nan"), 1e30]], [[5.0, 5.0]] * 3], requires_grad=True)
    pooled = pool_states(states, torch.tensor([[1, 1, 0], [0, 0, 0]]))
    assert pooled.tolist() == [[2.0, 4.0], [0.0, 0.0]]
    pooled.sum().backward()
    assert states.grad.tolist() == [[[0.5, 0.5], [0.5, 0.5], [0.0, 0.0]], [[0.0, 0.0]] * 3]


def test_every_architecture_gives_one_state_a_layer(any_teacher):
    model, tokenizer = any_teacher
    batch = batch_of(model, tokenizer)
    rows, length = batch["input_ids"].shape
    states = read(model, batch, readable(model))
    assert list(states) == readable(model)
    assert [state.shape for state in states["hidden_states"]] == [(rows, length, 32)] * 4
    assert [state.shape for state in states["attentions"]] == [(rows, 4, length, length)] * 3
    for name in readable(model)[2:]:
        assert [state.shape for state in states[name]] == [(rows, length, 32)] * 3


def test_each_query_spreads_all_its_attention_over_tokens_alone(any_teacher):
    model, tokenizer = any_teacher
    batch = batch_of(model, tokenizer)
    mask = batch["attention_mask"].bool()
    for attention in read(model, batch, ["attentions"])["attentions"]:
        of_tokens = attention.transpose(1, 2)[mask]
        torch.testing.assert_close(of_tokens.sum(-1), torch.ones_like(of_tokens.sum(-1)))
        assert attention.masked_select(~mask[:, None, None] & mask[:, None, :, None]).abs().max() < 1e-6


def test_padding_does_not_change_the_states_of_tokens(any_teacher):
    model, tokenizer = any_teacher
    batch = batch_of(model, tokenizer)
    together = read(model, batch, readable(model))
    for row, text in enumerate(TEXTS):
        alone = read(model, batch_of(model, tokenizer, [text]), readable(model))
        places = batch["attention_mask"][row].bool()
        for name in readable(model):
            for layer, expected in enumerate(alone[name]):
                state = together[name][layer][row]
                state = state[:, places][:, :, places] if name == "attentions" else state[places]
                torch.testing.assert_close(state, expected[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "electra", "distilbert", "bart", "gpt2"])
def test_attention_follows_from_the_queries_and_keys(teacher_zoo, architecture):
    model, tokenizer = teacher_zoo(architecture)
    batch = batch_of(model, tokenizer)
    states = read(model, batch, ["attentions", "queries", "keys"])
    allowed = batch["attention_mask"].bool()[:, None, None]
    if architecture == "gpt2":
        allowed = allowed & torch.ones(allowed.shape[-1], allowed.shape[-1]).tril().bool()
    for queries, keys, attention in zip(states["queries"], states["keys"], states["attentions"], strict=True):
        queries, keys = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in (queries, keys))
        scores = (queries @ keys.transpose(-1, -2) / 8**0.5).masked_fill(~allowed, float("-inf"))
        torch.testing.assert_close(scores.softmax(-1), attention, atol=1e-5, rtol=1e-4)


def test_gpt2s_values_are_the_last_third_of_its_projection(teacher_zoo):
    model, tokenizer = teacher_zoo("gpt2")
    states = read(model, batch_of(model, tokenizer), ["hidden_states", "values"])
    block = model.transformer.h[0]
    expected = block.ln_1(states["hidden_states"][0]) @ block.attn.c_attn.weight[:, 64:] + block.attn.c_attn.bias[64:]
    torch.testing.assert_close(states["values"][0], expected)


def test_shared_layers_are_read_once_a_pass_through_them(teacher_zoo):
    config = AlbertConfig(
        vocab_size=60,
        embedding_size=8,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
    )
    batch = {"input_ids": torch.tensor([[2, 7, 8, 3]])}
    states = read(AlbertForSequenceClassification(config).eval(), batch, EVERYTHING)
    assert [len(states[name]) for name in EVERYTHING] == [4, 3, 3, 3, 3]
    assert not torch.equal(states["queries"][0], states["queries"][1])


def test_only_what_is_wanted_is_asked_of_the_model(teacher_zoo):
    model, tokenizer = teacher_zoo("bert")
    assert StateReader(model, ["queries"]).forward_arguments == {}
    assert StateReader(model, ["hidden_states"]).forward_arguments == {"output_hidden_states": True}
    assert list(read(model, batch_of(model, tokenizer), {"values", "queries"})) == ["queries", "values"]


def test_what_was_read_is_forgotten(relational):
    model, tokenizer = relational
    batch = batch_of(model, tokenizer)
    reader = StateReader(model, EVERYTHING)
    reader.attach()
    states = reader.read(model(**batch, **reader.forward_arguments))
    watched = [weakref.ref(state) for state in states["queries"]]
    del states
    gc.collect()
    assert all(state() is None for state in watched)


def test_a_pass_that_was_not_read_leaves_nothing_to_the_next(relational):
    model, tokenizer = relational
    reader = StateReader(model, ["queries"])
    reader.attach()
    model(**batch_of(model, tokenizer, ["slow and sad"]))
    batch = batch_of(model, tokenizer)
    states = reader.read(model(**batch))
    assert [len(state) for state in states["queries"]] == [len(TEXTS)] * 3


def test_reading_twice_is_refused(relational):
    model, tokenizer = relational
    reader = StateReader(model, ["keys"])
    reader.attach()
    outputs = model(**batch_of(model, tokenizer))
    reader.read(outputs)
    with pytest.raises(ValueError, match="gave 0 keys where 3 are expected. Attach the reader before"):
        reader.read(outputs)


def test_a_detached_reader_leaves_no_hook_and_the_dropout_as_it_was(any_teacher):
    model, _ = any_teacher
    before = [vars(module).get("p", vars(module).get("dropout")) for module in model.modules()]
    hooks = hooks_of(model)
    reader = StateReader(model, readable(model))
    reader.attach()
    reader.attach()
    assert hooks_of(model) > hooks
    reader.detach()
    assert hooks_of(model) == hooks
    assert [vars(module).get("p", vars(module).get("dropout")) for module in model.modules()] == before


def test_attention_maps_are_whole_in_training(any_teacher):
    model, tokenizer = any_teacher
    batch = batch_of(model, tokenizer)
    mask = batch["attention_mask"].bool()
    for attention in read(model.train(), batch, ["attentions"])["attentions"]:
        of_tokens = attention.transpose(1, 2)[mask]
        torch.testing.assert_close(of_tokens.sum(-1), torch.ones_like(of_tokens.sum(-1)))


def test_dropout_stays_on_where_no_maps_are_wanted(teacher_zoo):
    model, _ = teacher_zoo("bert")
    StateReader(model, ["hidden_states", "queries"]).attach()
    assert all(module.p == 0.1 for module in model.modules() if isinstance(module, nn.Dropout))


def test_an_attention_layer_that_is_not_known_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING, "distil_trainer.states"):
        StateReader(funnel(), ["attentions"])
    assert "the dropout of attention maps stays on" in caplog.text


def test_a_model_has_eager_attention_as_long_as_maps_are_read(teacher_zoo, caplog):
    model, tokenizer = teacher_zoo("gpt2")
    assert model.config._attn_implementation == "sdpa"
    with caplog.at_level(logging.INFO, "distil_trainer.states"):
        StateReader(model, ["hidden_states", "queries"]).attach()
        assert model.config._attn_implementation == "sdpa"
        reader = StateReader(model, ["attentions"])
        reader.attach()
    assert model.config._attn_implementation == "eager"
    assert "eager attention is used, not sdpa" in caplog.text
    reader.detach()
    assert model.config._attn_implementation == "sdpa"


def test_a_model_of_any_kind_can_be_read_of_nothing():
    network = FNetForSequenceClassification(FNetConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1))
    reader = StateReader(network, ())
    reader.attach()
    assert reader.read(network(torch.tensor([[4, 5]]), **reader.forward_arguments)) == {}
    with pytest.raises(ValueError, match="does not say num_attention_heads.*distil this model from logits"):
        StateReader(network, ["hidden_states"])


def test_states_are_read_through_a_wrapper_that_calls_the_model(relational):
    model, tokenizer = relational
    batch = batch_of(model, tokenizer)
    expected = read(model, batch, EVERYTHING)
    reader = StateReader(model, EVERYTHING)
    reader.attach()
    wrapped = Wrapper(model)  # as DDP does; the tests of two processes go through DDP itself
    states = reader.read(wrapped(**batch, **reader.forward_arguments))
    for name in EVERYTHING:
        for state, same in zip(states[name], expected[name], strict=True):
            torch.testing.assert_close(state, same)


def test_checkpointed_layers_give_the_same_states_and_gradients(relational):
    model, tokenizer = relational
    batch = batch_of(model, tokenizer)
    checkpointed = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers 5 has another name for it, 4.57 only this one
        checkpointed.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    gradients = []
    for each in (model, checkpointed):
        without_dropout(each).train()
        reader = StateReader(each, EVERYTHING)
        reader.attach()
        states = reader.read(each(**batch, **reader.forward_arguments))
        sum(state.square().mean() for name in EVERYTHING for state in states[name]).backward()
        assert not reader._recorded  # the second run of the layers left nothing behind
        gradients.append({name: p.grad for name, p in each.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert any("query" in name or "q_" in name or "q." in name or "c_attn" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


def test_names_that_are_no_states_are_refused(teacher_zoo):
    with pytest.raises(ValueError, match=r"wanted=\['logits'\] cannot be read.*hidden_states"):
        StateReader(teacher_zoo("bert")[0], ["queries", "logits"])


@pytest.mark.parametrize("wanted", ["queries", "keys", "values"])
def test_relations_of_xlnet_are_refused(teacher_zoo, wanted):
    with pytest.raises(ValueError, match=f"XLNetForSequenceClassification makes its queries.*{wanted}.*match hidden"):
        StateReader(teacher_zoo("xlnet")[0], [wanted])


def test_relations_of_an_unknown_attention_are_refused():
    with pytest.raises(ValueError, match="in no modules that are known here"):
        StateReader(funnel(), ["keys"])


@pytest.mark.parametrize("attentions", [None, (), (None, None, None)])
def test_attention_that_returns_no_maps_is_refused(teacher_zoo, attentions):
    reader = StateReader(teacher_zoo("bert")[0], ["attentions"])
    with pytest.raises(ValueError, match="attentions where 3 are expected.*set_attn_implementation"):
        reader.read(SequenceClassifierOutput(logits=torch.zeros(1, 2), attentions=attentions))


def test_hidden_states_that_were_not_asked_for_are_refused(any_teacher):
    model, tokenizer = any_teacher
    reader = StateReader(model, ["hidden_states"])
    reader.attach()
    with pytest.raises(ValueError, match="gave 0 hidden_states where 4 are expected.*forward_arguments"):
        reader.read(model(**batch_of(model, tokenizer)))


def test_a_model_that_drops_whole_layers_is_refused(teacher_zoo):
    model, tokenizer = teacher_zoo("bart")
    model.model.encoder.layerdrop = 1.0
    with pytest.raises(ValueError, match="gave 0 queries where 3 are expected.*layerdrop to 0"):
        read(model.train(), batch_of(model, tokenizer), ["queries"])
