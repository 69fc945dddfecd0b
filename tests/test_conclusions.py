"""Table and card hold the figures of a run against always giving the most frequent label."""

import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset
from report_examples import comparison, example_parts, example_report, scores, with_constant

from distil_trainer.arguments import DistillationArguments
from distil_trainer.closing import Contender, measure
from distil_trainer.conclusions import comparison_lines, constant_lines
from distil_trainer.model_card import render_model_card
from distil_trainer.recipe_arguments import ShippingArguments
from distil_trainer.report import make_report
from distil_trainer.run_folder import RunFolder
from distil_trainer.tables import closing_table

_COLLAPSED = {"difference": 0.0, "only_answer": "positive"}
_CONSTANT = "Always answering `positive` would be right on 68.4 % of the validation rows."


def _report(metric="accuracy", **constants):
    """A report whose models are held against the constant answer; those not named are better than it."""
    parts = example_parts()
    parts["task"]["metric"] = metric
    for row in parts["models"]:
        given = constants.get(row["role"].replace(" ", "_"), {})
        evaluation = row["evaluation"]["validation"]
        row["evaluation"]["validation"] = with_constant(evaluation, metric=metric, **given)
    if metric == "macro_f1":
        parts["comparisons"] = []
    return make_report(**parts)


def _one_line(text):
    return " ".join(text.split())


def test_the_constant_answer_stands_under_table_and_card_of_every_run():
    report = _report()
    assert constant_lines(report) == [_CONSTANT]
    assert _CONSTANT in _one_line(closing_table(report)) and f"\n- {_CONSTANT}\n" in str(render_model_card(report))
    assert comparison_lines(report)[-1].endswith("of the gap between control and teacher.")
    assert "not shown to be better" not in str(render_model_card(report))


def test_a_report_without_constant_answers_is_drawn_as_before():
    report = example_report()
    assert constant_lines(report) == []
    assert "Always" not in closing_table(report) + str(render_model_card(report))


def test_models_of_one_answer_and_no_better_than_it_are_named_in_table_and_card():
    report = _report(teacher=_COLLAPSED, student=_COLLAPSED, onnx_int8=_COLLAPSED)
    lines = [
        _CONSTANT,
        "teacher, student and onnx int8 answer `positive` on every one of the 872 validation rows.",
        "On validation, teacher (0.0 points, p = 1) and student (0.0 points, p = 1) are not shown to be better than "
        "always answering `positive`.",
    ]
    assert constant_lines(report) == lines
    card = str(render_model_card(report))
    for line in lines:
        assert line in _one_line(closing_table(report)) and f"\n- {line}\n" in card
    assert (
        "(teacher: 88.0 ± 2.0 %). It and its teacher are not shown to be better than always answering `positive`, "
        "which would be right on 68.4 %. It answers `positive` on every validation row. It has 17.4M parameters"
    ) in card


def test_what_is_kept_of_a_teacher_below_the_constant_answer_is_no_praise():
    report = _report(teacher={"difference": -0.05})
    caveat = " That says little: teacher is not shown to be better than always answering `positive`."
    assert comparison_lines(report)[-1] == (
        "On validation, student keeps 99.7 % of the accuracy of teacher and closes 85 % of the gap between control "
        f"and teacher.{caveat}"
    )
    assert constant_lines(report)[1] == (
        "On validation, teacher (−5.0 points, p = 0.001) is not shown to be better than always answering `positive`."
    )
    card = str(render_model_card(report))
    assert "Its teacher is not shown to be better than always answering `positive`, which" in card
    assert "It answers" not in card and caveat in card
    for row, accuracy in zip(report["models"][:2], (0.85, 0.86), strict=True):
        row["evaluation"]["validation"] |= scores(accuracy)
    report["gaps"]["validation"]["gap_closed"] = None
    assert comparison_lines(report)[-1].endswith(f"has no gap to close: control is not below teacher.{caveat}")


def test_a_control_no_better_than_the_constant_answer_takes_nothing_from_the_student():
    report = _report(control=_COLLAPSED)
    assert constant_lines(report)[1:] == [
        "control answers `positive` on every one of the 872 validation rows.",
        "On validation, control (0.0 points, p = 1) is not shown to be better than always answering `positive`.",
    ]
    assert "says little" not in comparison_lines(report)[-1]


def test_models_that_collapsed_onto_different_labels_are_told_apart():
    report = _report(teacher=_COLLAPSED, student={"difference": -0.368, "only_answer": "negative"})
    assert constant_lines(report)[1:3] == [
        "teacher answers `positive` on every one of the 872 validation rows.",
        "student answers `negative` on every one of the 872 validation rows.",
    ]


def test_by_macro_f1_the_constant_answer_has_one_too():
    report = _report("macro_f1", student={"difference": -0.01})
    assert constant_lines(report) == [
        "Always answering `positive` would be right on 68.4 % of the validation rows and have a macro-F1 of 40.6 %.",
        "On validation, student (−1.0 points of macro-F1, p ≤ 0.001) is not shown to be better than always "
        "answering `positive`.",
    ]
    assert "which would be right on 68.4 % and have a macro-F1 of 40.6 %. It has 17.4M" in str(
        render_model_card(report)
    )
    assert comparison_lines(report)[-1].endswith(
        "That says little: student is not shown to be better than always answering `positive`."
    )


def test_both_splits_have_their_constant_answer_and_the_card_begins_with_that_of_the_test_split():
    parts = example_parts(comparisons=[comparison("student", "teacher", -0.003, 0.62)])
    for row in parts["models"]:
        validation = row["evaluation"]["validation"]
        row["evaluation"] = {"validation": with_constant(validation), "test": with_constant(validation, 0.0)}
    report = make_report(**parts)
    assert [line.split(",")[0] for line in constant_lines(report)] == [
        _CONSTANT,
        _CONSTANT.replace("validation", "test"),
        "On test",
    ]
    validation, test = comparison_lines(report)[1:]
    assert "says little" not in validation and "says little" in test
    assert "% of the test rows (teacher: 88.0 ± 2.0 %). It and its teacher are not" in str(render_model_card(report))


@pytest.mark.parametrize("names", [["no", "yes"], None])
def test_measure_holds_every_model_against_the_constant_answer(tmp_path, monkeypatch, names):
    monkeypatch.setattr("distil_trainer.closing.measure_latencies", lambda models, *_, **__: dict.fromkeys(models))
    rows = Dataset.from_dict({"sentence": ["a"] * 100, "label": [0] * 40 + [1] * 58 + [-1] * 2})
    rows = rows if names is None else rows.cast_column("label", ClassLabel(names=names))
    logits = {"teacher": np.eye(2)[[0] * 20 + [1] * 80], "student": np.eye(2)[[1] * 100]}
    contenders = [Contender(role, "PyTorch", None, None, "right", names, 1, 1) for role in logits]
    models, _ = measure(
        RunFolder(tmp_path / "run", {}),
        contenders,
        {"validation": rows},
        DistillationArguments(str(tmp_path / "out"), use_cpu=True),
        ShippingArguments(),
        known_logits={(role, "validation"): values for role, values in logits.items()},
    )
    teacher, student = (row["evaluation"]["validation"]["constant"] for row in models)
    label = 1 if names is None else "yes"
    assert teacher["label"] == student["label"] == student["only_answer"] == label
    assert teacher["share"] == pytest.approx(58 / 98) and teacher["only_answer"] is None  # unlabelled rows count not
    assert teacher["is_better"] and not student["is_better"]
    assert teacher["accuracy_difference"] == pytest.approx(20 / 98)
    json.dumps(models)


def test_scores_have_no_constant_answer(tmp_path, monkeypatch):
    monkeypatch.setattr("distil_trainer.closing.measure_latencies", lambda models, *_, **__: dict.fromkeys(models))
    rows = Dataset.from_dict({"sentence": ["a"] * 9, "label": [float(number) for number in range(9)]})
    models, _ = measure(
        RunFolder(tmp_path / "run", {}),
        [Contender("teacher", "PyTorch", None, None, "right", None, 1, 1)],
        {"validation": rows},
        DistillationArguments(str(tmp_path / "out"), use_cpu=True),
        ShippingArguments(),
        known_logits={("teacher", "validation"): np.arange(9.0)[:, None] ** 2},
    )
    assert "constant" not in models[0]["evaluation"]["validation"]
