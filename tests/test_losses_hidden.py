import pytest
import torch

from distil_trainer.losses import hidden_cosine, hidden_mse, pkd, pooled_cosine, pooled_mse

RANDOM = torch.Generator().manual_seed(3)
STATES = torch.randn(5, 4, generator=RANDOM)
TARGETS = torch.randn(5, 4, generator=RANDOM)
# Row 0: the same direction, then at right angles. Row 1: opposite; its second position is padding.
STUDENT = torch.tensor([[[3.0, 4.0], [1.0, 0.0]], [[2.0, 0.0], [9.0, 9.0]]])
TEACHER = torch.tensor([[[6.0, 8.0], [0.0, 1.0]], [[-1.0, 0.0], [0.0, 9.0]]])
MASK = torch.tensor([[1, 1], [1, 0]])


def _gradient(loss, states, *args):
    states = states.clone().requires_grad_(True)
    loss(states, *args).backward()
    return states.grad


def test_hidden_mse_equals_the_value_worked_by_hand():
    # Row 0: mean of (9 + 16) / 2 and (1 + 1) / 2; row 1: (9 + 0) / 2.
    assert hidden_mse(STUDENT, TEACHER, MASK).item() == pytest.approx(((12.5 + 1.0) / 2 + 4.5) / 2, abs=1e-6)


def test_hidden_cosine_equals_the_value_worked_by_hand():
    # Row 0: mean of 0 and 1; row 1: 2.
    assert hidden_cosine(STUDENT, TEACHER, MASK).item() == pytest.approx((0.5 + 2.0) / 2, abs=1e-6)


def test_pooled_losses_equal_the_values_worked_by_hand():
    student, teacher = STUDENT[:, 0], TEACHER[:, 0]
    assert pooled_mse(student, teacher).item() == pytest.approx((12.5 + 4.5) / 2, abs=1e-6)
    assert pooled_cosine(student, teacher).item() == pytest.approx((0.0 + 2.0) / 2, abs=1e-6)
    # Unit vectors equal in row 0, opposite in row 1: squared distances 0 and 4.
    assert pkd(student, teacher).item() == pytest.approx(2.0, abs=1e-6)


def test_cosine_losses_are_one_minus_the_cosine_of_pytorch():
    cosines = torch.cosine_similarity(STATES, TARGETS)
    assert pooled_cosine(STATES, TARGETS).item() == pytest.approx(1 - cosines.mean().item(), abs=1e-6)
    value = hidden_cosine(STATES[:, None], TARGETS[:, None], torch.ones(5, 1))
    assert value.item() == pytest.approx(1 - cosines.mean().item(), abs=1e-6)


def test_pkd_is_the_squared_distance_of_normalized_vectors():
    student, teacher = torch.nn.functional.normalize(STATES), torch.nn.functional.normalize(TARGETS)
    assert pkd(STATES, TARGETS).item() == pytest.approx((student - teacher).square().sum(-1).mean().item(), rel=1e-6)


@pytest.mark.parametrize("loss", [pkd, pooled_mse, pooled_cosine])
def test_pooled_losses_and_gradients_are_zero_where_the_student_equals_the_teacher(loss):
    assert loss(STATES, STATES).item() == 0
    assert _gradient(loss, STATES, STATES).abs().max().item() == 0
    assert _gradient(loss, STATES, TARGETS).abs().min().item() > 0


@pytest.mark.parametrize("loss", [hidden_mse, hidden_cosine])
def test_hidden_gradients_are_zero_where_the_student_equals_the_teacher(loss):
    assert _gradient(loss, STUDENT, STUDENT, MASK).abs().max().item() == 0


@pytest.mark.parametrize("loss", [pkd, pooled_cosine])
def test_directions_only_are_compared(loss):
    assert loss(3 * STATES, TARGETS).item() == pytest.approx(loss(STATES, TARGETS).item(), rel=1e-6)
    radial = (_gradient(loss, STATES, TARGETS) * STATES).sum(-1)
    assert radial.abs().max().item() < 1e-6


def test_a_small_angle_is_not_lost_to_rounding():
    # 1 - cosine of the angle 1e-4 is 5e-9, which float32 cannot tell from 0 beside 1.
    student, teacher = torch.tensor([[1.0, 1e-4]]), torch.tensor([[1.0, 0.0]])
    assert pooled_cosine(student, teacher).item() == pytest.approx(5e-9, rel=1e-3)


def test_a_zero_vector_gives_finite_values_and_gradients():
    gradient = _gradient(pooled_cosine, torch.zeros(2, 4), torch.stack([TARGETS[0], torch.zeros(4)]))
    assert gradient.isfinite().all()
    assert pooled_cosine(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0
    assert pooled_cosine(torch.zeros(1, 4), TARGETS[:1]).item() == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("loss", [pkd, pooled_mse, pooled_cosine])
def test_four_micro_batches_of_two_equal_one_batch_of_eight(loss):
    student, teacher = torch.randn(8, 4, generator=RANDOM), torch.randn(8, 4, generator=RANDOM)
    parts = [loss(student[i : i + 2], teacher[i : i + 2]) for i in range(0, 8, 2)]
    torch.testing.assert_close(torch.stack(parts).mean(), loss(student, teacher))


@pytest.mark.parametrize("loss", [pkd, pooled_mse, pooled_cosine])
def test_half_precision_pooled_states_are_compared_in_float32(loss):
    value = loss(STATES.bfloat16(), TARGETS.bfloat16())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(STATES.bfloat16().float(), TARGETS.bfloat16().float()).item(), rel=1e-6)


@pytest.mark.parametrize("loss", [pkd, pooled_mse, pooled_cosine])
def test_pooled_states_of_unequal_width_need_a_projection(loss):
    message = "student has hidden_size=4, teacher has hidden_size=1: .* A projection is needed"
    with pytest.raises(ValueError, match=message):
        loss(STATES, TARGETS[:, :1])


@pytest.mark.parametrize("loss", [hidden_mse, hidden_cosine])
def test_hidden_states_of_unequal_width_need_a_projection(loss):
    message = "student has hidden_size=2, teacher has hidden_size=1: .* A projection is needed"
    with pytest.raises(ValueError, match=message):
        loss(STUDENT, TEACHER[:, :, :1], MASK)


@pytest.mark.parametrize("loss", [pkd, pooled_mse, pooled_cosine])
def test_states_of_tokens_are_refused_where_one_state_per_row_is_needed(loss):
    with pytest.raises(ValueError, match=r"student has shape \(2, 2, 2\), but \(batch_size, hidden_size\) is needed"):
        loss(STUDENT, TEACHER)
