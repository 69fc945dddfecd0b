"""Distillation losses that compare the rows of a batch with each other, so that the widths may differ.

They depend on which rows share a micro-batch: four micro-batches of two are not one batch of eight, and with one row
per micro-batch there is nothing to compare. The other losses do not.
"""

import torch
from torch.nn import functional as F

from distil_trainer.losses.shapes import check_axes
from distil_trainer.losses.vectors import unit_vectors


def similarity_preserving(student, teacher):
    """Compute the squared difference of the rows' similarities to each other, over the squared number of rows.

    A side's similarities are `A Aᵀ` of its states A, each row of them divided by its length.

    Args:
        student (`torch.Tensor` of shape `(batch_size, student_width)`): one state per row; gradients flow into these.
        teacher (`torch.Tensor` of shape `(batch_size, teacher_width)`): one state per row.

    Returns:
        `torch.Tensor`: a scalar, 0 or above; 0 for a single row.

    Raises:
        ValueError: if the batch sizes differ, or either is not a matrix.

    Reference:
        Tung and Mori 2019, https://arxiv.org/abs/1907.09682, section 3, for one pair of layers.
    """
    _check_rows(student, teacher)
    return (_similarities(student) - _similarities(teacher)).square().mean()


def rkd_distance(student, teacher):
    """Compute the Huber loss of the distances of rows, each side's divided by their mean: mean over pairs of rows.

    The mean distance of a side is that of its rows at a distance above 0. Memory grows with
    `batch_size² · width`.

    Args:
        student (`torch.Tensor` of shape `(batch_size, student_width)`): one state per row; gradients flow into these.
        teacher (`torch.Tensor` of shape `(batch_size, teacher_width)`): one state per row.

    Returns:
        `torch.Tensor`: a scalar, 0 or above; 0 for a single row.

    Raises:
        ValueError: if the batch sizes differ, or either is not a matrix.

    Reference:
        Park et al. 2019, https://arxiv.org/abs/1904.05068, section 3.2.1 (distance-wise loss). There it is summed over
        pairs; the mean makes a weight mean the same for any batch size.
    """
    _check_rows(student, teacher)
    num_rows = len(student)
    # A row is at the same distance 0 from itself on both sides.
    total = F.huber_loss(_scaled_distances(student), _scaled_distances(teacher), reduction="sum")
    return total / max(num_rows * (num_rows - 1), 1)


def rkd_angle(student, teacher):
    """Compute the Huber loss of the cosines of the angles that three rows form: mean over triplets of unlike rows.

    It costs `batch_size³ · width` multiplications, and memory for `batch_size³` cosines and `batch_size² · width`
    differences.

    Args:
        student (`torch.Tensor` of shape `(batch_size, student_width)`): one state per row; gradients flow into these.
        teacher (`torch.Tensor` of shape `(batch_size, teacher_width)`): one state per row.

    Returns:
        `torch.Tensor`: a scalar, 0 or above; 0 for one or two rows.

    Raises:
        ValueError: if the batch sizes differ, or either is not a matrix.

    Reference:
        Park et al. 2019, https://arxiv.org/abs/1904.05068, section 3.2.2 (angle-wise loss). There it is summed over
        triplets; the mean makes a weight mean the same for any batch size.
    """
    _check_rows(student, teacher)
    num_rows = len(student)
    total = F.huber_loss(_cosines(student), _cosines(teacher), reduction="sum")
    return total / max(num_rows * (num_rows - 1) * (num_rows - 2), 1)


def _check_rows(student, teacher):
    check_axes(student, teacher, ("batch_size", "hidden_size"), may_differ=("hidden_size",))


def _similarities(states):
    states = states.float()
    # Under autocast, a product of float32 tensors would be computed in half precision.
    with torch.autocast(states.device.type, enabled=False):
        return unit_vectors(states @ states.T)


def _differences(states):
    states = states.float()
    return states[None, :, :] - states[:, None, :]


def _scaled_distances(states):
    squares = _differences(states).square().sum(dim=-1)
    apart = squares > 0
    # The square root has no gradient at 0.
    distances = torch.where(apart, squares, 1.0).sqrt().masked_fill(~apart, 0.0)
    return distances / torch.where(apart.any(), distances.sum() / apart.sum().clamp(min=1), 1.0)


def _cosines(states):
    """Return the cosine at row i between rows j and k, 0 where two of the three are one row."""
    directions = unit_vectors(_differences(states))
    with torch.autocast(states.device.type, enabled=False):
        cosines = directions @ directions.transpose(-1, -2)
    return cosines.masked_fill(torch.eye(len(states), dtype=torch.bool, device=states.device), 0.0)
