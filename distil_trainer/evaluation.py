"""What a model's logits are worth on labelled rows, with intervals, and whether two models differ on the same rows.

Wilson, Probable inference, the law of succession, and statistical inference (1927); McNemar, Note on the sampling
error of the difference between correlated proportions (1947).
"""

from functools import partial

import numpy as np
from scipy.special import log_softmax
from scipy.stats import binomtest

from distil_trainer.bootstrap import CONFIDENCE_LEVEL, paired_test, percentile_interval, resampled_counts


def evaluate_logits(logits, labels, *, seed=0):
    """Score logits against gold labels: accuracy, macro-F1 and cross-entropy, the first two with 95 % intervals.

    The interval of the accuracy is Wilson's; the interval of the macro-F1 is the percentile bootstrap over rows (2000
    resamples of the confusion matrix). Macro-F1 averages over the classes that occur in the labels or the predictions,
    as scikit-learn does.

    Args:
        logits (`np.ndarray` of shape `(n, num_labels)`): finite logits.
        labels (`Sequence[int]` of length `n`): gold labels in `0 ... num_labels - 1`; every row must be labelled.
        seed (`int`, *optional*, defaults to 0): seed of the bootstrap.

    Returns:
        `dict`: `n`, `accuracy`, `accuracy_low`, `accuracy_high`, `macro_f1`, `macro_f1_low`, `macro_f1_high`,
        `cross_entropy` (nats per row); plain Python numbers.

    Raises:
        ValueError: if there are no rows, shapes do not fit, logits are not finite, or a row is unlabelled or holds a
            label outside the range.
    """
    logits, labels = _checked(logits, labels)
    n, num_labels = logits.shape
    predictions = logits.argmax(axis=1)
    right = int((predictions == labels).sum())
    interval = binomtest(right, n).proportion_ci(confidence_level=CONFIDENCE_LEVEL, method="wilson")
    confusion = np.bincount(labels * num_labels + predictions, minlength=num_labels**2)
    macro_f1, macro_f1_low, macro_f1_high = _macro_f1_with_interval(confusion, num_labels, seed)
    return {
        "n": n,
        "accuracy": right / n,
        "accuracy_low": float(interval.low),
        "accuracy_high": float(interval.high),
        "macro_f1": macro_f1,
        "macro_f1_low": macro_f1_low,
        "macro_f1_high": macro_f1_high,
        "cross_entropy": float(-log_softmax(logits, axis=1)[np.arange(n), labels].mean()),
    }


def compare(logits_a, logits_b, labels):
    """Compare two models on the same rows by McNemar's exact test.

    Only rows on which exactly one of the two is right count: if the models are equally good, each such row falls to
    either side with probability 1/2.

    Args:
        logits_a (`np.ndarray` of shape `(n, num_labels)`): logits of the first model.
        logits_b (`np.ndarray` of shape `(n, num_labels)`): logits of the second model, in the same label order.
        labels (`Sequence[int]` of length `n`): gold labels.

    Returns:
        `dict`: `n`; `accuracy_difference` (first minus second); `only_a_right` and `only_b_right` (rows);
        `agreement` (share of rows with the same prediction); `p_value` (two-sided); `distinguishable`
        (`p_value < 0.05`).

    Raises:
        ValueError: as in `evaluate_logits`, or if the two models do not have the same number of rows and labels.
    """
    predictions_a, predictions_b, labels, _ = _predictions_of_both(logits_a, logits_b, labels)
    right_a, right_b = predictions_a == labels, predictions_b == labels
    only_a_right, only_b_right = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    discordant = only_a_right + only_b_right
    p_value = float(binomtest(only_a_right, discordant).pvalue) if discordant else 1.0
    return {
        "n": len(labels),
        "accuracy_difference": (only_a_right - only_b_right) / len(labels),
        "only_a_right": only_a_right,
        "only_b_right": only_b_right,
        "agreement": float((predictions_a == predictions_b).mean()),
        "p_value": p_value,
        "distinguishable": p_value < 1 - CONFIDENCE_LEVEL,
    }


def compare_macro_f1(logits_a, logits_b, labels, *, seed=0):
    """Compare two models on the same rows by their macro-F1, with a paired bootstrap over rows (see `paired_test`).

    McNemar's test says nothing of macro-F1: a model may lose accuracy and gain on the rare classes.

    Args:
        logits_a (`np.ndarray` of shape `(n, num_labels)`): logits of the first model.
        logits_b (`np.ndarray` of shape `(n, num_labels)`): logits of the second model, in the same label order.
        labels (`Sequence[int]` of length `n`): gold labels.
        seed (`int`, *optional*, defaults to 0): seed of the bootstrap.

    Returns:
        `dict`: `n`; `macro_f1_difference` (first minus second) and the ends of its 95 % interval, `difference_low` and
        `difference_high`; `agreement` (share of rows with the same prediction); `p_value` (two-sided);
        `distinguishable` (`p_value < 0.05`).

    Raises:
        ValueError: as in `compare`.
    """
    predictions_a, predictions_b, labels, num_labels = _predictions_of_both(logits_a, logits_b, labels)
    # Rows of the same gold label and the same two predictions are of one kind.
    kinds, counts = np.unique((labels * num_labels + predictions_a) * num_labels + predictions_b, return_counts=True)
    gold, of_a, of_b = kinds // num_labels**2, kinds // num_labels % num_labels, kinds % num_labels

    def difference(counts):
        return _macro_f1(counts, gold, of_a, num_labels) - _macro_f1(counts, gold, of_b, num_labels)

    return {
        "n": len(labels),
        "macro_f1_difference": float(difference(counts[None])[0]),
        "agreement": float((predictions_a == predictions_b).mean()),
        **paired_test(np.concatenate([difference(part) for part in resampled_counts(counts, seed)])),
    }


def compare_with_constant(logits, labels, metric="accuracy", *, seed=0):
    """Compare a model with the answer that needs none: on every row the most frequent label of these rows.

    That label is read off the rows themselves, so no other constant answer has a higher accuracy or macro-F1 on them.

    Args:
        logits (`np.ndarray` of shape `(n, num_labels)`): finite logits.
        labels (`Sequence[int]` of length `n`): gold labels.
        metric (`str`, *optional*, defaults to `"accuracy"`): what decides, `"accuracy"` (see `compare`) or
            `"macro_f1"` (see `compare_macro_f1`).
        seed (`int`, *optional*, defaults to 0): seed of the bootstrap.

    Returns:
        `dict`: `label`, the most frequent one (of several the first); `share`, of the rows with it, which is the
        accuracy of always giving it; `macro_f1` of always giving it; `only_answer`, the label that the model gives to
        every row, `None` where it tells rows apart; what the comparison returns (model minus constant) but for `n`
        and `agreement`; and `is_better`, whether the model is distinguishable from the constant and above it.

    Raises:
        ValueError: as in `evaluate_logits`.
    """
    logits, labels = _checked(logits, labels)
    counts = np.bincount(labels)
    label, share = int(counts.argmax()), float(counts.max() / len(labels))
    constant = np.zeros_like(logits)
    constant[:, label] = 1.0
    two = compare if metric == "accuracy" else partial(compare_macro_f1, seed=seed)
    comparison = two(logits, constant, labels)
    del comparison["n"], comparison["agreement"]
    answers = np.unique(logits.argmax(axis=1))
    return {
        "label": label,
        "share": share,
        # Precision is the share, recall 1; the other classes have an F1 of 0.
        "macro_f1": 2 * share / (1 + share) / np.count_nonzero(counts),
        "only_answer": int(answers[0]) if len(answers) == 1 else None,
        **comparison,
        "is_better": comparison["distinguishable"] and comparison[f"{metric}_difference"] > 0,
    }


def gap_closed(student, control, teacher):
    """Compute which share of the gap between control and teacher the student closes, from three figures.

    `(student - control) / (teacher - control)`; below 0 or above 1 where the student falls outside the gap.

    Args:
        student (`float`): accuracy of the distilled student, or any figure of which more is better.
        control (`float`): the same of the same student trained without the teacher.
        teacher (`float`): the same of the teacher.

    Returns:
        `float`, or `None` where there is no gap to close (`teacher <= control`). It is noise where student and control
        are not distinguishable; `make_report` marks it so.
    """
    return (student - control) / (teacher - control) if teacher > control else None


def _checked(logits, labels):
    logits = np.asarray(logits, dtype=np.float64)
    labels = np.array([-1 if label is None else label for label in labels], dtype=np.int64)
    if logits.ndim != 2 or logits.shape[0] != len(labels) or not len(labels):
        raise ValueError(
            f"logits has shape {logits.shape}, labels has length {len(labels)}. Needed: logits of shape (n, "
            "num_labels) and n labels, with n at least 1."
        )
    if not np.isfinite(logits).all():
        rows = np.flatnonzero(~np.isfinite(logits).all(axis=1))
        raise ValueError(
            f"logits holds NaN or infinite values in {len(rows)} of {len(logits)} rows (the first is row {rows[0]}). "
            "Such a row would silently count as label 0: find out why (half precision? a diverged run?)."
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= logits.shape[1]))
    if len(wrong):
        raise ValueError(
            f"labels holds {len(wrong)} of {len(labels)} values outside 0 ... {logits.shape[1] - 1} (row {wrong[0]}: "
            f"{labels[wrong[0]]}). Unlabelled rows (-1, -100, None) would silently count as errors: leave them out of "
            "evaluation data, and check that labels and logits use the same label names."
        )
    return logits, labels


def _predictions_of_both(logits_a, logits_b, labels):
    """Return the predictions of two models, the labels as an array, and the number of labels."""
    logits_a, labels = _checked(logits_a, labels)
    logits_b, labels = _checked(logits_b, labels)
    if logits_a.shape != logits_b.shape:
        raise ValueError(
            f"logits_a has {logits_a.shape[1]} labels, logits_b has {logits_b.shape[1]}. Both models must answer the "
            "same question, or a comparison of their answers means nothing: bring both to the same labels first."
        )
    return logits_a.argmax(axis=1), logits_b.argmax(axis=1), labels, logits_a.shape[1]


def _macro_f1_with_interval(confusion, num_labels, seed):
    """Return the macro-F1 of a flattened confusion matrix and its bootstrap interval."""
    cells = np.flatnonzero(confusion)
    counts, gold, predicted = confusion[cells], cells // num_labels, cells % num_labels
    score = _macro_f1(counts[None], gold, predicted, num_labels)[0]
    parts = [_macro_f1(part, gold, predicted, num_labels) for part in resampled_counts(counts, seed)]
    return float(score), *percentile_interval(np.concatenate(parts))


def _macro_f1(counts, gold, predicted, num_labels):
    """Return `(m,)` macro-F1 scores of `(m, cells)` counts, `gold` and `predicted` naming the class of each cell."""
    is_gold, is_predicted = np.eye(num_labels)[gold], np.eye(num_labels)[predicted]
    hits = counts @ (is_gold * is_predicted)
    members = counts @ (is_gold + is_predicted)  # 2 TP + FP + FN
    present = members > 0
    f1 = np.divide(2 * hits, members, out=np.zeros_like(hits, dtype=np.float64), where=present)
    return f1.sum(axis=1) / present.sum(axis=1)
