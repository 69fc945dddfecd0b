"""The fastest form that passes every limit is chosen, the smaller one where two are as fast; or none."""

import json

import numpy as np
import pytest
from steady_clock import MILLISECONDS
from student_zoo import make_student

from distil_trainer.export import gate, ladder
from distil_trainer.export.choice import apply_limits, choose_rung, limits_table, median_difference_interval
from distil_trainer.export.gate import ship
from distil_trainer.export.ladder import Ladder
from distil_trainer.latency import latency_samples

LIMITS = dict(max_length=64, max_accuracy_drop=0.9, threads=1)


def rung(name, size_bytes):
    return {"name": name, "size_bytes": size_bytes}


def noisy(median_ms, seed, noise=0.2):
    return median_ms * np.exp(noise * np.random.default_rng(seed).normal(size=200))


def test_the_fastest_of_stubbed_latencies_is_chosen_in_any_order():
    rungs = [rung("a", 90), rung("b", 30), rung("c", 40), rung("d", 20)]
    times = {"a": noisy(6, 1), "b": noisy(3, 2), "c": noisy(2, 3), "d": noisy(5, 4)}
    for order in (rungs, rungs[::-1], rungs[2:] + rungs[:2]):
        assert choose_rung(order, times)["name"] == "c"
    low, high = rungs[1]["p50_difference_ms"]
    assert 0.5 < low < np.median(times["b"]) - np.median(times["c"]) < high < 1.5
    assert rungs[2]["p50_difference_ms"] == [0.0, 0.0]


def test_the_smaller_file_wins_a_tie_and_no_more_than_a_tie():
    rungs = [rung("fast", 40), rung("as fast", 30), rung("slower", 10)]
    times = {"fast": noisy(2.0, 1), "as fast": noisy(2.0, 2) + 0.02, "slower": noisy(2.0, 3) + 0.5}
    assert np.median(times["fast"]) < np.median(times["as fast"]) < np.median(times["slower"])
    assert choose_rung(rungs, times)["name"] == "as fast"
    assert rungs[1]["p50_difference_ms"][0] <= 0 < rungs[2]["p50_difference_ms"][0]
    rungs[1]["size_bytes"] = 40  # of the same size: the lower median
    assert choose_rung(rungs, times)["name"] == "fast"


def test_texts_of_different_length_do_not_blur_a_difference_that_every_text_shows():
    lengths = np.linspace(1, 20, 200)
    low, high = median_difference_interval(1.1 * lengths, lengths)
    assert 0 < low <= 1.05 <= high
    assert median_difference_interval(1.1 * lengths, lengths) == [low, high]  # the draws are seeded
    assert median_difference_interval(lengths, lengths) == [0.0, 0.0]


def test_each_limit_is_named_with_what_was_reached():
    judged = {"size_bytes": 23_100_000, "passed": True, "reason": "accuracy 0.9 -> 0.9"}
    latency = {"p50_ms": 2.5, "p95_ms": 4.0}
    apply_limits(judged, latency, 2.5, 23.1)
    assert judged["passed"] and (judged["p50_ms"], judged["p95_ms"]) == (2.5, 4.0)
    apply_limits(judged, latency, 2.0, 20)
    assert not judged["passed"]
    assert "p50 2.5 ms, beyond the target of 2.0 ms; 23.1 MB, beyond the largest size of 20 MB" in judged["reason"]
    apply_limits(judged, latency, None, None)
    assert not judged["passed"]  # what has failed once is not forgiven


def test_the_table_has_a_line_for_each_rung_with_what_is_known():
    made = {"name": "fp32", "size_bytes": 5e6, "p50_ms": 1.25, "accuracy": 0.75, "passed": True, "reason": ""}
    missing = dict.fromkeys(made) | {"name": "int8 static", "passed": False, "reason": "not tried"}
    head, first, second = limits_table([made, missing], "accuracy").split("\n")
    assert head.split() == ["rung", "MB", "p50", "ms", "accuracy", "verdict"]
    assert first.split() == ["fp32", "5", "1.25", "0.7500", "passes"]
    assert second.split() == ["int8", "static", "–", "–", "–", "not", "tried"]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"target_latency_ms": 0.0001}, "beyond the target of 0.0001 ms"),
        ({"max_size_mb": 0.01}, "beyond the largest size of 0.01 MB"),
    ],
)
def test_the_impossible_is_refused_with_the_table_and_nothing_is_written(
    teacher, tokenizer, reviews, tmp_path, monkeypatch, limits, words
):
    monkeypatch.setattr(gate, "latency_samples", latency_samples)
    if "max_size_mb" in limits:  # to be quick, one road through all rungs is enough
        monkeypatch.setattr(Ladder, "climb", lambda *given: None)
    with pytest.raises(RuntimeError, match="No form of the model passes") as refusal:
        ship(teacher, tokenizer, tmp_path / "onnx", reviews, **LIMITS, **limits)
    lines = str(refusal.value).split("\n")
    assert lines[2].startswith("fp32 ") and words in lines[2]
    if "target_latency_ms" in limits:
        assert [line[:14].strip() for line in lines[3:6]] == ["fp32 optimized", "int8 static", "int8 dynamic"]
        assert words in lines[3] and words in lines[5] and "not tried" in lines[4]
    assert list(tmp_path.iterdir()) == []


def test_a_limit_of_size_forbids_the_float_forms_and_the_fastest_of_the_rest_is_chosen(
    tokenizer, reviews, tmp_path, monkeypatch
):
    monkeypatch.setitem(MILLISECONDS, "int8 dynamic", 9.0)  # slower than float
    student = make_student("bilstm")
    report = ship(student, tokenizer, tmp_path / "free", reviews, **LIMITS)
    assert (report["chosen"], report["chosen_rung"]) == ("model_optimized.onnx", "fp32 optimized")
    files = {"model.onnx", "model_optimized.onnx", "model_quantized.onnx"}
    assert {path.name for path in (tmp_path / "free").glob("*.onnx")} == files == set(report["sha256"])
    assert [one["file"] for one in report["rungs"]] == [
        "model.onnx",
        "model_optimized.onnx",
        None,
        "model_quantized.onnx",
    ]
    assert report["rungs"][3]["passed"] and report["quantization"]["nodes"]["DynamicQuantizeLSTM"] > 0
    size_mb = report["rungs"][3]["size_bytes"] / 1e6
    report = ship(student, tokenizer, tmp_path / "small", reviews, max_size_mb=size_mb, **LIMITS)
    assert report["chosen"] == "model_quantized.onnx" and (report["max_size_mb"], report["threads"]) == (size_mb, 1)
    assert [(one["name"], one["passed"]) for one in report["rungs"]] == [
        ("fp32", False),
        ("fp32 optimized", False),
        ("fp16", False),
        ("int8 static", False),
        ("int8 dynamic", True),
    ]
    assert not (tmp_path / "small" / "model_optimized.onnx").exists()
    assert json.loads((tmp_path / "small" / "report.json").read_text()) == report


def test_a_fusion_that_changes_the_function_does_not_ship(teacher, tokenizer, reviews, tmp_path, monkeypatch):
    real = ladder.onnx_runner

    def runner(path, threads):
        run = real(path, threads)
        return (lambda inputs: run(inputs) + 0.01) if path.name == "model_optimized.onnx" else run

    monkeypatch.setattr(ladder, "onnx_runner", runner)
    monkeypatch.setattr(Ladder, "_attempt_int8", lambda *given: None)
    report = ship(teacher, tokenizer, tmp_path / "onnx", reviews, **LIMITS)
    assert report["chosen"] == "model.onnx" and report["rungs"][1]["agreement_with_pytorch"] == 1.0
    assert "its logits are not those of model.onnx: it is another function" in report["rungs"][1]["reason"]
    assert not (tmp_path / "onnx" / "model_optimized.onnx").exists()
