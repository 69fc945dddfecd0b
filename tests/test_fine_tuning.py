import json
import logging
from dataclasses import fields

import pytest
import torch
from datasets import concatenate_datasets
from loss_terms import make_student
from transformers import BertForSequenceClassification, TrainingArguments
from vocabulary import WORDS

from distil_trainer.arguments import DistillationArguments
from distil_trainer.fine_tuning import fine_tune_teacher, fine_tuning_arguments, gold_label_arguments
from distil_trainer.inference import predict_logits, torch_runner

ABOUT_DATA = {
    "text_column": "text",
    "text_pair_column": "other",
    "label_column": "gold",
    "max_length": 17,
    "drop_evaluation_rows": False,
    "length_grouped_batches": True,
}
ABOUT_TEACHING = {
    "temperature": 5.0,
    "final_temperature": 1.0,
    "logit_loss": "decoupled",
    "logit_loss_weight": 3.0,
    "final_logit_loss_weight": 1.0,
    "target_class_weight": 2.0,
    "non_target_class_weight": 2.0,
    "hard_label_weight": 0.3,
    "final_hard_label_weight": 0.1,
    "hidden_loss_weight": 1.0,
    "final_hidden_loss_weight": 0.5,
    "hidden_loss": "cosine",
    "attention_loss_weight": 1.0,
    "final_attention_loss_weight": 0.5,
    "attention_loss": "mse",
    "relation_loss_weight": 1.0,
    "final_relation_loss_weight": 0.5,
    "relation_heads": 2,
    "layer_map": "last",
    "matches": [{"what": "pooled_states", "loss": "mse"}],
    "projection_learning_rate": 0.5,
    "teacher_weights": [1.0, 2.0],
    "teacher_average": "probabilities",
    "epochs_per_cycle": 2.0,
}


@pytest.fixture
def make_args(tmp_path):
    def make(**given):
        given = {"use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 8, **given}
        return DistillationArguments(str(tmp_path / "out"), **given)

    return make


@pytest.fixture
def splits(reviews):
    """Reviews whose labels their words decide: 24 to train on, 24 to validate on."""

    def label(row):
        odd = [WORDS.index(word) % 2 for word in row["sentence"].split()]
        return {"label": int(2 * sum(odd) > len(odd))}

    reviews = reviews.map(label)
    return reviews.select(range(24)), reviews.select(range(24, 48))


def test_every_field_of_distillation_is_reset_and_every_other_kept(make_args):
    added = {field.name for field in fields(DistillationArguments)}
    added -= {field.name for field in fields(TrainingArguments)}
    assert added == {*ABOUT_DATA, *ABOUT_TEACHING}  # a new field must be sorted into one of the two
    given = make_args(**ABOUT_DATA, **ABOUT_TEACHING, learning_rate=0.125, label_smoothing_factor=0.25, seed=7)
    before = given.to_dict()
    alone = gold_label_arguments(given, max_steps=11)
    plain = {**make_args().to_dict(), "logit_loss_weight": 0.0, "hard_label_weight": 1.0}
    assert {name: getattr(alone, name) for name in ABOUT_TEACHING} == {name: plain[name] for name in ABOUT_TEACHING}
    assert {name: getattr(alone, name) for name in ABOUT_DATA} == ABOUT_DATA
    assert (alone.learning_rate, alone.label_smoothing_factor, alone.seed, alone.max_steps) == (0.125, 0.25, 7, 11)
    assert not (alone.distils_logits or alone.distils_states) and alone.uses_hard_labels
    assert given.to_dict() == before


@pytest.mark.parametrize(
    ("select_by", "greater"),
    [("accuracy", True), ("loss", False), ("macro_f1", True), ("perplexity", False), ("mse", False)],
)
def test_the_best_of_one_checkpoint_an_epoch_is_asked_for(make_args, select_by, greater):
    arguments = fine_tuning_arguments(make_args(hidden_loss_weight=1.0, save_strategy="no"), select_by, seed=3)
    assert (arguments.eval_strategy, arguments.save_strategy) == ("epoch", "epoch")
    assert arguments.load_best_model_at_end
    assert (arguments.metric_for_best_model, arguments.greater_is_better) == (select_by, greater)
    assert (arguments.seed, arguments.hidden_loss_weight, arguments.hard_label_weight) == (3, 0.0, 1.0)


def test_without_a_metric_nothing_is_evaluated_and_the_last_weights_are_kept(make_args):
    given = make_args(eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True)
    arguments = fine_tuning_arguments(given, select_by=None)
    assert (arguments.eval_strategy, arguments.load_best_model_at_end) == ("no", False)


def test_changed_values_are_checked(make_args):
    with pytest.raises(ValueError, match="max_length=1"):
        gold_label_arguments(make_args(), max_length=1)


@pytest.mark.parametrize("select_by", ["accuracy", "loss"])
def test_the_teacher_has_the_weights_of_its_best_epoch(splits, tokenizer, make_args, tmp_path, select_by):
    train, validation = splits
    teacher = make_student(dropout=0.1, initializer_range=0.3)
    arguments = make_args(learning_rate=4e-3, num_train_epochs=6, lr_scheduler_type="constant", hidden_loss_weight=1.0)
    tuned, metrics = fine_tune_teacher(teacher, tokenizer, train, validation, arguments, select_by)
    assert tuned is teacher
    assert not tuned.training
    state = json.loads((tmp_path / "out" / "checkpoint-18" / "trainer_state.json").read_text())
    epochs = [log for log in state["log_history"] if "eval_loss" in log]
    assert [log["step"] for log in epochs] == [3, 6, 9, 12, 15, 18]
    bests = {
        "accuracy": max(epochs, key=lambda log: log["eval_accuracy"]),  # the first of equals, as `Trainer` takes it
        "loss": min(epochs, key=lambda log: log["eval_loss"]),
    }
    # The two disagree here, with each other and with the last epoch, so that the weights say which was asked.
    assert len({log["step"] for log in [*bests.values(), epochs[-1]]}) == 3
    best = bests[select_by]
    for name in ("eval_loss", "eval_accuracy", "eval_perplexity"):
        assert metrics[name] == pytest.approx(best[name], abs=1e-6)
    saved = BertForSequenceClassification.from_pretrained(tmp_path / "out" / f"checkpoint-{best['step']}")
    assert all(torch.equal(saved.state_dict()[name], value) for name, value in tuned.state_dict().items())
    texts = validation["sentence"][:]
    accuracy = (predict_logits(torch_runner(tuned), tokenizer, texts).argmax(1) == validation["label"][:]).mean()
    assert accuracy == pytest.approx(metrics["eval_accuracy"])


def test_training_rows_that_stand_in_the_validation_data_are_dropped(splits, tokenizer, make_args, tmp_path, caplog):
    train, validation = splits
    arguments = make_args(num_train_epochs=1)
    clean = make_student()
    fine_tune_teacher(clean, tokenizer, train, validation, arguments)
    leaked = make_student()
    with caplog.at_level(logging.WARNING, logger="distil_trainer"):
        fine_tune_teacher(leaked, tokenizer, concatenate_datasets([train, validation]), validation, arguments)
    assert "24 of 48 training rows stand in the evaluation data too and are dropped" in caplog.text
    assert (tmp_path / "out" / "checkpoint-3").is_dir()  # 24 rows of 8
    assert not (tmp_path / "out" / "checkpoint-6").exists()
    pairs = zip(clean.parameters(), leaked.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_several_teachers_weights_do_not_stop_the_fine_tuning_of_one(splits, tokenizer, make_args):
    arguments = make_args(num_train_epochs=1, teacher_weights=[1.0, 2.0], teacher_average="probabilities")
    _, metrics = fine_tune_teacher(make_student(), tokenizer, *splits, arguments)
    assert metrics["epoch"] == 1.0


@pytest.mark.parametrize(("task", "legal"), [("regression", "pearson"), ("multi_label_classification", "micro_f1")])
def test_a_metric_that_the_task_does_not_have_is_refused_before_training(splits, tokenizer, make_args, task, legal):
    teacher = make_student(problem_type=task)
    message = f"select_by='accuracy' for a teacher with problem_type='{task}'.*Choose one of loss, {legal}"
    with pytest.raises(ValueError, match=message):
        fine_tune_teacher(teacher, tokenizer, *splits, make_args())
