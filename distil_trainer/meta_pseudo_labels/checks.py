"""What Meta Pseudo Labels cannot be trained with: each is refused before anything is changed or computed."""

import torch

from distil_trainer.tasks import SINGLE_LABEL, problem_type
from distil_trainer.training_data import check_dataset


def check_meta_pseudo_labels(student, teachers, args, train_dataset, labelled_dataset):
    """Refuse models and data sets that a learning teacher cannot work with.

    Args:
        student (`PreTrainedModel`): the student.
        teachers (`list[PreTrainedModel]`): as given to the trainer.
        args (`MetaPseudoLabelsArguments`): the arguments.
        train_dataset (`Dataset`): the unlabelled rows.
        labelled_dataset (`Dataset`): the labelled rows.

    Raises:
        TypeError: if a data set is none.
        ValueError: saying what does not fit.
    """
    _check_teacher(student, teachers)
    if not args.distils_logits:
        raise ValueError(
            "logit_loss_weight=0: the student would learn nothing from what the teacher says, and the teacher would "
            "get feedback for labels that did nothing. Set it above 0."
        )
    for what, dataset in (("train_dataset", train_dataset), ("labelled_dataset", labelled_dataset)):
        if dataset is None:
            raise ValueError(
                f"{what}=None: Meta Pseudo Labels need unlabelled rows (train_dataset=), for which the teacher draws "
                "labels, and labelled ones (labelled_dataset=), on which the student's gain is measured: without "
                "these no feedback could reach the teacher."
            )
        check_dataset(dataset, what)
    if "teacher_logits" in train_dataset.column_names:
        raise ValueError(
            "train_dataset has a column 'teacher_logits': the teacher learns in every step, so logits that were "
            "computed beforehand go stale, and labels drawn from them would not be its own. Remove the column, or "
            "train with DistillationTrainer and leave teacher= out."
        )
    rows = min(args.labelled_batch_size, len(labelled_dataset))
    if rows < args.world_size:
        raise ValueError(
            f"labelled_batch_size={args.labelled_batch_size} and {len(labelled_dataset)} labelled rows for "
            f"{args.world_size} processes: each needs a labelled row in every step, or its gradients would be missing "
            "from the teacher's. Raise labelled_batch_size, give more labelled rows, or start fewer processes."
        )
    column = args.augmented_text_column
    if column is not None and column not in train_dataset.column_names:
        raise ValueError(
            f"train_dataset has no column augmented_text_column={column!r} (its columns are "
            f"{', '.join(train_dataset.column_names)}): the consistency term compares each text with its rewritten "
            "form. Add the column, or set consistency_weight=0."
        )


def check_supervised_steps(args, num_steps):
    """Refuse a training that ends before the teacher hears of its pseudo-labels.

    Args:
        args (`MetaPseudoLabelsArguments`): `teacher_supervised_steps`.
        num_steps (`int`): optimizer steps of the training.

    Raises:
        ValueError: if all of them are supervised.
    """
    if args.teacher_supervised_steps >= num_steps:
        raise ValueError(
            f"teacher_supervised_steps={args.teacher_supervised_steps} of {num_steps} steps: the teacher would learn "
            "from labelled rows alone to the end, and no feedback would ever reach it. Lower it, or train longer; for "
            "a teacher without feedback set feedback_weight=0."
        )


def check_all_labelled(num_labelled, dataset, label_column):
    """Refuse labelled rows of which some, or all, have no label.

    Raises:
        ValueError: saying how many.
    """
    if num_labelled < len(dataset):
        raise ValueError(
            f"labelled_dataset: {len(dataset) - num_labelled} of {len(dataset)} rows have no label in column "
            f"{label_column!r}: they would count in the student's labelled loss and say nothing. Filter them out; "
            "they may stand in train_dataset."
        )


def _check_teacher(student, teachers):
    if len(teachers) != 1:
        raise ValueError(
            f"{len(teachers)} teachers are given, and exactly one must be: it draws the labels and gets the feedback. "
            "With several, distil with DistillationTrainer."
        )
    (teacher,) = teachers
    # Not by `is` alone: a model built around the other's modules shares its weights.
    own = {parameter.untyped_storage().data_ptr() for parameter in student.parameters()}
    if any(parameter.untyped_storage().data_ptr() in own for parameter in teacher.parameters()):
        raise ValueError(
            "teacher is the student, or shares weights with it: a step of the one would move the other, and the "
            "feedback would be measured on the teacher itself. Pass a model of its own (`copy.deepcopy`, or "
            "`student_from_teacher`)."
        )
    if not any(parameter.requires_grad for parameter in teacher.parameters()):
        raise ValueError(
            "No weight of the teacher has requires_grad=True: it could not learn from the feedback, and would go on "
            "drawing the same labels. `teacher.requires_grad_(True)`, or distil with DistillationTrainer, which "
            "freezes it."
        )
    half = {parameter.dtype for parameter in teacher.parameters()} & {torch.float16, torch.bfloat16}
    if half:
        raise ValueError(
            f"The teacher's weights are {str(half.pop()).removeprefix('torch.')}: it learns here, and small updates "
            "would round to nothing. Load it with `from_pretrained(..., dtype=torch.float32)`; for mixed precision "
            "set bf16=True in the arguments."
        )
    for whose, model in (("student", student), ("teacher", teacher)):
        task = problem_type(model.config)
        if task != SINGLE_LABEL:
            raise ValueError(
                f"The {whose}'s problem_type is {task!r}: pseudo-labels are drawn from a distribution over labels of "
                "which one is right, and its outputs are not one. Distil it with DistillationTrainer."
            )
