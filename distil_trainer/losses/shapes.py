"""Refuse tensors whose shapes PyTorch would broadcast, or read with other axes, in silence."""

_ADVICE = {
    "batch_size": "Give both for the same rows.",
    "length": "Give both the same tokens; where the tokenizers differ, pool both to words first.",
    "hidden_size": "A projection is needed: map the student's states to the teacher's width first.",
    "num_heads": "Compare relations (`relation_kl`) instead: they split any width into heads of their own.",
}


def check_same_shape(student_logits, target, target_name="teacher_logits"):
    """Raise a `ValueError` unless the student's logits and their target have the same shape."""
    if student_logits.shape != target.shape:
        raise ValueError(
            f"student_logits has shape {tuple(student_logits.shape)}, {target_name} has "
            f"{tuple(target.shape)}: they must be equal, or one would be repeated along the other in "
            "silence. Give both in the same rows and labels."
        )


def check_axes(student, teacher, axes, may_differ=()):
    """Raise a `ValueError` unless both tensors have the named axes, of equal size where they may not differ.

    Args:
        student (`torch.Tensor`): any shape.
        teacher (`torch.Tensor`): any shape.
        axes (`tuple[str, ...]`): the names of all axes, in order.
        may_differ (`tuple[str, ...]`, *optional*): names of axes along which the sizes may differ.
    """
    for name, states in (("student", student), ("teacher", teacher)):
        if states.ndim != len(axes):
            raise ValueError(
                f"{name} has shape {tuple(states.shape)}, but ({', '.join(axes)}) is needed: the mean would be taken "
                "over the wrong axes in silence. Give states of that shape."
            )
    for axis, student_size, teacher_size in zip(axes, student.shape, teacher.shape, strict=True):
        if student_size != teacher_size and axis not in may_differ:
            raise ValueError(
                f"student has {axis}={student_size}, teacher has {axis}={teacher_size}: they must be equal, or unlike "
                f"things would be compared. {_ADVICE[axis]}"
            )
