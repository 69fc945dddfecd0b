"""The gate: what ships holds its accuracy, and what does not is not shipped."""

import json
import logging

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from transformers import AutoTokenizer, pipeline

from distil_trainer.export import gate, ladder
from distil_trainer.export.gate import ship
from distil_trainer.export.judging import judge_file
from distil_trainer.export.onnx import onnx_runner
from distil_trainer.inference import predict_logits, torch_runner
from distil_trainer.loading import load_classifier

FORMS = ["fp32", "fp32 optimized", "int8 static", "int8 dynamic"]
RUNGS = [*FORMS, *ladder.FIXED_RUNGS]


@pytest.fixture
def scored(teacher, tokenizer):
    """A classifier with a clear answer to each of 24 texts, and a data set on which it is right on 18 of them."""
    generator = torch.Generator().manual_seed(7)
    words = sorted(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens))
    texts = []
    for length in torch.randint(3, 12, (600,), generator=generator):
        texts.append(" ".join(words[i] for i in torch.randint(0, len(words), (length,), generator=generator)))
    logits = predict_logits(torch_runner(teacher), tokenizer, texts)
    margins = logits[:, 1] - logits[:, 0]
    with torch.no_grad():
        teacher.classifier.bias[1] -= float(np.median(margins))
    order = np.argsort(margins)
    texts = [texts[row] for row in np.concatenate([order[:12], order[-12:]])]
    labels = [int(row >= 12) if row % 4 else int(row < 12) for row in range(24)]
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
    return teacher, Dataset.from_dict({"sentence": texts, "label": labels}, features=features)


def break_int8(monkeypatch, keep_working=()):
    """Make quantized files answer at random, but those of the rungs in `keep_working`."""
    real_quantize, real_runner, broken = ladder.quantize_dynamic, ladder.onnx_runner, []

    def quantize(folder, *, keep_float=(), float_nodes=()):
        broken[:] = [keep_float not in keep_working]
        return real_quantize(folder, keep_float=keep_float, float_nodes=float_nodes)

    def runner(path, threads):
        run = real_runner(path, threads)
        return (lambda inputs: -run(inputs)) if path.name == "model_quantized.onnx" and broken[0] else run

    monkeypatch.setattr(ladder, "quantize_dynamic", quantize)
    monkeypatch.setattr(ladder, "onnx_runner", runner)


def test_a_model_that_holds_its_accuracy_ships_as_int8_with_its_report(scored, tokenizer, tmp_path):
    model, reviews = scored
    report = ship(model, tokenizer, tmp_path / "onnx", reviews, max_length=64, max_accuracy_drop=0.1, threads=1)
    names = {path.name for path in (tmp_path / "onnx").iterdir()}
    assert {"model.onnx", "model_quantized.onnx", "config.json", "tokenizer.json", "report.json"} <= names
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]
    assert json.loads((tmp_path / "onnx" / "report.json").read_text()) == report
    assert report["chosen"] == "model_quantized.onnx"
    assert (report["num_rows"], report["pytorch_accuracy"]) == (24, 0.75)
    fp32, optimized, static, int8 = report["rungs"]
    assert (static["reason"], static["file"]) == ("not tried: it needs calibration_texts", None)
    assert optimized["passed"] and optimized["file"] is None and optimized["agreement_with_pytorch"] == 1.0
    assert (fp32["name"], fp32["file"], int8["name"], int8["file"]) == (
        "fp32",
        "model.onnx",
        "int8 dynamic",
        "model_quantized.onnx",
    )
    assert (fp32["accuracy"], fp32["accuracy_change"], fp32["agreement_with_pytorch"]) == (0.75, 0.0, 1.0)
    assert fp32["agreement_batch_1"] is None
    for rung in (fp32, int8):
        assert rung["passed"]
        assert rung["size_bytes"] == (tmp_path / "onnx" / rung["file"]).stat().st_size
    assert report["quantization"]["nodes"]["MatMulInteger"] > 0
    assert report["export"]["parity"]["max_abs_difference"] < 1e-3


def test_the_reported_accuracy_is_the_worse_of_batched_and_alone(scored, tokenizer, tmp_path):
    model, reviews = scored
    report = ship(model, tokenizer, tmp_path / "onnx", reviews, max_length=64, max_accuracy_drop=0.5)
    run = onnx_runner(tmp_path / "onnx" / "model_quantized.onnx")
    gold, pytorch = np.array(reviews["label"]), predict_logits(torch_runner(model), tokenizer, reviews["sentence"])
    batched, alone = (
        predict_logits(run, tokenizer, reviews["sentence"], **batching).argmax(1)
        for batching in ({}, {"tokens_per_batch": 1})
    )
    int8 = report["rungs"][-1]
    assert int8["accuracy"] == min(np.mean(batched == gold), np.mean(alone == gold))
    assert int8["agreement_with_pytorch"] == np.mean(batched == pytorch.argmax(1))
    assert int8["agreement_batch_1"] == np.mean(alone == pytorch.argmax(1))


def test_a_file_that_is_good_in_batches_only_does_not_pass():
    gold = np.array([0, 1, 0, 1])
    path = type("Path", (), {"name": "model_quantized.onnx", "stat": lambda self: type("S", (), {"st_size": 1})})()
    rung = judge_file(path, [gold, 1 - gold], gold, gold, "accuracy", 0.5)
    assert (rung["passed"], rung["accuracy"], rung["accuracy_change"]) == (False, 0.0, -1.0)
    assert (rung["agreement_with_pytorch"], rung["agreement_batch_1"]) == (1.0, 0.0)
    assert "accuracy 1.0000 -> 0.0000, beyond the allowed drop of 0.5" in rung["reason"]


def test_a_drop_of_exactly_the_tolerance_passes():
    gold = np.zeros(1000, dtype=int)
    labels = gold.copy()
    labels[:5] = 1
    path = type("Path", (), {"name": "model.onnx", "stat": lambda self: type("S", (), {"st_size": 1})})()
    assert judge_file(path, [labels], gold, gold, "accuracy", 0.005)["passed"]
    labels[5] = 1
    assert not judge_file(path, [labels], gold, gold, "accuracy", 0.005)["passed"]


def test_the_next_rung_is_tried_when_one_loses_accuracy(scored, tokenizer, tmp_path, monkeypatch):
    model, reviews = scored
    break_int8(monkeypatch, keep_working=[("down_projections",)])
    report = ship(model, tokenizer, tmp_path / "onnx", reviews, max_length=64, max_accuracy_drop=0.1)
    assert [(rung["name"], rung["passed"], rung["file"]) for rung in report["rungs"]] == [
        ("fp32", True, "model.onnx"),
        ("fp32 optimized", True, None),
        ("int8 static", False, None),
        ("int8 dynamic", False, None),
        ("int8 dynamic, float down-projections", True, "model_quantized.onnx"),
    ]
    assert report["quantization"]["keep_float"] == ["down_projections"]


def test_where_no_rung_passes_only_the_float_model_is_left_with_a_warning(
    scored, tokenizer, tmp_path, monkeypatch, caplog
):
    model, reviews = scored
    break_int8(monkeypatch)
    with caplog.at_level(logging.WARNING, logger="distil_trainer"):
        report = ship(model, tokenizer, tmp_path / "onnx", reviews, max_length=64)
    assert report["chosen"] == "model_optimized.onnx"
    assert report["quantization"] is None
    assert [rung["name"] for rung in report["rungs"]] == RUNGS
    assert [rung["passed"] for rung in report["rungs"]] == [True, True, False, False, False, False]
    assert not (tmp_path / "onnx" / "model_quantized.onnx").exists()
    assert "int8 dynamic: accuracy 0.7500 -> 0.2500, beyond the allowed drop of 0.005" in caplog.text


def test_a_rung_that_cannot_be_made_is_reported_with_its_reason(scored, tokenizer, tmp_path, monkeypatch):
    model, reviews = scored

    def refuse(folder):
        raise RuntimeError("Quantization left no integer nodes")

    monkeypatch.setattr(ladder, "quantize_dynamic", refuse)
    monkeypatch.setattr(ladder, "optimize_onnx", refuse)
    report = ship(model, tokenizer, tmp_path / "onnx", reviews, max_length=64)
    assert report["chosen"] == "model.onnx"
    assert [rung["name"] for rung in report["rungs"]] == FORMS
    assert [report["rungs"][rung]["reason"] for rung in (1, 3)] == ["Quantization left no integer nodes"] * 2
    assert all(rung.keys() == report["rungs"][0].keys() for rung in report["rungs"])


def test_a_float_model_that_loses_accuracy_is_refused_and_nothing_is_written(scored, tokenizer, tmp_path, monkeypatch):
    model, reviews = scored
    real_runner = ladder.onnx_runner
    monkeypatch.setattr(ladder, "onnx_runner", lambda *given: lambda inputs: -real_runner(*given)(inputs))
    with pytest.raises(
        RuntimeError, match="float ONNX does not hold the model's accuracy on 24 rows.*0.7500 -> 0.2500"
    ):
        ship(model, tokenizer, tmp_path / "onnx", reviews, max_length=64)
    assert list(tmp_path.iterdir()) == []


def test_a_second_call_replaces_the_folder_and_a_failed_one_leaves_it(scored, tokenizer, tmp_path, monkeypatch):
    model, reviews = scored
    ship(model, tokenizer, tmp_path / "onnx", reviews, max_length=64, max_accuracy_drop=0.1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "onnx").iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(ladder, "quantize_dynamic", lambda *given, **named: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ship(model, tokenizer, tmp_path / "onnx", reviews, max_length=64)
    assert {path.name: path.read_bytes() for path in (tmp_path / "onnx").iterdir()} == before
    break_int8(monkeypatch)
    ship(model, tokenizer, tmp_path / "onnx", reviews, max_length=64)
    assert not (tmp_path / "onnx" / "model_quantized.onnx").exists()


def test_labels_in_another_order_are_matched_by_name(scored, tokenizer, tmp_path, monkeypatch):
    model, reviews = scored
    monkeypatch.setattr(ladder.Ladder, "climb", lambda *given: None)
    swapped = [1 - label for label in reviews["label"]]
    reviews = reviews.remove_columns("label").add_column("label", swapped)
    reviews = reviews.cast_column("label", ClassLabel(names=["Positive", "Negative"]))
    assert ship(model, tokenizer, tmp_path / "onnx", reviews, max_length=64)["pytorch_accuracy"] == 0.75


def test_integer_labels_are_the_models_label_numbers_and_pairs_are_read(scored, tokenizer, tmp_path, monkeypatch):
    model, reviews = scored
    monkeypatch.setattr(ladder.Ladder, "climb", lambda *given: None)
    reviews = reviews.cast_column("label", Value("int64")).rename_column("sentence", "first")
    reviews = reviews.add_column("second", list(reversed(reviews["first"])))
    labels = predict_logits(torch_runner(model), tokenizer, reviews["first"], reviews["second"]).argmax(1)
    reviews = reviews.remove_columns("label").add_column("gold", labels.tolist())
    reviews = reviews.with_format("numpy")
    columns = dict(text_column="first", text_pair_column="second", label_column="gold")
    assert ship(model, tokenizer, tmp_path / "onnx", reviews, max_length=64, **columns)["pytorch_accuracy"] == 1.0


def with_labels(reviews, labels):
    return reviews.remove_columns("label").add_column("label", labels)


@pytest.mark.parametrize(
    "change, options, error, message",
    [
        (lambda r: r, {"text_column": "text"}, ValueError, r"text_column='text' is not in eval_dataset.*\['sentence'"),
        (lambda r: r, {"text_pair_column": "other"}, ValueError, "text_column='other' is not in eval_dataset"),
        (lambda r: r.remove_columns("label"), {}, ValueError, "label_column='label' is not in eval_dataset"),
        (lambda r: r.select([]), {}, ValueError, "eval_dataset has no rows"),
        (lambda r: with_labels(r, [-1] * 48), {}, ValueError, "Row 0 of eval_dataset has label=-1"),
        (lambda r: with_labels(r, [0] * 47 + [2]), {}, ValueError, "Row 47 of eval_dataset has label=2"),
        (lambda r: with_labels(r, [1] * 48), {}, ValueError, "All 48 rows of eval_dataset have label=1"),
        (lambda r: with_labels(r, ["good"] * 48), {}, ValueError, "class_encode_column"),
        (
            lambda r: r.cast_column("label", ClassLabel(names=["sports", "politics"])),
            {},
            ValueError,
            "The orders cannot be matched by name",
        ),
        (
            lambda r: Dataset.from_dict({"sentence": ["good", None], "label": [0, 1]}),
            {},
            TypeError,
            "Row 1 of eval_dataset has sentence=None",
        ),
        (lambda r: r, {"max_accuracy_drop": 0.5 * 100}, ValueError, "max_accuracy_drop=50.0 must be at least 0"),
        (lambda r: r, {"target_latency_ms": 0}, ValueError, "target_latency_ms=0 must be above 0"),
        (lambda r: r, {"max_size_mb": float("nan")}, ValueError, "max_size_mb=nan must be above 0"),
    ],
)
def test_unfit_evaluation_data_is_refused_before_any_work(
    teacher, tokenizer, reviews, tmp_path, change, options, error, message
):
    with pytest.raises(error, match=message):
        ship(teacher, tokenizer, tmp_path / "onnx", change(reviews), max_length=64, **options)
    assert list(tmp_path.glob("onnx")) == []


def test_a_folder_with_other_files_is_refused_before_any_work(teacher, tokenizer, reviews, tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_text("weights")
    monkeypatch.setattr(gate, "predict_logits", lambda *given, **named: 1 / 0)
    with pytest.raises(FileExistsError, match="not of an export"):
        ship(teacher, tokenizer, tmp_path, reviews, max_length=64)


def test_a_model_with_infinite_logits_is_refused(teacher, tokenizer, reviews, tmp_path):
    with torch.no_grad():
        teacher.classifier.bias[0] = float("inf")
    with pytest.raises(ValueError, match="logits that are not finite on 48 of 48 rows"):
        ship(teacher, tokenizer, tmp_path / "onnx", reviews, max_length=64)


def test_a_model_for_several_labels_at_once_is_refused(teacher, tokenizer, reviews, tmp_path):
    teacher.config.problem_type = "multi_label_classification"
    with pytest.raises(ValueError, match="the gate judges single-label classifiers and regressions of one score"):
        ship(teacher, tokenizer, tmp_path / "onnx", reviews, max_length=64)


@pytest.mark.onnx
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_int8_model_loads_with_optimum_and_answers_in_a_pipeline_as_pytorch_does(scored, tokenizer, tmp_path):
    optimum = pytest.importorskip("optimum.onnxruntime", exc_type=ImportError)
    pytest.importorskip("optimum.exporters.onnx.convert", exc_type=ImportError)
    model, reviews = scored
    report = ship(model, tokenizer, tmp_path / "onnx", reviews, max_length=64, max_accuracy_drop=0.1)
    served = optimum.ORTModelForSequenceClassification.from_pretrained(tmp_path / "onnx", file_name=report["chosen"])
    served_tokenizer = AutoTokenizer.from_pretrained(tmp_path / "onnx")
    assert served.path.name == "model_quantized.onnx"
    texts = list(reviews["sentence"])
    expected = pipeline("text-classification", model=model, tokenizer=tokenizer)(texts)
    answers = pipeline("text-classification", model=served, tokenizer=served_tokenizer)(texts)
    same = [answer["label"] == given["label"] for answer, given in zip(answers, expected, strict=True)]
    assert {answer["label"] for answer in answers} == {"negative", "positive"}
    assert np.mean(same) == report["rungs"][-1]["agreement_batch_1"] >= 0.9


@pytest.mark.slow
@pytest.mark.onnx
def test_the_real_teacher_ships_as_int8_on_200_real_rows(minilm_folder, sst2_folder, tmp_path):
    optimum = pytest.importorskip("optimum.onnxruntime", exc_type=ImportError)
    pytest.importorskip("optimum.exporters.onnx.convert", exc_type=ImportError)
    model, tokenizer = load_classifier(minilm_folder)
    rows = Dataset.from_parquet(str(sst2_folder / "validation.parquet")).select(range(200))
    report = ship(model, tokenizer, tmp_path / "onnx", rows, max_accuracy_drop=0.02)
    assert report["chosen"] == "model_quantized.onnx"
    assert report["rungs"][-1]["agreement_with_pytorch"] >= 0.98
    assert report["rungs"][-1]["size_bytes"] < 0.4 * report["rungs"][0]["size_bytes"]
    served = optimum.ORTModelForSequenceClassification.from_pretrained(tmp_path / "onnx", file_name=report["chosen"])
    texts = list(rows["sentence"])
    labels = [
        [answer["label"] for answer in pipeline("text-classification", model=one, tokenizer=tokenizer)(texts)]
        for one in (model, served)
    ]
    assert np.mean(np.array(labels[0]) == np.array(labels[1])) == report["rungs"][-1]["agreement_batch_1"]
