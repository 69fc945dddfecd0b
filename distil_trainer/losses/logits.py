"""Distillation losses on logits, from a teacher or from gold labels: each a mean over rows."""

import torch
from torch.nn import functional as F

from distil_trainer.losses.shapes import check_same_shape


def soft_target_kl(student_logits, teacher_logits, temperature=1.0):
    """Compute `T² · KL(softmax(teacher / T) ‖ softmax(student / T))`: summed over labels, mean over rows.

    It is zero, and so is its gradient, where the student's logits equal the teacher's.

    Args:
        student_logits (`torch.Tensor` of shape `(batch_size, num_labels)`): gradients flow into these.
        teacher_logits (`torch.Tensor` of shape `(batch_size, num_labels)`): the target, in the student's label order.
        temperature (`float`, *optional*, defaults to 1.0): above 0; a higher one weighs the small probabilities more.

    Returns:
        `torch.Tensor`: a scalar, 0 or above.

    Raises:
        ValueError: if the two shapes differ.

    Reference:
        Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 2: the factor T² keeps the size of the gradients
        as the temperature changes. The paper minimizes the cross-entropy (`soft_cross_entropy`); the divergence
        differs from it by the teacher's entropy, which has no gradient.
    """
    check_same_shape(student_logits, teacher_logits)
    divergence = F.kl_div(
        F.log_softmax(student_logits.float() / temperature, dim=-1),
        F.log_softmax(teacher_logits.float() / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * divergence


def soft_cross_entropy(student_logits, teacher_logits, temperature=1.0):
    """Compute `T² · CE(softmax(teacher / T), softmax(student / T))`: summed over labels, mean over rows.

    It has the gradient of `soft_target_kl`; where the student's logits equal the teacher's, it is `T²` times the
    teacher's entropy at that temperature.

    Args:
        student_logits (`torch.Tensor` of shape `(batch_size, num_labels)`): gradients flow into these.
        teacher_logits (`torch.Tensor` of shape `(batch_size, num_labels)`): the target, in the student's label order.
        temperature (`float`, *optional*, defaults to 1.0): above 0.

    Returns:
        `torch.Tensor`: a scalar, 0 or above.

    Raises:
        ValueError: if the two shapes differ.

    Reference:
        Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 2, with its factor T².
    """
    check_same_shape(student_logits, teacher_logits)
    target = F.softmax(teacher_logits.float() / temperature, dim=-1)
    return temperature**2 * F.cross_entropy(student_logits.float() / temperature, target)


def logit_mse(student_logits, teacher_logits):
    """Compute the mean over labels and rows of the squared difference of the logits.

    Args:
        student_logits (`torch.Tensor` of shape `(batch_size, num_labels)`): gradients flow into these.
        teacher_logits (`torch.Tensor` of shape `(batch_size, num_labels)`): the target, in the student's label order.

    Returns:
        `torch.Tensor`: a scalar, 0 or above.

    Raises:
        ValueError: if the two shapes differ.

    Reference:
        Ba and Caruana 2014, https://arxiv.org/abs/1312.6184, equation 1. There it is half the sum over labels; the
        mean makes a weight mean the same for any number of labels.
    """
    check_same_shape(student_logits, teacher_logits)
    return F.mse_loss(student_logits.float(), teacher_logits.float())


def decoupled_kd(student_logits, teacher_logits, labels, temperature=1.0, target_weight=1.0, non_target_weight=8.0):
    """Compute `T² · (α · KL of the target class against the rest + β · KL among the other classes)`, mean over rows.

    The first divergence is of two probabilities, the target class's and the sum of the others'; the second is of the
    probabilities of the other classes, divided by their sum. `soft_target_kl` is the same with α = 1 and, as β, the
    probability that the teacher gives to the other classes: where the teacher is sure, it learns little from them.
    With two labels there is one other class, so that the second divergence is 0 and `non_target_weight` has no effect.

    Args:
        student_logits (`torch.Tensor` of shape `(batch_size, num_labels)`): gradients flow into these.
        teacher_logits (`torch.Tensor` of shape `(batch_size, num_labels)`): the target, in the student's label order.
        labels (`torch.Tensor` of shape `(batch_size,)`, int64): the target class; -100 where the row is unlabelled,
            and then the teacher's most probable class is taken.
        temperature (`float`, *optional*, defaults to 1.0): above 0.
        target_weight (`float`, *optional*, defaults to 1.0): α, 0 or above.
        non_target_weight (`float`, *optional*, defaults to 8.0): β, 0 or above; the paper's best lies between 1 and 8.

    Returns:
        `torch.Tensor`: a scalar, 0 or above.

    Raises:
        ValueError: if the logits' shapes differ, there are fewer than two labels, or `labels` is not one per row.

    Reference:
        Zhao et al. 2022, https://arxiv.org/abs/2203.08679, equation 7, with the factor T² of its published code. The
        paper has gold labels for every row; taking the teacher's class where there is none is ours.
    """
    check_same_shape(student_logits, teacher_logits)
    num_rows, num_labels = student_logits.shape
    if num_labels < 2:
        raise ValueError(
            f"student_logits has num_labels={num_labels}, but decoupling a target class from the others needs 2 or "
            "more: the loss would be 0 for any student. For regression use `logit_mse`."
        )
    if labels.shape != (num_rows,):
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}, but (batch_size,)=({num_rows},) is needed: one target class per "
            "row. For several labels per row use `sigmoid_kl`."
        )
    target = torch.where(labels == -100, teacher_logits.argmax(dim=-1), labels)
    is_target = torch.zeros_like(student_logits, dtype=torch.bool).scatter(1, target[:, None], True)
    student = _target_against_rest_and_rest(student_logits.float() / temperature, is_target)
    teacher = _target_against_rest_and_rest(teacher_logits.float() / temperature, is_target)
    target_part, non_target_part = (
        F.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True)
        for student_log, teacher_log in zip(student, teacher, strict=True)
    )
    return temperature**2 * (target_weight * target_part + non_target_weight * non_target_part)


def sigmoid_kl(student_logits, teacher_logits, temperature=1.0):
    """Compute `T² · KL(Bernoulli(sigmoid(teacher / T)) ‖ Bernoulli(sigmoid(student / T)))`: mean over labels and rows.

    It is `soft_target_kl` for rows that have any number of labels: each label is a yes or no of its own.

    Args:
        student_logits (`torch.Tensor` of shape `(batch_size, num_labels)`): gradients flow into these.
        teacher_logits (`torch.Tensor` of shape `(batch_size, num_labels)`): the target, in the student's label order.
        temperature (`float`, *optional*, defaults to 1.0): above 0.

    Returns:
        `torch.Tensor`: a scalar, 0 or above.

    Raises:
        ValueError: if the two shapes differ.

    Reference:
        Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 2, carried over to one sigmoid per label; the
        mean over labels is that of the binary cross-entropy on gold labels.
    """
    check_same_shape(student_logits, teacher_logits)
    student, teacher = student_logits.float() / temperature, teacher_logits.float() / temperature
    yes = F.kl_div(F.logsigmoid(student), F.logsigmoid(teacher), reduction="none", log_target=True)
    no = F.kl_div(F.logsigmoid(-student), F.logsigmoid(-teacher), reduction="none", log_target=True)
    return temperature**2 * (yes + no).mean()


def sigmoid_cross_entropy(student_logits, teacher_logits, temperature=1.0):
    """Compute `T² · CE(sigmoid(teacher / T), sigmoid(student / T))`: mean over labels and rows.

    It has the gradient of `sigmoid_kl`; where the student's logits equal the teacher's, it is `T²` times the mean
    entropy of the teacher's yes or no at that temperature.

    Args:
        student_logits (`torch.Tensor` of shape `(batch_size, num_labels)`): gradients flow into these.
        teacher_logits (`torch.Tensor` of shape `(batch_size, num_labels)`): the target, in the student's label order.
        temperature (`float`, *optional*, defaults to 1.0): above 0.

    Returns:
        `torch.Tensor`: a scalar, 0 or above.

    Raises:
        ValueError: if the two shapes differ.

    Reference:
        Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 2, carried over to one sigmoid per label.
    """
    check_same_shape(student_logits, teacher_logits)
    target = torch.sigmoid(teacher_logits.float() / temperature)
    return temperature**2 * F.binary_cross_entropy_with_logits(student_logits.float() / temperature, target)


def hard_label_cross_entropy(student_logits, labels, label_smoothing=0.0):
    """Compute the cross-entropy on gold labels: summed over the labelled rows, divided by the number of all rows.

    Unlabelled rows count as rows, so that a labelled row weighs the same whichever rows share its batch.

    Args:
        student_logits (`torch.Tensor` of shape `(batch_size, num_labels)`): gradients flow into these.
        labels (`torch.Tensor` of shape `(batch_size,)`, int64): -100 where the row is unlabelled.
        label_smoothing (`float`, *optional*, defaults to 0.0): share of the target spread evenly over all labels, in
            [0, 1).

    Returns:
        `torch.Tensor`: a scalar, 0 or above; 0 where no row is labelled.
    """
    total = F.cross_entropy(
        student_logits.float(), labels, ignore_index=-100, reduction="sum", label_smoothing=label_smoothing
    )
    return total / len(labels)


def hard_label_binary_cross_entropy(student_logits, labels):
    """Compute the binary cross-entropy on gold labels: mean over labels, summed over labelled rows, over all rows.

    Args:
        student_logits (`torch.Tensor` of shape `(batch_size, num_labels)`): gradients flow into these.
        labels (`torch.Tensor` of shape `(batch_size, num_labels)`, float): 1 where the row has the label, 0 where it
            has not; a row with a NaN in it is unlabelled.

    Returns:
        `torch.Tensor`: a scalar, 0 or above; 0 where no row is labelled.

    Raises:
        ValueError: if the two shapes differ.
    """
    check_same_shape(student_logits, labels, "labels")
    labelled, labels = _labelled_rows(labels)
    losses = F.binary_cross_entropy_with_logits(student_logits.float(), labels, reduction="none").mean(dim=-1)
    return losses.masked_fill(~labelled, 0.0).mean()


def hard_label_mse(student_logits, labels):
    """Compute the squared error on gold values: mean over a row's values, summed over labelled rows, over all rows.

    Args:
        student_logits (`torch.Tensor` of shape `(batch_size, num_labels)`): gradients flow into these.
        labels (`torch.Tensor` of shape `(batch_size, num_labels)`, float, or `(batch_size,)` where `num_labels` is 1):
            a row with a NaN in it is unlabelled.

    Returns:
        `torch.Tensor`: a scalar, 0 or above; 0 where no row is labelled.

    Raises:
        ValueError: if the two shapes differ otherwise.
    """
    if labels.ndim == 1:
        labels = labels[:, None]
    check_same_shape(student_logits, labels, "labels")
    labelled, labels = _labelled_rows(labels)
    losses = (student_logits.float() - labels).square().mean(dim=-1)
    return losses.masked_fill(~labelled, 0.0).mean()


def _labelled_rows(labels):
    """Return which rows have no NaN, and the labels in float32 with 0 in the others, so that no gradient is NaN."""
    labelled = ~labels.isnan().any(dim=-1)
    return labelled, labels.float().masked_fill(~labelled[:, None], 0.0)


def _target_against_rest_and_rest(logits, is_target):
    """Return log-probabilities of the target and of all others together, then of each other class among the others."""
    # Not -inf: its difference from itself, in the divergence, would be NaN.
    others = logits.masked_fill(is_target, torch.finfo(logits.dtype).min)
    target = logits.masked_fill(~is_target, 0.0).sum(dim=-1)
    binary = torch.stack([target, others.logsumexp(dim=-1)], dim=-1)
    return binary.log_softmax(dim=-1), others.log_softmax(dim=-1)
