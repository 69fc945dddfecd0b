"""One temperature: the most likely one, for every scale of the logits, or words why there is none."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from distil_trainer import evaluate_calibration, fit_temperature


def logits_and_labels(rows=4000, num_labels=3):
    """Logits, and labels drawn with the probabilities that these logits say."""
    generator = np.random.default_rng(0)
    logits = 2 * generator.normal(size=(rows, num_labels))
    labels = (softmax(logits, axis=1).cumsum(axis=1) < generator.random((rows, 1))).sum(axis=1)
    return logits, labels


def test_the_temperature_undoes_the_stretching_of_honest_logits():
    logits, labels = logits_and_labels()
    honest = fit_temperature(logits, labels)
    assert honest == pytest.approx(1.0, abs=0.05)
    for stretch in (1e-4, 0.3, 7.0, 1e4):
        assert fit_temperature(stretch * logits, labels) == pytest.approx(stretch * honest, rel=1e-6)
    # What is added to all logits of a row says nothing.
    assert fit_temperature(logits + 5 * labels[:, None], labels) == pytest.approx(honest, rel=1e-6)


def test_no_other_temperature_is_likelier():
    logits, labels = logits_and_labels(200)
    best = fit_temperature(3 * logits, labels)

    def cross_entropy(temperature):
        return evaluate_calibration(3 * logits / temperature, labels)["cross_entropy"]

    assert all(cross_entropy(best) < cross_entropy(best * factor) for factor in (0.5, 0.99, 1.01, 2.0))


def test_two_rows_by_hand():
    # Right by 2 and wrong by 1. The slope of the cross-entropy in b = 1 / T is σ(b) - 2 σ(-2b), and zero at the best.
    temperature = fit_temperature([[2.0, 0.0], [0.0, 1.0]], [0, 0])
    assert 2 / (1 + np.exp(2 / temperature)) == pytest.approx(1 / (1 + np.exp(-1 / temperature)), rel=1e-8)


def test_calibration_error_and_cross_entropy_by_hand():
    # Probabilities 0.9 (right), 0.9 (wrong), 0.6 (right): two bins, |1.8 - 1| and |0.6 - 1|.
    logits = np.log([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4]])
    result = evaluate_calibration(logits, [0, 0, 0])
    assert result["n"] == 3
    assert result["calibration_error"] == pytest.approx((0.8 + 0.4) / 3)
    assert result["cross_entropy"] == pytest.approx(-np.log([0.9, 0.1, 0.6]).mean())
    logits, labels = logits_and_labels()
    honest, stretched = evaluate_calibration(logits, labels), evaluate_calibration(4 * logits, labels)
    assert honest["calibration_error"] < 0.02 < 0.1 < stretched["calibration_error"]
    assert honest["cross_entropy"] == pytest.approx(-log_softmax(logits, axis=1)[range(4000), labels].mean())


GOOD = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (GOOD, [0, 1, 0], "The model is right on all 3 rows, so no temperature is the best"),
        (GOOD, [1, 0, 1], "even guesses would be likelier than the model's, at any temperature"),
        (np.ones((3, 2)) + GOOD * 0, [0, 1, 1], "The model is right on all 3 rows|even guesses"),
        (GOOD, [0, 1], r"logits has the shape \(3, 2\), labels \(2,\)"),
        (GOOD[:, :1], [0, 0, 0], "at least one row and two labels"),
        (GOOD[:0], [], "at least one row and two labels"),
        (GOOD * np.nan, [0, 1, 1], "Some logits are not finite"),
        (GOOD, [0, -1, 1], r"labels\[1\]=-1 is not a label from 0 to 1"),
        (GOOD, [0, 1, 2], r"labels\[2\]=2 is not a label from 0 to 1"),
        (GOOD, [0, None, 1], r"labels\[1\]=None is not a label"),
    ],
)
def test_rows_without_a_best_temperature_are_refused(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, labels)
