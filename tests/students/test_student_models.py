"""What all students do as models of transformers: auto classes, saving, losses, gradients, initial weights."""

import json
import math
import os

import numpy as np
import pytest
import torch
from tiny_students import (
    ARCHITECTURES,
    NETWORKS,
    PAIR_NETWORKS,
    SINGLE_NETWORKS,
    TABLE_NETWORKS,
    VOCAB_SIZE,
    checkpoint_gradients,
    make_batch,
    make_config,
    make_rows,
    make_student,
    run,
)
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForSequenceClassification, pipeline

from distil_trainer.inference import forward_names, predict_logits, torch_runner
from distil_trainer.students import (
    BilstmConfig,
    BilstmForSequenceClassification,
    DensenetCnnConfig,
    DensenetCnnForSequenceClassification,
    DensenetDsaConfig,
    DensenetDsaForSequenceClassification,
    EmbeddingBagConfig,
    EmbeddingBagForSequenceClassification,
    GloveCnnConfig,
    GloveCnnForSequenceClassification,
    StudentClassifier,
)


def batch_for(name):
    return make_batch(make_rows(pairs="pairs" in name), width=11)


def equal(first, second, atol=0.0):
    torch.testing.assert_close(first, second, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("student", "config", "count"),
    [
        (GloveCnnForSequenceClassification, GloveCnnConfig(vocab_size=8), 1_868_802),
        (DensenetCnnForSequenceClassification, DensenetCnnConfig(vocab_size=8), 2_607_842),
        (DensenetDsaForSequenceClassification, DensenetDsaConfig(vocab_size=8), 3_785_282),
        (BilstmForSequenceClassification, BilstmConfig(vocab_size=8), 1_686_002),
        (BilstmForSequenceClassification, BilstmConfig(vocab_size=8, lstm_size=150, classifier_size=200), 603_002),
        (EmbeddingBagForSequenceClassification, EmbeddingBagConfig(vocab_size=8), 77_570),
    ],
)
def test_the_defaults_have_as_many_parameters_as_the_published_networks(student, config, count):
    student = student(config)
    table = student.get_input_embeddings().weight
    assert sum(parameter.numel() for parameter in student.parameters()) - table.numel() == count


@pytest.mark.parametrize(("lstm_size", "embedding_size", "count"), [(128, 64, 391_170), (16, 8, 27_394)])
def test_small_bilstms_have_as_many_parameters_as_the_published_ones(lstm_size, embedding_size, count):
    settings = {"lstm_size": lstm_size, "embedding_size": embedding_size, "classifier_size": 0}
    student = BilstmForSequenceClassification(BilstmConfig(vocab_size=3000, embedding_dropout=0.3, **settings))
    assert sum(parameter.numel() for parameter in student.parameters()) == count


@pytest.mark.parametrize("name", NETWORKS)
def test_a_saved_student_has_the_same_logits_and_states(name, tmp_path):
    student, batch = make_student(name), batch_for(name)
    student.save_pretrained(tmp_path)
    expected = run(student, batch, output_hidden_states=True)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded) is type(student)
    assert isinstance(loaded, StudentClassifier)
    outputs = run(loaded, batch, output_hidden_states=True)
    equal(outputs.logits, expected.logits, atol=1e-6)
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is type(student.student)
    base_outputs = run(base, batch, output_hidden_states=True)
    for state, loaded_state, base_state in zip(
        expected.hidden_states, outputs.hidden_states, base_outputs.hidden_states, strict=True
    ):
        equal(loaded_state, state, atol=1e-6)
        equal(base_state, state, atol=1e-6)
    equal(base_outputs.last_hidden_state, base_outputs.hidden_states[-1])
    equal(base_outputs.pooler_output, run(student.student, batch).pooler_output, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_classifier_starts_from_a_saved_base_model_with_a_fresh_head(name, tmp_path):
    student = make_student(name)
    student.student.save_pretrained(tmp_path)
    torch.manual_seed(1)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    for key, weight in student.student.state_dict().items():
        equal(loaded.student.state_dict()[key], weight)
    for parameter in loaded.classifier.parameters():
        assert parameter.isfinite().all()
        assert parameter.dim() == 1 or parameter.std() > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_one_seed_gives_one_student(name):
    students = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        students.append(AutoModelForSequenceClassification.from_config(make_config(name)).state_dict())
    assert all(torch.equal(students[0][key], students[1][key]) for key in students[0])
    assert not all(torch.equal(students[0][key], students[2][key]) for key in students[0])


def test_initial_weights_are_those_that_the_comments_promise():
    torch.manual_seed(0)
    student = BilstmForSequenceClassification(BilstmConfig(vocab_size=500, lstm_size=20, pad_token_id=3)).student
    table = student.embeddings.weight
    assert not table[3].any()
    assert table.abs().max() <= 0.25
    assert abs(float(table.detach().std()) - 0.5 / math.sqrt(12)) < 0.005
    recurrent = student.lstm.weight_hh_l0_reverse
    equal(recurrent.T @ recurrent, torch.eye(20), atol=1e-5)
    assert student.lstm.bias_ih_l0.tolist() == [0.0] * 20 + [1.0] * 20 + [0.0] * 40
    assert not student.lstm.bias_hh_l0.any()


@pytest.mark.parametrize("name", NETWORKS)
def test_tuples_are_returned_on_request(name):
    student, batch = make_student(name), batch_for(name)
    logits = run(student, batch).logits
    assert torch.equal(run(student, batch, return_dict=False)[0], logits)
    loss, logits, states = run(
        student, {**batch, "labels": torch.zeros(5, dtype=torch.long)}, return_dict=False, output_hidden_states=True
    )
    assert (loss.shape, logits.shape, len(states)) == ((), (5, 2), len(student.config.hidden_sizes))
    last, pooled = run(student.student, batch, return_dict=False)
    assert (last.shape[-1], pooled.shape[-1]) == (student.config.hidden_size, student.config.pooled_size)
    student.config.output_hidden_states = True
    assert len(run(student, batch).hidden_states) == len(student.config.hidden_sizes)
    assert run(student, batch, output_hidden_states=False).hidden_states is None


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_loss_is_that_of_the_problem_type(name):
    batch = batch_for(name)

    def loss_and_logits(labels, **settings):
        outputs = run(make_student(name, **settings), {**batch, "labels": labels})
        return outputs.loss, outputs.logits

    labels = torch.tensor([0, 2, 1, 1, 0])
    loss, logits = loss_and_logits(labels, num_labels=3)
    equal(loss, F.cross_entropy(logits, labels))
    labels = torch.tensor([[0.0, 1, 1]] * 5)
    loss, logits = loss_and_logits(labels, num_labels=3, problem_type="multi_label_classification")
    equal(loss, F.binary_cross_entropy_with_logits(logits, labels))
    labels = torch.tensor([0.5, -1.0, 2.0, 0.0, 3.0])
    loss, logits = loss_and_logits(labels, num_labels=1)
    equal(loss, (logits[:, 0] - labels).pow(2).mean())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_gradient_reaches_every_parameter(name):
    student = make_student(name).train()
    torch.manual_seed(0)
    student(**batch_for(name), labels=torch.tensor([0, 1, 0, 1, 0])).loss.backward()
    missing = [key for key, parameter in student.named_parameters() if parameter.grad is None]
    assert missing == []  # or DDP would wait for them
    # In a softmax over keys a bias of theirs cancels out.
    untouched = {key for key, weight in student.named_parameters() if not weight.grad.any() and "key.bias" not in key}
    assert untouched == set()
    if name != "transformer_cnn":
        assert not student.get_input_embeddings().weight.grad[0].any()


@pytest.mark.parametrize("name", NETWORKS)
def test_frozen_embeddings_get_no_gradient_and_come_back_frozen(name, tmp_path):
    student = make_student(name, freeze_embeddings=True)
    student.save_pretrained(tmp_path)
    loaded, _ = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    for model in (student, loaded, AutoModel.from_pretrained(tmp_path)):
        assert not model.get_input_embeddings().weight.requires_grad
        frozen = [key for key, parameter in model.named_parameters() if not parameter.requires_grad]
        assert len(frozen) == 1
    loaded.train()
    loaded(**batch_for(name), labels=torch.tensor([0, 1, 0, 1, 0])).loss.backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("name", TABLE_NETWORKS)
def test_gradient_checkpointing_is_refused_by_transformers(name):
    with pytest.raises(ValueError, match="does not support (gradient|activation) checkpointing"):
        checkpoint_gradients(make_student(name))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_text_classification_pipeline_takes_the_student(name, tokenizer):
    words = ["the film was great", "a dull plot"] if "pairs" in name else ["the film was great"]
    text = {"text": words[0], "text_pair": words[1]} if "pairs" in name else words[0]
    student = make_student(name, id2label={0: "negative", 1: "positive"}, label2id={"negative": 0, "positive": 1})
    answer = pipeline("text-classification", model=student, tokenizer=tokenizer)(text, top_k=None)
    inputs = tokenizer(*words, return_tensors="pt")
    expected = run(student, inputs).logits[0].softmax(dim=-1)
    assert {entry["label"]: entry["score"] for entry in answer} == pytest.approx(
        {"negative": float(expected[0]), "positive": float(expected[1])}, abs=1e-6
    )


@pytest.mark.parametrize("name", SINGLE_NETWORKS)
def test_a_student_of_single_texts_refuses_a_pair_wherever_it_comes_from(name, tokenizer):
    student = make_student(name)
    message = "a token of a second text, but this student reads single texts"
    with pytest.raises(ValueError, match=message):
        pipeline("text-classification", model=student, tokenizer=tokenizer)({"text": "good", "text_pair": "bad"})
    with pytest.raises(ValueError, match=message):
        predict_logits(torch_runner(student), tokenizer, ["good"], ["bad"])


@pytest.mark.parametrize("name", PAIR_NETWORKS)
def test_a_student_of_pairs_refuses_single_texts_but_not_a_pair_with_an_empty_text(name, tokenizer):
    student = make_student(name)
    message = "compares the two texts of a pair .type_vocab_size=2., and was given a single text"
    with pytest.raises(ValueError, match=message):
        pipeline("text-classification", model=student, tokenizer=tokenizer)("good")
    with pytest.raises(ValueError, match=message):
        predict_logits(torch_runner(student), tokenizer, ["good", "bad film"])
    with pytest.raises(ValueError, match=message):  # types on padding alone say nothing
        run(
            student,
            {
                **make_batch([(torch.tensor([3]), torch.tensor([0]))], width=2),
                "token_type_ids": torch.tensor([[0, 1]]),
            },
        )
    assert np.isfinite(predict_logits(torch_runner(student), tokenizer, ["good", ""], ["", ""])).all()
    run(student, make_batch([(torch.tensor([3]), torch.tensor([0])), (torch.tensor([3]), torch.tensor([1]))]))


@pytest.mark.parametrize("name", NETWORKS)
def test_all_weights_are_in_single_precision(name):
    assert {weight.dtype for weight in make_student(name).state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("name", TABLE_NETWORKS)
def test_word_vectors_are_copied_and_padding_stays_zero(name):
    student = make_student(name, freeze_embeddings=True)
    matrix = np.random.default_rng(0).normal(size=(VOCAB_SIZE, 12))
    student.set_word_vectors(matrix)
    table = student.get_input_embeddings().weight
    assert (table.dtype, table.requires_grad) == (torch.float32, False)
    equal(table[1:].detach(), torch.tensor(matrix[1:], dtype=torch.float32))
    assert not table[0].any()
    assert matrix[0].any()
    student.student.set_word_vectors(torch.full((VOCAB_SIZE, 12), 2.0))
    assert table[1:].unique().tolist() == [2.0]


def test_word_vectors_that_do_not_fit_are_refused():
    student = make_student("embedding_bag")
    before = student.get_input_embeddings().weight.clone()
    with pytest.raises(ValueError, match=r"have the shape \(50, 11\), the table \(50, 12\)"):
        student.set_word_vectors(np.zeros((50, 11)))
    matrix = np.zeros((50, 12))
    matrix[7, 3] = np.nan
    with pytest.raises(ValueError, match="token number 7 holds NaN or an infinite value"):
        student.set_word_vectors(matrix)
    matrix[7, 3] = 1e300  # finite, but not in float32
    with pytest.raises(ValueError, match="token number 7 holds NaN or an infinite value"):
        student.set_word_vectors(matrix)
    assert torch.equal(student.get_input_embeddings().weight, before)


@pytest.mark.parametrize("name", SINGLE_NETWORKS)
def test_the_table_can_grow_by_new_tokens(name, tmp_path):
    student, batch = make_student(name), batch_for(name)
    expected = run(student, batch).logits
    student.resize_token_embeddings(VOCAB_SIZE + 2)
    equal(run(student, batch).logits, expected)
    student.save_pretrained(tmp_path)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path).config.vocab_size == VOCAB_SIZE + 2


@pytest.mark.parametrize("name", NETWORKS)
def test_the_trainer_hands_over_the_inputs_that_the_student_reads(name):
    has_types = "pairs" in name or name == "transformer_cnn"
    student = make_student(name)
    read = forward_names(student) & {"input_ids", "attention_mask", "token_type_ids"}
    assert read == {"input_ids", "attention_mask"} | ({"token_type_ids"} if has_types else set())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_saved_folder_names_all_auto_classes_and_holds_the_code_alone(name, tmp_path):
    student = make_student(name)
    words = "".join(word.capitalize() for word in name.split("_"))
    for model, folder in ((student, tmp_path / "classifier"), (student.student, tmp_path / "base")):
        model.save_pretrained(folder)
        assert json.loads((folder / "config.json").read_text())["auto_map"] == {
            "AutoConfig": f"{name}.{words}Config",
            "AutoModel": f"{name}.{words}Model",
            "AutoModelForSequenceClassification": f"{name}.{words}ForSequenceClassification",
        }
        block = {"dense_block.py"} if name.startswith("densenet") else set()
        assert set(os.listdir(folder)) == block | {
            "config.json", "model.safetensors", f"{name}.py", "masked_layers.py", "student_models.py",
            "student_configuration.py",
        }  # fmt: skip
