"""The distillation loss on relations: how alike the queries, keys or values of a row's tokens are.

Unlike attention maps they can be compared for any widths and any numbers of attention heads.
"""

import math

import torch
from torch.nn import functional as F

from distil_trainer.losses.masking import mean_over_positions, unmasked, without_padding
from distil_trainer.losses.shapes import check_axes


def relation_kl(student, teacher, mask, num_relation_heads):
    """Compute `KL(teacher ‖ student)` of the relations of queries, keys or values: mean over heads, tokens and rows.

    Each side is split into `num_relation_heads` parts X of width d, whose relations are `softmax(X Xᵀ / √d)` over the
    unmasked positions of the row.

    Args:
        student (`torch.Tensor` of shape `(batch_size, length, student_width)`): the queries, keys or values of a
            layer, all heads side by side; gradients flow into these.
        teacher (`torch.Tensor` of shape `(batch_size, length, teacher_width)`): the same of a teacher's layer.
        mask (`torch.Tensor` of shape `(batch_size, length)`): 1 where a position counts, 0 at padding.
        num_relation_heads (`int`): a common divisor of both widths. It need not be the number of attention heads of
            either side; more of them compare finer parts, and cost more memory.

    Returns:
        `torch.Tensor`: a scalar, 0 or above. A row with nothing unmasked contributes 0, but counts as a row.

    Raises:
        ValueError: if the batch sizes or lengths differ, the mask does not fit them, or `num_relation_heads` does not
            divide both widths.

    Reference:
        Wang et al. 2020 (MiniLMv2), https://arxiv.org/abs/2012.15828, section 3.1: the relations of queries with
        queries, keys with keys and values with values, whose losses the paper adds. It takes the mean over heads and
        positions too; here padding does not count, and the mean is over each row's positions first.
    """
    check_axes(student, teacher, ("batch_size", "length", "hidden_size"), may_differ=("hidden_size",))
    keep = unmasked(mask, student)
    student_width, teacher_width = student.shape[-1], teacher.shape[-1]
    if num_relation_heads < 1 or student_width % num_relation_heads or teacher_width % num_relation_heads:
        raise ValueError(
            f"num_relation_heads={num_relation_heads} must divide the student's width {student_width} and the "
            f"teacher's width {teacher_width}, or the heads would hold unequal parts. Give a divisor of "
            f"{math.gcd(student_width, teacher_width)}."
        )
    divergence = F.kl_div(
        _log_relations(student, keep, num_relation_heads),
        _log_relations(teacher, keep, num_relation_heads),
        reduction="none",
        log_target=True,
    )
    return mean_over_positions(divergence.sum(dim=-1).mean(dim=1), keep)


def _log_relations(states, keep, num_heads):
    """Return log-probabilities of shape `(batch_size, num_heads, length, length)`."""
    heads = without_padding(states, keep).unflatten(-1, (num_heads, -1)).transpose(1, 2)
    # Under autocast, a product of float32 tensors would be computed in half precision.
    with torch.autocast(states.device.type, enabled=False):
        scores = heads @ heads.transpose(-1, -2) / math.sqrt(heads.shape[-1])
    # Not -inf: a row with nothing unmasked would be NaN, and its gradient too.
    return scores.masked_fill(~keep[:, None, None, :], torch.finfo(scores.dtype).min).log_softmax(dim=-1)
