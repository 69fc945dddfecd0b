"""Probabilities that mean what they say: one temperature for all logits, and how far they are from the truth.

Guo et al., On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599, sections 2 and 4.2.
"""

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_softmax, softmax

_BINS = 15


def fit_temperature(logits, labels):
    """Find the temperature T for which softmax(logits / T) gives the gold labels the largest likelihood.

    T above 1 makes a model less sure of itself, T below 1 surer; which label is the likeliest does not change. Fit it
    on rows that neither the model was trained on, where it is surer than elsewhere, nor a figure is reported on. Some
    hundreds of rows do.

    Args:
        logits (`np.ndarray` of shape `(n, num_labels)`): finite logits.
        labels (`Sequence[int]` of length `n`): gold labels in `0 ... num_labels - 1`.

    Returns:
        `float`: the one minimum of the cross-entropy over T > 0.

    Raises:
        ValueError: as in `evaluate_calibration`, or if there is no such T: because the model is right on all rows, or
            no better than chance.

    Reference:
        Guo et al., section 4.2. The cross-entropy is convex in 1 / T, so its derivative has one zero at most.
    """
    logits, labels = _checked(logits, labels)
    gold = logits[np.arange(len(labels)), labels]
    if (gold == logits.max(axis=1)).all():
        raise ValueError(
            f"The model is right on all {len(labels)} rows, so no temperature is the best: the lower, the likelier "
            "are the labels. Give more rows, none of which the model was trained on."
        )
    if gold.mean() <= logits.mean():
        raise ValueError(
            f"On these {len(labels)} rows the mean logit of the gold labels, {gold.mean():.4g}, is not above that of "
            f"all labels, {logits.mean():.4g}: even guesses would be likelier than the model's, at any temperature. "
            "The labels may be in another order than the model's: check their names."
        )

    def slope(inverse):
        return float(((softmax(inverse * logits, axis=1) * logits).sum(axis=1) - gold).mean())

    high = 1.0 / np.abs(logits).max()
    while slope(high) < 0:
        high *= 2
    return 1 / brentq(slope, 0.0, high, xtol=1e-12 * high, rtol=1e-10)


def evaluate_calibration(logits, labels):
    """Say how good the probabilities of a model are: their cross-entropy, and their distance from its accuracy.

    Args:
        logits (`np.ndarray` of shape `(n, num_labels)`): finite logits.
        labels (`Sequence[int]` of length `n`): gold labels in `0 ... num_labels - 1`.

    Returns:
        `dict`: `n`; `cross_entropy` (nats per row); `calibration_error`, the expected calibration error: rows are put
        into 15 bins of equal width by their largest probability, and it is the mean over rows of the distance between
        the mean probability and the accuracy of a row's bin. Chance alone makes it some hundredths on a few hundred
        rows.

    Raises:
        ValueError: if shapes do not fit, there are no rows or fewer than 2 labels, a logit is not finite, or a label
            is not one of the model's.

    Reference:
        Guo et al., equation 3.
    """
    logits, labels = _checked(logits, labels)
    log_probabilities = log_softmax(logits, axis=1)
    confidence = np.exp(log_probabilities.max(axis=1))
    bins = np.clip(np.ceil(confidence * _BINS).astype(int), 1, _BINS)
    surplus = np.bincount(bins, weights=confidence - (logits.argmax(axis=1) == labels))
    return {
        "n": len(labels),
        "cross_entropy": float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        "calibration_error": float(np.abs(surplus).sum() / len(labels)),
    }


def _checked(logits, labels):
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if logits.ndim != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(
            f"logits has the shape {logits.shape}, labels {labels.shape}: needed are (n, num_labels) and (n,), with "
            "at least one row and two labels, or there are no probabilities to speak of."
        )
    if not np.isfinite(logits).all():
        raise ValueError("Some logits are not finite: no probability is defined for such rows. Find out why.")
    wrong = np.flatnonzero(~np.isin(labels, np.arange(logits.shape[1])))
    if len(wrong):
        raise ValueError(
            f"labels[{wrong[0]}]={labels[wrong[0]]} is not a label from 0 to {logits.shape[1] - 1}: such a row has no "
            "likelihood. Leave unlabelled rows out."
        )
    return logits, labels.astype(np.int64)
