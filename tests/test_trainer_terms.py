"""What holds for every loss term of the trainer: gradients, accumulation, students of other widths and tokenizers."""

import copy

import pytest
import torch
from loss_terms import (
    FREE_OF_WIDTH,
    PLAIN_DESCENT,
    PROJECTED,
    ROW_TERMS,
    TERMS,
    largest_difference,
    make_student,
    trained_weights,
)
from transformers import BertForSequenceClassification

from distil_trainer.arguments import DistillationArguments
from distil_trainer.trainer import DistillationTrainer


@pytest.fixture
def teacher(teacher):
    """The tiny teacher with a head that tells rows apart."""
    with torch.no_grad():
        teacher.classifier.weight *= 50
    return teacher


@pytest.fixture
def train(teacher, tokenizer, reviews, tmp_path):
    def run(student=None, dataset=None, resume=None, callbacks=None, **given):
        given = {"save_strategy": "no", "use_cpu": True, "disable_tqdm": True, **given}
        trainer = DistillationTrainer(
            make_student() if student is None else student,
            DistillationArguments(str(tmp_path / "out"), **given),
            train_dataset=reviews if dataset is None else dataset,
            processing_class=tokenizer,
            teacher=teacher if needs_teacher(given) else None,
            callbacks=callbacks,
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


def needs_teacher(given):
    return given.get("logit_loss_weight", 1.0) > 0 or "matches" in given


@pytest.mark.parametrize(
    ("term", "width"), [(term, 32) for term in TERMS] + [(term, 16) for term in PROJECTED + FREE_OF_WIDTH]
)
def test_one_batch_of_eight_equals_four_accumulated_batches_of_two(train, tokenizer, term, width):
    start = make_student(width).state_dict()
    one = train(make_student(width), per_device_train_batch_size=8, **PLAIN_DESCENT, **TERMS[term])
    four = train(
        make_student(width),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        **PLAIN_DESCENT,
        **TERMS[term],
    )
    assert (one._projections is not None) == (width == 16 and term in PROJECTED)
    weights = trained_weights(one)
    assert largest_difference(start, {name: weights[name] for name in start}) > 1e-6
    assert largest_difference(weights, trained_weights(four)) < 1e-6


@pytest.mark.parametrize("term", [term for term in [*TERMS, *ROW_TERMS] if term != "gold_labels"])
def test_a_student_that_is_the_teacher_has_nothing_to_learn(train, teacher, term):
    config = copy.deepcopy(teacher.config)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    student = BertForSequenceClassification(config)
    student.load_state_dict(teacher.state_dict())
    before = copy.deepcopy(student.state_dict())
    term = (TERMS | ROW_TERMS)[term]
    if term.get("matches") and "teacher_layer" in term["matches"][0]:
        term = {**term, "matches": [{**term["matches"][0], "teacher_layer": term["matches"][0]["student_layer"]}]}
    trainer = train(
        student, per_device_train_batch_size=8, logging_steps=1, **{**PLAIN_DESCENT, "max_steps": 1}, **term
    )
    logged = trainer.state.log_history[0]
    if "soft_cross_entropy" not in logged:
        assert logged["loss"] == pytest.approx(0.0, abs=1e-6)
    assert largest_difference(before, trainer.model.state_dict()) < 1e-6


@pytest.mark.parametrize("term", [*TERMS, *ROW_TERMS])
def test_gradients_reach_the_student_and_its_projection_and_never_the_teacher(train, teacher, tokenizer, term):
    before = copy.deepcopy(teacher.state_dict())
    width = 16 if term in PROJECTED else 32
    student = make_student(width)
    start = copy.deepcopy(student.state_dict())
    trainer = train(
        student, per_device_train_batch_size=8, logging_steps=1, **PLAIN_DESCENT, **(TERMS | ROW_TERMS)[term]
    )
    assert largest_difference(start, student.state_dict()) > 1e-7
    assert largest_difference(before, teacher.state_dict()) == 0.0
    assert all(parameter.grad is None for parameter in teacher.parameters())
    if width == 16:
        gradients = [parameter.grad.abs().max() for parameter in trainer._projections.parameters()]
        assert len(gradients) == 2 and all(gradient > 0 for gradient in gradients)


def test_terms_are_logged_by_name_and_their_weighted_sum_is_the_loss(train):
    trainer = train(
        per_device_train_batch_size=8,
        hard_label_weight=0.5,
        hidden_loss_weight=3.0,
        matches=[{"what": "pooled_states", "loss": "rkd_distance", "weight": 2.0}],
        logging_steps=1,
        max_steps=2,
    )
    log = trainer.state.log_history[0]
    hidden = [log[name] for name in log if name.startswith("hidden_states_mse")]
    assert len(hidden) == 3  # the embeddings and two layers
    expected = log["soft_target_kl"] + 0.5 * log["hard_label_cross_entropy"] + sum(hidden)
    assert log["loss"] == pytest.approx(expected + 2.0 * log["pooled_states_rkd_distance_t4_s2"], abs=2e-4)


def test_projections_are_saved_in_checkpoints_and_never_with_the_student(train, tokenizer, tmp_path):
    student = make_student(16)
    names = set(student.state_dict())
    trainer = train(student, per_device_train_batch_size=8, max_steps=2, save_strategy="steps", save_steps=1,
                    hidden_loss_weight=1.0)  # fmt: skip
    assert (tmp_path / "out" / "checkpoint-1" / "projections.safetensors").is_file()
    trainer.save_model(str(tmp_path / "final"))
    assert not list((tmp_path / "final").glob("*projection*"))
    assert set(BertForSequenceClassification.from_pretrained(tmp_path / "final").state_dict()) == names
    assert set(student.state_dict()) == names


def test_projections_have_their_own_learning_rate(train, tokenizer):
    common = {"per_device_train_batch_size": 8, "max_steps": 1, "hidden_loss_weight": 1.0, "learning_rate": 1e-3}
    trainer = train(make_student(16), projection_learning_rate=0.5, lr_scheduler_type="constant", **common)
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [1e-3, 1e-3, 0.5]
    trainer = train(make_student(16), lr_scheduler_type="constant", **common)
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [1e-3, 1e-3, 1e-3]


def test_projections_do_not_change_the_random_numbers_of_the_student(train, tokenizer):
    """A projection whose loss weighs next to nothing leaves the student as if there were none."""
    dropout = make_student(16)
    for module in dropout.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    other = copy.deepcopy(dropout)
    common = {"per_device_train_batch_size": 8, **PLAIN_DESCENT}
    weight = {"matches": [{"what": "hidden_states", "loss": "mse", "weight": 1e-20}]}
    assert (
        largest_difference(
            train(dropout, **common).model.state_dict(), train(other, **weight, **common).model.state_dict()
        )
        == 0
    )


def test_only_matches_may_teach_and_a_weight_may_fade(train):
    trainer = train(
        per_device_train_batch_size=8,
        logit_loss_weight=0.0,
        matches=[{"what": "hidden_states", "loss": "mse", "weight": 2.0, "final_weight": 0.0}],
        logging_steps=1,
        max_steps=3,
        learning_rate=0.0,
    )
    losses = [log for log in trainer.state.log_history if "hidden_states_mse_t4_s2" in log]
    assert [log["loss"] / log["hidden_states_mse_t4_s2"] for log in losses] == pytest.approx([2.0, 1.0, 0.0], abs=1e-3)


def test_the_temperature_moves_linearly_and_is_logged(train):
    trainer = train(
        per_device_train_batch_size=8, temperature=4.0, final_temperature=1.0, logging_steps=1, max_steps=4
    )
    assert [log["temperature"] for log in trainer.state.log_history if "loss" in log] == pytest.approx([4, 3, 2, 1])
