"""The report's checks and derived figures, the tables drawn from it, and the plot."""

import json
import os
import sys

import numpy as np
import pytest
from report_examples import comparison, example_parts, example_report, minimal_report, scores, timing

from distil_trainer.conclusions import comparison_lines
from distil_trainer.headline import HEADLINES
from distil_trainer.plots import plot_accuracy_against_latency
from distil_trainer.report import make_report, read_report, write_atomically, write_report
from distil_trainer.tables import (
    closing_table,
    format_parameters,
    format_size,
    markdown_table,
    measurement_lines,
)


def _with_test_split(parts):
    for row in parts["models"]:
        row["evaluation"]["test"] = scores(row["evaluation"]["validation"]["accuracy"] - 0.01, n=1821)
    return parts


def test_speedup_is_the_teachers_median_over_the_models():
    assert [row["speedup"] for row in example_report()["models"]] == pytest.approx([1, 12 / 6.1, 2, 2.4, 6])


def test_speedup_is_missing_where_a_latency_is():
    parts = example_parts()
    del parts["models"][1]["latency"]
    assert make_report(**parts)["models"][1]["speedup"] is None
    del parts["models"][0]["latency"]
    assert {row["speedup"] for row in make_report(**parts)["models"]} == {None}


def test_retention_and_gap_closed_follow_from_the_accuracies():
    gap = example_report()["gaps"]["validation"]
    assert gap == {"retention": pytest.approx(0.877 / 0.88), "gap_closed": pytest.approx(0.85), "noise": False}


def test_the_gap_closed_is_noise_where_student_and_control_are_not_distinguishable():
    for comparisons in ([], [comparison("control", "student", -0.017, 0.06)]):
        assert example_report(comparisons=comparisons)["gaps"]["validation"]["noise"] is True
    # the order of the two in the comparison does not matter
    distinguishable = [comparison("control", "student", -0.017, 0.01)]
    assert example_report(comparisons=distinguishable)["gaps"]["validation"]["noise"] is False


def test_there_is_no_gap_without_a_control():
    parts = example_parts(comparisons=[])
    del parts["models"][1]
    assert make_report(**parts)["gaps"] == {}


def test_a_report_survives_the_way_to_disk_and_back(tmp_path):
    report = example_report()
    path = write_report(report, tmp_path / "new folder")
    assert path.name == "report.json" and read_report(tmp_path / "new folder") == report
    assert os.listdir(path.parent) == ["report.json"]


def test_numpy_numbers_become_plain_numbers():
    report = example_report(training={"learning_rate": np.float32(0.5), "steps": np.int64(7)})
    assert report["training"] == {"learning_rate": 0.5, "steps": 7}


def test_a_report_does_not_share_its_parts_with_the_caller():
    parts = example_parts()
    make_report(**parts)["models"][0]["role"] = "changed"
    assert parts["models"][0]["role"] == "teacher"


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = write_atomically(tmp_path / "file", "old")

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr("distil_trainer.report.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_nan_is_refused(tmp_path):
    with pytest.raises(ValueError, match="NaN or an infinite number"):
        example_report(training={"loss": float("nan")})
    with pytest.raises(ValueError, match="NaN or an infinite number"):
        write_report({**example_report(), "name": float("inf")}, tmp_path)
    assert not os.listdir(tmp_path)


def test_what_json_cannot_carry_is_refused(tmp_path):
    with pytest.raises(TypeError, match="JSON carries strings"):
        example_report(training={"output_dir": tmp_path})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": {}}, r"part teacher=.* lacks \['name'\]"),
        ({"student": {"hub_id": "x/y"}}, r"part student=.* lacks \['base'\]"),
        ({"models": [{"name": "no role"}]}, r"part models\[0\]=.* lacks \['role'\]"),
        ({"comparisons": [{"a": "student"}]}, r"part comparisons=.* lacks \['b', 'split'"),
    ],
)
def test_a_missing_required_key_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        example_report(**change)


def test_a_doubled_role_is_refused():
    parts = example_parts()
    parts["models"].append(parts["models"][2])
    with pytest.raises(ValueError, match="some role stands twice"):
        make_report(**parts)


@pytest.mark.parametrize("change", [{"a": "pruned"}, {"split": "test"}])
def test_a_comparison_of_something_not_in_the_table_is_refused(change):
    with pytest.raises(ValueError, match="must be of two models in the table, on a split both were scored on"):
        example_report(comparisons=[{**comparison("student", "teacher", 0.1, 0.5), **change}])


def test_closing_table_is_this_text():
    lines = closing_table(example_report()).splitlines()
    assert lines[:9] == [
        "                                accuracy %  macro-F1 %  latency ms  latency ms",
        "model      parameters     size  validation  validation      median         p95  × faster",
        "────────────────────────────────────────────────────────────────────────────────────────",
        "teacher         22.7M  90.9 MB  88.0 ± 2.0        87.9       12.00       24.00       1.0",
        "control         17.4M  69.6 MB  86.0 ± 2.0        85.9        6.10       12.20       2.0",
        "student         17.4M  69.6 MB  87.7 ± 2.0        87.6        6.00       12.00       2.0",
        "onnx fp32       17.4M  69.7 MB  87.7 ± 2.0        87.6        5.00       10.00       2.4",
        "onnx int8       17.4M  17.6 MB  87.5 ± 2.0        87.4        2.00        4.00       6.0",
        "────────────────────────────────────────────────────────────────────────────────────────",
    ]
    assert lines[9:] == [
        "Validation: 872 rows. ± is half the width of the 95 % interval (Wilson).",
        "Latency: one text at a time, 200 texts of real length (25 tokens on average), 1 thread,",
        "  Example CPU 1000; tokenization, at most 0.21 ms, comes on top. × faster: medians,",
        "  against the teacher, run by PyTorch.",
        "student against teacher (validation, n = 872): −0.3 points, p = 0.62: not",
        "  distinguishable; same answer on 95.1 % of the rows.",
        "student against control (validation, n = 872): +1.7 points, p = 0.04: distinguishable;",
        "  same answer on 95.1 % of the rows.",
        "On validation, student keeps 99.7 % of the accuracy of teacher and closes 85 % of the",
        "  gap between control and teacher.",
    ]


def test_markdown_table_has_the_cells_of_the_closing_table():
    lines = markdown_table(example_report()).splitlines()
    assert lines[0].startswith("| model | parameters | size | accuracy %, validation |")
    assert lines[1] == "| :-- | --: | --: | --: | --: | --: | --: | --: |"
    assert lines[6] == "| onnx int8 | 17.4M | 17.6 MB | 87.5 ± 2.0 | 87.4 | 2.00 | 4.00 | 6.0 |"
    assert {line.count("|") for line in lines} == {9}


def test_a_price_adds_a_column_of_what_100_million_texts_cost():
    parts = example_parts()
    parts["run"]["price_per_core_hour"] = 0.04
    parts["models"][3]["latency"] = None
    report = make_report(**parts)
    lines = closing_table(report).splitlines()
    assert lines[0].endswith("$ for 100") and lines[1].endswith("million texts")
    # (1.1 * 12 + 0.21) ms * 1e8 texts are 372.5 core hours; this one takes 0.21 ms of tokenization too.
    assert lines[3].endswith(" 14.90") and lines[6].endswith(" –")
    assert "$: at 0.04 for a core for an hour" in " ".join(closing_table(report).split())
    assert markdown_table(report).splitlines()[0].endswith("| $ for 100, million texts |")


def test_both_splits_get_an_accuracy_column_and_the_test_split_the_macro_f1():
    report = make_report(**_with_test_split(example_parts()))
    header, _, teacher = markdown_table(report).splitlines()[:3]
    assert "| accuracy %, validation | accuracy %, test | macro-F1 %, test |" in header
    assert "| 88.0 ± 2.0 | 87.0 ± 2.0 | 86.9 |" in teacher
    assert measurement_lines(report)[0].startswith("Validation: 872 rows, test: 1821 rows.")


def test_missing_values_print_as_a_dash():
    report = minimal_report()
    assert markdown_table(report).splitlines()[2] == "| student | – | – | – | – | – |"
    assert measurement_lines(report) == comparison_lines(report) == []
    assert closing_table(report).splitlines()[3].split() == ["student", *"–––––"]


def test_a_name_is_shown_in_place_of_the_role():
    parts = example_parts()
    parts["models"][2]["name"] = "student (3 layers)"
    table = closing_table(make_report(**parts))
    assert "\nstudent (3 layers)  " in table and "student (3 layers) against teacher" in table


def test_figures_taken_under_different_conditions_say_so():
    parts = example_parts()
    parts["models"][4]["latency"].update(threads=4, cpu="Other CPU")
    assert "1 / 4 threads, Example CPU 1000 / Other CPU;" in measurement_lines(make_report(**parts))[1]


def test_a_gap_that_is_noise_or_none_is_said_so():
    noise = comparison_lines(example_report(comparisons=[]))[-1]
    assert noise.endswith("closes 85 % of the gap between control and teacher, a share that is noise: student and "
                          "control are not shown to differ.")  # fmt: skip
    parts = example_parts()
    parts["models"][1]["evaluation"]["validation"] = scores(0.9)
    assert comparison_lines(make_report(**parts))[-1] == (
        "On validation, student keeps 99.7 % of the accuracy of teacher and has no gap to close: control is not below "
        "teacher."
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "–"), (999, "999"), (391_000, "391k"), (1_234_567, "1.23M"), (22_713_986, "22.7M"), (1.3e9, "1.30B")],
)
def test_parameters_are_written_to_three_digits(count, text):
    assert format_parameters(count) == text


@pytest.mark.parametrize(
    ("size", "text"), [(None, "–"), (12, "12 B"), (99_960, "100 kB"), (17_600_000, "17.6 MB"), (2.5e9, "2.50 GB")]
)
def test_sizes_are_written_to_three_digits(size, text):
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("difference", "text"), [(0.0123, "+1.2"), (-0.003, "−0.3"), (0.0, "0.0"), (-0.0004, "0.0"), (0.0004, "0.0")]
)
def test_differences_carry_their_sign_unless_they_round_to_zero(difference, text):
    assert HEADLINES["accuracy"].format_change(difference) == text


def test_the_plot_is_a_png_written_whole(tmp_path):
    path = plot_accuracy_against_latency(example_report(), tmp_path / "plot.png")
    assert path.read_bytes().startswith(b"\x89PNG") and os.listdir(tmp_path) == ["plot.png"]


@pytest.mark.parametrize("latencies", [[12.0, 6.1, 6.0, 5.0, 2.0], [6.4, 6.35, 6.3, 6.0, 5.8]])
def test_labels_of_the_plot_cover_neither_points_nor_each_other(latencies, tmp_path, monkeypatch):
    parts = example_parts(comparisons=[])
    for row, p50_ms in zip(parts["models"], latencies, strict=True):
        row["evaluation"]["validation"] = scores(0.88)
        row["latency"] = timing(p50_ms)
    overlaps = []
    monkeypatch.setattr("distil_trainer.plots._overlap", _recording_overlap(overlaps))
    plot_accuracy_against_latency(make_report(**parts), tmp_path / "plot.png")
    assert len(overlaps) == 5 and max(overlaps) == 0


def test_more_models_than_colours_stand_in_a_legend_each_with_a_style_of_its_own(tmp_path, monkeypatch):
    parts = example_parts(comparisons=[])
    row = parts["models"][0]
    parts["models"] = [
        {
            **row,
            "role": f"rung {index}",
            "evaluation": {"validation": scores(0.88)},
            "latency": timing(6.0 + index / 100),
        }
        for index in range(10)
    ]
    figures = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: figures.append(figure))
    plot_accuracy_against_latency(make_report(**parts), tmp_path / "plot.png")
    [legend] = figures[0].legends
    lines = [container.lines[0] for container in figures[0].axes[0].containers]
    assert [text.get_text().split(":")[0] for text in legend.get_texts()] == [f"rung {index}" for index in range(10)]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 10 and not figures[0].axes[0].texts


def _recording_overlap(overlaps):
    """Wrap `_overlap` so that the smallest overlap of each label, the one chosen, is remembered."""
    from distil_trainer.plots import _overlap

    best = {}

    def overlap(box, taken, frame):
        value = _overlap(box, taken, frame)
        best[len(taken)] = min(value, best.get(len(taken), value))  # each label placed adds one box
        overlaps[:] = best.values()
        return value

    return overlap


def test_the_plot_shows_the_test_split_where_there_is_one(tmp_path, monkeypatch):
    labels = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_ylabel", lambda axes, label: labels.append(label))
    plot_accuracy_against_latency(example_report(), tmp_path / "plot.png")
    plot_accuracy_against_latency(make_report(**_with_test_split(example_parts())), tmp_path / "plot.png")
    assert [label.split("(")[0] for label in labels] == ["accuracy on validation, % ", "accuracy on test, % "]
    assert "n = 1,821" in labels[1]


def test_a_plot_without_points_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no point to draw"):
        plot_accuracy_against_latency(minimal_report(), tmp_path / "plot.png")


def test_a_missing_matplotlib_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install \"distil_trainer\[recipes\]\""):
        plot_accuracy_against_latency(example_report(), tmp_path / "plot.png")


def test_report_json_is_readable_text(tmp_path):
    text = write_report(example_report(), tmp_path).read_text(encoding="utf-8")
    assert text.endswith("}\n") and json.loads(text)["format_version"] == 1 and '\n  "name": "minilm-3-layers"' in text
