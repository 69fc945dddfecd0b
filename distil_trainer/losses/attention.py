"""Distillation losses on attention maps: probabilities over keys, of models with the same number of heads.

Transformers returns the maps after attention dropout: in training mode, zeros and enlarged probabilities of the
student take part in every loss here. Set its attention dropout to 0 to compare the maps themselves.
"""

import torch

from distil_trainer.losses.masking import mean_over_positions, unmasked
from distil_trainer.losses.shapes import check_axes
from distil_trainer.losses.vectors import cosine_distance

_AXES = ("batch_size", "num_heads", "length", "length")
_SMALLEST_PROBABILITY = 1e-12


def attention_mse(student, teacher, mask):
    """Compute the squared difference of attention maps: mean over heads, unmasked queries and keys, then over rows.

    Args:
        student (`torch.Tensor` of shape `(batch_size, num_heads, length, length)`): probabilities over the last axis;
            gradients flow into these.
        teacher (`torch.Tensor` of shape `(batch_size, num_heads, length, length)`): the target, of the same form.
        mask (`torch.Tensor` of shape `(batch_size, length)`): 1 where a position counts, 0 at padding; it masks
            queries and keys.

    Returns:
        `torch.Tensor`: a scalar in [0, 1]. A row with nothing unmasked contributes 0, but counts as a row.

    Raises:
        ValueError: if the shapes differ (unequal numbers of heads cannot be compared), or the mask does not fit them.

    Reference:
        Jiao et al. 2019 (TinyBERT), https://arxiv.org/abs/1909.10351, equation 7. There the scores before the softmax
        are compared; transformers returns the probabilities only. They get smaller as the length grows, and this loss
        with them, so it needs a far larger weight than the divergence (`attention_kl`).
    """
    keep, student, teacher = _comparable(student, teacher, mask)
    num_keys = keep.sum(dim=1).clamp(min=1)[:, None, None]
    squares = (student - teacher).square().sum(dim=-1) / num_keys
    return mean_over_positions(squares.mean(dim=1), keep)


def attention_cosine(student, teacher, mask):
    """Compute 1 − cosine of attention maps, over keys: mean over heads and unmasked queries, then over rows.

    Args:
        student (`torch.Tensor` of shape `(batch_size, num_heads, length, length)`): probabilities over the last axis;
            gradients flow into these.
        teacher (`torch.Tensor` of shape `(batch_size, num_heads, length, length)`): the target, of the same form.
        mask (`torch.Tensor` of shape `(batch_size, length)`): 1 where a position counts, 0 at padding; it masks
            queries and keys.

    Returns:
        `torch.Tensor`: a scalar in [0, 1]. A row with nothing unmasked contributes 0, but counts as a row.

    Raises:
        ValueError: if the shapes differ (unequal numbers of heads cannot be compared), or the mask does not fit them.

    Reference:
        The attention term of FastFormers (Kim and Hassan 2020, https://arxiv.org/abs/2010.13382) in its published
        code; there padding counts, and layers are summed.
    """
    keep, student, teacher = _comparable(student, teacher, mask)
    return mean_over_positions(cosine_distance(student, teacher).mean(dim=1), keep)


def attention_kl(student, teacher, mask):
    """Compute `KL(teacher ‖ student)` of attention maps, summed over keys: mean over heads, queries and rows.

    Probabilities below 1e-12 are raised to it inside of the logarithm (in float16, below its smallest normal number),
    so that exact zeros give finite values and gradients. Such a probability of the student gets no gradient: each zero
    that attention dropout leaves in the student's maps adds up to 28 times the teacher's probability there.

    Args:
        student (`torch.Tensor` of shape `(batch_size, num_heads, length, length)`): probabilities over the last axis;
            gradients flow into these.
        teacher (`torch.Tensor` of shape `(batch_size, num_heads, length, length)`): the target, of the same form.
        mask (`torch.Tensor` of shape `(batch_size, length)`): 1 where a position counts, 0 at padding; it masks
            queries and keys.

    Returns:
        `torch.Tensor`: a scalar, 0 or above where both are probabilities. A row with nothing unmasked contributes 0,
        but counts as a row.

    Raises:
        ValueError: if the shapes differ (unequal numbers of heads cannot be compared), or the mask does not fit them.

    Reference:
        Wang et al. 2020 (MiniLM), https://arxiv.org/abs/2002.10957, section 3.1, and Sun et al. 2020 (MobileBERT),
        https://arxiv.org/abs/2004.02984, section 3.4, which are means over heads and positions too. Here padding does
        not count, and the mean is over each row's positions first.
    """
    smallest = max(_SMALLEST_PROBABILITY, torch.finfo(student.dtype).tiny)
    keep, student, teacher = _comparable(student, teacher, mask)
    log_ratio = teacher.clamp(min=smallest).log() - student.clamp(min=smallest).log()
    return mean_over_positions((teacher * log_ratio).sum(dim=-1).mean(dim=1), keep)


def _comparable(student, teacher, mask):
    """Check shapes, then return where positions count, and both maps in float32 with 0 at masked queries and keys."""
    check_axes(student, teacher, _AXES)
    keep = unmasked(mask, student)
    outside = ~(keep[:, None, :, None] & keep[:, None, None, :])
    return keep, student.float().masked_fill(outside, 0.0), teacher.float().masked_fill(outside, 0.0)
