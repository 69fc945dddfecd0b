"""How many texts a student answers alone, at a given agreement with its teacher."""

import numpy as np
import pytest

from distil_trainer import cascade_report

# Log-odds of the student for label 1, from the surest row to the least sure one; it is wrong on rows 3 and 5.
STUDENT = np.array([[0.0, 5.0], [4.0, 0.0], [0.0, 3.0], [0.0, 2.0], [1.5, 0.0], [0.0, 1.0]])
TEACHER = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])


def test_the_share_is_the_largest_that_keeps_the_agreement():
    by_agreement = {row["agreement"]: row for row in cascade_report(STUDENT, TEACHER, (0.6, 0.8, 1.0))}
    assert by_agreement[1.0]["answered_alone"] == 3 / 6  # right on 3, then wrong
    assert by_agreement[0.8]["answered_alone"] == 5 / 6  # 4 of 5
    assert by_agreement[0.6]["answered_alone"] == 1.0  # 4 of 6
    assert by_agreement[0.8]["agreement_reached"] == 0.8
    assert by_agreement[1.0]["threshold"] == pytest.approx(1 / (1 + np.exp(-3.0)))
    assert all(
        row["answered_alone_low"] <= row["answered_alone"] <= row["answered_alone_high"] and row["n"] == 6
        for row in by_agreement.values()
    )


def test_the_order_of_rows_does_not_matter_and_the_interval_narrows_with_them():
    generator = np.random.default_rng(0)
    student = generator.normal(size=(3000, 3)) * 3
    teacher = student + generator.normal(size=student.shape)
    rows = generator.permutation(3000)
    [many], [few] = (cascade_report(student[:n], teacher[:n], (0.98,)) for n in (3000, 200))
    [mixed] = cascade_report(student[rows], teacher[rows], (0.98,))
    assert (mixed["answered_alone"], mixed["threshold"]) == (many["answered_alone"], many["threshold"])
    widths = [row["answered_alone_high"] - row["answered_alone_low"] for row in (many, few)]
    assert 0 < widths[0] < widths[1] / 2
    alone = 1 / np.exp(student - student.max(1, keepdims=True)).sum(1) >= many["threshold"]
    assert alone.mean() == many["answered_alone"]
    assert np.mean((student.argmax(1) == teacher.argmax(1))[alone]) == many["agreement_reached"] >= 0.98


def test_rows_of_one_confidence_are_answered_together_or_not_at_all():
    student = np.array([[0.0, 1.0]] * 4)
    teacher = np.array([[0.0, 1.0]] * 3 + [[1.0, 0.0]])
    [strict, loose] = cascade_report(student, teacher, (0.99, 0.75))
    assert (strict["answered_alone"], strict["threshold"], strict["agreement_reached"]) == (0.0, None, None)
    assert (loose["answered_alone"], loose["agreement_reached"]) == (1.0, 0.75)


@pytest.mark.parametrize(
    ("student", "teacher", "agreements", "message"),
    [
        (STUDENT, TEACHER[:5], (0.9,), r"shape \(6, 2\), teacher_logits \(5, 2\)"),
        (STUDENT[:0], TEACHER[:0], (0.9,), "at least one row"),
        (STUDENT[:, :1], TEACHER[:, :1], (0.9,), "two labels"),
        (np.full((6, 2), np.inf), TEACHER, (0.9,), "not finite"),
        (STUDENT, TEACHER, (98,), r"agreements=\(98,\): each must be above 0 and at most 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(student, teacher, agreements, message):
    with pytest.raises(ValueError, match=message):
        cascade_report(student, teacher, agreements)
