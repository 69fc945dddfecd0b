"""The `evaluate` metrics and what the Trainer is given."""

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score
from transformers import EvalPrediction, Trainer, TrainingArguments

from distil_trainer import predict_logits, torch_runner
from distil_trainer.evaluate_metrics import (
    Accuracy,
    AveragePrecision,
    MacroF1,
    MatthewsCorrelation,
    MeanSquaredError,
    MicroF1,
    PairF1,
    PearsonCorrelation,
    SpearmanCorrelation,
)
from distil_trainer.metrics import compute_metrics, confusion_matrix, metrics_for

pytestmark = pytest.mark.filterwarnings("error")


def _predicted(logits, labels):
    return EvalPrediction(predictions=np.array(logits), label_ids=np.array(labels))


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


def test_f1_of_pairs_is_that_of_label_one():
    # label 1: TP 1, FP 1, FN 0
    assert PairF1().compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0])["f1"] == pytest.approx(2 / 3)
    assert PairF1().compute(predictions=[0, 0], references=[0, 0]) == {"f1": 0.0}


def test_matthews_correlation_is_the_hand_worked_one_and_0_where_one_side_is_constant():
    # TP 1, TN 2, FP 1, FN 0: (1·2 - 1·0) / √(2·1·3·2)
    score = MatthewsCorrelation().compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0])["mcc"]
    assert score == pytest.approx(2 / math.sqrt(12))
    assert MatthewsCorrelation().compute(predictions=[0, 0], references=[0, 0]) == {"mcc": 0.0}
    assert MatthewsCorrelation().compute(predictions=[0, 1], references=[1, 1]) == {"mcc": 0.0}


def test_multi_label_f1_counts_all_cells_or_averages_labels_that_occur():
    predictions = [[1, 0, 0], [1, 1, 0]]
    references = [[1, 0, 0], [0, 1, 0]]
    # cells: TP 2, FP 1, FN 0. Label 0: 2/3, label 1: 1, label 2 occurs nowhere.
    assert MicroF1().compute(predictions=predictions, references=references)["micro_f1"] == pytest.approx(0.8)
    macro = MacroF1().compute(predictions=predictions, references=references)["macro_f1"]
    assert macro == pytest.approx((2 / 3 + 1) / 2)
    nothing = {"predictions": [[0, 0]], "references": [[0, 0]]}
    assert MicroF1().compute(**nothing) == {"micro_f1": 0.0}
    assert MacroF1().compute(**nothing) == {"macro_f1": 0.0}


def test_average_precision_leaves_out_and_counts_labels_without_a_positive_row():
    # Label 0 is ranked 1st and 3rd of 3: (1/1 + 2/3) / 2. Label 1 has no positive row.
    predictions, references = [[3.0, 0.0], [2.0, 1.0], [1.0, 2.0]], [[1, 0], [0, 0], [1, 0]]
    result = AveragePrecision().compute(predictions=predictions, references=references)
    assert result == {"average_precision": pytest.approx((1 + 2 / 3) / 2), "average_precision_labels": 1}
    nothing = AveragePrecision().compute(predictions=predictions, references=[[0, 0]] * 3)
    assert nothing == {"average_precision": 0.0, "average_precision_labels": 0}


def test_correlations_and_squared_error_are_the_hand_worked_ones():
    values = {"predictions": [1.0, 2.0, 9.0], "references": [1.0, 3.0, 2.0]}
    # deviations (-3, -2, 5) and (-1, 1, 0): 1 / √(38·2). Ranks 1, 2, 3 and 1, 3, 2: 1 - 6·2/24.
    assert PearsonCorrelation().compute(**values)["pearson"] == pytest.approx(1 / math.sqrt(76))
    assert SpearmanCorrelation().compute(**values)["spearman"] == pytest.approx(0.5)
    assert MeanSquaredError().compute(**values)["mse"] == pytest.approx((0 + 1 + 49) / 3)


@pytest.mark.parametrize("metric", [PearsonCorrelation, SpearmanCorrelation])
@pytest.mark.parametrize(
    "predictions", [[2.0, 2.0, 2.0], [1.0, 1.0 + 1e-15, 1.0], [2.0]], ids=["constant", "nearly_constant", "one_row"]
)
def test_a_correlation_is_never_nan_and_warns_of_nothing(metric, predictions):
    (value,) = metric().compute(predictions=predictions, references=[1.0, 2.0, 4.0][: len(predictions)]).values()
    assert math.isfinite(value)
    if len(set(predictions)) == 1:
        assert value == 0.0


def test_perplexity_is_exp_of_the_mean_cross_entropy_of_the_labelled_rows():
    # The gold labels' probabilities are 0.5 and 0.8; the third row is unlabelled.
    logits = [[0.0, 0.0], [0.0, math.log(4)], [9.0, 0.0]]
    scores = metrics_for("single_label_classification", 2)(_predicted(logits, [0, 1, -100]))
    assert scores["perplexity"] == pytest.approx(1 / math.sqrt(0.5 * 0.8))
    assert set(scores) == {"accuracy", "macro_f1", "perplexity"}
    assert compute_metrics(_predicted([[1e4, 0.0]], [1]))["perplexity"] == math.inf


def test_pairs_with_two_labels_are_scored_by_f1_and_matthews_correlation_too():
    rows = _predicted([[2.0, 1.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]], [0, 1, 0, 0])
    scores = metrics_for("single_label_classification", 2, pairs=True)(rows)
    assert list(scores) == ["accuracy", "macro_f1", "f1", "mcc", "perplexity"]
    assert scores["f1"] == pytest.approx(2 / 3) and scores["mcc"] == pytest.approx(2 / math.sqrt(12))
    assert metrics_for("single_label_classification", 3, pairs=True) is compute_metrics


def test_multi_label_metrics_predict_labels_of_positive_logits_and_leave_out_unlabelled_rows():
    logits = [[1.0, -1.0], [2.0, 0.5], [5.0, -5.0]]
    scores = metrics_for("multi_label_classification", 2)(_predicted(logits, [[1, 0], [0, 1], [np.nan, np.nan]]))
    # Label 0 is gold for the row that has the smaller of its two logits, label 1 for the one with the larger.
    assert scores == {
        "micro_f1": pytest.approx(0.8),
        "macro_f1": pytest.approx((2 / 3 + 1) / 2),
        "average_precision": pytest.approx((1 / 2 + 1) / 2),
        "average_precision_labels": 2,
    }


def test_a_multi_label_task_with_one_label_is_scored_like_any_other():
    scores = metrics_for("multi_label_classification", 1)(_predicted([[1.0], [-1.0]], [[1.0], [0.0]]))
    assert scores["micro_f1"] == scores["macro_f1"] == scores["average_precision"] == 1.0


def test_regression_metrics_leave_out_unlabelled_rows_and_average_over_values():
    regression = metrics_for("regression", 1)
    one = regression(_predicted([[1.0], [2.0], [9.0], [0.0]], [1.0, 3.0, 2.0, np.nan]))
    assert one == {
        "pearson": pytest.approx(1 / math.sqrt(76)),
        "spearman": pytest.approx(0.5),
        "mse": pytest.approx(50 / 3),
    }
    two = regression(_predicted([[1.0, 1.0], [2.0, 2.0], [9.0, 3.0]], [[1.0, 2.0], [3.0, 3.0], [2.0, 4.0]]))
    assert two["pearson"] == pytest.approx((1 / math.sqrt(76) + 1) / 2)
    assert two["mse"] == pytest.approx((50 / 3 + 1) / 2)


def test_every_metric_is_one_number_that_a_trainer_can_log():
    tasks = {
        ("single_label_classification", 2): [0, 1],
        ("multi_label_classification", 2): [[0, 1], [1, 0]],
        ("regression", 2): [[0.5, 1.0], [1.0, 0.0]],
    }
    for (problem_type, num_labels), labels in tasks.items():
        scores = metrics_for(problem_type, num_labels, pairs=True)(_predicted([[1.0, 2.0], [2.0, 1.0]], labels))
        assert all(type(value) in (float, int) for value in scores.values())


def test_a_confusion_matrix_counts_predictions_under_each_gold_label():
    logits = [[2.0, 1.0, 0.0], [0.0, 3.0, 0.0], [5.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    counts = confusion_matrix(np.array(logits), np.array([0, 1, 1, -1]), ["a", "b", "c"])
    assert counts == {
        "a": {"a": 1, "b": 0, "c": 0},
        "b": {"a": 1, "b": 1, "c": 0},
        "c": {"a": 0, "b": 0, "c": 0},
    }


def test_a_confusion_matrix_needs_a_name_for_each_logit():
    with pytest.raises(ValueError, match="are 1, but there are 2 logits"):
        confusion_matrix(np.zeros((1, 2)), np.zeros(1, int), ["a"])


def test_an_unknown_kind_of_task_is_refused():
    with pytest.raises(ValueError, match="problem_type='ranking': metrics are known for"):
        metrics_for("ranking", 2)


def test_a_label_that_the_model_does_not_have_is_refused():
    with pytest.raises(ValueError, match="has the label 2, but there are 2 logits a row"):
        compute_metrics(_predicted([[0.0, 1.0]], [2]))


def test_multi_label_metrics_refuse_values_other_than_0_and_1():
    with pytest.raises(ValueError, match=r"row 1 of the labelled rows are \[1.0, 2.0\]"):
        metrics_for("multi_label_classification", 2)(_predicted([[0.0, 1.0]] * 2, [[0, 1], [1, 2]]))


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression"])
def test_labels_of_another_shape_than_the_logits_are_refused(problem_type):
    with pytest.raises(ValueError, match=r"labels have shape \(2, 1\), the logits \(2, 3\)"):
        metrics_for(problem_type, 3)(_predicted(np.zeros((2, 3)), [0.0, 1.0]))


def test_regression_refuses_rows_without_any_value():
    with pytest.raises(ValueError, match="None of the 2 evaluation rows is labelled"):
        metrics_for("regression", 1)(_predicted([[0.0], [1.0]], [np.nan, np.nan]))


@pytest.mark.parametrize("metric", [MicroF1, MacroF1])
def test_f1_of_one_label_alone_counts_the_rows_that_have_it(metric):
    (score,) = metric().compute(predictions=[[0]] * 4, references=[[0], [0], [0], [1]]).values()
    assert score == 0.0
    (score,) = metric().compute(predictions=[[1], [1], [0], [0]], references=[[1], [0], [0], [1]]).values()
    assert score == 0.5


def test_f1_of_pairs_is_of_the_label_that_is_named():
    rows = {"predictions": [0, 1, 1, 0], "references": [0, 1, 0, 0]}
    assert PairF1().compute(**rows, positive_label=0) == {"f1": pytest.approx(0.8)}
    prediction = EvalPrediction(np.array([[1.0, 0], [0, 1], [0, 1], [1, 0]]), np.array(rows["references"]))
    named = metrics_for("single_label_classification", 2, pairs=True, positive_label=0)(prediction)
    assert named["f1"] == pytest.approx(0.8)
