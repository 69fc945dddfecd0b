"""What `Trainer` offers around a run, with projections, schedules and an online teacher in it."""

import copy
import math
import re

import pytest
import torch
from loss_terms import PLAIN_DESCENT, largest_difference, make_student, trained_weights
from transformers import (
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    EarlyStoppingCallback,
    TrainerCallback,
)

from distil_trainer.arguments import DistillationArguments
from distil_trainer.inference import predict_logits, torch_runner
from distil_trainer.trainer import DistillationTrainer

# With a student of width 16 under a teacher of width 32, the hidden states of the embeddings and both layers and the
# first token's need projections; the others do not.
EVERY_KIND = {
    "hidden_loss_weight": 1.0,
    "attention_loss_weight": 1.0,
    "relation_loss_weight": 1.0,
    "hard_label_weight": 0.5,
    "matches": [
        {"what": "cls_states", "loss": "pkd"},
        {"what": "pooled_states", "loss": "rkd_distance", "weight": 1.0, "final_weight": 0.0},
    ],
}


@pytest.fixture
def teacher(teacher):
    """The tiny teacher with a head that tells rows apart."""
    with torch.no_grad():
        teacher.classifier.weight *= 50
    return teacher


@pytest.fixture
def make_trainer(teacher, tokenizer, reviews, tmp_path):
    def make(student=None, given_trainer=None, folder="out", online=True, **given):
        common = {"save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 8}
        common |= {"learning_rate": 1e-3, "drop_evaluation_rows": False}
        return DistillationTrainer(
            student,
            DistillationArguments(str(tmp_path / folder), **{**common, **given}),
            train_dataset=reviews,
            processing_class=tokenizer,
            **{"teacher": teacher if online else None, **(given_trainer or {})},
        )

    return make


def training_logs(trainer):
    return [log for log in trainer.state.log_history if "loss" in log]


class Recorder(TrainerCallback):
    """Note what a run began with, and the learning rates of its steps."""

    def __init__(self, trainer):
        self.trainer = trainer
        self.begins, self.runs, self.learning_rates = [], [], []
        trainer.add_callback(self)

    def on_train_begin(self, args, state, control, **kwargs):
        self.begins.append(trained_weights(self.trainer))

    def on_pre_optimizer_step(self, args, state, control, optimizer, **kwargs):
        self.learning_rates.append([group["lr"] for group in optimizer.param_groups])

    def on_train_end(self, args, state, control, **kwargs):
        values = {name: getattr(args, name) for name in ("learning_rate", "hidden_loss_weight")}
        logs = [{name: log[name] for name in log if name != "epoch"} for log in training_logs(self.trainer)]
        self.runs.append((values, trained_weights(self.trainer), logs, self.trainer._projections))


# model_init and hyper-parameter search


def test_model_init_gives_what_the_model_itself_gives_with_projections_too(make_trainer):
    given = {**EVERY_KIND, "max_steps": 3, "learning_rate": 1e-2}
    straight = make_trainer(make_student(16), **given)
    straight.train()
    initialised = make_trainer(None, {"model_init": lambda: make_student(16)}, **given)
    first_student = initialised.model
    initialised.train()
    assert initialised.model is not first_student
    weights = trained_weights(straight)
    assert any(name.startswith("projections.") for name in weights)
    assert largest_difference(weights, trained_weights(initialised)) == 0.0
    assert initialised.train().global_step == 3  # from the start again
    assert largest_difference(weights, trained_weights(initialised)) == 0.0


@pytest.mark.slow
def test_each_trial_of_a_search_is_a_run_of_its_own_with_its_values(make_trainer, reviews):
    optuna = pytest.importorskip("optuna")
    # Three steps and a log after the first two: what the third adds must not reach the next trial.
    given = {"max_steps": 3, "logging_steps": 2}
    trainer = make_trainer(
        None, {"model_init": lambda: make_student(16), "eval_dataset": reviews}, hidden_loss_weight=1.0, **given
    )
    recorder = Recorder(trainer)
    grid = {"learning_rate": [1e-3, 1e-2], "hidden_loss_weight": [0.0, 2.0]}
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {name: trial.suggest_categorical(name, values) for name, values in grid.items()},
        compute_objective=lambda metrics: metrics["eval_loss"],
        n_trials=4,
        direction="minimize",
        backend="optuna",
        sampler=optuna.samplers.GridSampler(grid, seed=0),
    )
    assert set(best.hyperparameters) == set(grid)
    assert len(recorder.runs) == 4
    assert len({tuple(values.values()) for values, *_ in recorder.runs}) == 4
    assert len({id(projections) for *_, projections in recorder.runs if projections is not None}) == 2
    for values, weights, logs, projections in recorder.runs:
        alone = make_trainer(make_student(16), folder="alone", **given, **values)
        expected = Recorder(alone)
        alone.train()
        ((_, expected_weights, expected_logs, _),) = expected.runs
        assert (projections is not None) == (values["hidden_loss_weight"] > 0)
        assert largest_difference(weights, expected_weights) == 0.0
        assert logs == expected_logs


def test_a_search_gives_projections_the_learning_rate_of_its_trial(make_trainer, reviews):
    pytest.importorskip("optuna")
    trainer = make_trainer(
        None,
        {"model_init": lambda: make_student(16), "eval_dataset": reviews},
        max_steps=1,
        hidden_loss_weight=1.0,
        lr_scheduler_type="constant",
    )
    recorder = Recorder(trainer)
    trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)},
        n_trials=2,
        direction="minimize",
        backend="optuna",
    )
    rates = [values["learning_rate"] for values, *_ in recorder.runs]
    assert rates[0] != rates[1]
    assert recorder.learning_rates == [[rate] * 3 for rate in rates]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", -1.0, "temperature=-1.0: it divides the logits"),
        ("logit_loss_weight", 0.0, "the loss would be zero"),
        ("layer_map", "middle", "layer_map='middle'"),
        ("epochs_per_cycle", 0.1, "steps_per_cycle=1: a cycle needs at least 2 steps"),
    ],
)
def test_a_bad_value_of_a_trial_is_refused(make_trainer, reviews, name, value, message):
    pytest.importorskip("optuna")
    trainer = make_trainer(None, {"model_init": lambda: make_student(16), "eval_dataset": reviews}, max_steps=1)
    with pytest.raises(ValueError, match=message):
        trainer.hyperparameter_search(
            hp_space=lambda trial: {name: trial.suggest_categorical(name, [value])}, n_trials=1, backend="optuna"
        )


# The best checkpoint and early stopping


def scripted_accuracy(values):
    """Metrics that report given accuracies, one evaluation after the other."""
    values = iter(values)
    return lambda output: {"accuracy": next(values)}


def test_early_stopping_on_accuracy_keeps_the_best_checkpoint_which_a_clean_student_loads(
    make_trainer, reviews, tokenizer, tmp_path
):
    trainer = make_trainer(
        make_student(16),
        {
            "eval_dataset": reviews,
            "compute_metrics": scripted_accuracy([0.5, 0.7, 0.9, 0.8, 0.9, 0.99]),
            "callbacks": [EarlyStoppingCallback(early_stopping_patience=2)],
        },
        max_steps=12,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        **EVERY_KIND,
    )
    trainer.train()
    assert trainer.state.global_step == 10  # 0.8 and 0.9 are no better than 0.9, and 0.99 is never seen
    assert trainer.state.best_metric == 0.9
    best = tmp_path / "out" / "checkpoint-6"
    assert trainer.state.best_model_checkpoint == str(best)
    assert (best / "projections.safetensors").is_file()
    clean, report = BertForSequenceClassification.from_pretrained(best, output_loading_info=True)
    assert not any(report.values())
    assert largest_difference(clean.state_dict(), trainer.model.state_dict()) == 0.0
    last = BertForSequenceClassification.from_pretrained(tmp_path / "out" / "checkpoint-10")
    assert largest_difference(last.state_dict(), clean.state_dict()) > 1e-5


def test_early_stopping_on_loss_keeps_the_checkpoint_of_the_lowest_loss(make_trainer, reviews, tmp_path):
    # Every gold label of the evaluation data contradicts the one that is learned, so that its loss rises with the
    # student's certainty.
    opposite = reviews.map(lambda row: {"label": 1 - row["label"]})
    trainer = make_trainer(
        make_student(16, initializer_range=0.3),
        {"eval_dataset": opposite, "callbacks": [EarlyStoppingCallback(early_stopping_patience=3)]},
        num_train_epochs=8,
        learning_rate=1e-2,
        hidden_loss_weight=1.0,
        hard_label_weight=5.0,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="loss",
    )
    trainer.train()
    losses = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    best = losses.index(min(losses))
    assert len(losses) == best + 4 < 8
    assert trainer.state.best_model_checkpoint == str(tmp_path / "out" / f"checkpoint-{6 * (best + 1)}")
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), abs=1e-6)
    clean = BertForSequenceClassification.from_pretrained(trainer.state.best_model_checkpoint)
    assert largest_difference(clean.state_dict(), trainer.model.state_dict()) == 0.0


# The cyclic learning rate


def triangle(step, steps_per_cycle, highest):
    phase = step % steps_per_cycle
    up = steps_per_cycle // 2
    share = phase / up if phase <= up else (steps_per_cycle - phase) / (steps_per_cycle - up)
    return highest / 25 + (highest - highest / 25) * share


def test_the_learning_rate_makes_one_triangle_each_epochs_per_cycle_for_projections_too(make_trainer):
    trainer = make_trainer(
        make_student(16),
        num_train_epochs=4,
        epochs_per_cycle=2.0,
        learning_rate=1e-2,
        projection_learning_rate=0.5,
        hidden_loss_weight=1.0,
        logging_steps=1,
    )
    recorder = Recorder(trainer)
    trainer.train()
    # 48 rows in batches of 8: 6 steps an epoch, 12 a cycle.
    logged = [log["learning_rate"] for log in training_logs(trainer)]
    assert logged == pytest.approx([triangle(step, 12, 1e-2) for step in range(24)], rel=1e-9)
    assert logged[0] == logged[12] == pytest.approx(1e-2 / 25)
    assert max(logged) == logged[6] == logged[18] == pytest.approx(1e-2)
    assert [rates[0] for rates in recorder.learning_rates] == logged
    of_projections = [rates[-1] for rates in recorder.learning_rates]
    assert of_projections == pytest.approx([triangle(step, 12, 0.5) for step in range(24)], rel=1e-9)


@pytest.mark.parametrize(
    ("given", "steps_per_epoch"),
    [
        ({"per_device_train_batch_size": 10}, 5),
        ({"per_device_train_batch_size": 10, "gradient_accumulation_steps": 2}, 3),
        ({"per_device_train_batch_size": 10, "dataloader_drop_last": True}, 4),
    ],
    ids=["a_short_last_batch", "a_short_last_step", "the_last_batch_dropped"],
)
def test_a_cycle_is_as_long_as_its_epochs_whatever_the_last_batch_is(make_trainer, given, steps_per_epoch):
    trainer = make_trainer(
        make_student(), online=True, num_train_epochs=4, epochs_per_cycle=2.0, logging_steps=1, **given
    )
    trainer.train()
    logged = [log["learning_rate"] for log in training_logs(trainer)]
    assert len(logged) == 4 * steps_per_epoch
    expected = [triangle(step, 2 * steps_per_epoch, 1e-3) for step in range(len(logged))]
    assert logged == pytest.approx(expected, rel=1e-9)


# Logs and metrics


def test_tensorboard_receives_each_term_by_name_once_a_logging_step(make_trainer, reviews, tmp_path, monkeypatch):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))  # read by transformers 5 alone
    trainer = make_trainer(
        make_student(16),
        {"eval_dataset": reviews},
        max_steps=6,
        logging_steps=2,
        gradient_accumulation_steps=2,
        per_device_train_batch_size=4,
        eval_strategy="steps",
        eval_steps=3,
        final_temperature=1.0,
        report_to="tensorboard",
        **EVERY_KIND,
    )
    trainer.train()
    (file,) = tmp_path.rglob("events.out.tfevents.*")
    accumulator = events.EventAccumulator(str(file.parent)).Reload()
    logs = training_logs(trainer)
    terms = {name for name in logs[0] if name not in ("loss", "grad_norm", "learning_rate", "epoch", "step")}
    matches = {name for name in terms if re.search(r"_t\d_s\d$", name)}
    assert len(matches) == 3 + 2 + 3 + 2  # hidden states, attentions, relations, and the two of the list
    assert terms - matches == {"soft_target_kl", "hard_label_cross_entropy", "temperature"}
    for name in [*terms, "loss", "learning_rate"]:
        points = accumulator.Scalars(f"train/{name}")
        assert [point.step for point in points] == [2, 4, 6]
        assert [point.value for point in points] == pytest.approx([log[name] for log in logs], rel=1e-6)
    for name in ("accuracy", "loss", "perplexity"):
        assert [point.step for point in accumulator.Scalars(f"eval/{name}")] == [3, 6]


def test_evaluation_reports_accuracy_loss_and_perplexity_by_default(make_trainer, reviews, tokenizer):
    trainer = make_trainer(make_student(16), {"eval_dataset": reviews}, max_steps=2, hidden_loss_weight=1.0)
    trainer.train()
    metrics = trainer.evaluate()
    logits = torch.tensor(predict_logits(torch_runner(trainer.model), tokenizer, reviews["sentence"][:]))
    labels = torch.tensor(reviews["label"][:])
    cross_entropy = torch.nn.functional.cross_entropy(logits, labels).item()
    assert metrics["eval_loss"] == pytest.approx(cross_entropy, abs=1e-6)
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(cross_entropy), abs=1e-6)
    assert metrics["eval_accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())


def test_each_of_several_evaluation_sets_is_reported_by_its_name_and_one_can_choose_the_best(
    make_trainer, reviews, tmp_path
):
    trainer = make_trainer(
        make_student(16),
        {"eval_dataset": {"even": reviews.select(range(0, 48, 2)), "first": reviews.select(range(6))}},
        num_train_epochs=2,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_first_perplexity",
        greater_is_better=False,
        hidden_loss_weight=1.0,
    )
    trainer.train()
    logged = {name: [log[name] for log in trainer.state.log_history if name in log] for name in (
        f"eval_{which}_{metric}" for which in ("even", "first") for metric in ("accuracy", "loss", "perplexity")
    )}  # fmt: skip
    assert all(len(values) == 2 for values in logged.values())
    for which in ("even", "first"):
        expected = [math.exp(loss) for loss in logged[f"eval_{which}_loss"]]
        assert logged[f"eval_{which}_perplexity"] == pytest.approx(expected, rel=1e-5)
    assert logged["eval_even_loss"] != logged["eval_first_loss"]
    assert trainer.state.best_metric == min(logged["eval_first_perplexity"])


# Resume

SCHEDULED = {
    **EVERY_KIND,
    "num_train_epochs": 2,
    "learning_rate": 1e-2,
    "projection_learning_rate": 2e-2,
    "epochs_per_cycle": 1.0,
    "temperature": 4.0,
    "final_temperature": 1.0,
    "final_logit_loss_weight": 0.25,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
}


@pytest.mark.parametrize("accumulation", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_run_resumed_at_any_step_equals_the_straight_run(make_trainer, tmp_path, accumulation):
    given = {
        **SCHEDULED,
        "per_device_train_batch_size": 16 // accumulation,
        "gradient_accumulation_steps": accumulation,
    }
    straight = make_trainer(make_student(16, dropout=0.2), **given)
    begin = trained_weights(straight)
    straight.train()
    weights, logs = trained_weights(straight), training_logs(straight)
    assert len(logs) == 6
    assert largest_difference(begin, {name: weights[name] for name in begin}) > 1e-3
    for step in range(1, 6):  # 3 is the end of the first epoch
        resumed = make_trainer(make_student(16, dropout=0.2, seed=step + 1), folder=f"from_{step}", **given)
        resumed.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{step}"))
        assert largest_difference(weights, trained_weights(resumed)) == 0.0, step
        assert training_logs(resumed)[step:] == logs[step:], step


def test_a_run_resumed_in_the_same_trainer_equals_the_straight_run(make_trainer, tmp_path):
    trainer = make_trainer(make_student(16, dropout=0.2), **SCHEDULED)
    trainer.train()
    weights, logs = trained_weights(trainer), training_logs(trainer)
    trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert largest_difference(weights, trained_weights(trainer)) == 0.0
    assert training_logs(trainer) == logs


@pytest.mark.parametrize(
    ("saved_with", "resumed_with", "message"),
    [
        ({}, {"hidden_loss_weight": 1.0}, r"has no projections\.safetensors"),
        (
            {"matches": [{"what": "hidden_states", "loss": "mse"}]},
            {"matches": [{"what": "hidden_states", "loss": "mse", "teacher_layer": 3}]},
            "holds projections .*t4_s2.* but this run needs .*t3_s2",
        ),
        (
            {"matches": [{"what": "hidden_states", "loss": "mse"}]},
            {"hidden_loss_weight": 1.0},
            "holds projections .* but this run needs ",
        ),
        ({"hidden_loss_weight": 1.0}, {}, "belongs to a run with projections, and this one has none"),
    ],
    ids=["none_before", "another_layer", "more_of_them", "none_now"],
)
def test_resuming_with_other_matches_is_refused(make_trainer, tmp_path, saved_with, resumed_with, message):
    make_trainer(make_student(16), max_steps=1, save_strategy="steps", save_steps=1, **saved_with).train()
    other = make_trainer(make_student(16), max_steps=2, folder="other", **resumed_with)
    with pytest.raises(ValueError, match=message):
        other.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))


# Options that other machines or other memory need


def test_an_optimizer_of_ones_own_is_refused_with_projections_and_taken_without(make_trainer):
    for width, given in ((16, {"relation_loss_weight": 1.0}), (32, {"hidden_loss_weight": 1.0})):
        student = make_student(width)
        start = copy.deepcopy(student.state_dict())
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        make_trainer(student, {"optimizers": (optimizer, None)}, max_steps=1, **given).train()
        assert largest_difference(start, student.state_dict()) > 1e-6
    student = make_student(16)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"optimizers= is given, and hidden_states_mse_t0_s0.* to the teacher"):
        make_trainer(student, {"optimizers": (optimizer, None)}, max_steps=1, hidden_loss_weight=1.0)


@pytest.mark.parametrize("asked_by", ["the_launcher", "the_arguments"])
@pytest.mark.parametrize("what", ["FSDP", "DEEPSPEED"])
def test_sharding_is_refused_with_a_teacher(reviews, teacher, tokenizer, tmp_path, monkeypatch, what, asked_by):
    args = DistillationArguments(str(tmp_path), use_cpu=True)
    # Once the arguments are made, which need an installed DeepSpeed, and which tell a later run of FSDP by the
    # environment.
    if asked_by == "the_launcher":
        monkeypatch.setenv(f"ACCELERATE_USE_{what}", "true")
    elif what == "FSDP":
        args.fsdp = ["full_shard"]
    else:
        args.deepspeed = {"zero_optimization": {"stage": 3}}
    with pytest.raises(ValueError, match=f"{what} is asked for together with teacher=.*TeacherLabeler"):
        DistillationTrainer(make_student(), args, reviews, processing_class=tokenizer, teacher=teacher)


def test_bfloat16_on_a_cpu_trains_on_every_kind_of_state_and_stays_finite(make_trainer):
    trainer = make_trainer(
        make_student(16, dropout=0.1), max_steps=4, bf16=True, logging_steps=1, learning_rate=1e-2, **EVERY_KIND
    )
    start = trained_weights(trainer)
    trainer.train()
    logs = training_logs(trainer)
    assert len(logs) == 4
    assert all(math.isfinite(value) for log in logs for value in log.values())
    weights = trained_weights(trainer)
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in weights.values())
    assert largest_difference(start, {name: weights[name] for name in start}) > 1e-3


@pytest.mark.parametrize("width", [16, 32])
def test_gradient_checkpointing_changes_no_gradient(make_trainer, width):
    def train(**given):
        trainer = make_trainer(
            make_student(width), max_steps=3, optim="sgd", learning_rate=0.1, max_grad_norm=0.0, **EVERY_KIND, **given
        )
        recomputed = []
        layer = trainer.model.bert.encoder.layer[0].attention.self.query
        layer.register_forward_hook(lambda *_: recomputed.append(True))
        trainer.train()
        return trained_weights(trainer), len(recomputed)

    plain, passes = train()
    # Its name in transformers 5, and in 4.57.
    new_name = "activation_checkpointing" in DistillationArguments.__dataclass_fields__
    name = "activation_checkpointing" if new_name else "gradient_checkpointing"
    checkpointed, passes_with_recomputation = train(**{name: True})
    assert (passes, passes_with_recomputation) == (3, 6)
    assert largest_difference(
        make_student(width).state_dict(), {n: plain[n] for n in make_student(width).state_dict()}
    )
    assert largest_difference(plain, checkpointed) < 1e-6


def test_a_saved_student_loads_with_auto_classes_and_answers_as_it_did_in_training(
    make_trainer, reviews, tokenizer, tmp_path
):
    trainer = make_trainer(make_student(16, dropout=0.1), max_steps=3, learning_rate=1e-2, **EVERY_KIND)
    trainer.train()
    trainer.save_model(str(tmp_path / "student"))
    names = {path.name for path in (tmp_path / "student").iterdir()}
    assert "projections.safetensors" not in names
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student", dtype=torch.float32)
    texts = reviews["sentence"][:]
    expected = predict_logits(torch_runner(trainer.model), tokenizer, texts)
    torch.testing.assert_close(
        torch.tensor(predict_logits(torch_runner(loaded), tokenizer, texts)),
        torch.tensor(expected),
        atol=1e-6,
        rtol=0,
    )
    # Training on attention maps switched their dropout off; it is on again.
    loaded_dropout = [module.p for module in loaded.modules() if isinstance(module, torch.nn.Dropout)]
    assert [module.p for module in trainer.model.modules() if isinstance(module, torch.nn.Dropout)] == loaded_dropout


# What the preflight refuses, and what only the steps show


def break_head(teacher):
    with torch.no_grad():
        teacher.classifier.weight.fill_(float("nan"))


@pytest.mark.parametrize(
    "losses", [{}, {"logit_loss_weight": 0.0, "hidden_loss_weight": 1.0}], ids=["logits", "states"]
)
def test_what_the_preflight_refuses_is_never_trained(make_trainer, teacher, losses):
    student = make_student()
    before = copy.deepcopy(student.state_dict())
    trainer = make_trainer(student, max_steps=2, **losses)
    break_head(teacher)
    with pytest.raises(
        ValueError, match="Refused before the first step.\nteacher's answers: The teacher gives 48 of 48"
    ):
        trainer.train()
    assert largest_difference(before, student.state_dict()) == 0.0
    assert not teacher._forward_hooks and trainer.state.global_step == 0


class BreakTeacher(TrainerCallback):
    def __init__(self, teacher):
        self.teacher = teacher

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:
            break_head(self.teacher)


@pytest.mark.parametrize(("logging_steps", "steps"), [(2, 4), (500, 6)], ids=["at_the_next_log", "at_the_end"])
def test_a_teacher_that_gives_nan_in_a_step_ends_the_training(make_trainer, teacher, logging_steps, steps):
    given = {"callbacks": [BreakTeacher(teacher)]}
    trainer = make_trainer(make_student(), given, max_steps=6, logging_steps=logging_steps)
    with pytest.raises(ValueError, match="The teacher gave NaN or infinite logits for a row of the training set"):
        trainer.train()
    assert trainer.state.global_step == steps


def test_states_are_refused_where_one_process_sees_several_gpus(make_trainer, monkeypatch):
    monkeypatch.setattr(DistillationArguments, "n_gpu", 2)
    with pytest.raises(ValueError, match="one process sees 2 GPUs.*torchrun --nproc_per_node=2"):
        make_trainer(make_student(), hidden_loss_weight=1.0)


@pytest.mark.parametrize("given", [{"bf16": True}, {"attention_loss_weight": 1.0}], ids=["bf16", "attentions"])
def test_training_leaves_the_teacher_as_it_was(make_trainer, teacher, tokenizer, reviews, given):
    teacher.config._attn_implementation = "sdpa"
    names = set(vars(teacher))
    texts = reviews["sentence"][:8]
    expected = predict_logits(torch_runner(teacher), tokenizer, texts)
    trainer = make_trainer(make_student(), max_steps=2, **given)
    for _ in range(2):
        trainer.train()
        assert set(vars(teacher)) == names and teacher.config._attn_implementation == "sdpa"
        assert (predict_logits(torch_runner(teacher), tokenizer, texts) == expected).all()


# A search over the arguments of the losses


def search(trainer, values):
    """Search over a grid of one argument; return what each trial began and ended with."""
    optuna = pytest.importorskip("optuna")
    recorder = Recorder(trainer)
    ((name, choices),) = values.items()
    trainer.hyperparameter_search(
        hp_space=lambda trial: {name: trial.suggest_categorical(name, list(choices))},
        n_trials=len(choices),
        backend="optuna",
        sampler=optuna.samplers.GridSampler({name: list(choices)}, seed=0),
    )
    assert len(recorder.runs) == len(choices)
    return recorder.runs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("hard_label_weight", [0.0, 0.5]),
        pytest.param("temperature", [1.0, 4.0], marks=pytest.mark.slow),
        pytest.param("max_length", [32, 5], marks=pytest.mark.slow),
    ],
)
def test_each_trial_over_an_argument_of_the_losses_is_the_run_with_its_value(make_trainer, reviews, name, choices):
    given = {**PLAIN_DESCENT, "logging_steps": 1}
    model = {"model_init": lambda: make_student(), "eval_dataset": reviews}
    runs = search(make_trainer(None, model, **given), {name: choices})
    expected = []
    for value in choices:
        alone = Recorder(make_trainer(make_student(), folder="alone", **{**given, name: value}))
        alone.trainer.train()
        expected.append(alone.runs[0][1])
    assert largest_difference(*expected) > 1e-5
    for weights in expected:
        assert min(largest_difference(weights, found) for _, found, *_ in runs) == 0.0


def test_a_trial_with_the_decoupled_loss_reads_the_gold_labels(make_trainer, reviews):
    trainer = make_trainer(
        None, {"model_init": lambda: make_student(), "eval_dataset": reviews}, max_steps=1, logit_loss="kl"
    )
    assert "labels" not in trainer.train_dataset.column_names
    search(trainer, {"logit_loss": ["decoupled"]})
    assert "labels" in trainer.train_dataset.column_names


def test_a_trial_whose_losses_the_data_cannot_serve_is_refused(make_trainer, reviews, teacher, tokenizer):
    pytest.importorskip("optuna")
    logits = predict_logits(torch_runner(teacher), tokenizer, reviews["sentence"][:])
    cached = reviews.add_column("teacher_logits", logits.tolist())
    args = make_trainer(make_student(), max_steps=1).args
    trainer = DistillationTrainer(None, args, cached, reviews, tokenizer, model_init=lambda: make_student())
    with pytest.raises(ValueError, match="no teacher= is given: they are far too large to be stored"):
        search(trainer, {"hidden_loss_weight": [5.0]})


def test_the_weights_of_the_teachers_are_those_of_the_trial(make_trainer, reviews, teacher):
    other = make_student(seed=7, initializer_range=0.2).eval()
    make = {"model_init": lambda: make_student(), "eval_dataset": reviews, "teacher": [teacher, other]}
    trainer = make_trainer(None, make, max_steps=2, teacher_weights=[1.0, 1.0])
    trainer.args.teacher_weights = [1.0, 0.0]  # optuna deals out no lists
    runs = search(trainer, {"temperature": [2.0]})
    alone = Recorder(make_trainer(make_student(), {"teacher": [teacher]}, folder="alone", max_steps=2))
    alone.trainer.train()
    assert largest_difference(runs[0][1], alone.runs[0][1]) < 1e-6


def test_a_search_looks_for_the_least_evaluation_loss_and_for_nothing_unsaid(make_trainer, reviews):
    pytest.importorskip("optuna")
    model = {"model_init": lambda: make_student(), "eval_dataset": reviews}
    trainer = make_trainer(None, model, max_steps=1)
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"seed": trial.suggest_int("seed", 1, 9)}, n_trials=1, backend="optuna"
    )
    assert best.objective == trainer.state.log_history[-1]["eval_loss"]
    with pytest.raises(ValueError, match="direction='maximize' without compute_objective="):
        trainer.hyperparameter_search(n_trials=1, direction="maximize")
    several = make_trainer(None, {**model, "eval_dataset": {"one": reviews, "two": reviews}}, max_steps=1)
    with pytest.raises(ValueError, match="with several evaluation data sets: say what is looked for"):
        several.hyperparameter_search(n_trials=1)


# Cycles, once more


def test_a_second_training_cycles_up_to_the_same_learning_rates(make_trainer):
    given = {"learning_rate": 1e-2, "projection_learning_rate": 0.5, "hidden_loss_weight": 1.0}
    trainer = make_trainer(make_student(16), num_train_epochs=2, epochs_per_cycle=2.0, **given)
    recorder = Recorder(trainer)
    trainer.train()
    trainer.train()
    assert recorder.learning_rates[:12] == recorder.learning_rates[12:]
    assert [max(rates) for rates in zip(*recorder.learning_rates[12:], strict=True)] == pytest.approx(
        [1e-2, 1e-2, 0.5]
    )


def test_cycles_beside_a_given_scheduler_are_refused(make_trainer):
    student = make_student()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    with pytest.raises(ValueError, match="epochs_per_cycle=1.0 and a scheduler in optimizers="):
        make_trainer(student, {"optimizers": (optimizer, scheduler)}, epochs_per_cycle=1.0)


@pytest.mark.parametrize(("warmup_steps", "is_warned_of"), [(2, True), (1, False)])
def test_a_warm_up_as_long_as_the_training_is_warned_of(warmup_steps, is_warned_of, train, caplog):
    train(make_student(), max_steps=2, warmup_steps=warmup_steps)
    assert ("it never reaches 0.001, and never falls" in caplog.text) == is_warned_of
