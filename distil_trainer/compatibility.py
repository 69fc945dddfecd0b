"""Do student, teacher and data fit together? Refuse where not, and find the label order where only that differs."""

import logging
import os

import torch

from distil_trainer.input_checks import padding_side
from distil_trainer.labels import dataset_label_names, gold_label_column, label_permutation, model_label_names
from distil_trainer.tasks import REGRESSION, SINGLE_LABEL, problem_type

logger = logging.getLogger(__name__)


def check_student(model, training):
    """Refuse a student that cannot be taught here: one label out of one, or weights in half precision to be trained.

    Raises:
        ValueError: saying which.
    """
    config = model.config
    if problem_type(config) == SINGLE_LABEL and config.num_labels < 2:
        raise ValueError(
            f"The student has num_labels={config.num_labels} and problem_type={config.problem_type!r}: over one label "
            "a softmax is always 1, and nothing would be learned. Give it two labels or more, or make it "
            "problem_type='regression'."
        )
    half = {parameter.dtype for parameter in model.parameters()} & {torch.float16, torch.bfloat16}
    if training and half:
        raise ValueError(
            f"The student's weights are {str(half.pop()).removeprefix('torch.')}: small updates would round to "
            "nothing, and in float16 large ones overflow. Load it with `from_pretrained(..., dtype=torch.float32)`; "
            "for mixed precision set bf16=True or fp16=True in the arguments."
        )


def check_teacher_signal(dataset, teachers, args):
    """Refuse a training set and teachers that give no teacher signal, or give it twice.

    Args:
        dataset (`Dataset`): the training set.
        teachers (`list[PreTrainedModel]`): the teachers that are asked in every step; may be empty.
        args (`DistillationArguments`): say what the loss needs.

    Raises:
        ValueError: saying which, and how to get the signal.
    """
    cached = "teacher_logits" in dataset.column_names
    if args.distils_states and not teachers:
        raise ValueError(
            "A loss on hidden states, attentions or relations is asked for, and no teacher= is given: they are far "
            "too large to be stored, so the teacher must be there in every step. Pass teacher=, or leave these losses "
            "out."
        )
    if args.distils_states and len(teachers) > 1:
        raise ValueError(
            f"{len(teachers)} teachers are given together with a loss on hidden states, attentions or relations: "
            "whose layers shall be matched? Several teachers can only teach by their logits."
        )
    if not args.distils_logits and not args.distils_states:
        if teachers:
            raise ValueError(
                "teacher= is given, but logit_loss_weight=0 and nothing else asks it: it would never be heard. Drop "
                "one of the two."
            )
    elif cached and teachers:
        raise ValueError(
            "train_dataset has a column 'teacher_logits', and teacher= is given: which one shall teach? Remove the "
            "column, or leave teacher= out."
        )
    elif not cached and not teachers:
        raise ValueError(
            f"train_dataset has no column 'teacher_logits' (its columns are {', '.join(dataset.column_names)}), and "
            "no teacher= is given. Add the column once with `TeacherLabeler(teacher, "
            "teacher_tokenizer).map(train_dataset)`, or pass teacher=, or train on gold labels alone with "
            "logit_loss_weight=0 and hard_label_weight=1."
        )


def teacher_label_names(dataset, teachers, args, task):
    """Return the label names of whoever gives the teacher logits, or `None` where no one can say or none are used."""
    if not args.distils_logits or task == REGRESSION:
        return None
    if teachers:
        return next((names for teacher in teachers if (names := model_label_names(teacher.config))), None)
    names = None if dataset is None else dataset_label_names(dataset, "teacher_label")
    if dataset is not None and names is None:
        logger.warning(
            "train_dataset has no ClassLabel column 'teacher_label', so the order of teacher_logits cannot be "
            "checked: they are taken to be in the student's order. `TeacherLabeler` writes that column."
        )
    return names


def check_online_teacher(teacher, student, same_tokens, distils_logits):
    """Refuse a teacher that cannot read the tokens it would be given, or whose outputs are not the student's.

    Args:
        teacher (`PreTrainedModel`): a teacher that is asked in every step.
        student (`PreTrainedModel`): the student.
        same_tokens (`bool`): whether it reads the student's tokens.
        distils_logits (`bool`): whether their outputs are compared.

    Raises:
        ValueError: saying which.
    """
    if teacher is student:
        raise ValueError("teacher is the student itself: freezing it would stop all learning. Pass a copy of it.")
    student_size, teacher_size = student.config.vocab_size, teacher.config.vocab_size
    if same_tokens and student_size != teacher_size:
        raise ValueError(
            f"The teacher's vocabulary has {teacher_size} entries, the student's {student_size}: with another "
            "tokenizer the teacher would read other words than the student, in silence. Pass its own tokenizer as "
            "teacher_processing_class=, or compute its logits beforehand: `TeacherLabeler(teacher, "
            "teacher_tokenizer).map(train_dataset)`, and leave teacher= out."
        )
    if same_tokens and padding_side(teacher.config) != padding_side(student.config):
        raise ValueError(
            f"The teacher ({teacher.config.model_type}) reads rows padded on the {padding_side(teacher.config)}, the "
            f"student ({student.config.model_type}) on the {padding_side(student.config)}: one of them would read "
            "padding as text. Pass the teacher's tokenizer as teacher_processing_class=, even where it is the "
            "student's."
        )
    if distils_logits and teacher.config.num_labels != student.config.num_labels:
        raise ValueError(
            f"The teacher has {teacher.config.num_labels} labels, the student {student.config.num_labels}. "
            "Distillation compares logits label by label: build the student with the teacher's labels."
        )
    if distils_logits and problem_type(teacher.config) != problem_type(student.config):
        raise ValueError(
            f"The teacher's problem_type is {problem_type(teacher.config)!r}, the student's "
            f"{problem_type(student.config)!r}: their outputs mean different things. Set `config.problem_type` of "
            "both to what the teacher was trained for."
        )


def check_not_sharded(args, uses_teacher):
    """Refuse FSDP and DeepSpeed where a teacher or states are asked for in every step.

    Raises:
        ValueError: if the arguments or the launcher ask for one of them.
    """
    launched = [
        name for name in ("FSDP", "DEEPSPEED") if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true"
    ]
    asked = launched + ["FSDP"] * bool(args.fsdp) + ["DEEPSPEED"] * bool(args.deepspeed)
    if asked and uses_teacher:
        raise ValueError(
            f"{asked[0]} is asked for together with teacher=. A sharded teacher, and hidden states of a sharded "
            "student, were never tried with this trainer, and a teacher that is gathered wrongly teaches noise. "
            "Compute the logits beforehand, `TeacherLabeler(teacher, teacher_tokenizer).map(train_dataset)`, and "
            "leave teacher= out; or train without sharding."
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


def match_labels(student, dataset, eval_datasets, teachers, args):
    """Name the student's labels where they have no names, and find the order in which to read the teachers' logits.

    Args:
        student (`PreTrainedModel`): the student; its configuration is changed.
        dataset (`Dataset`, *optional*): the training set, whose `teacher_label` names the labels of cached logits.
        eval_datasets (`list[Dataset]`): further data sets that may name the gold labels.
        teachers (`list[PreTrainedModel]`): the teachers that are asked in every step; may be empty.
        args (`DistillationArguments`): where no logits are compared, no one's labels need to match the student's.

    Returns:
        `tuple[list[str], list[list[int]]]`: the names that the student was given, or `None`; and for each teacher, or
        for the cached logits, the order, or `None` where it is the student's or nothing names it.

    Raises:
        ValueError: if label names differ in more than their order.
    """
    task = problem_type(student.config)
    names = teacher_label_names(dataset, teachers, args, task)
    given = name_student_labels(student, names, [dataset, *eval_datasets], args.label_column)
    if not args.distils_logits or task == REGRESSION:
        return given, [None] * max(1, len(teachers))
    student_names = model_label_names(student.config)
    all_names = [model_label_names(each.config) for each in teachers]
    if student_names and None in all_names:
        logger.warning(
            "teacher= has no names for its labels (LABEL_0, ...), so their order cannot be checked: they are taken to "
            "be the student's %s. Set `teacher.config.id2label`.",
            student_names,
        )
    return given, [_order(each, student_names) for each in (all_names if teachers else [names])]


def positive_label(student, label_datasets, label_column):
    """Return the student's number (`int`) of the data's label 1, which is the one that F1 of pairs is of.

    Args:
        student (`PreTrainedModel`): a student with two labels.
        label_datasets (`list[Dataset]`): the first that names the labels decides; entries may be `None`.
        label_column (`str`): column of the gold labels.
    """
    student_names = model_label_names(student.config)
    for dataset in label_datasets:
        names = dataset and dataset_label_names(dataset, gold_label_column(dataset, label_column))
        if names and student_names:
            permutation = label_permutation(names, student_names, given="the data", wanted="the student")
            return 1 if permutation is None else permutation.index(1)
    return 1


def set_label_names(model, names):
    """Write label names, in logit order, into a model's configuration."""
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}


def _order(teacher_names, student_names):
    if not teacher_names or not student_names:
        return None
    permutation = label_permutation(teacher_names, student_names, given="the teacher", wanted="the student")
    if permutation is not None:
        logger.warning("The teacher's labels %s are read in the student's order %s.", teacher_names, student_names)
    return permutation
