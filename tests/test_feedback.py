"""The formulas of Meta Pseudo Labels, on a teacher and a student of two weights each."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from distil_trainer.meta_pseudo_labels.feedback import (
    Baseline,
    draw_uniforms,
    feedback_loss,
    feedback_of_step,
    sample_pseudo_labels,
    trial_weights,
)

UNLABELLED = torch.tensor([[0.5, -1.0], [1.5, 0.3], [-0.7, 0.9]], dtype=torch.float64)
LABELLED, LABELS = torch.tensor([[1.0, 0.2], [-0.4, 1.1]], dtype=torch.float64), torch.tensor([1, 0])
TEACHER = torch.tensor([0.8, -0.5], dtype=torch.float64)
STUDENT = torch.tensor([-0.3, 0.4], dtype=torch.float64)
# Every way to label the unlabelled rows.
DRAWS = [torch.tensor(draw) for draw in itertools.product([0, 1], repeat=len(UNLABELLED))]


def logits(weights, points):
    score = points @ weights
    return torch.stack([torch.zeros_like(score), score], dim=-1)


def labelled_loss(student):
    return F.cross_entropy(logits(student, LABELLED), LABELS)


def step(student, pseudo_labels, learning_rate):
    """Plain descent on the mean cross-entropy of pseudo-labels."""
    student = student.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits(student, UNLABELLED), pseudo_labels), student)
    return (student - learning_rate * gradient).detach()


def probability(teacher, pseudo_labels):
    return logits(teacher, UNLABELLED).softmax(-1)[torch.arange(len(UNLABELLED)), pseudo_labels].prod()


def expected_loss(teacher, learning_rate):
    return sum(probability(teacher, draw) * labelled_loss(step(STUDENT, draw, learning_rate)) for draw in DRAWS)


def difference(pseudo_labels, learning_rate):
    return labelled_loss(STUDENT) - labelled_loss(step(STUDENT, pseudo_labels, learning_rate))


def dot_product(pseudo_labels, learning_rate):
    moved = step(STUDENT, pseudo_labels, learning_rate)
    at = moved.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(labelled_loss(at), at)
    return feedback_of_step([gradient], [STUDENT], [moved])


@pytest.mark.parametrize("learning_rate", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("baseline", [0.0, 0.3])
def test_rows_times_feedback_times_cross_entropy_is_the_gradient_of_the_expected_labelled_loss(
    learning_rate, baseline
):
    teacher = TEACHER.clone().requires_grad_()
    rows = len(UNLABELLED)
    total = torch.zeros(2, dtype=torch.float64)
    for draw in DRAWS:
        feedback = difference(draw, learning_rate) - baseline
        (gradient,) = torch.autograd.grad(rows * feedback_loss(logits(teacher, UNLABELLED), draw, feedback), teacher)
        total += probability(TEACHER, draw) * gradient
    small = 1e-5 * torch.eye(2, dtype=torch.float64)
    expected = torch.stack(
        [
            (expected_loss(TEACHER + each, learning_rate) - expected_loss(TEACHER - each, learning_rate)) / 2e-5
            for each in small
        ]
    )
    assert expected.abs().min() > 1e-3
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=0.0)


def test_without_the_number_of_rows_it_is_not_that_gradient():
    teacher = TEACHER.clone().requires_grad_()
    losses = [
        probability(TEACHER, draw) * feedback_loss(logits(teacher, UNLABELLED), draw, difference(draw, 1.0))
        for draw in DRAWS
    ]
    (mean,) = torch.autograd.grad(sum(losses), teacher)
    (whole,) = torch.autograd.grad(expected_loss(teacher, 1.0), teacher)
    torch.testing.assert_close(mean * len(UNLABELLED), whole, rtol=1e-5, atol=0.0)


def test_soft_pseudo_labels_would_give_the_teacher_no_gradient():
    teacher = TEACHER.clone().requires_grad_()
    own = logits(teacher, UNLABELLED)
    (gradient,) = torch.autograd.grad(F.cross_entropy(own, own.softmax(-1).detach()), teacher)
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("draw", DRAWS[:-1], ids=lambda draw: str(draw.tolist()))
def test_the_dot_product_tends_to_the_difference_and_is_off_in_proportion_to_the_learning_rate(draw):
    errors = [
        ((dot_product(draw, rate) - difference(draw, rate)) / difference(draw, rate)).abs().item()
        for rate in (1e-1, 1e-2, 1e-3)
    ]
    assert errors[0] > 1e-3 > errors[2]
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.1)


def test_for_plain_descent_the_dot_product_is_the_paper_s_one():
    draw, rate = DRAWS[5], 0.7
    before = STUDENT.clone().requires_grad_()
    (of_pseudo_labels,) = torch.autograd.grad(F.cross_entropy(logits(before, UNLABELLED), draw), before)
    after = step(STUDENT, draw, rate).requires_grad_()
    (of_labels,) = torch.autograd.grad(labelled_loss(after), after)
    assert dot_product(draw, rate).item() == pytest.approx(rate * (of_labels @ of_pseudo_labels).item(), rel=1e-12)


def test_labels_are_drawn_by_the_share_of_the_unit_interval_that_is_theirs():
    uniforms = torch.tensor([0.0, 0.19, 0.21, 0.49, 0.51, 0.999, 1.0])
    distribution = torch.log(torch.tensor([0.2, 0.3, 0.5])).repeat(len(uniforms), 1)
    assert sample_pseudo_labels(distribution, uniforms).tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert sample_pseudo_labels(torch.tensor([[-200.0, 0.0]]), torch.tensor([0.0])).tolist() == [1]


def test_labels_are_drawn_as_often_as_they_are_probable():
    number = 20_000
    distribution = torch.log(torch.tensor([0.2, 0.3, 0.5])).repeat(number, 1)
    drawn = sample_pseudo_labels(distribution, torch.from_numpy(draw_uniforms(3, 7, number)))
    shares = torch.bincount(drawn) / number
    assert (shares - torch.tensor([0.2, 0.3, 0.5])).abs().max() < 4 * 0.5 / number**0.5


def test_draws_depend_on_seed_and_step_alone():
    np.testing.assert_array_equal(draw_uniforms(1, 2, 8), draw_uniforms(1, 2, 8))
    np.testing.assert_array_equal(draw_uniforms(1, 2, 8)[:5], draw_uniforms(1, 2, 5))
    for seed, number in ((1, 3), (2, 2), (2, 1)):
        assert not np.isin(draw_uniforms(seed, number, 8), draw_uniforms(1, 2, 8)).any()


def test_the_average_is_of_earlier_feedback_and_counts_the_last_the_most():
    baseline = Baseline(0.5)
    assert baseline.centre(torch.tensor(4.0)).item() == 4.0
    assert baseline.centre(torch.tensor(6.0)).item() == 2.0
    # (0.25 * 4 + 0.5 * 6) / 0.75
    assert baseline.centre(torch.tensor(0.0)).item() == pytest.approx(-16 / 3)
    resumed = Baseline(0.5)
    resumed.load_state_dict(baseline.state_dict())
    assert resumed.centre(torch.tensor(1.0)).item() == baseline.centre(torch.tensor(1.0)).item()


def test_a_trial_step_has_the_length_asked_for_over_all_weights_together():
    weights, gradients = [torch.zeros(2), torch.zeros(1)], [torch.tensor([2.0, 0.0]), torch.tensor([-1.5])]
    moved = trial_weights(weights, gradients, 5.0)
    torch.testing.assert_close(moved, [torch.tensor([-4.0, 0.0]), torch.tensor([3.0])])
    still = trial_weights(weights, [torch.zeros(2), torch.zeros(1)], 5.0)
    torch.testing.assert_close(still, weights)


def test_feedback_alone_teaches_a_teacher_that_begins_with_every_label_wrong():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(200, 2, generator=generator, dtype=torch.float64)
    truth = (points.sum(dim=1) > 0).long()
    unlabelled, labelled, labels = points[10:], points[:10], truth[:10]
    teacher = torch.tensor([-0.5, -0.5], dtype=torch.float64, requires_grad=True)
    student = torch.zeros(2, dtype=torch.float64)
    baseline = Baseline(0.9)

    def accuracy(weights):
        return (logits(weights, points).argmax(-1) == truth).double().mean().item()

    assert accuracy(teacher) == 0.0
    for number in range(300):
        rows = torch.randint(len(unlabelled), (16,), generator=generator)
        batch, own = unlabelled[rows], student.clone().requires_grad_()
        drawn = sample_pseudo_labels(logits(teacher, batch), torch.from_numpy(draw_uniforms(0, number, 16)))
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits(own, batch), drawn), own)
        moved = student - 0.5 * gradient
        losses = [F.cross_entropy(logits(weights, labelled), labels) for weights in (student, moved)]
        loss = 16 * feedback_loss(logits(teacher, batch), drawn, baseline.centre(losses[0] - losses[1]))
        (gradient,) = torch.autograd.grad(loss, teacher)
        teacher = (teacher - gradient).detach().requires_grad_()
        student = moved
    assert accuracy(teacher) > 0.9
    assert accuracy(student) > 0.8
