"""Distillation losses on logits: pure functions of tensors, computed in float32, each a mean over rows."""

from torch.nn import functional as F


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
    _check_same_shape(student_logits, teacher_logits)
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
    _check_same_shape(student_logits, teacher_logits)
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
    _check_same_shape(student_logits, teacher_logits)
    return F.mse_loss(student_logits.float(), teacher_logits.float())


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


def _check_same_shape(student_logits, teacher_logits):
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student_logits has shape {tuple(student_logits.shape)}, teacher_logits has "
            f"{tuple(teacher_logits.shape)}: they must be equal, or one would be repeated along the other in "
            "silence. Give both in the same rows and labels."
        )
