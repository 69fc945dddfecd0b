"""The headline metric of a run, and the report, table, plot and card of runs that go by another than accuracy."""

import pytest
from report_examples import example_parts, example_report, timing

from distil_trainer.conclusions import comparison_lines
from distil_trainer.headline import HEADLINES, METRICS, choose_headline, headline_of
from distil_trainer.model_card import render_model_card
from distil_trainer.plots import plot_accuracy_against_latency
from distil_trainer.report import make_report
from distil_trainer.tables import closing_table, markdown_table


def _regression(**changes):
    """Parts of a report on scores."""
    parts = example_parts(**changes)
    parts["task"] = {
        "language": "en",
        "problem_type": "regression",
        "metric": "pearson",
        "labels": None,
        "score_range": [0.0, 5.0],
        "text_pair": True,
    }
    for row, pearson in zip(parts["models"], (0.871, 0.802, 0.853, 0.853, 0.85), strict=True):
        row["evaluation"] = {"validation": _scores(pearson)}
    parts["comparisons"] = [
        _comparison("student", "teacher", "pearson", -0.018, 0.03, output_correlation=0.953),
        _comparison("student", "control", "pearson", 0.051, 2 / 2001, output_correlation=0.9),
    ]
    parts["export"]["metric"] = "pearson"
    for rung in parts["export"]["rungs"]:
        for key in ("accuracy", "accuracy_change", "agreement_with_pytorch", "agreement_batch_1"):
            del rung[key]
        rung |= {"pearson": 0.853, "pearson_change": -0.0031}
        rung |= {"difference_from_pytorch": 0.021, "difference_batch_1": 0.034}
    return parts


def _scores(pearson):
    """Figures as `evaluate_scores` returns them."""
    values = {"pearson": pearson, "spearman": pearson - 0.01}
    ends = {f"{name}_{end}": value + width for name, value in values.items() for end, width in _ENDS.items()}
    return {"n": 1500, **values, **ends, "mse": 0.512}


_ENDS = {"low": -0.013, "high": 0.013}


def _comparison(a, b, metric, difference, p_value, **likeness):
    """Figures as `compare_scores` and `compare_macro_f1` return them, with the two roles."""
    return {
        "a": a,
        "b": b,
        "split": "validation",
        "n": 1500,
        f"{metric}_difference": difference,
        "difference_low": difference - 0.015,
        "difference_high": difference + 0.016,
        "p_value": p_value,
        "distinguishable": p_value < 0.05,
        **likeness,
    }


def _macro_f1():
    parts = example_parts(comparisons=[_comparison("student", "control", "macro_f1", 0.017, 0.2, agreement=0.9)])
    parts["task"]["metric"] = parts["export"]["metric"] = "macro_f1"
    for rung in parts["export"]["rungs"]:
        rung |= {"macro_f1": 0.866, "macro_f1_change": -0.01}
    return parts


def test_labels_go_by_accuracy_and_scores_by_pearsons_correlation_unless_told_otherwise():
    assert choose_headline(None, "single_label_classification").key == "accuracy"
    assert choose_headline("macro_f1", "single_label_classification").key == "macro_f1"
    assert choose_headline(None, "regression").key == "pearson"
    assert headline_of({"task": {}}).key == headline_of({"task": {"metric": None}}).key == "accuracy"
    assert headline_of({"task": {"metric": "pearson"}}).key == "pearson"


@pytest.mark.parametrize(
    ("metric", "task", "message"),
    [
        (
            "pearson",
            "single_label_classification",
            "metric='pearson' .* for one label a row .* Choose accuracy or macro",
        ),
        ("accuracy", "regression", r"for scores \(numbers\) it says nothing.* Choose pearson, or"),
        (None, "multi_label_classification", "no headline metric is known here for several labels"),
    ],
)
def test_a_metric_that_the_task_does_not_have_is_refused(metric, task, message):
    with pytest.raises(ValueError, match=message):
        choose_headline(metric, task)


def test_a_report_with_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="metric='bleu': known are accuracy, macro_f1, pearson"):
        example_report(task={"metric": "bleu"})


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("accuracy", 0.8766, "87.7"),
        ("pearson", 0.8531, "0.853"),
        ("pearson", -0.0861, "−0.086"),
        ("mse", 1.5, "1.500"),
    ],
)
def test_figures_are_shown_in_the_form_of_their_metric(key, value, text):
    assert METRICS[key].format(value) == text


@pytest.mark.parametrize(
    ("difference", "text"), [(0.0123, "+0.012"), (-0.003, "−0.003"), (0.0, "0.000"), (-0.0004, "0.000")]
)
def test_changes_of_a_correlation_carry_their_sign_unless_they_round_to_zero(difference, text):
    assert HEADLINES["pearson"].format_change(difference) == text


def test_the_closing_table_of_scores_is_this_text():
    lines = closing_table(make_report(**_regression())).splitlines()
    assert lines[:4] == [
        "                                    Pearson r  Spearman ρ         MSE  latency ms  latency ms",
        "model      parameters     size     validation  validation  validation      median         p95  × faster",
        "─" * 103,
        "teacher         22.7M  90.9 MB  0.871 ± 0.013       0.861       0.512       12.00       24.00       1.0",
    ]
    text = " ".join(line.strip() for line in lines)
    assert "± is half the width of the 95 % interval (Fisher's z)." in text
    assert (
        "student against teacher (validation, n = 1500): −0.018 in Pearson correlation (95 % interval −0.033 to"
        in text
    )
    assert "−0.002), p = 0.03: distinguishable; their scores correlate by 0.953." in text
    assert "p ≤ 0.001: distinguishable; their scores correlate by 0.900." in text
    assert "student keeps 97.9 % of the Pearson correlation of teacher and closes 74 % of the gap" in text
    assert "accuracy" not in text and "macro" not in text and "same answer" not in text


def test_the_closing_table_by_macro_f1_has_the_accuracy_beside_it():
    report = make_report(**_macro_f1())
    header, _, teacher = markdown_table(report).splitlines()[:3]
    assert "| macro-F1 %, validation | accuracy %, validation |" in header and "| 87.9 ± 2.0 | 88.0 |" in teacher
    assert comparison_lines(report) == [
        "student against control (validation, n = 1500): +1.7 points of macro-F1 (95 % interval +0.2 to +3.3), "
        "p = 0.2: not distinguishable; same answer on 90.0 % of the rows.",
        "On validation, student keeps 99.7 % of the macro-F1 of teacher and closes 85 % of the gap between control and"
        " teacher, a share that is noise: student and control are not shown to differ.",
    ]
    assert "interval (bootstrap over rows)" in closing_table(report)


def test_a_correlation_below_zero_has_no_share_of_the_teachers():
    parts = _regression()
    parts["models"][2]["evaluation"]["validation"] = _scores(-0.1)
    assert make_report(**parts)["gaps"]["validation"]["retention"] is None
    parts["models"][0]["evaluation"]["validation"] = _scores(-0.2)
    assert make_report(**parts)["gaps"]["validation"]["retention"] is None


def test_a_comparison_by_another_metric_than_the_headline_is_refused():
    with pytest.raises(ValueError, match=r"part comparisons=.* lacks \['accuracy_difference'\]"):
        example_report(comparisons=_regression()["comparisons"])


def test_the_card_of_scores_speaks_of_scores():
    card = str(render_model_card(make_report(**_regression())))
    for present in (
        "A text regression model for pairs of texts made small by knowledge distillation:",
        "It gives a pair of texts one number; the gold scores of the training rows run from 0 to 5.",
        "Its scores have a Pearson correlation of 0.853 ± 0.013 with the gold scores of the validation rows (teacher: "
        "0.871 ± 0.013).",
        "The number stands under `score`; it is no probability, and `label` says nothing.",
        '"Distinguishable" means p < 0.05 in a paired bootstrap over the same rows (2,000 resamples).',
        "A file passes that loses at most 0.005 of Pearson correlation on the 872 validation rows.",
        "| file | precision | size | Pearson r | change | largest difference from PyTorch's scores | result |",
        "| model_quantized.onnx | int8 dynamic | 17.6 MB | 0.853 | −0.003 | 0.034 | passed, chosen |",
        "- Nothing keeps its numbers within the range of the scores that it learned from.",
        "- type: pearsonr\n      value: 0.853\n      name: Pearson correlation",
        "metrics:\n- pearsonr\n- spearmanr\n- mse\n",
        "- type: mse\n      value: 0.512\n      name: Mean squared error",
    ):
        assert present in card, present
    for absent in ("accuracy", "ccuracy", "Its labels", "calibrated", "McNemar", "is right on", "None", "\n\n\n"):
        assert absent not in card, absent


def test_the_card_by_macro_f1_says_so():
    card = str(render_model_card(make_report(**_macro_f1())))
    for present in (
        "Its macro-F1 is 87.6 ± 2.0 % on the validation rows (teacher: 87.9 ± 2.0 %).",
        "A file passes that loses at most 0.5 points of macro-F1 on",
        "| macro-F1 % | change, points | same answer as PyTorch % |",
        "| 86.6 | −1.0 | 99.4 | passed, chosen |",
        "metrics:\n- f1\n- accuracy\n",
        "in a paired bootstrap over the same rows",
    ):
        assert present in card, present


def test_the_plot_shows_the_headline_metric_in_its_own_unit(tmp_path, monkeypatch):
    labels, texts = [], []
    monkeypatch.setattr("matplotlib.axes.Axes.set_ylabel", lambda axes, label: labels.append(label))
    monkeypatch.setattr(
        "distil_trainer.plots._place_labels", lambda axes, canvas, points, headline: texts.extend(points)
    )
    plot_accuracy_against_latency(make_report(**_regression()), tmp_path / "plot.png")
    plot_accuracy_against_latency(make_report(**_macro_f1()), tmp_path / "plot.png")
    assert labels == [
        "Pearson correlation on validation (n = 1,500; bars: 95 % interval)",
        "macro-F1 on validation, % (n = 872; bars: 95 % interval)",
    ]
    assert texts[0][:3] == ("teacher", timing(12.0)["p50_ms"], pytest.approx(0.871))
    assert texts[5][2] == pytest.approx(87.9)
