"""Distillation losses on hidden states, of every token or of a row: both sides have the same width."""

from torch.nn import functional as F

from distil_trainer.losses.masking import mean_over_positions, unmasked, without_padding
from distil_trainer.losses.shapes import check_axes
from distil_trainer.losses.vectors import cosine_distance

_TOKENS = ("batch_size", "length", "hidden_size")
_ROWS = ("batch_size", "hidden_size")


def hidden_mse(student, teacher, mask):
    """Compute the squared difference of hidden states: mean over the width, a row's unmasked positions, and rows.

    Args:
        student (`torch.Tensor` of shape `(batch_size, length, hidden_size)`): gradients flow into these.
        teacher (`torch.Tensor` of shape `(batch_size, length, hidden_size)`): the target.
        mask (`torch.Tensor` of shape `(batch_size, length)`): 1 where a position counts, 0 at padding.

    Returns:
        `torch.Tensor`: a scalar, 0 or above. A row with nothing unmasked contributes 0, but counts as a row.

    Raises:
        ValueError: if the shapes differ (unequal widths need a projection), or the mask does not fit them.

    Reference:
        Jiao et al. 2019 (TinyBERT), https://arxiv.org/abs/1909.10351, equation 8; here padding does not count, and the
        projection is applied before.
    """
    check_axes(student, teacher, _TOKENS)
    keep = unmasked(mask, student)
    difference = without_padding(student, keep) - without_padding(teacher, keep)
    return mean_over_positions(difference.square().mean(dim=-1), keep)


def hidden_cosine(student, teacher, mask):
    """Compute 1 − cosine of hidden states, over the width: mean over a row's unmasked positions, then over rows.

    It compares directions only: the lengths of the student's vectors get no gradient.

    Args:
        student (`torch.Tensor` of shape `(batch_size, length, hidden_size)`): gradients flow into these.
        teacher (`torch.Tensor` of shape `(batch_size, length, hidden_size)`): the target.
        mask (`torch.Tensor` of shape `(batch_size, length)`): 1 where a position counts, 0 at padding.

    Returns:
        `torch.Tensor`: a scalar in [0, 2]. A row with nothing unmasked contributes 0, but counts as a row.

    Raises:
        ValueError: if the shapes differ (unequal widths need a projection), or the mask does not fit them.

    Reference:
        Sanh et al. 2019 (DistilBERT), https://arxiv.org/abs/1910.01108, section 2: the loss that aligns the directions
        of the hidden states. There it is a mean over all tokens of a batch; here over each row's, then over rows.
    """
    check_axes(student, teacher, _TOKENS)
    keep = unmasked(mask, student)
    return mean_over_positions(cosine_distance(without_padding(student, keep), without_padding(teacher, keep)), keep)


def pkd(student, teacher):
    """Compute the squared distance of the two states, each divided by its length: sum over the width, mean over rows.

    It is twice `pooled_cosine`; the paper gives it for the state of the token that the classification head reads.

    Args:
        student (`torch.Tensor` of shape `(batch_size, hidden_size)`): gradients flow into these.
        teacher (`torch.Tensor` of shape `(batch_size, hidden_size)`): the target.

    Returns:
        `torch.Tensor`: a scalar in [0, 4].

    Raises:
        ValueError: if the shapes differ (unequal widths need a projection) or are not of that form.

    Reference:
        Sun et al. 2019 (patient knowledge distillation), https://arxiv.org/abs/1908.09355, equation 7, for one pair of
        layers; there it is summed over layers and rows.
    """
    return 2 * pooled_cosine(student, teacher)


def pooled_mse(student, teacher):
    """Compute the squared difference of one state per row: mean over the width and rows.

    Args:
        student (`torch.Tensor` of shape `(batch_size, hidden_size)`): gradients flow into these.
        teacher (`torch.Tensor` of shape `(batch_size, hidden_size)`): the target.

    Returns:
        `torch.Tensor`: a scalar, 0 or above.

    Raises:
        ValueError: if the shapes differ (unequal widths need a projection) or are not of that form.

    Reference:
        Romero et al. 2014 (FitNets), https://arxiv.org/abs/1412.6550, equation 3, on pooled states; there it is half
        the sum over the width.
    """
    check_axes(student, teacher, _ROWS)
    return F.mse_loss(student.float(), teacher.float())


def pooled_cosine(student, teacher):
    """Compute 1 − cosine of one state per row: mean over rows.

    Args:
        student (`torch.Tensor` of shape `(batch_size, hidden_size)`): gradients flow into these.
        teacher (`torch.Tensor` of shape `(batch_size, hidden_size)`): the target.

    Returns:
        `torch.Tensor`: a scalar in [0, 2].

    Raises:
        ValueError: if the shapes differ (unequal widths need a projection) or are not of that form.

    Reference:
        Sanh et al. 2019 (DistilBERT), https://arxiv.org/abs/1910.01108, section 2, on pooled states.
    """
    check_axes(student, teacher, _ROWS)
    return cosine_distance(student.float(), teacher.float()).mean()
