"""Do models, losses and label names fit together? Each check yields pairs of a status and a message, or raises."""

from distil_trainer.compatibility import (
    check_not_sharded,
    check_online_teacher,
    check_student,
    check_teacher_signal,
    name_student_labels,
)
from distil_trainer.labels import dataset_label_names, label_permutation, model_label_names
from distil_trainer.objective import logit_loss_name
from distil_trainer.tasks import REGRESSION, SINGLE_LABEL, problem_type
from distil_trainer.teachers import check_average, check_teacher_weights
from distil_trainer.training_data import check_dataset


def check_models_and_data(student, args, train_dataset, eval_datasets, teachers, own_tokens):
    """Refuse models, arguments and data sets that cannot be trained together; what the trainer does at construction.

    Args:
        student (`PreTrainedModel`): the student.
        args (`DistillationArguments`): the losses and columns.
        train_dataset (`Dataset`, *optional*): rows to learn from.
        eval_datasets (`dict[str, Dataset]`): rows to evaluate on, by name.
        teachers (`list[PreTrainedModel]`): the teachers that are asked in every step; may be empty.
        own_tokens (`bool`): whether they read tokens of their own.

    Raises:
        TypeError: if a data set is none.
        ValueError: saying what does not fit.
    """
    task = problem_type(student.config)
    check_student(student, training=train_dataset is not None)
    if args.label_smoothing_factor and task != SINGLE_LABEL:
        raise ValueError(
            f"label_smoothing_factor={args.label_smoothing_factor} with problem_type={task!r}: smoothing spreads one "
            "gold label over the others, so here it would be ignored. Leave it out."
        )
    if train_dataset is not None:
        check_dataset(train_dataset, "train_dataset")
        check_teacher_signal(train_dataset, teachers, args)
    for name, dataset in eval_datasets.items():
        check_dataset(dataset, name)
    check_not_sharded(args, bool(teachers))
    if args.distils_states and args.n_gpu > 1:
        raise ValueError(
            f"A loss on inner states is asked for, and one process sees {args.n_gpu} GPUs: it would copy the student "
            "to each for every batch, and what its copies work out inside cannot be read. Start one process for each "
            f"GPU, `torchrun --nproc_per_node={args.n_gpu} ...`, or set CUDA_VISIBLE_DEVICES to one of them."
        )
    for teacher in teachers:
        check_online_teacher(teacher, student, not own_tokens, args.distils_logits)
        if teacher.config.vocab_size != teachers[0].config.vocab_size:
            raise ValueError(
                f"teacher= holds models with vocabularies of {teachers[0].config.vocab_size} and "
                f"{teacher.config.vocab_size} entries: they read the same tokens, so they must share a tokenizer. "
                "Label the data with each by its own `TeacherLabeler`, and combine them with `average_teachers`."
            )
    check_teacher_weights(args.teacher_weights, max(1, len(teachers)))
    check_average(args.teacher_average, task)


def check_basics(run):
    """Check what every other check builds on: the models, and that data sets are data sets."""
    eval_datasets = {name: dataset for name, dataset in run.datasets.items() if dataset is not run.train_dataset}
    check_models_and_data(run.student, run.args, run.train_dataset, eval_datasets, run.teachers, run.own_tokens)
    rows = ", ".join(f"{name} {len(dataset)} rows" for name, dataset in run.datasets.items())
    num_labels = run.student.config.num_labels
    yield "fine", f"{run.task}, {num_labels} {'output' if num_labels == 1 else 'outputs'}; {rows or 'no data'}."


def check_losses(run):
    """Check the losses against the kind of task, and the matches against both models."""
    logit_loss = logit_loss_name(run.args, run.task)
    plan = run.plan()
    terms = [f"{logit_loss} of logits"] * run.args.distils_logits + ["gold labels"] * run.args.uses_hard_labels
    yield "fine", f"{', '.join(terms + [match.name for match in plan.matches])}."
    projected = {}
    for name, widths in plan.widths.items():
        projected.setdefault(widths, []).append(name)
    for (narrow, wide), names in projected.items():
        yield "fixed", f"Projected from width {narrow} to {wide}, since losses need equal ones: {', '.join(names)}."


def check_attention_maps(run):
    """Check that models whose attention maps are compared return them."""
    if "attentions" in run.plan().states:
        others = [
            f"the {what} has {model.config._attn_implementation}"
            for what, model, _ in run.readers
            if model.config._attn_implementation != "eager"
        ]
        if others:
            yield (
                "fixed",
                f"Attention maps are compared, and {' and '.join(others)}, which returns none: eager is used.",
            )
        else:
            yield "fine", "Both models return their attention maps."


def check_label_names(run):
    """Check that everyone names the same labels; `run.named_student` has them afterwards."""
    if run.task == REGRESSION:
        return
    args, names, nameless = run.args, {}, []
    if args.distils_logits and run.teachers:
        names = {f"the {what}": model_label_names(model.config) for what, model, _ in run.readers[1:]}
        nameless = [whose for whose, found in names.items() if not found]
    elif args.distils_logits and run.train_dataset is not None:
        names = {"the teacher": dataset_label_names(run.train_dataset, "teacher_label")}
        if names["the teacher"] is None:
            yield (
                "warning",
                "train_dataset has no ClassLabel column 'teacher_label', so teacher_logits are taken to be in the "
                "student's order, unchecked. `TeacherLabeler` writes that column.",
            )
    teacher_names = next((found for found in names.values() if found), None)
    given = name_student_labels(run.named_student, teacher_names, [*run.datasets.values()], args.label_column)
    if given:
        source = "teacher's" if teacher_names else "data's"
        yield "fixed", f"The student's labels have only placeholders for names; they get the {source}, {given}."
    for name, dataset in run.labelled_datasets.items():
        names[name] = dataset_label_names(dataset, run.label_column(dataset))
    wanted = model_label_names(run.named_student.config)
    if wanted and nameless:
        yield (
            "warning",
            f"{' and '.join(nameless)} has no names for its labels (LABEL_0, ...), so their order cannot be checked: "
            f"they are taken to be the student's {wanted}. Set `teacher.config.id2label`.",
        )
    for whose, found in names.items():
        if found and wanted and label_permutation(found, wanted, given=whose, wanted="the student"):
            yield "fixed", f"{whose} has the labels {found}: put into the student's order {wanted}."
    if wanted and not given:
        yield "fine", f"The student's labels are {wanted}."
    elif not wanted:
        yield "fine", "No one names the labels, so they go by their numbers."
