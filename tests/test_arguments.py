"""Arguments are checked against one another at construction, and again on request."""

import dataclasses
import json

import pytest
from transformers import HfArgumentParser

from distil_trainer.arguments import DistillationArguments
from distil_trainer.recipe_arguments import run_settings

NAN, INFINITE = float("nan"), float("inf")
# What the fields are called in the two versions of transformers.
_FIELDS = {entry.name for entry in dataclasses.fields(DistillationArguments)}
CHECKPOINTING = "activation_checkpointing" if "activation_checkpointing" in _FIELDS else "gradient_checkpointing"
A_MATCH = {"what": "hidden_states", "loss": "mse"}


def test_nothing_is_reported_to_unless_asked(tmp_path):
    assert DistillationArguments(str(tmp_path)).report_to == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0: it divides"),
        ({"temperature": -1.0}, "temperature=-1.0: it divides"),
        ({"temperature": INFINITE}, "temperature=inf"),
        ({"final_temperature": 0.0}, "final_temperature=0.0: it divides"),
        ({"final_temperature": NAN}, "final_temperature=nan: it divides"),
        ({"projection_learning_rate": 0.0}, "projection_learning_rate=0.0: projections that do not learn"),
        ({"epochs_per_cycle": 0.0}, "epochs_per_cycle=0.0: the learning rate rises"),
        ({"logit_loss_weight": -1.0}, "logit_loss_weight=-1.0: a weight must be 0 or more"),
        ({"final_logit_loss_weight": -1.0}, "final_logit_loss_weight=-1.0: a weight must be 0 or more"),
        ({"hard_label_weight": NAN}, "hard_label_weight=nan: a weight must be 0 or more"),
        ({"final_hard_label_weight": INFINITE}, "final_hard_label_weight=inf: a weight must be 0 or more"),
        ({"target_class_weight": -1.0}, "target_class_weight=-1.0: a weight must be 0 or more"),
        ({"non_target_class_weight": NAN}, "non_target_class_weight=nan: a weight must be 0 or more"),
        ({"hidden_loss_weight": -0.1}, "hidden_loss_weight=-0.1: a weight must be 0 or more"),
        ({"attention_loss_weight": NAN}, "attention_loss_weight=nan: a weight must be 0 or more"),
        ({"relation_loss_weight": -2.0}, "relation_loss_weight=-2.0: a weight must be 0 or more"),
        ({"logit_loss": "l1"}, "logit_loss='l1': choose one of kl, mse, soft_cross_entropy, decoupled"),
        ({"hidden_loss": "kl"}, "hidden_loss='kl': choose one of mse, cosine"),
        ({"hidden_loss": None}, "hidden_loss=None: choose one of mse, cosine"),
        ({"attention_loss": "l1"}, "attention_loss='l1': choose one of mse, cosine, kl"),
        ({"teacher_average": "median"}, "teacher_average='median': choose one of logits, probabilities"),
        ({"relation_heads": 0}, "relation_heads=0: it must be at least 1"),
        ({"logit_loss_weight": 0.0}, "logit_loss_weight=0, hard_label_weight=0, .*the loss would be zero"),
        ({"logit_loss_weight": 0.0, "matches": [{**A_MATCH, "weight": 0.0}]}, "no match of weight above 0"),
        (
            {"logit_loss": "decoupled", "target_class_weight": 0.0, "non_target_class_weight": 0.0},
            "target_class_weight=0 and non_target_class_weight=0 with logit_loss='decoupled'",
        ),
        ({"teacher_weights": [1.0, -1.0]}, r"teacher_weights=\[1.0, -1.0\]: each must be 0 or more"),
        ({"teacher_weights": [NAN]}, r"teacher_weights=\[nan\]: each must be 0 or more"),
        ({"teacher_weights": [0.0, 0.0]}, r"teacher_weights=\[0.0, 0.0\]: .*one of them above 0"),
        (
            {"teacher_average": "probabilities", "logit_loss": "mse"},
            "teacher_average='probabilities' with logit_loss='mse': a mean of probabilities",
        ),
        ({"layer_map": "first"}, "layer_map='first': choose uniform or last"),
        ({"layer_map": [4, 2]}, r"layer_map=\[4, 2\]: the teacher layers decrease"),
        ({"matches": [A_MATCH, A_MATCH]}, r"matches\[1\] names a layer twice"),
        ({"matches": [{**A_MATCH, "loss": "l1"}]}, "loss='l1' does not exist for hidden_states"),
        ({"text_pair_column": "sentence"}, "text_pair_column='sentence' is text_column too"),
        ({"max_length": 2}, "max_length=2: special tokens count too"),
        (
            {"label_smoothing_factor": 1.0, "hard_label_weight": 1.0},
            r"label_smoothing_factor=1.0: it must be in \[0, 1\)",
        ),
        ({"label_smoothing_factor": 0.1}, "smoothing acts on gold labels only"),
        ({"use_liger_kernel": True}, "use_liger_kernel=True"),
        ({"fp16": True, "use_cpu": True}, "fp16=True on a CPU.*bf16=True"),
        ({"epochs_per_cycle": 1.0, "warmup_steps": 5}, "epochs_per_cycle=1.0 with warmup_steps=5 and .*'linear'"),
        ({"epochs_per_cycle": 1.0, "lr_scheduler_type": "cosine"}, "warmup_steps=0.* and lr_scheduler_type='cosine'"),
    ],
)
def test_arguments_that_cannot_work_are_refused(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        DistillationArguments(str(tmp_path), **given)


def test_a_warm_up_given_as_a_share_is_refused_with_cycles_too(tmp_path):
    share = {"warmup_ratio": 0.1} if "warmup_ratio" in _FIELDS else {"warmup_steps": 0.1}
    with pytest.raises(ValueError, match="epochs_per_cycle=1.0 with warmup_steps=0.1"):
        DistillationArguments(str(tmp_path), epochs_per_cycle=1.0, **share)


@pytest.mark.parametrize(
    "given",
    [
        {"final_logit_loss_weight": 1.0},
        {"hard_label_weight": 1.0},
        {"final_hard_label_weight": 1.0},
        {"hidden_loss_weight": 1.0},
        {"attention_loss_weight": 1.0},
        {"relation_loss_weight": 1.0},
        {"matches": [A_MATCH]},
        {"matches": [{**A_MATCH, "weight": 0.0, "final_weight": 1.0}]},
    ],
    ids=str,
)
def test_one_weight_above_zero_at_some_step_is_enough_and_tells_what_is_learned_from(tmp_path, given):
    args = DistillationArguments(str(tmp_path), logit_loss_weight=0.0, **given)
    learned_from = [args.distils_logits, args.uses_hard_labels, args.distils_states]
    (name,) = given
    assert learned_from == ["logit_loss" in name, "hard_label" in name, "logit" not in name and "label" not in name]


def test_only_logits_are_learned_from_by_default(tmp_path):
    args = DistillationArguments(str(tmp_path))
    assert (args.distils_logits, args.uses_hard_labels, args.distils_states) == (True, False, False)
    assert (args.matches, args.layer_map, args.logit_loss) == (None, "uniform", None)


def test_matches_become_plain_dictionaries_that_survive_json_and_are_read_again(tmp_path):
    args = DistillationArguments(str(tmp_path), matches="[{what: cls_states, loss: pkd}]", layer_map="[2, 4]")
    assert args.matches == [
        {
            "what": "cls_states",
            "loss": "pkd",
            "teacher_layer": None,
            "student_layer": None,
            "weight": 1.0,
            "final_weight": None,
            "relation_heads": None,
        }
    ]
    written = json.loads(args.to_json_string())
    assert (written["matches"], written["layer_map"]) == (args.matches, [2, 4])
    assert args.to_dict()["matches"] == args.matches
    assert DistillationArguments(str(tmp_path), matches=written["matches"]).matches == args.matches
    assert dataclasses.replace(args, seed=3).matches == args.matches


def test_matches_are_settings_of_a_run_however_they_are_written(tmp_path):
    file = tmp_path / "matches.yml"
    file.write_text("- what: cls_states\n  loss: pkd\n", encoding="utf-8")
    forms = [str(file), "[{what: cls_states, loss: pkd, weight: 1}]", [{"what": "cls_states", "loss": "pkd"}]]
    settings = [run_settings((DistillationArguments(str(tmp_path), matches=form),)) for form in forms]
    assert settings[0] == settings[1] == settings[2]
    assert json.loads(json.dumps(settings[0])) == settings[0]
    file.write_text("- what: cls_states\n  loss: mse\n", encoding="utf-8")
    assert run_settings((DistillationArguments(str(tmp_path), matches=str(file)),)) != settings[0]


def test_every_new_number_and_list_is_a_setting_of_a_run(tmp_path):
    given = {
        "final_temperature": 1.0,
        "final_hard_label_weight": 1.0,
        "layer_map": [1, 2],
        "teacher_weights": [1.0, 2.0],
        "epochs_per_cycle": 2.0,
        "projection_learning_rate": 1e-3,
    }
    settings = run_settings((DistillationArguments(str(tmp_path), **given),))
    assert {name: settings[name] for name in given} == given


def test_what_is_set_later_is_checked_on_request(tmp_path):
    args = DistillationArguments(str(tmp_path))
    args.temperature = -1.0
    with pytest.raises(ValueError, match="temperature=-1.0"):
        args.check()
    args.temperature, args.matches = 1.0, "[{what: cls_states, loss: pkd}]"
    args.check()
    assert args.distils_states and args.matches[0]["loss"] == "pkd"
    args.logit_loss_weight, args.matches = 0.0, None
    with pytest.raises(ValueError, match="the loss would be zero"):
        args.check()


@pytest.mark.parametrize("given", [{"hidden_loss_weight": 1.0}, {}])
def test_gradient_checkpointing_keeps_the_gradients_of_inner_states(tmp_path, given):
    args = DistillationArguments(str(tmp_path), **{CHECKPOINTING: True}, **given)
    assert getattr(args, f"{CHECKPOINTING}_kwargs") == {"use_reentrant": False}
    assert dataclasses.replace(args).gradient_checkpointing


def test_reentrant_checkpointing_is_refused_with_losses_on_inner_states_only(tmp_path):
    given = {CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"use_reentrant": True}}
    assert getattr(DistillationArguments(str(tmp_path), **given), f"{CHECKPOINTING}_kwargs") == {"use_reentrant": True}
    with pytest.raises(ValueError, match="use_reentrant': True} with a loss on inner states"):
        DistillationArguments(str(tmp_path), relation_loss_weight=1.0, **given)


def test_every_field_has_a_help_text_and_can_be_read_from_a_command_line():
    own = set(_FIELDS) - {entry.name for entry in dataclasses.fields(DistillationArguments.__mro__[1])}
    documented = {entry.name for entry in dataclasses.fields(DistillationArguments) if entry.metadata.get("help")}
    assert own <= documented
    HfArgumentParser(DistillationArguments).format_help()


def test_two_orders_of_rows_at_once_are_refused(tmp_path):
    names = DistillationArguments.__dataclass_fields__
    other = {"group_by_length": True} if "group_by_length" in names else {"train_sampling_strategy": "group_by_length"}
    assert DistillationArguments(str(tmp_path), **other).length_grouped_batches is False
    with pytest.raises(ValueError, match="only one of them can order the rows"):
        DistillationArguments(str(tmp_path), length_grouped_batches=True, **other)


def test_a_launchers_mixed_precision_is_adopted_and_so_on_record(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert DistillationArguments(str(tmp_path)).bf16
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert not DistillationArguments(str(tmp_path)).bf16


@pytest.mark.parametrize(
    ("metric", "greater"),
    [("perplexity", False), ("eval_mse", False), ("eval_dev_perplexity", False), ("eval_loss", False), ("mcc", True)],
)
def test_the_best_checkpoint_by_a_metric_is_the_least_where_less_is_better(tmp_path, metric, greater):
    given = {"metric_for_best_model": metric}
    assert DistillationArguments(str(tmp_path), **given).greater_is_better == greater
    assert DistillationArguments(str(tmp_path), **given, greater_is_better=not greater).greater_is_better != greater


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        ({"hidden_loss": "cosine"}, "hidden_loss='cosine'.*hidden_loss_weight above 0"),
        ({"attention_loss": "mse"}, "attention_loss='mse'.*attention_loss_weight above 0"),
        ({"relation_heads": 5}, "relation_heads=5.*or a match of relations"),
        ({"target_class_weight": 2.0}, "target_class_weight=2.0.*logit_loss='decoupled'"),
        ({"non_target_class_weight": 2.0}, "non_target_class_weight=2.0.*logit_loss='decoupled'"),
    ],
)
def test_a_part_of_a_loss_that_is_not_asked_for_is_refused(tmp_path, given, needed):
    with pytest.raises(ValueError, match=needed):
        DistillationArguments(str(tmp_path), **given)
    relations = [{"what": "key_relations", "loss": "kl"}]
    used = {"final_hidden_loss_weight": 1.0, "attention_loss_weight": 1.0, "matches": relations}
    DistillationArguments(str(tmp_path), logit_loss="decoupled", **used, **given)
