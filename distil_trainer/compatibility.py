"""Do student, teacher and data fit together? Refuse where not, and find the label order where only that differs."""

import logging

import torch

from distil_trainer.labels import dataset_label_names, label_permutation, model_label_names

logger = logging.getLogger(__name__)


def check_student(model, training):
    """Refuse a student that cannot be taught here: another kind of task, or float16 weights that are to be trained.

    Raises:
        ValueError: saying which.
    """
    config = model.config
    if config.num_labels < 2 or config.problem_type not in (None, "single_label_classification"):
        raise ValueError(
            f"The student has num_labels={config.num_labels} and problem_type={config.problem_type!r}. Only "
            "single-label classification with two labels or more is supported: over one label a softmax is always 1 "
            "and nothing would be learned."
        )
    if training and any(parameter.dtype == torch.float16 for parameter in model.parameters()):
        raise ValueError(
            "The student's weights are float16: small updates would round to nothing and large ones overflow. Load "
            "it with `from_pretrained(..., dtype=torch.float32)`; for mixed precision set bf16=True or fp16=True in "
            "the arguments."
        )


def check_teacher_signal(dataset, teacher, args):
    """Refuse a training set and a teacher that give no teacher logits, or give them twice.

    Raises:
        ValueError: saying which, and how to get the logits.
    """
    cached = "teacher_logits" in dataset.column_names
    if args.logit_loss_weight == 0:
        if teacher is not None:
            raise ValueError(
                "teacher= is given, but logit_loss_weight=0: it would never be asked. Drop one of the two."
            )
    elif cached and teacher is not None:
        raise ValueError(
            "train_dataset has a column 'teacher_logits', and teacher= is given: which one shall teach? Remove the "
            "column, or leave teacher= out."
        )
    elif not cached and teacher is None:
        raise ValueError(
            f"train_dataset has no column 'teacher_logits' (its columns are {', '.join(dataset.column_names)}), and "
            "no teacher= is given. Add the column once with `TeacherLabeler(teacher, "
            "teacher_tokenizer).map(train_dataset)`, or pass teacher=, or train on gold labels alone with "
            "logit_loss_weight=0 and hard_label_weight=1."
        )


def teacher_label_names(dataset, teacher, args):
    """Return the label names of whoever gave the teacher logits, or `None` where no one can say or none are used."""
    if args.logit_loss_weight == 0:
        return None
    if teacher is not None:
        return model_label_names(teacher.config)
    names = None if dataset is None else dataset_label_names(dataset, "teacher_label")
    if dataset is not None and names is None:
        logger.warning(
            "train_dataset has no ClassLabel column 'teacher_label', so the order of teacher_logits cannot be "
            "checked: they are taken to be in the student's order. `TeacherLabeler` writes that column."
        )
    return names


def check_online_teacher(teacher, student):
    """Refuse a teacher that cannot read the student's tokens, or whose logits are not the student's in number.

    Raises:
        ValueError: saying which.
    """
    if teacher is student:
        raise ValueError("teacher is the student itself: freezing it would stop all learning. Pass a copy of it.")
    student_size, teacher_size = student.config.vocab_size, teacher.config.vocab_size
    if student_size != teacher_size:
        raise ValueError(
            f"The teacher's vocabulary has {teacher_size} entries, the student's {student_size}: with another "
            "tokenizer the teacher would read other words than the student, in silence. Compute its logits "
            "beforehand with its own tokenizer: `TeacherLabeler(teacher, teacher_tokenizer).map(train_dataset)`, and "
            "leave teacher= out."
        )
    if teacher.config.num_labels != student.config.num_labels:
        raise ValueError(
            f"The teacher has {teacher.config.num_labels} labels, the student {student.config.num_labels}. "
            "Distillation compares logits label by label: build the student with the teacher's labels."
        )


def name_student_labels(student, teacher_names, label_datasets, label_column):
    """Give a student that has placeholder label names the teacher's, or else the data's; its configuration is changed.

    Args:
        student (`PreTrainedModel`): the student.
        teacher_names (`list[str]`, *optional*): the teacher's label names.
        label_datasets (`list[Dataset]`): data sets that may name the labels in `label_column`; entries may be `None`.
        label_column (`str`): column of the gold labels.

    Returns:
        `list[str]`: the names given, or `None` where the student keeps what it has.

    Raises:
        ValueError: if the names are not as many as the student's labels.
    """
    names = teacher_names
    for dataset in label_datasets:
        if names is None and dataset is not None:
            names = dataset_label_names(dataset, label_column)
    if names is None or model_label_names(student.config) is not None:
        return None
    if len(names) != student.config.num_labels:
        raise ValueError(
            f"The student has {student.config.num_labels} labels without names, the teacher or the data has "
            f"{len(names)}: {names}. Build the student with num_labels={len(names)}."
        )
    logger.info("The student's labels had no names; they are now %s.", names)
    set_label_names(student, names)
    return names


def match_teacher_labels(teacher_names, student):
    """Return the order in which to read the teacher's logits, or `None` where it is the student's or nothing names it.

    Raises:
        ValueError: if the label names differ in more than their order.
    """
    student_names = model_label_names(student.config)
    if not teacher_names or not student_names:
        return None
    permutation = label_permutation(teacher_names, student_names, given="the teacher", wanted="the student")
    if permutation is not None:
        logger.warning("The teacher's labels %s are read in the student's order %s.", teacher_names, student_names)
    return permutation


def set_label_names(model, names):
    """Write label names, in logit order, into a model's configuration."""
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
