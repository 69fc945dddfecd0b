"""The `evaluate` metrics and what the Trainer is given."""

import numpy as np
import pytest
from sklearn.metrics import f1_score
from transformers import EvalPrediction, Trainer, TrainingArguments

from distil_trainer import predict_logits, torch_runner
from distil_trainer.metrics import Accuracy, MacroF1, compute_metrics


def test_accuracy_is_the_share_of_right_predictions():
    assert Accuracy().compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0]) == {"accuracy": 0.75}


def test_macro_f1_averages_over_classes_with_equal_weights():
    # class 0: TP 2, FP 0, FN 1 -> 0.8; class 1: TP 1, FP 1, FN 0 -> 2/3
    score = MacroF1().compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0])["macro_f1"]
    assert score == pytest.approx((0.8 + 2 / 3) / 2)


def test_metrics_can_be_fed_in_batches_and_combined():
    import evaluate

    both = evaluate.combine([Accuracy(), MacroF1()])
    both.add_batch(predictions=[0, 1], references=[0, 1])
    both.add_batch(predictions=[1, 0], references=[0, 0])
    scores = both.compute()
    assert scores["accuracy"] == 0.75 and scores["macro_f1"] == pytest.approx(0.7333333333)


def test_metrics_leave_nothing_in_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path / "cache"))
    Accuracy().compute(predictions=[0], references=[0])
    assert not (tmp_path / "cache").exists()


def test_compute_metrics_leaves_out_unlabelled_rows():
    logits = np.array([[2.0, 1.0], [0.0, 3.0], [5.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    labels = np.array([0, 1, 1, -100, -1])
    scores = compute_metrics(EvalPrediction(predictions=logits, label_ids=labels))
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["macro_f1"] == pytest.approx(f1_score([0, 1, 1], [0, 1, 0], average="macro"))


def test_a_trainer_evaluates_with_compute_metrics(teacher, tokenizer, reviews, tmp_path):
    rows = reviews.map(lambda batch: tokenizer(batch["sentence"]), batched=True)
    trainer = Trainer(
        teacher,
        TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, disable_tqdm=True),
        eval_dataset=rows,
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    predictions = predict_logits(torch_runner(teacher), tokenizer, reviews["sentence"]).argmax(axis=1)
    scores = trainer.evaluate()
    assert scores["eval_accuracy"] == pytest.approx((predictions == np.array(reviews["label"])).mean())
    assert 0 < scores["eval_macro_f1"] < 1


def test_compute_metrics_reads_the_logits_from_a_tuple_of_outputs():
    outputs = (np.array([[0.0, 1.0], [1.0, 0.0]]), np.zeros((2, 3, 4)))
    assert compute_metrics(EvalPrediction(predictions=outputs, label_ids=np.array([1, 0])))["accuracy"] == 1.0


def test_compute_metrics_refuses_rows_without_any_label():
    with pytest.raises(ValueError, match="None of the 2 evaluation rows is labelled"):
        compute_metrics(EvalPrediction(predictions=np.zeros((2, 2)), label_ids=np.array([-1, -100])))


def test_compute_metrics_refuses_nan_logits():
    logits = np.array([[np.nan, 1.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match="1 of 2 evaluation rows hold NaN"):
        compute_metrics(EvalPrediction(predictions=logits, label_ids=np.array([1, 0])))
