"""A text CNN on a pretrained encoder: the encoder's weights, states and attention maps stay its own."""

import copy

import pytest
import torch
from tiny_students import checkpoint_gradients, make_batch, make_config, make_rows, make_student, run
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    GPT2Model,
    T5Config,
    T5ForSequenceClassification,
)

from distil_trainer.states import StateReader
from distil_trainer.students import TransformerCnnConfig, TransformerCnnForSequenceClassification

SIZES = {"num_filters": 4, "classifier_size": 6}


def encoder_of(model):
    return model.student.encoder


def test_any_family_gives_its_weights_states_and_labels(any_family_model, tmp_path):
    before = copy.deepcopy(any_family_model.state_dict())
    student = TransformerCnnForSequenceClassification.from_encoder(any_family_model, **SIZES)
    batch = make_batch(make_rows(pairs=False)[:3])
    batch = {"input_ids": batch["input_ids"] % 40, "attention_mask": batch["attention_mask"]}
    expected = run(any_family_model, batch, output_hidden_states=True)
    outputs = run(student, batch, output_hidden_states=True)
    for state, expected_state in zip(outputs.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(state, expected_state, rtol=0, atol=1e-6)
    assert student.config.id2label == any_family_model.config.id2label
    assert not student.training
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 1
    assert all(torch.equal(weight, before[name]) for name, weight in any_family_model.state_dict().items())
    student.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(run(loaded, batch).logits, run(student, batch).logits)
    assert type(loaded.config.encoder_config) is type(any_family_model.config)


def test_a_folder_of_an_encoder_is_read_and_settings_are_taken(teacher, tmp_path):
    teacher.half().save_pretrained(tmp_path)
    student = TransformerCnnForSequenceClassification.from_encoder(tmp_path, num_labels=3, kernel_sizes=[3], **SIZES)
    assert {weight.dtype for weight in student.state_dict().values()} == {torch.float32}
    expected = teacher.float().base_model.embeddings.word_embeddings.weight
    assert torch.equal(student.get_input_embeddings().weight, expected)
    assert (student.config.num_labels, student.config.pooled_size) == (3, 4)


def test_the_head_reads_the_largest_answers_over_the_tokens(teacher):
    student = TransformerCnnForSequenceClassification.from_encoder(teacher, **SIZES)
    ids = torch.tensor([[5, 9, 30]])
    states = run(teacher.base_model, {"input_ids": ids}).last_hidden_state
    pooled, _ = student.student.cnn(states, torch.ones(1, 3))
    torch.testing.assert_close(run(student, {"input_ids": ids}).logits, student.classifier(pooled).detach())


def test_a_fresh_student_keeps_the_initial_weights_of_its_encoder():
    torch.manual_seed(0)
    student = TransformerCnnForSequenceClassification(
        TransformerCnnConfig(BertConfig(vocab_size=500, hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
    )
    assert abs(float(encoder_of(student).get_input_embeddings().weight.detach().std()) - 0.02) < 0.002
    assert encoder_of(student).pooler is None


def test_token_types_reach_an_encoder_that_has_them(teacher):
    student = TransformerCnnForSequenceClassification.from_encoder(teacher, **SIZES)
    batch = {"input_ids": torch.tensor([[5, 9, 30, 8]]), "token_type_ids": torch.tensor([[0, 0, 1, 1]])}
    states = run(student, batch, output_hidden_states=True).hidden_states
    expected = run(teacher, batch, output_hidden_states=True).hidden_states
    torch.testing.assert_close(states[-1], expected[-1], rtol=0, atol=1e-6)
    assert student.config.type_vocab_size == 2


def test_token_types_are_left_out_for_an_encoder_without_them():
    config = TransformerCnnConfig(
        DistilBertConfig(vocab_size=50, dim=16, n_heads=2, n_layers=1, hidden_dim=16), **SIZES
    )
    student = TransformerCnnForSequenceClassification(config).eval()
    batch = {"input_ids": torch.tensor([[5, 9]])}
    expected = run(student, batch).logits
    assert torch.equal(run(student, {**batch, "token_type_ids": torch.tensor([[0, 1]])}).logits, expected)
    assert config.type_vocab_size == 1


def test_attention_maps_pass_through(teacher):
    student = TransformerCnnForSequenceClassification.from_encoder(teacher, **SIZES)
    student.set_attn_implementation("eager")
    teacher.set_attn_implementation("eager")
    batch = {"input_ids": torch.tensor([[5, 9, 30]])}
    maps = run(student, batch, output_attentions=True).attentions
    expected = run(teacher, batch, output_attentions=True).attentions
    assert len(maps) == student.config.num_hidden_layers == 4
    for student_map, teacher_map in zip(maps, expected, strict=True):
        torch.testing.assert_close(student_map, teacher_map, rtol=0, atol=1e-6)
    assert run(student, batch).attentions is None


def test_our_reader_reads_states_maps_and_queries():
    student = make_student("transformer_cnn")
    reader = StateReader(student, {"hidden_states", "attentions", "queries"})
    reader.attach()
    batch = make_batch(make_rows(pairs=False)[:3])
    states = reader.read(student(**batch, **reader.forward_arguments))
    assert [len(states[name]) for name in ("hidden_states", "attentions", "queries")] == [3, 2, 2]


def test_checkpointed_gradients_are_the_same():
    student = make_student("transformer_cnn", encoder_dropout=0.0, classifier_dropout=0.0).train()
    batch = make_batch(make_rows(pairs=False)[:3])
    gradients = []
    for checkpointing in (False, True):
        student.zero_grad()
        if checkpointing:
            checkpoint_gradients(student)
        student(**batch, labels=torch.tensor([0, 1, 0])).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in student.parameters()])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-7)


def test_a_decoder_without_a_padding_token_needs_a_mask():
    encoder = GPT2Model(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=32)).eval()
    student = TransformerCnnForSequenceClassification.from_encoder(encoder, **SIZES)
    ids = torch.tensor([[5, 9, 30]])
    assert run(student, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits.isfinite().all()
    with pytest.raises(ValueError, match="pad_token_id=None"):
        run(student, {"input_ids": ids})


def test_an_encoder_decoder_is_refused():
    config = T5Config(vocab_size=50, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8)
    with pytest.raises(ValueError, match="Of an encoder-decoder"):
        TransformerCnnForSequenceClassification.from_encoder(T5ForSequenceClassification(config))


class OwnConfig(BertConfig):
    model_type = "own_bert"


@pytest.mark.parametrize("encoder", [OwnConfig(), OwnConfig().to_dict(), make_config("bilstm"), {"hidden_size": 8}])
def test_an_encoder_whose_code_would_not_be_saved_is_refused(encoder):
    with pytest.raises(ValueError, match="encoder_config has model_type=.*Its code would not be saved"):
        TransformerCnnConfig(encoder)


def test_the_attention_asked_for_at_loading_reaches_the_encoder(tmp_path):
    make_student("transformer_cnn").save_pretrained(tmp_path)
    for attention in ("eager", "sdpa"):
        loaded = AutoModel.from_pretrained(tmp_path, attn_implementation=attention)
        assert loaded.encoder.config._attn_implementation == attention
