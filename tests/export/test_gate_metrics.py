"""The gate by other metrics than accuracy: macro-F1, and the Pearson correlation of a regression."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset, Value
from scipy.stats import pearsonr
from sklearn.metrics import f1_score

from distil_trainer.export import ladder
from distil_trainer.export.gate import ship
from distil_trainer.export.judging import judge_file, not_made, value_of
from distil_trainer.export.onnx import onnx_runner
from distil_trainer.inference import predict_logits, torch_runner


@pytest.fixture
def scorer(teacher):
    """The tiny BERT with one output, wide enough for a regression to tell texts apart."""
    torch.manual_seed(3)
    teacher.classifier = torch.nn.Linear(teacher.config.hidden_size, 1)
    teacher.num_labels, teacher.config.num_labels = 1, 1
    with torch.no_grad():
        teacher.classifier.weight.mul_(20)
    return teacher


@pytest.fixture
def scored(scorer, tokenizer):
    """Texts to which the scorer gives its lowest and its highest scores, with gold scores near its own."""
    generator = np.random.default_rng(7)
    words = sorted(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens))
    texts = [" ".join(generator.choice(words, length)) for length in generator.integers(3, 12, 600)]
    scores = predict_logits(torch_runner(scorer), tokenizer, texts)[:, 0]
    order = np.argsort(scores)
    rows = np.concatenate([order[:12], order[-12:]])
    gold = scores[rows] + generator.normal(size=len(rows)) * scores[rows].std() / 2
    dataset = Dataset.from_dict({"sentence": [texts[row] for row in rows], "label": gold.tolist()})
    return dataset.cast_column("label", Value("float32"))


def test_a_regression_is_gated_by_its_correlation_with_the_gold_scores(scorer, tokenizer, scored, tmp_path):
    report = ship(scorer, tokenizer, tmp_path / "onnx", scored, max_length=64, max_accuracy_drop=0.3)
    assert json.loads((tmp_path / "onnx" / "report.json").read_text()) == report
    gold, texts = np.array(scored["label"]), scored["sentence"]
    pytorch = predict_logits(torch_runner(scorer), tokenizer, texts)[:, 0]
    assert report["metric"] == "pearson" and report["chosen"] == "model_quantized.onnx"
    assert report["pytorch_pearson"] == pytest.approx(pearsonr(pytorch, gold).statistic, abs=1e-6)
    run = onnx_runner(tmp_path / "onnx" / "model_quantized.onnx")
    batched, alone = (predict_logits(run, tokenizer, texts, **way)[:, 0] for way in ({}, {"tokens_per_batch": 1}))
    fp32, int8 = report["rungs"][0], report["rungs"][-1]
    assert int8["pearson"] == pytest.approx(min(pearsonr(each, gold).statistic for each in (batched, alone)), abs=1e-6)
    assert int8["pearson_change"] == int8["pearson"] - report["pytorch_pearson"]
    assert int8["difference_from_pytorch"] == pytest.approx(np.abs(batched - pytorch).max(), rel=1e-4)
    assert int8["difference_batch_1"] == pytest.approx(np.abs(alone - pytorch).max(), rel=1e-4)
    assert fp32["difference_from_pytorch"] < 1e-4 and fp32["difference_batch_1"] is None
    assert not [key for rung in report["rungs"] for key in rung if "accuracy" in key or "agreement" in key]


def test_int8_that_turns_the_scores_round_does_not_ship(scorer, tokenizer, scored, tmp_path, monkeypatch, caplog):
    real = ladder.onnx_runner

    def runner(path, threads):
        run = real(path, threads)
        return (lambda inputs: -run(inputs)) if path.name == "model_quantized.onnx" else run

    monkeypatch.setattr(ladder, "onnx_runner", runner)
    report = ship(scorer, tokenizer, tmp_path / "onnx", scored, max_length=64, max_accuracy_drop=0.1)
    assert report["chosen"] == "model_optimized.onnx"
    assert [rung["passed"] for rung in report["rungs"]] == [True, True, *[False] * 4]
    assert "No int8 form of the model holds its pearson" in caplog.text
    assert "beyond the allowed drop of 0.1" in report["rungs"][3]["reason"]


def test_a_float_file_passes_where_nothing_may_be_lost(scorer, tokenizer, scored, tmp_path, monkeypatch):
    monkeypatch.setattr(ladder.Ladder, "climb", lambda *given: None)
    report = ship(scorer, tokenizer, tmp_path / "onnx", scored, max_length=64, max_accuracy_drop=0.0)
    assert report["rungs"][0]["passed"]


def test_macro_f1_is_gated_where_it_is_asked_for(teacher, tokenizer, reviews, tmp_path, monkeypatch):
    monkeypatch.setattr(ladder.Ladder, "climb", lambda *given: None)
    report = ship(teacher, tokenizer, tmp_path / "onnx", reviews, max_length=64, metric="macro_f1")
    predicted = predict_logits(torch_runner(teacher), tokenizer, reviews["sentence"]).argmax(axis=1)
    assert report["metric"] == "macro_f1"
    assert report["pytorch_macro_f1"] == pytest.approx(f1_score(reviews["label"], predicted, average="macro"))
    [rung] = report["rungs"]
    assert (rung["macro_f1"], rung["macro_f1_change"]) == (report["pytorch_macro_f1"], 0.0)
    assert rung["agreement_with_pytorch"] == 1.0


def test_a_file_that_gives_up_the_rare_class_passes_by_accuracy_and_not_by_macro_f1(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"1234")
    gold = np.array([0] * 95 + [1] * 5)
    common = np.zeros_like(gold)
    assert judge_file(tmp_path / "model.onnx", [common], gold, gold, "accuracy", 0.05)["passed"]
    rung = judge_file(tmp_path / "model.onnx", [common], gold, gold, "macro_f1", 0.05)
    assert not rung["passed"] and rung["macro_f1"] == pytest.approx(95 / 97.5 / 2)
    assert rung["size_bytes"] == 4


def test_a_rung_without_a_file_has_the_keys_of_one_with(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"1")
    for metric, answers in (("pearson", np.array([0.5, 1.0])), ("macro_f1", np.array([0, 1]))):
        rung = judge_file(tmp_path / "model.onnx", [answers, answers], answers, answers, metric, 0.0)
        assert rung.keys() == not_made(metric, "no reason").keys() and rung["passed"]
        assert value_of(metric, answers, answers) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0.5, None] * 24, {}, "Row 1 of eval_dataset has label=None; every row needs a finite gold score"),
        ([0.5, float("nan")] * 24, {}, "Row 1 of eval_dataset has label=nan"),
        (["high"] * 48, {}, "Row 0 of eval_dataset has label='high'"),
        ([2.5] * 48, {}, "All 48 rows of eval_dataset have label=2.5: no correlation with them is defined"),
        ([0.5, 1.0] * 24, {"metric": "accuracy"}, "metric='accuracy' with problem_type='regression'.*Choose pearson"),
    ],
)
def test_gold_scores_that_define_no_correlation_are_refused_before_any_work(
    scorer, tokenizer, reviews, tmp_path, labels, options, message
):
    rows = Dataset.from_dict({"sentence": reviews["sentence"], "label": labels})
    with pytest.raises(ValueError, match=message):
        ship(scorer, tokenizer, tmp_path / "onnx", rows, max_length=64, **options)
    assert not (tmp_path / "onnx").exists()


def test_a_correlation_of_a_classifier_and_several_scores_a_row_are_refused(teacher, tokenizer, reviews, tmp_path):
    with pytest.raises(ValueError, match="metric='pearson' with problem_type='single_label_classification'"):
        ship(teacher, tokenizer, tmp_path / "onnx", reviews, max_length=64, metric="pearson")
    teacher.config.problem_type = "regression"
    with pytest.raises(ValueError, match="num_labels=2, problem_type='regression'; the gate judges"):
        ship(teacher, tokenizer, tmp_path / "onnx", reviews, max_length=64)
