"""Sizes shrink step by step while a student is distilled, and are cut out when training ends."""

import copy
import logging

import numpy as np
import pytest
import torch
from gated import INPUTS, assert_same, gated_logits, heads_left, logits_of, shaken
from loss_terms import largest_difference, trained_weights
from transformers import AutoModelForSequenceClassification, TrainerCallback

from distil_trainer.arguments import DistillationArguments
from distil_trainer.loading import load_classifier
from distil_trainer.pruning import GradualPruning
from distil_trainer.pruning.gates import Gates, layer_sizes
from distil_trainer.students import EmbeddingBagConfig, EmbeddingBagForSequenceClassification
from distil_trainer.trainer import DistillationTrainer

SCHEDULE = {"first_cut": 0.2, "last_cut": 0.8, "num_cuts": 4}


def without_dropout(model):
    """Copy a model that is run in training as in evaluation."""
    config = copy.deepcopy(model.config)
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    config.seq_classif_dropout = config.classifier_dropout = 0.0
    copied = type(model)(config)
    copied.load_state_dict(model.state_dict())
    return copied.eval()


@pytest.fixture
def family_student(family_model):
    return without_dropout(family_model)


@pytest.fixture
def student(model):
    return without_dropout(model)


class Watch(TrainerCallback):
    """Note how many gates are open after each step, and the logits of the student as it is run, gates and all."""

    def __init__(self, pruning, stop_after=None):
        self.pruning, self.stop_after = pruning, stop_after
        self.open, self.logits = [], []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.open.append([(int(heads.sum()), int(neurons.sum())) for heads, neurons in self.pruning._gates.open])
        model.eval()
        self.logits.append(logits_of(model, {name: each.to(model.device) for name, each in INPUTS.items()}))
        model.train()
        if state.global_step == self.stop_after:
            control.should_training_stop = True


@pytest.fixture
def make_trainer(teacher, tokenizer, reviews, tmp_path):
    teacher = shaken(copy.deepcopy(teacher))
    with torch.no_grad():
        teacher.classifier.weight.neg_()

    def make(student, pruning=None, folder="out", stop_after=None, **given):
        common = {"use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 8, "learning_rate": 1e-3}
        common |= {"max_steps": 10, "save_strategy": "no", "drop_evaluation_rows": False, "hard_label_weight": 1.0}
        trainer = DistillationTrainer(
            student,
            DistillationArguments(str(tmp_path / folder), **{**common, **given}),
            train_dataset=reviews,
            processing_class=tokenizer,
            teacher=teacher,
        )
        if pruning is not None:
            trainer.add_callback(pruning)
            trainer.watch = Watch(pruning, stop_after)
            trainer.add_callback(trainer.watch)
        return trainer

    return make


def test_the_sizes_asked_for_are_reached_and_cut_out(family_student, make_trainer, tokenizer, tmp_path):
    trainer = make_trainer(family_student, GradualPruning(2, 16, **SCHEDULE))
    trainer.train()
    assert trainer.model is family_student
    assert layer_sizes(trainer.model) == [(2, 16)] * 4
    assert_same(logits_of(trainer.model.eval()), trainer.watch.logits[-1])
    trainer.save_model(tmp_path / "pruned")
    tokenizer.save_pretrained(tmp_path / "pruned")
    loaded, _ = load_classifier(tmp_path / "pruned")
    assert_same(logits_of(loaded), logits_of(trainer.model), atol=1e-6)
    assert not any(module._forward_pre_hooks for module in trainer.model.modules())


def test_sizes_follow_the_cubic_schedule(student, make_trainer):
    trainer = make_trainer(student, GradualPruning(2, 16, **SCHEDULE))
    trainer.train()
    # Cuts after steps 2, 4, 6 and 8; (3/4)³, (2/4)³, (1/4)³ and 0 of 2 heads and of 48 neurons are left to cut.
    sizes = [(4, 64), (3, 37), (3, 37), (3, 22), (3, 22), (3, 17), (3, 17), (2, 16), (2, 16), (2, 16)]
    assert trainer.watch.open == [[size] * 4 for size in sizes]


def test_what_is_gated_off_is_the_least_important_and_stays_off(student, make_trainer):
    before = copy.deepcopy(student)
    pruning = GradualPruning(num_heads=2, first_cut=0.1, last_cut=0.1, num_cuts=1)
    trainer = make_trainer(student, pruning, learning_rate=0.0, max_steps=2)
    trainer.train()
    assert trainer.watch.open == [[(2, 64)] * 4] * 2
    kept = [(heads, np.arange(64)) for heads in heads_left(student)]
    assert_same(logits_of(student.eval()), gated_logits(before, kept))


@pytest.mark.slow
def test_a_second_training_leaves_the_sizes(student, make_trainer):
    trainer = make_trainer(student, GradualPruning(2, 16, **SCHEDULE))
    trainer.train()
    heads = heads_left(student)
    trainer.train()
    assert layer_sizes(student) == [(2, 16)] * 4
    assert all(np.array_equal(*pair) for pair in zip(heads, heads_left(student), strict=True))


def test_one_by_eight_equals_four_by_two(student, make_trainer):
    trained = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        given = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
        trainer = make_trainer(copy.deepcopy(student), GradualPruning(2, 16, **SCHEDULE), optim="sgd", **given)
        trainer.train()
        trained.append(trained_weights(trainer))
    assert largest_difference(*trained) < 1e-5


@pytest.mark.parametrize("step", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_a_resumed_run_equals_one_that_was_not_interrupted(student, make_trainer, tmp_path, step):
    straight = make_trainer(copy.deepcopy(student), GradualPruning(2, 16, **SCHEDULE), "straight")
    straight.train()
    given = {"save_strategy": "steps", "save_steps": step}
    first = make_trainer(
        copy.deepcopy(student), GradualPruning(2, 16, **SCHEDULE), "resumed", stop_after=step, **given
    )
    first.train()
    resumed = make_trainer(copy.deepcopy(student), GradualPruning(2, 16, **SCHEDULE), "resumed", **given)
    resumed.train(resume_from_checkpoint=str(tmp_path / "resumed" / f"checkpoint-{step}"))
    assert len(resumed.watch.open) == 10 - step
    assert largest_difference(trained_weights(straight), trained_weights(resumed)) == 0
    assert straight.model.config.to_dict() == resumed.model.config.to_dict()


def test_the_weights_of_a_checkpoint_have_the_logits_of_the_gated_student(student, make_trainer, tmp_path):
    pruning = GradualPruning(2, 16, **SCHEDULE)
    trainer = make_trainer(student, pruning, save_strategy="steps", save_steps=5, weight_decay=0.1)
    trainer.train()
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "checkpoint-5").eval()
    assert_same(logits_of(saved), trainer.watch.logits[4])
    assert layer_sizes(saved) == [(4, 64)] * 4


def test_a_run_that_ends_early_cuts_nothing_out_and_says_so(student, make_trainer, caplog):
    trainer = make_trainer(student, GradualPruning(2, 16, **SCHEDULE), stop_after=5)
    with caplog.at_level(logging.WARNING, logger="distil_trainer"):
        trainer.train()
    assert "Training ended after step 5 of 10, before the last cut" in caplog.text
    assert layer_sizes(student) == [(4, 64)] * 4
    assert_same(logits_of(student.eval()), trainer.watch.logits[-1])


@pytest.mark.slow
def test_gradient_checkpointing_measures_the_same(student, make_trainer):
    # Its name in transformers 5, and in 4.57.
    new_name = "activation_checkpointing" in DistillationArguments.__dataclass_fields__
    name = "activation_checkpointing" if new_name else "gradient_checkpointing"
    kept = []
    for checkpointing in (False, True):
        copied = copy.deepcopy(student)
        make_trainer(copied, GradualPruning(2, 16, **SCHEDULE), **{name: checkpointing}).train()
        kept.append(heads_left(copied))
    assert all(np.array_equal(*pair) for pair in zip(*kept, strict=True))


@pytest.mark.parametrize(
    "given, error, message",
    [
        ({}, ValueError, "nothing is to be pruned"),
        ({"num_heads": 0}, ValueError, "num_heads=0 must be from 1"),
        ({"intermediate_size": 16.0}, TypeError, "intermediate_size=16.0 must be an integer"),
        (
            {"num_heads": 2, "first_cut": 0.7, "last_cut": 0.6},
            ValueError,
            "first_cut=0.7, last_cut=0.6: they are shares",
        ),
        ({"num_heads": 2, "last_cut": 1.2}, ValueError, "last_cut=1.2: they are shares"),
        ({"num_heads": 2, "num_cuts": 0}, ValueError, "num_cuts=0 must be a whole number of at least 1"),
    ],
)
def test_schedules_that_are_none_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        GradualPruning(**given)


def test_students_and_arguments_that_do_not_fit_are_refused_before_the_first_step(student, make_trainer, tokenizer):
    with pytest.raises(ValueError, match="num_heads=5 must be from 1 to 4"):
        make_trainer(student, GradualPruning(num_heads=5)).train()
    with pytest.raises(ValueError, match="intermediate_size=65 must be from 1 to 64"):
        make_trainer(student, GradualPruning(intermediate_size=65)).train()
    bag = EmbeddingBagForSequenceClassification(
        EmbeddingBagConfig(vocab_size=len(tokenizer), embedding_size=8, classifier_size=4)
    )
    with pytest.raises(ValueError, match="model_type='embedding_bag'"):
        make_trainer(bag, GradualPruning(num_heads=2)).train()
    trainer = make_trainer(student, GradualPruning(num_heads=2))
    trainer.args._n_gpu = 2
    with pytest.raises(ValueError, match="GradualPruning, and one process sees 2 GPUs"):
        trainer.train()
    trainer.args._n_gpu = 0
    trainer.args.load_best_model_at_end = True
    with pytest.raises(ValueError, match="load_best_model_at_end=True with GradualPruning"):
        trainer.train()


def test_a_loss_without_a_gradient_is_refused(student, make_trainer):
    with torch.no_grad():  # a head that reads nothing of the encoder
        student.classifier.weight.zero_()
    with pytest.raises(ValueError, match="Up to step 2 the loss had no gradient at any head of layer 0"):
        make_trainer(student, GradualPruning(num_heads=2, **SCHEDULE), learning_rate=0.0).train()


def test_a_checkpoint_that_was_made_without_it_is_refused(student, make_trainer, tmp_path):
    make_trainer(copy.deepcopy(student), save_strategy="steps", save_steps=5).train()
    with pytest.raises(ValueError, match="The checkpoint holds nothing of GradualPruning"):
        make_trainer(student, GradualPruning(num_heads=2)).train(str(tmp_path / "out" / "checkpoint-5"))


def test_a_checkpoint_of_other_sizes_is_refused_and_nothing_cut_comes_back_in_a_longer_run(
    student, make_trainer, tmp_path
):
    given = {"save_strategy": "steps", "save_steps": 8}
    first = make_trainer(copy.deepcopy(student), GradualPruning(1, 8, **SCHEDULE), stop_after=8, **given)
    first.train()
    checkpoint = str(tmp_path / "out" / "checkpoint-8")
    with pytest.raises(ValueError, match="made with GradualPruning of .*'num_heads': 1.*'num_heads': 3.* is given"):
        make_trainer(copy.deepcopy(student), GradualPruning(3, 60, **SCHEDULE)).train(checkpoint)
    longer = make_trainer(student, GradualPruning(1, 8, **SCHEDULE), max_steps=14)  # the third cut once more
    longer.train(checkpoint)
    neurons = [sizes[0][1] for sizes in [*first.watch.open, *longer.watch.open]]
    assert neurons == sorted(neurons, reverse=True)
    assert layer_sizes(student) == [(1, 8)] * 4


def test_steps_that_overflow_are_left_out_as_the_optimizer_leaves_them_out(student, make_trainer, monkeypatch):
    kept = []
    for overflows in (False, True):
        copied, take, steps = copy.deepcopy(student), Gates.take, []

        def taken(gates, take=take, steps=steps, overflows=overflows):
            sums = take(gates)
            steps.append(sums)
            if len(steps) == 1:
                sums[0].heads[:] = torch.inf if overflows else 0
                for units in [*sums[0][1:], *(units for layer in sums[1:] for units in layer)]:
                    units[:] = torch.nan if overflows else 0
            return sums

        with monkeypatch.context() as patch:
            patch.setattr(Gates, "take", taken)
            make_trainer(copied, GradualPruning(2, 16, first_cut=0.5, last_cut=0.5, num_cuts=1), max_steps=4).train()
        kept.append(heads_left(copied))
    assert all(np.array_equal(*pair) for pair in zip(*kept, strict=True))
