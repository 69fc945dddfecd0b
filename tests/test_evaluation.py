"""Scores, intervals and comparisons against hand-worked values."""

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from distil_trainer.evaluation import compare, compare_with_constant, evaluate_logits, gap_closed


def _logits_for(predictions, num_labels=2):
    return 4.0 * np.eye(num_labels)[np.asarray(predictions)]


def test_accuracy_interval_is_wilsons():
    scores = evaluate_logits(_logits_for([0] * 90 + [1] * 10), [0] * 100)
    z, p, n = 1.959963985, 0.9, 100
    center = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert scores["n"] == 100 and scores["accuracy"] == 0.9
    assert scores["accuracy_low"] == pytest.approx(center - half, abs=1e-9)
    assert scores["accuracy_high"] == pytest.approx(center + half, abs=1e-9)


def test_accuracy_interval_of_a_perfect_score_has_a_width():
    scores = evaluate_logits(_logits_for([0, 1] * 10), [0, 1] * 10)
    assert scores["accuracy_high"] == 1.0
    assert scores["accuracy_low"] == pytest.approx(20 / (20 + 1.959963985**2))


def test_macro_f1_is_scikit_learns_also_where_a_class_is_absent():
    labels, predictions = [0, 0, 1, 1, 2, 0], [0, 1, 1, 1, 0, 0]
    scores = evaluate_logits(_logits_for(predictions, num_labels=5), labels)
    assert scores["macro_f1"] == pytest.approx(f1_score(labels, predictions, average="macro"))


def test_macro_f1_interval_is_the_bootstrap_over_rows():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 300)
    predictions = np.where(generator.random(300) < 0.7, labels, generator.integers(0, 3, 300))
    scores = evaluate_logits(_logits_for(predictions, num_labels=3), labels, seed=1)
    rows = generator.integers(0, 300, (1000, 300))
    resampled = [f1_score(labels[row], predictions[row], average="macro") for row in rows]
    low, high = np.quantile(resampled, [0.025, 0.975])
    assert scores["macro_f1_low"] == pytest.approx(low, abs=0.008)
    assert scores["macro_f1_high"] == pytest.approx(high, abs=0.008)


def test_scores_depend_on_the_seed_alone():
    logits, labels = np.random.default_rng(0).normal(size=(50, 2)), [0, 1] * 25
    first, again, other = (evaluate_logits(logits, labels, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first["macro_f1_low"] != other["macro_f1_low"]


def test_cross_entropy_is_nats_per_row():
    scores = evaluate_logits([[0.0, 0.0], [0.0, math.log(3.0)]], [0, 1])
    assert scores["cross_entropy"] == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)


def test_cross_entropy_survives_large_logits():
    assert evaluate_logits([[5000.0, 0.0]], [1])["cross_entropy"] == pytest.approx(5000.0)


def test_mcnemar_counts_only_rows_on_which_one_model_is_right():
    labels = [0] * 20
    a = [0] * 10 + [0] * 8 + [1] * 1 + [1] * 1  # right on 18
    b = [0] * 10 + [1] * 8 + [0] * 1 + [1] * 1  # right on 11
    result = compare(_logits_for(a), _logits_for(b), labels)
    assert (result["only_a_right"], result["only_b_right"], result["n"]) == (8, 1, 20)
    assert result["accuracy_difference"] == pytest.approx(7 / 20)
    assert result["agreement"] == pytest.approx(11 / 20)
    assert result["p_value"] == pytest.approx(2 * (1 + 9) / 2**9)  # P(at most 1 of 9) on both sides
    assert result["distinguishable"] is True


def test_comparison_is_antisymmetric():
    generator = np.random.default_rng(2)
    a, b, labels = generator.normal(size=(40, 3)), generator.normal(size=(40, 3)), generator.integers(0, 3, 40)
    forth, back = compare(a, b, labels), compare(b, a, labels)
    assert forth["accuracy_difference"] == -back["accuracy_difference"]
    assert forth["p_value"] == pytest.approx(back["p_value"])
    assert forth["only_a_right"] == back["only_b_right"]


def test_a_model_is_not_distinguishable_from_itself():
    result = compare(_logits_for([0, 1, 1]), _logits_for([0, 1, 1]), [0, 0, 1])
    assert result["p_value"] == 1.0 and result["distinguishable"] is False and result["agreement"] == 1.0


def test_wrong_predictions_that_differ_are_disagreement_but_not_discordance():
    result = compare(_logits_for([1], 3), _logits_for([2], 3), [0])
    assert result["agreement"] == 0.0 and result["only_a_right"] == result["only_b_right"] == 0


def test_the_constant_answer_is_the_most_frequent_gold_label():
    labels = [0] * 20 + [2] * 60 + [1] * 20
    constant = evaluate_logits(_logits_for([2] * 100, num_labels=3), labels)
    found = compare_with_constant(_logits_for(labels, num_labels=3), labels)
    assert (found["label"], found["share"], found["only_answer"]) == (2, 0.6, None)
    assert found["share"] == constant["accuracy"] and found["macro_f1"] == pytest.approx(constant["macro_f1"])
    assert (found["accuracy_difference"], found["only_a_right"], found["only_b_right"]) == (0.4, 40, 0)
    assert found["p_value"] == pytest.approx(2 * 0.5**40) and found["is_better"] is True
    assert compare_with_constant(_logits_for([1, 0]), [1, 0])["label"] == 0  # the first of several


@pytest.mark.parametrize(("answer", "difference"), [(1, 0.0), (0, -0.2)])
@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_a_model_of_one_answer_is_not_better_than_the_constant_one(answer, difference, metric):
    found = compare_with_constant(_logits_for([answer] * 100), [0] * 40 + [1] * 60, metric)
    assert found["only_answer"] == answer and found["is_better"] is False
    if metric == "accuracy":
        assert found["accuracy_difference"] == pytest.approx(difference)
    else:
        assert (found["macro_f1_difference"] < 0) == (answer == 0)


@pytest.mark.parametrize(("right", "is_better"), [(5, False), (6, True)])
def test_better_than_the_constant_answer_is_what_the_exact_test_says(right, is_better):
    # The constant is wrong on 20 rows; the model is right on some of these, and everywhere else: p is 2 / 2 ** right.
    labels = [1] * 80 + [0] * 20
    found = compare_with_constant(_logits_for([1] * 80 + [0] * right + [1] * (20 - right)), labels)
    assert found["p_value"] == pytest.approx(2 / 2**right) and found["is_better"] is is_better


def test_a_model_below_the_constant_answer_is_not_better_however_distinguishable():
    found = compare_with_constant(_logits_for([0, 1] * 30), [1] * 60)
    assert found["distinguishable"] and found["is_better"] is False


def test_by_macro_f1_a_model_may_be_better_than_a_constant_of_the_same_accuracy():
    labels, predictions = [1] * 80 + [0] * 20, [1] * 65 + [0] * 15 + [0] * 15 + [1] * 5
    by_accuracy, by_f1 = (
        compare_with_constant(_logits_for(predictions), labels, metric) for metric in ("accuracy", "macro_f1")
    )
    assert by_accuracy["accuracy_difference"] == 0 and not by_accuracy["is_better"]
    assert by_f1["is_better"] and by_f1["difference_low"] > 0


def test_gap_closed_is_the_students_share_of_the_way_from_control_to_teacher():
    assert gap_closed(0.88, 0.86, 0.90) == pytest.approx(0.5)
    assert gap_closed(0.91, 0.86, 0.90) == pytest.approx(1.25)


@pytest.mark.parametrize("teacher", [0.86, 0.80])
def test_gap_closed_is_undefined_without_a_gap(teacher):
    assert gap_closed(0.88, 0.86, teacher) is None


def test_nan_logits_are_refused():
    with pytest.raises(ValueError, match="NaN or infinite values in 1 of 2 rows .the first is row 1."):
        evaluate_logits([[0.0, 1.0], [float("nan"), 0.0]], [1, 0])


@pytest.mark.parametrize("label", [-100, -1, None, 2])
def test_unlabelled_rows_and_labels_out_of_range_are_refused(label):
    with pytest.raises(ValueError, match="holds 1 of 2 values outside 0 ... 1"):
        evaluate_logits(_logits_for([0, 1]), [0, label])


@pytest.mark.parametrize(("logits", "labels"), [([[0.0, 1.0]] * 2, [0]), (np.zeros((0, 2)), []), ([0.0, 1.0], [0, 1])])
def test_shapes_that_do_not_fit_are_refused(logits, labels):
    with pytest.raises(ValueError, match="Needed: logits of shape"):
        evaluate_logits(logits, labels)


def test_models_with_different_numbers_of_labels_are_not_compared():
    with pytest.raises(ValueError, match="logits_a has 2 labels, logits_b has 3"):
        compare(_logits_for([0]), _logits_for([0], 3), [0])
