"""Figures, intervals and comparisons of scores against SciPy and closed forms."""

import math

import numpy as np
import pytest
from scipy import stats

from distil_trainer.bootstrap import paired_test, resampled_counts
from distil_trainer.evaluation import compare_macro_f1
from distil_trainer.scores import compare_scores, evaluate_scores


@pytest.fixture
def columns():
    """Gold scores and the outputs of two models that share a part of their errors."""
    generator = np.random.default_rng(4)
    gold, shared = generator.normal(size=300), generator.normal(size=300)
    good = gold + 0.5 * shared + 0.3 * generator.normal(size=300)
    bad = gold + 0.5 * shared + 0.6 * generator.normal(size=300)
    return gold, good, bad


def test_correlations_and_the_interval_of_pearsons_are_scipys(columns):
    gold, good, _ = columns
    scores = evaluate_scores(good[:, None], gold)
    reference = stats.pearsonr(good, gold)
    interval = reference.confidence_interval(0.95)
    assert scores["n"] == 300
    assert scores["pearson"] == pytest.approx(reference.statistic)
    assert (scores["pearson_low"], scores["pearson_high"]) == (
        pytest.approx(interval.low),
        pytest.approx(interval.high),
    )
    assert scores["spearman"] == pytest.approx(stats.spearmanr(good, gold).statistic)
    assert scores["mse"] == pytest.approx(np.mean((good - gold) ** 2))
    assert all(isinstance(value, int | float) for value in scores.values())


def test_the_interval_of_spearmans_is_bonetts_and_wrights():
    predictions, gold = [1.0, 2.0, 4.0, 3.0, 5.0, 6.0, 7.0], [1.0, 2.0, 3.0, 4.0, 5.0, 60.0, 70.0]
    scores = evaluate_scores(predictions, gold)
    rho = 1 - 6 * 2 / (7 * 48)
    half = 1.959963985 * math.sqrt((1 + rho**2 / 2) / 4)
    assert scores["spearman"] == pytest.approx(rho)
    assert scores["spearman_low"] == pytest.approx(math.tanh(math.atanh(rho) - half))
    assert scores["spearman_high"] == pytest.approx(math.tanh(math.atanh(rho) + half))


def test_perfect_scores_have_a_correlation_of_one_and_few_rows_say_nothing():
    perfect = evaluate_scores([1.0, 2.0, 5.0, 9.0], [1.0, 2.0, 5.0, 9.0])
    assert (perfect["pearson"], perfect["pearson_low"], perfect["spearman_high"], perfect["mse"]) == (1, 1, 1, 0)
    few = evaluate_scores([1.0, 2.0, 2.5], [1.0, 2.0, 3.0])
    assert (few["pearson_low"], few["pearson_high"], few["spearman_low"]) == (-1, 1, -1)


@pytest.mark.parametrize("constant", [0.0, 0.1, 3e8])
def test_a_model_that_answers_all_rows_alike_has_no_correlation(columns, constant):
    gold, good, _ = columns
    alike = np.full(300, constant)
    scores = evaluate_scores(alike, gold)
    assert scores["pearson"] == scores["spearman"] == 0.0 and scores["pearson_low"] < 0 < scores["pearson_high"]
    result = compare_scores(alike, good, gold)
    assert result["pearson_difference"] == pytest.approx(-stats.pearsonr(good, gold).statistic)
    assert result["output_correlation"] == 0.0 and result["distinguishable"]


def _williams(r_ag, r_bg, r_ab, n):
    """Williams' test of two correlations with one variable in common (Steiger 1980, equation 7)."""
    determinant = 1 - r_ag**2 - r_bg**2 - r_ab**2 + 2 * r_ag * r_bg * r_ab
    common = ((r_ag + r_bg) / 2) ** 2 * (1 - r_ab) ** 3
    t = (r_ag - r_bg) * math.sqrt((n - 1) * (1 + r_ab) / (2 * (n - 1) / (n - 3) * determinant + common))
    return 2 * stats.t.sf(abs(t), n - 3)


def test_on_normal_data_the_paired_bootstrap_says_what_williams_test_says():
    generator = np.random.default_rng(1)
    p_values = []
    for noise in (0.6, 0.66, 0.7, 0.75, 0.8):
        gold, shared = generator.normal(size=200), generator.normal(size=200)
        a, b = (gold + 0.5 * shared + size * generator.normal(size=200) for size in (0.6, noise))
        correlations = np.corrcoef([a, b, gold])
        expected = _williams(correlations[0, 2], correlations[1, 2], correlations[0, 1], 200)
        p_values.append((compare_scores(a, b, gold, seed=3)["p_value"], expected))
    assert np.abs(np.diff(p_values)).max() < 0.06
    assert min(p_values)[0] < 0.05 < max(p_values)[0]


def test_the_better_of_two_models_is_told_apart_and_a_model_not_from_itself(columns):
    gold, good, bad = columns
    forth, back, same = (compare_scores(*pair, gold) for pair in ((good, bad), (bad, good), (good, good)))
    assert forth["pearson_difference"] == pytest.approx(-back["pearson_difference"]) and forth["distinguishable"]
    assert forth["pearson_difference"] > 0 < forth["difference_low"] < forth["pearson_difference"]
    assert forth["difference_high"] == pytest.approx(-back["difference_low"])
    assert forth["p_value"] == pytest.approx(back["p_value"])
    assert forth["output_correlation"] == pytest.approx(stats.pearsonr(good, bad).statistic)
    assert (same["p_value"], same["distinguishable"], same["output_correlation"]) == (1.0, False, pytest.approx(1.0))
    assert same["difference_low"] == same["difference_high"] == 0.0


def test_comparisons_depend_on_the_seed_alone(columns):
    gold, good, bad = columns
    first, again, other = (compare_scores(good, bad, gold, seed=seed) for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize(
    ("logits", "scores", "message"),
    [
        ([1.0, 2.0], [1.0], r"logits has shape \(2,\), scores has shape \(1,\)"),
        ([[1.0, 2.0]] * 2, [1.0, 2.0], r"shape \(2, 2\)"),
        ([], [], "with n at least 1"),
        (
            [1.0, float("nan")],
            [1.0, 2.0],
            r"logits holds NaN or infinite values in 1 of 2 rows \(the first is row 1\)",
        ),
        ([1.0, 2.0], [None, 2.0], "scores holds NaN or infinite values in 1 of 2 rows"),
        ([1.0, 2.0], [float("inf"), 2.0], "scores holds NaN or infinite"),
        ([1.0, 2.0], [2.5, 2.5], "All 2 gold scores are 2.5: no correlation is defined"),
    ],
)
def test_scores_of_which_nothing_can_be_said_are_refused(logits, scores, message):
    with pytest.raises(ValueError, match=message):
        evaluate_scores(logits, scores)
    with pytest.raises(ValueError, match=message):
        compare_scores(logits, logits, scores)


# The bootstrap behind it


def test_resamples_have_as_many_rows_as_there_are_and_every_kind_as_often_as_it_occurs():
    counts = np.array([5, 15, 80])
    resampled = np.concatenate(list(resampled_counts(counts, seed=0)))
    assert resampled.shape == (2000, 3) and (resampled.sum(axis=1) == 100).all()
    assert resampled.mean(axis=0) == pytest.approx(counts, rel=0.05)


def test_resamples_are_drawn_in_parts_that_fit_into_memory(monkeypatch):
    whole = np.concatenate(list(resampled_counts(np.array([3, 4]), seed=1)))
    monkeypatch.setattr("distil_trainer.bootstrap._MOST_COUNTS_AT_ONCE", 20)
    parts = list(resampled_counts(np.array([3, 4]), seed=1))
    assert len(parts) == 200 and (np.concatenate(parts) == whole).all()


def test_the_p_value_is_twice_the_share_of_resamples_of_the_other_sign():
    differences = np.array([1.0] * 90 + [-1.0] * 9)
    assert paired_test(differences)["p_value"] == pytest.approx(2 * 10 / 100)
    assert paired_test(np.ones(99))["p_value"] == pytest.approx(2 / 100)
    assert paired_test(np.full(99, 1e-15))["p_value"] == 1.0  # rounding is no difference
    assert paired_test(np.array([1.0] * 990 + [-1.0] * 9))["distinguishable"]


# Macro-F1


def _logits_for(predictions, num_labels):
    return 4.0 * np.eye(num_labels)[np.asarray(predictions)]


def _macro_f1(labels, predictions):
    hits, gold, predicted = (
        np.bincount(each, minlength=3) for each in (labels[labels == predictions], labels, predictions)
    )
    return np.mean(2 * hits / (gold + predicted))


def test_macro_f1_is_compared_by_a_paired_bootstrap_over_rows():
    generator = np.random.default_rng(0)
    labels = generator.choice(3, 400, p=[0.7, 0.2, 0.1])
    a = np.where(generator.random(400) < 0.8, labels, generator.integers(0, 3, 400))
    b = np.where(generator.random(400) < 0.75, labels, 0)
    result = compare_macro_f1(_logits_for(a, 3), _logits_for(b, 3), labels, seed=1)

    def difference(rows):
        return np.subtract(*(_macro_f1(labels[rows], each[rows]) for each in (a, b)))

    assert result["macro_f1_difference"] == pytest.approx(difference(np.arange(400)))
    resampled = [difference(generator.integers(0, 400, 400)) for _ in range(500)]
    low, high = np.quantile(resampled, [0.025, 0.975])
    assert (result["difference_low"], result["difference_high"]) == (
        pytest.approx(low, abs=0.012),
        pytest.approx(high, abs=0.012),
    )
    assert result["n"] == 400 and result["agreement"] == np.mean(a == b)
    assert result["distinguishable"] == (low > 0 or high < 0)


def test_a_model_that_gives_up_the_rare_class_is_worse_by_macro_f1():
    labels = [0] * 180 + [1] * 20
    result = compare_macro_f1(_logits_for([0] * 170 + [1] * 30, 2), _logits_for([0] * 200, 2), labels)
    assert result["macro_f1_difference"] > 0.3 and result["distinguishable"] and result["difference_low"] > 0
    same = compare_macro_f1(_logits_for(labels, 2), _logits_for(labels, 2), labels)
    assert (same["macro_f1_difference"], same["p_value"], same["agreement"]) == (0.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="logits_a has 2 labels, logits_b has 3"):
        compare_macro_f1(_logits_for([0], 2), _logits_for([0], 3), [0])
