"""The cascade: a student answers the texts it is sure of, and its teacher the rest.

Chow, On Optimum Recognition Error and Reject Tradeoff (1970), for rejecting by the largest probability.
"""

import numpy as np

from distil_trainer.bootstrap import percentile_interval, resampled_counts


def cascade_report(student_logits, teacher_logits, agreements=(0.95, 0.98, 0.99), *, seed=0):
    """Find how many texts a student answers alone, if of these its teacher would answer a given share alike.

    The student answers where its largest probability reaches a threshold. Of all thresholds the lowest is taken at
    which at least the share `agreement` of what it answers is the teacher's answer too. Choose thresholds on rows that
    no figure is reported on: on the rows that chose them they look a little better than they are.

    Args:
        student_logits (`np.ndarray` of shape `(n, num_labels)`): the student's.
        teacher_logits (`np.ndarray` of shape `(n, num_labels)`): the teacher's, with the labels in the same order.
        agreements (`Sequence[float]`, *optional*, defaults to `(0.95, 0.98, 0.99)`): shares above 0 and up to 1.
        seed (`int`, *optional*, defaults to 0): of the bootstrap.

    Returns:
        `list[dict]`: for each agreement `agreement`, `threshold` (the least probability to answer alone; `None` where
        no threshold reaches the agreement), `answered_alone` (share of rows), `answered_alone_low` and
        `answered_alone_high` (95 % interval by the bootstrap over rows, with the threshold chosen anew in each
        resample), `agreement_reached` (of the rows answered alone; `None` without any) and `n`.

    Raises:
        ValueError: if the shapes differ, there are no rows or fewer than 2 labels, a logit is not finite, or an
            agreement is out of range.
    """
    student_logits, teacher_logits = np.asarray(student_logits), np.asarray(teacher_logits)
    shapes = student_logits.shape, teacher_logits.shape
    if shapes[0] != shapes[1] or len(shapes[0]) != 2 or not shapes[0][0] or shapes[0][1] < 2:
        raise ValueError(
            f"student_logits has the shape {shapes[0]}, teacher_logits {shapes[1]}: both need (n, num_labels), "
            "with at least one row and two labels, or rows of different texts would be compared."
        )
    if not (np.isfinite(student_logits).all() and np.isfinite(teacher_logits).all()):
        raise ValueError("Some logits are not finite: no probability, and so no threshold, is defined for such rows.")
    if any(not 0 < agreement <= 1 for agreement in agreements):
        raise ValueError(f"agreements={tuple(agreements)}: each must be above 0 and at most 1, such as 0.98.")
    confidences = _largest_probabilities(student_logits)
    order = np.argsort(-confidences, kind="stable")
    confidences = confidences[order]
    agrees = (student_logits.argmax(axis=1) == teacher_logits.argmax(axis=1))[order]
    # A threshold takes all rows of one confidence, or none.
    is_last = np.append(confidences[1:] != confidences[:-1], True)
    rows = len(order)
    shares = {agreement: [] for agreement in agreements}
    for counts in resampled_counts(np.ones(rows), seed):
        for agreement in agreements:
            shares[agreement].append(_answered(counts, agrees, is_last, agreement) / rows)
    report = []
    for agreement in agreements:
        alone = int(_answered(np.ones((1, rows)), agrees, is_last, agreement)[0])
        low, high = percentile_interval(np.concatenate(shares[agreement]))
        report.append(
            {
                "agreement": agreement,
                "threshold": float(confidences[alone - 1]) if alone else None,
                "answered_alone": alone / rows,
                "answered_alone_low": low,
                "answered_alone_high": high,
                "agreement_reached": float(agrees[:alone].mean()) if alone else None,
                "n": rows,
            }
        )
    return report


def _largest_probabilities(logits):
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return 1 / np.exp(shifted).sum(axis=1)


def _answered(counts, agrees, is_last, agreement):
    """Return for each resample, of shape `(m, n)` in falling confidence, how many rows are answered alone."""
    answered = counts.cumsum(axis=1)
    agreed = (counts * agrees).cumsum(axis=1)
    reaches = is_last & (agreed >= agreement * answered - 1e-9)
    return np.where(reaches, answered, 0).max(axis=1)
