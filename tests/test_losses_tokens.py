"""What every loss that compares tokens must hold: padding, rows, precision. Values are in the files of each family."""

from functools import partial

import pytest
import torch

from distil_trainer.losses import (
    attention_cosine,
    attention_kl,
    attention_mse,
    hidden_cosine,
    hidden_mse,
    relation_kl,
)

MASK = torch.tensor(
    [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 0, 0, 0, 0]] + 4 * [[1, 1, 1, 1, 0]], dtype=torch.int64
)


def _states(seed, width=6):
    return torch.randn(8, 5, width, generator=torch.Generator().manual_seed(seed))


def _maps(seed):
    scores = 2 * torch.randn(8, 2, 5, 5, generator=torch.Generator().manual_seed(seed))
    return scores.masked_fill(MASK[:, None, None, :] == 0, -1e30).softmax(dim=-1)


def _other(states, mask, garbage):
    """Write `garbage` into every masked position, of queries and keys where there are both."""
    outside = mask == 0
    if states.ndim == 3:
        return states.masked_fill(outside[:, :, None], garbage)
    return states.masked_fill(outside[:, None, :, None] | outside[:, None, None, :], garbage)


RELATIONS = partial(relation_kl, num_relation_heads=2)
LOSSES = [
    pytest.param(loss, make(1), make(2), id=name)
    for name, loss, make in (
        ("hidden_mse", hidden_mse, _states),
        ("hidden_cosine", hidden_cosine, _states),
        ("attention_mse", attention_mse, _maps),
        ("attention_cosine", attention_cosine, _maps),
        ("attention_kl", attention_kl, _maps),
        ("relation_kl", RELATIONS, _states),
    )
] + [pytest.param(RELATIONS, _states(1, 4), _states(2, 10), id="relation_kl of unequal widths")]


def _value_and_gradient(loss, student, teacher, mask=MASK):
    student = student.clone().requires_grad_(True)
    value = loss(student, teacher, mask)
    value.backward()
    return value.detach(), student.grad


@pytest.mark.parametrize(("loss", "student", "teacher"), LOSSES)
@pytest.mark.parametrize("garbage", [1e30, -7.0, float("inf"), float("nan")])
def test_padding_changes_neither_value_nor_gradient(loss, student, teacher, garbage):
    value, gradient = _value_and_gradient(loss, student, teacher)
    other_value, other_gradient = _value_and_gradient(
        loss, _other(student, MASK, garbage), _other(teacher, MASK, garbage)
    )
    assert value.item() > 1e-3
    assert torch.equal(value, other_value)
    assert torch.equal(gradient, other_gradient)
    assert torch.equal(gradient, _other(gradient, MASK, 0.0))


@pytest.mark.parametrize(("loss", "student", "teacher"), LOSSES)
def test_a_row_has_the_loss_that_it_has_alone_without_padding(loss, student, teacher):
    alone = []
    for row in range(8):
        at = MASK[row].nonzero()[:, 0]
        # Attention maps have the positions as both last axes, states as the one before the last.
        cut = (lambda s, at=at: s[..., at, :][..., at]) if student.ndim == 4 else (lambda s, at=at: s[..., at, :])
        alone.append(
            loss(cut(student[row : row + 1]), cut(teacher[row : row + 1]), torch.ones(1, len(at), dtype=torch.bool))
        )
    torch.testing.assert_close(torch.stack(alone).mean(), loss(student, teacher, MASK))


@pytest.mark.parametrize(("loss", "student", "teacher"), LOSSES)
def test_four_micro_batches_of_two_equal_one_batch_of_eight(loss, student, teacher):
    value, gradient = _value_and_gradient(loss, student, teacher)
    parts = [_value_and_gradient(loss, *(x[i : i + 2] for x in (student, teacher, MASK))) for i in range(0, 8, 2)]
    torch.testing.assert_close(torch.stack([part for part, _ in parts]).mean(), value)
    torch.testing.assert_close(torch.cat([part / 4 for _, part in parts]), gradient)


@pytest.mark.parametrize(("loss", "student", "teacher"), LOSSES)
def test_a_row_with_nothing_unmasked_contributes_zero_and_counts_as_a_row(loss, student, teacher):
    mask = MASK.clone()
    mask[2] = 0
    value, gradient = _value_and_gradient(loss, student, teacher, mask)
    others = [0, 1, 3, 4, 5, 6, 7]
    torch.testing.assert_close(value, loss(student[others], teacher[others], mask[others]) * 7 / 8)
    assert gradient[2].abs().max().item() == 0
    value, gradient = _value_and_gradient(loss, student, teacher, torch.zeros_like(mask))
    assert value.item() == 0
    assert gradient.abs().max().item() == 0


@pytest.mark.parametrize(("loss", "student", "teacher"), LOSSES)
def test_masks_of_integers_floats_and_booleans_mean_the_same(loss, student, teacher):
    values = {loss(student, teacher, MASK.to(dtype)).item() for dtype in (torch.int64, torch.float32, torch.bool)}
    assert len(values) == 1


@pytest.mark.parametrize(("loss", "student", "teacher"), LOSSES)
def test_half_precision_states_are_compared_in_float32_also_under_autocast(loss, student, teacher):
    student, teacher = student.bfloat16(), teacher.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student, teacher, MASK)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(student.float(), teacher.float(), MASK).item(), rel=1e-6)


@pytest.mark.parametrize(("loss", "student", "teacher"), LOSSES[:6])
def test_value_is_zero_where_the_student_equals_the_teacher(loss, student, teacher):
    assert loss(student, student, MASK).item() == 0
    assert loss(student, teacher, MASK).item() > 1e-3


@pytest.mark.parametrize(("loss", "student", "teacher"), LOSSES)
def test_a_step_along_the_gradient_lowers_the_loss(loss, student, teacher):
    value, gradient = _value_and_gradient(loss, student, teacher)
    assert loss(student - 1e-3 * gradient / gradient.norm(), teacher, MASK) < value


@pytest.mark.parametrize(("loss", "student", "teacher"), LOSSES)
def test_a_mask_of_another_shape_is_refused(loss, student, teacher):
    with pytest.raises(ValueError, match=r"mask has shape \(8, 1\), but \(batch_size, length\)=\(8, 5\) is needed"):
        loss(student, teacher, MASK[:, :1])


@pytest.mark.parametrize(("loss", "student", "teacher"), LOSSES)
def test_unequal_batch_sizes_and_lengths_are_refused(loss, student, teacher):
    with pytest.raises(ValueError, match="student has batch_size=8, teacher has batch_size=1: .* the same rows"):
        loss(student, teacher[:1], MASK)
    shorter = teacher[..., :3, :3] if teacher.ndim == 4 else teacher[:, :3]
    with pytest.raises(ValueError, match="student has length=5, teacher has length=3: .* pool both to words"):
        loss(student, shorter, MASK)


@pytest.mark.parametrize(("loss", "student", "teacher"), LOSSES)
def test_states_with_other_axes_are_refused(loss, student, teacher):
    with pytest.raises(ValueError, match=r"teacher has shape .*, but \(batch_size, .*\) is needed"):
        loss(student, teacher[0], MASK)
