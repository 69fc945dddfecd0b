"""A temperature in the file: logits divided in every form, labels as they were, confidence that means something."""

import json
import logging

import numpy as np
import onnx
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from student_zoo import make_student, toy_rows, train_student

from distil_trainer import Classifier, cascade_report, evaluate_calibration, fit_temperature
from distil_trainer.export import ladder
from distil_trainer.export import onnx as onnx_export
from distil_trainer.export.gate import ship
from distil_trainer.export.onnx import export_onnx, onnx_runner
from distil_trainer.export.optimization import optimize_onnx
from distil_trainer.export.quantization import quantize_dynamic
from distil_trainer.export.static_quantization import quantize_static
from distil_trainer.inference import predict_logits, torch_runner

TEXTS, _ = toy_rows(64, seed=3)
STUDENTS = ["bilstm", "densenet_cnn", "densenet_dsa", "embedding_bag", "glove_cnn", "transformer_cnn"]


def check_division(model, tokenizer, folder, temperature, texts=TEXTS):
    result = export_onnx(model, tokenizer, folder, max_length=64, temperature=temperature)
    assert result["temperature"] == temperature and result["parity"]["max_abs_difference"] < 1e-4
    expected = predict_logits(torch_runner(model), tokenizer, texts) / temperature
    actual = predict_logits(onnx_runner(result["path"]), tokenizer, texts)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    assert np.array_equal(actual.argmax(axis=1), expected.argmax(axis=1))
    return result


def test_the_logits_of_every_family_are_divided(any_family_model, tokenizer, tmp_path):
    check_division(any_family_model, tokenizer, tmp_path / "onnx", 2.5)


def test_the_logits_of_the_direct_road_are_divided(teacher, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "optimum_is_usable", lambda: False)
    assert check_division(teacher, tokenizer, tmp_path / "onnx", 0.4)["engine"] == "torch.onnx"


@pytest.mark.parametrize("architecture", STUDENTS)
def test_the_logits_of_every_student_are_divided(architecture, tokenizer, tmp_path):
    check_division(make_student(architecture), tokenizer, tmp_path / "onnx", 1.7)


def test_a_divided_graph_is_fused_and_quantized_as_another(teacher, tokenizer, tmp_path):
    nodes = {}
    for temperature in (None, 3.0):
        export_onnx(teacher, tokenizer, tmp_path / "bert", max_length=64, temperature=temperature)
        nodes[temperature] = optimize_onnx(tmp_path / "bert")["fused"], quantize_dynamic(tmp_path / "bert")["nodes"]
    assert nodes[None] == nodes[3.0]
    student = train_student("glove_cnn", tokenizer)
    check_division(student, tokenizer, tmp_path / "cnn", 3.0)
    result = quantize_static(tmp_path / "cnn", tokenizer, TEXTS, max_length=64)
    assert result["nodes"] == {"QLinearConv": 3, "QGemm": 2, "Gather": 1}
    expected = predict_logits(torch_runner(student), tokenizer, TEXTS) / 3
    assert np.abs(predict_logits(onnx_runner(result["path"]), tokenizer, TEXTS) - expected).mean() < 0.02


def test_a_large_temperature_does_not_hide_a_wrong_file(teacher, tokenizer, tmp_path, monkeypatch):
    real = onnx_export.onnx_runner
    monkeypatch.setattr(onnx_export, "onnx_runner", lambda path: lambda inputs: real(path)(inputs) + 1e-6)
    with pytest.raises(RuntimeError, match="The ONNX file is not the model: its logits differ .* by up to 0.001"):
        export_onnx(teacher, tokenizer, tmp_path / "onnx", max_length=64, temperature=1000.0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_number_that_is_no_temperature_is_refused(teacher, tokenizer, tmp_path, temperature):
    with pytest.raises(ValueError, match=f"temperature={temperature} must be finite and above 0"):
        export_onnx(teacher, tokenizer, tmp_path / "onnx", temperature=temperature)
    assert list(tmp_path.iterdir()) == []


def rows(number, seed, names=("negative", "positive")):
    """Toy reviews of which every seventh has the wrong label, so that certainty is punished."""
    texts, labels = toy_rows(number, seed)
    labels = [label if row % 7 else 1 - label for row, label in enumerate(labels)]
    numbers = [list(names).index(("negative", "positive")[label]) for label in labels]
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=list(names))})
    return Dataset.from_dict({"sentence": texts, "label": numbers}, features=features)


@pytest.fixture(scope="module")
def student(tokenizer):
    return train_student("embedding_bag", tokenizer)


def test_a_shipped_model_is_calibrated_on_rows_set_aside(student, tokenizer, tmp_path, caplog):
    evaluated, aside = rows(100, 4), rows(300, 5, ("positive", "negative"))
    options = dict(max_length=64, max_accuracy_drop=0.05, threads=1)
    with caplog.at_level(logging.WARNING, logger="distil_trainer"):
        report = ship(student, tokenizer, tmp_path / "onnx", evaluated, calibrate_on=aside, **options)
    assert json.loads((tmp_path / "onnx" / "report.json").read_text()) == report
    logits = predict_logits(torch_runner(student), tokenizer, evaluated["sentence"])
    logits_aside = predict_logits(torch_runner(student), tokenizer, aside["sentence"])
    facts = report["confidence"]
    assert facts["temperature"] == fit_temperature(logits_aside, 1 - np.array(aside["label"])) > 1.5
    assert (facts["rows"], facts["cascade"]) == (300, None)
    assert facts["before"] == evaluate_calibration(logits, evaluated["label"])
    assert facts["after"]["cross_entropy"] < 0.8 * facts["before"]["cross_entropy"]
    assert facts["after"]["calibration_error"] < facts["before"]["calibration_error"]
    assert report["chosen"] == "model_quantized.onnx"
    for name in report["sha256"]:
        served = Classifier.from_pretrained(tmp_path / "onnx", file_name=name).logits(evaluated["sentence"])
        np.testing.assert_allclose(served * facts["temperature"], logits, atol=0.1)
        assert np.mean(served.argmax(axis=1) == logits.argmax(axis=1)) >= 0.99
    assert all(rung["accuracy_change"] == 0 for rung in report["rungs"] if rung["size_bytes"])
    # Some toy texts are so short that they occur twice.
    shared = len([text for text in evaluated["sentence"] if text in set(aside["sentence"])])
    assert (f"{shared} of 100 rows of eval_dataset are in calibrate_on too" in caplog.text) == (shared > 0)


def test_with_the_teachers_logits_the_report_says_what_the_student_answers_alone(
    student, tokenizer, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(ladder.Ladder, "climb", lambda *given: None)
    aside = rows(200, 5)
    generator = np.random.default_rng(0)
    logits = predict_logits(torch_runner(student), tokenizer, aside["sentence"])
    teacher_logits = logits + 2 * np.abs(logits).mean() * generator.normal(size=logits.shape)
    swapped = aside.add_column("teacher_logits", teacher_logits[:, ::-1].tolist())
    swapped = swapped.add_column("teacher_label", teacher_logits[:, ::-1].argmax(axis=1))
    swapped = swapped.cast_column("teacher_label", ClassLabel(names=["positive", "negative"]))
    with caplog.at_level(logging.WARNING, logger="distil_trainer"):
        report = ship(student, tokenizer, tmp_path / "onnx", aside, calibrate_on=swapped, max_length=64)
    assert "200 of 200 rows of eval_dataset are in calibrate_on too" in caplog.text
    served = onnx_runner(tmp_path / "onnx" / report["chosen"])
    expected = cascade_report(predict_logits(served, tokenizer, aside["sentence"]), teacher_logits)
    for row, wanted in zip(report["confidence"]["cascade"], expected, strict=True):
        assert row == pytest.approx(wanted) and 0 < row["answered_alone"] < 1
    bare = swapped.remove_columns("teacher_label").map(lambda row: {"teacher_logits": row["teacher_logits"][::-1]})
    again = ship(student, tokenizer, tmp_path / "bare", aside, calibrate_on=bare, max_length=64)
    assert again["confidence"]["cascade"] == report["confidence"]["cascade"]
    wrong = swapped.cast_column("teacher_label", ClassLabel(names=["sports", "politics"]))
    with pytest.raises(ValueError, match="The orders cannot be matched by name"):
        ship(student, tokenizer, tmp_path / "other", aside, calibrate_on=wrong, max_length=64)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda r: r.remove_columns("label"), ValueError, "label_column='label' is not in calibrate_on, which has"),
        (lambda r: r.remove_columns("sentence"), ValueError, "text_column='sentence' is not in calibrate_on"),
        (lambda r: r.select([]), ValueError, "calibrate_on has no rows"),
        (lambda r: r.map(lambda row: {"label": 1}), ValueError, "All 20 rows of calibrate_on have label=1"),
        (lambda r: r.map(lambda row: {"label": None}), ValueError, "Row 0 of calibrate_on has label=None"),
        (lambda r: r.map(lambda row: {"sentence": None}), TypeError, "Row 0 of calibrate_on has sentence=None"),
        (lambda r: r.add_column("teacher_logits", [[0.1]] * 20), ValueError, "calibrate_on: row 0 has 1 teacher_log"),
    ],
)
def test_unfit_rows_are_refused_before_any_work(student, tokenizer, reviews, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        ship(student, tokenizer, tmp_path / "onnx", reviews, calibrate_on=change(rows(20, 5)), max_length=64)
    assert list(tmp_path.glob("onnx")) == []


def test_a_model_that_is_always_right_ships_without_a_temperature(student, tokenizer, reviews, tmp_path, caplog):
    texts, labels = toy_rows(30, seed=6)
    aside = Dataset.from_dict({"sentence": texts, "label": labels})
    report = ship(student, tokenizer, tmp_path / "onnx", reviews, calibrate_on=aside, max_length=64)
    assert "The model is right on all 30 rows of calibrate_on, so no temperature is the best" in caplog.text
    assert report["confidence"]["temperature"] == 1.0
    expected = predict_logits(torch_runner(student), tokenizer, texts, max_length=64)
    logits = predict_logits(onnx_runner(tmp_path / "onnx" / "model.onnx"), tokenizer, texts, max_length=64)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_a_model_no_better_than_chance_has_no_temperature_and_nothing_is_written(
    student, tokenizer, reviews, tmp_path
):
    texts, labels = toy_rows(30, seed=6)
    aside = Dataset.from_dict({"sentence": texts, "label": [1 - label for label in labels]})
    with pytest.raises(ValueError, match="even guesses would be likelier than the model's"):
        ship(student, tokenizer, tmp_path / "onnx", reviews, calibrate_on=aside, max_length=64)
    assert list(tmp_path.glob("*onnx*")) == []


def test_a_regression_has_no_temperature(teacher, tokenizer, reviews, tmp_path):
    teacher.classifier, teacher.config.num_labels = torch.nn.Linear(32, 1), 1
    scores = Dataset.from_dict({"sentence": reviews["sentence"], "label": [0.5, 1.5] * 24})
    with pytest.raises(ValueError, match="calibrate_on is given, but the model gives scores"):
        ship(teacher, tokenizer, tmp_path / "onnx", scores, calibrate_on=scores, max_length=64)
    with pytest.raises(ValueError, match="temperature=2.0, but the model gives scores"):
        export_onnx(teacher, tokenizer, tmp_path / "onnx", temperature=2.0)
    assert list(tmp_path.glob("onnx")) == []


def test_the_division_is_one_node_at_the_end(student, tokenizer, tmp_path):
    graphs = {}
    for temperature in (None, 2.0):
        path = export_onnx(student, tokenizer, tmp_path / "onnx", max_length=64, temperature=temperature)["path"]
        graphs[temperature] = onnx.load(path).graph
    assert [node.op_type for node in graphs[2.0].node] == [*(node.op_type for node in graphs[None].node), "Div"]
    assert graphs[2.0].output == graphs[None].output
