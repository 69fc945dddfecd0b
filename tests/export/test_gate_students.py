"""The gate with students that are no Transformers, and with calibration texts."""

import logging

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from steady_clock import MILLISECONDS
from student_zoo import make_student, toy_rows, train_student

from distil_trainer.export import gate, ladder
from distil_trainer.export.gate import ship
from distil_trainer.export.onnx import onnx_runner
from distil_trainer.inference import predict_logits

TEXTS, _ = toy_rows(64, seed=3)
_SENTENCES, _LABELS = toy_rows(100, seed=4)
REVIEWS = Dataset.from_dict(
    {"sentence": _SENTENCES, "label": _LABELS},
    features=Features({"sentence": Value("string"), "label": ClassLabel(names=["negative", "positive"])}),
)
FORMS = ["fp32", "fp32 optimized", "int8 static", "int8 dynamic"]


@pytest.fixture(scope="module")
def students(tokenizer):
    return {name: train_student(name, tokenizer) for name in ("bilstm", "embedding_bag", "glove_cnn")}


def test_a_convolutional_student_ships_as_static_int8(students, tokenizer, tmp_path):
    report = ship(
        students["glove_cnn"], tokenizer, tmp_path / "onnx", REVIEWS, max_length=64, calibration_texts=TEXTS, threads=1
    )
    assert report["chosen"] == "model_quantized.onnx"
    assert [(rung["name"], rung["passed"]) for rung in report["rungs"]] == [(name, True) for name in FORMS]
    static = report["rungs"][2]
    assert report["chosen_rung"] == "int8 static"
    assert static["size_bytes"] == (tmp_path / "onnx" / "model_quantized.onnx").stat().st_size
    assert static["agreement_with_pytorch"] == static["agreement_batch_1"] >= 0.99
    assert report["quantization"]["nodes"] == {"QLinearConv": 3, "QGemm": 2, "Gather": 1}
    assert report["quantization"]["calibration"]["rows"] == 64
    assert "path" not in report["quantization"]
    logits = predict_logits(onnx_runner(tmp_path / "onnx" / report["chosen"]), tokenizer, REVIEWS["sentence"])
    assert np.mean(logits.argmax(1) == REVIEWS["label"]) == static["accuracy"]


def test_without_calibration_texts_static_int8_is_reported_as_not_tried(students, tokenizer, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="distil_trainer"):
        report = ship(students["glove_cnn"], tokenizer, tmp_path / "onnx", REVIEWS, max_length=64)
    assert [rung["name"] for rung in report["rungs"]] == FORMS
    static, dynamic = report["rungs"][2:]
    assert (static["passed"], static["file"]) == (False, None)
    assert static["reason"] == "not tried: it needs calibration_texts"
    assert static.keys() == dynamic.keys()
    assert "was not tried: it needs calibration_texts" in caplog.text
    assert dynamic["passed"] and report["quantization"]["nodes"]["ConvInteger"] == 3


def test_where_static_int8_cannot_be_made_dynamic_int8_is_tried(students, tokenizer, tmp_path, monkeypatch):
    def refuse(*given, **named):
        raise RuntimeError("Static quantization left no integer nodes")

    monkeypatch.setattr(ladder, "quantize_static", refuse)
    report = ship(students["glove_cnn"], tokenizer, tmp_path / "onnx", REVIEWS, max_length=64, calibration_texts=TEXTS)
    assert [rung["name"] for rung in report["rungs"]] == FORMS
    assert report["rungs"][2]["reason"] == "Static quantization left no integer nodes"
    assert report["chosen_rung"] == "int8 dynamic"


def break_first_int8(monkeypatch, number):
    """Make this many quantized files answer the opposite, the first ones made."""
    real_runner, files = ladder.onnx_runner, []

    def runner(path, threads):
        run = real_runner(path, threads)
        if path.name != "model_quantized.onnx":
            return run
        files.append(path)
        return (lambda inputs: -run(inputs)) if len(files) <= number else run

    monkeypatch.setattr(ladder, "onnx_runner", runner)


@pytest.mark.parametrize("number", [1, 2])
def test_where_static_int8_of_convolutions_loses_accuracy_the_measured_nodes_stay_in_float(
    students, tokenizer, tmp_path, monkeypatch, number
):
    break_first_int8(monkeypatch, number)
    mixed = list(ladder.MIXED_STATIC_RUNGS)
    monkeypatch.setitem(MILLISECONDS, mixed[0], 1.5)
    report = ship(students["glove_cnn"], tokenizer, tmp_path / "onnx", REVIEWS, max_length=64, calibration_texts=TEXTS)
    int8 = {rung["name"]: rung["passed"] for rung in report["rungs"][2:]}
    if number == 1:  # the first of them is good, and dynamic int8, though good, is slower
        assert int8 == {"int8 static": False, mixed[0]: True, "int8 dynamic": True}
        assert report["chosen_rung"] == mixed[0]
        harmful = report["quantization"]["float_nodes"]
        assert 0 < len(harmful) < 6 and sum(report["quantization"]["nodes"].values()) == 6 - len(harmful)
    else:  # with 80 % of the harm in float this small graph has nothing left that is worth being called int8
        assert int8 == {"int8 static": False, mixed[0]: False, mixed[1]: False, "int8 dynamic": True}
        assert "Static quantization left {'Gather': 1}" in report["rungs"][4]["reason"]
        assert "calibration" not in report["quantization"]


def test_without_convolutions_static_int8_that_loses_accuracy_is_left_to_dynamic_int8(
    students, tokenizer, tmp_path, monkeypatch
):
    break_first_int8(monkeypatch, 1)
    options = dict(max_length=64, calibration_texts=TEXTS)
    report = ship(students["embedding_bag"], tokenizer, tmp_path / "onnx", REVIEWS, **options)
    assert [(rung["name"], rung["passed"]) for rung in report["rungs"][2:]] == [
        ("int8 static", False),
        ("int8 dynamic", True),
    ]


@pytest.mark.parametrize("name, node", [("bilstm", "DynamicQuantizeLSTM"), ("embedding_bag", "MatMulInteger")])
def test_a_student_without_convolutions_ships_as_dynamic_int8(students, tokenizer, tmp_path, name, node):
    report = ship(students[name], tokenizer, tmp_path / "onnx", REVIEWS, max_length=64)
    assert report["chosen_rung"] == "int8 dynamic"
    assert report["quantization"]["nodes"][node] >= 1
    assert report["rungs"][-1]["size_bytes"] < 0.4 * report["rungs"][0]["size_bytes"]


def test_pairs_are_calibrated_with_their_second_sentences(tokenizer, tmp_path):
    both = (np.array(_LABELS) & np.array(_LABELS[::-1])).tolist()
    pairs = REVIEWS.add_column("second", _SENTENCES[::-1]).remove_columns("label").add_column("label", both)
    report = ship(
        train_student("glove_cnn", tokenizer, pairs=True),
        tokenizer,
        tmp_path / "onnx",
        pairs,
        text_pair_column="second",
        max_length=64,
        calibration_texts=TEXTS,
        calibration_text_pairs=TEXTS[::-1],
    )
    assert report["chosen_rung"] == "int8 static" and report["pytorch_accuracy"] > 0.95


def test_unfit_calibration_texts_are_refused_before_any_work(students, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "predict_logits", lambda *given, **named: 1 / 0)
    with pytest.raises(ValueError, match="calibration_texts has 3 rows, of which 3 are to be read"):
        ship(students["glove_cnn"], tokenizer, tmp_path / "onnx", REVIEWS, calibration_texts=TEXTS[:3])
    pairs = REVIEWS.add_column("second", _SENTENCES)
    comparing = make_student("glove_cnn", pairs=True)
    for data, column, seconds, message in [
        (REVIEWS, None, TEXTS, "text_pair_column=None, but calibration_text_pairs is given"),
        (pairs, "second", None, "text_pair_column='second', but calibration_text_pairs is None"),
        (pairs, "second", TEXTS[:3], "calibration_texts has 64 rows, calibration_text_pairs has 3"),
    ]:
        options = dict(text_pair_column=column, calibration_texts=TEXTS, calibration_text_pairs=seconds)
        with pytest.raises(ValueError, match=message):
            student = students["glove_cnn"] if column is None else comparing
            ship(student, tokenizer, tmp_path / "onnx", data, **options)
    assert list(tmp_path.iterdir()) == []


def test_recurrences_are_not_calibrated(students, tokenizer, tmp_path):
    report = ship(students["bilstm"], tokenizer, tmp_path / "onnx", REVIEWS, max_length=64, calibration_texts=TEXTS)
    assert [rung["name"] for rung in report["rungs"]] == ["fp32", "fp32 optimized", "int8 dynamic"]
