import math

import pytest
import torch

from distil_trainer.losses import rkd_angle, rkd_distance, similarity_preserving

LOSSES = [similarity_preserving, rkd_distance, rkd_angle]
RANDOM = torch.Generator().manual_seed(3)
STATES = torch.randn(6, 4, generator=RANDOM)
TARGETS = torch.randn(6, 7, generator=RANDOM)


def _gradient(loss, states, targets):
    states = states.clone().requires_grad_(True)
    loss(states, targets).backward()
    return states.grad


def test_similarity_preserving_equals_the_value_worked_by_hand():
    # The student's similarities are ((1, 0), (0, 1)), the teacher's ((1, 1), (1, 1)) / sqrt 2.
    student, teacher = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([[2.0], [2.0]])
    half = math.sqrt(0.5)
    expected = (2 * (1 - half) ** 2 + 2 * half**2) / 4
    assert similarity_preserving(student, teacher).item() == pytest.approx(expected, abs=1e-6)


def test_rkd_distance_equals_the_value_worked_by_hand():
    # Distances of the student 1, 1, 2, with mean 4/3: 3/4, 3/4, 3/2. Of the teacher 1, 2, 3, with mean 2: 1/2, 1, 3/2.
    student, teacher = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    expected = (0.5 * 0.25**2 + 0.5 * 0.25**2 + 0.0) / 3
    assert rkd_distance(student, teacher).item() == pytest.approx(expected, abs=1e-7)


def test_rkd_distance_is_linear_beyond_a_difference_of_one():
    # The student's distances are 0, 1, 1 with mean 1 of the positive ones; the teacher's 98, 1, 99, with mean 66.
    student, teacher = torch.tensor([[0.0], [0.0], [1.0]]), torch.tensor([[0.0], [98.0], [99.0]])
    expected = (98 / 66 - 0.5 + 0.5 * (1 - 1 / 66) ** 2 + 0.5 * (99 / 66 - 1) ** 2) / 3
    assert rkd_distance(student, teacher).item() == pytest.approx(expected, abs=1e-6)


def test_rkd_angle_equals_the_value_worked_by_hand():
    # The student's triangle has a right angle at row 0 and 45 degrees at the others. The teacher's rows lie in a line,
    # row 0 in the middle: cosine -1 at row 0, 1 at the others. Each angle counts twice among the 6 triplets.
    student = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    teacher = torch.tensor([[0.0], [1.0], [-1.0]])
    expected = (0.5 * 1.0 + 2 * 0.5 * (1 - math.sqrt(0.5)) ** 2) / 3
    assert rkd_angle(student, teacher).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_value_and_gradient_are_zero_where_the_student_equals_the_teacher(loss):
    assert loss(STATES, STATES).item() == 0
    assert _gradient(loss, STATES, STATES).abs().max().item() == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_widths_may_differ_and_a_step_along_the_gradient_lowers_the_loss(loss):
    gradient = _gradient(loss, STATES, TARGETS)
    assert gradient.norm().item() > 1e-4
    assert loss(STATES - 1e-3 * gradient / gradient.norm(), TARGETS) < loss(STATES, TARGETS)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_scale_of_either_side_does_not_matter(loss):
    assert loss(3 * STATES, 0.5 * TARGETS).item() == pytest.approx(loss(STATES, TARGETS).item(), rel=1e-5)


@pytest.mark.parametrize("loss", [rkd_distance, rkd_angle])
def test_relations_of_distance_and_angle_do_not_change_when_all_rows_move(loss):
    assert loss(STATES + 2.0, TARGETS).item() == pytest.approx(loss(STATES, TARGETS).item(), rel=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_equal_rows_on_either_side_give_finite_gradients(loss):
    states, targets = STATES.clone(), TARGETS.clone()
    states[1], targets[2], targets[3] = states[0], targets[0], 0.0
    assert _gradient(loss, states, targets).isfinite().all()
    assert _gradient(loss, torch.ones(6, 4), targets).isfinite().all()
    assert _gradient(loss, torch.zeros(6, 4), targets).isfinite().all()
    assert _gradient(loss, states, torch.ones(6, 7)).isfinite().all()


@pytest.mark.parametrize(
    ("loss", "num_rows"), [(similarity_preserving, 1), (rkd_distance, 1), (rkd_angle, 1), (rkd_angle, 2)]
)
def test_too_few_rows_to_compare_give_zero_and_a_gradient_of_zero(loss, num_rows):
    assert loss(STATES[:num_rows], TARGETS[:num_rows]).item() == 0
    assert _gradient(loss, STATES[:num_rows], TARGETS[:num_rows]).abs().max().item() == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_rows_are_compared_in_float32_also_under_autocast(loss):
    student, teacher = STATES.bfloat16(), TARGETS.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student, teacher)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(student.float(), teacher.float()).item(), rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_unequal_numbers_of_rows_are_refused(loss):
    with pytest.raises(ValueError, match="student has batch_size=6, teacher has batch_size=1: .* the same rows"):
        loss(STATES, TARGETS[:1])


@pytest.mark.parametrize("loss", LOSSES)
def test_states_of_tokens_are_refused(loss):
    with pytest.raises(ValueError, match=r"student has shape \(6, 1, 4\), but \(batch_size, hidden_size\) is needed"):
        loss(STATES[:, None], TARGETS)
