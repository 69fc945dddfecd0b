"""Fine-tune a teacher on gold labels, and keep the checkpoint that did best on the validation data."""

import copy
from dataclasses import fields

from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from distil_trainer.arguments import DistillationArguments, is_better_when_greater
from distil_trainer.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL, problem_type
from distil_trainer.trainer import DistillationTrainer

# What the evaluation of each kind of task reports, see `metrics.metrics_for`; f1 and mcc for pairs only.
_METRICS = {
    SINGLE_LABEL: ("accuracy", "macro_f1", "perplexity", "f1", "mcc"),
    MULTI_LABEL: ("micro_f1", "macro_f1", "average_precision"),
    REGRESSION: ("pearson", "spearman", "mse"),
}
# Every other field of `DistillationArguments` says how a teacher teaches.
_ABOUT_DATA = {
    "text_column", "text_pair_column", "label_column", "max_length", "drop_evaluation_rows", "length_grouped_batches",
}  # fmt: skip


def gold_label_arguments(arguments, **changes):
    """Return a copy of distillation arguments that trains on gold labels alone, without any teacher.

    What says how a teacher teaches is set to its default; so is `epochs_per_cycle`, since cycles are measured in
    epochs of the transfer set: give it again where the learning rate shall run in cycles here too.

    Args:
        arguments (`DistillationArguments`): a student's arguments.
        **changes: fields to set besides, such as `max_steps`.

    Returns:
        `DistillationArguments`
    """
    names = {field.name for field in fields(DistillationArguments)} - {
        field.name for field in fields(TrainingArguments)
    }
    defaults = {name: DistillationArguments.__dataclass_fields__[name].default for name in names - _ABOUT_DATA}
    alone = {"logit_loss_weight": 0.0, "hard_label_weight": 1.0}
    copied = copy.copy(arguments)
    for name, value in {**defaults, **alone, **changes}.items():
        setattr(copied, name, value)
    copied.check()
    return copied


def fine_tuning_arguments(arguments, select_by="accuracy", **changes):
    """Return a copy of arguments that trains on gold labels and keeps the best of one checkpoint an epoch.

    Args:
        arguments (`DistillationArguments`): a student's arguments, or any.
        select_by (`str`, *optional*, defaults to `"accuracy"`): the metric of the evaluation data that decides:
            "accuracy" or any other that is reported, or "loss". `None` keeps the last weights and evaluates nothing.
        **changes: fields to set besides, such as `learning_rate`.

    Returns:
        `DistillationArguments`
    """
    selection = {"eval_strategy": IntervalStrategy.NO, "load_best_model_at_end": False}
    if select_by is not None:
        selection = {
            "eval_strategy": IntervalStrategy.EPOCH,
            "save_strategy": SaveStrategy.EPOCH,
            "load_best_model_at_end": True,
            "metric_for_best_model": select_by,
            "greater_is_better": is_better_when_greater(select_by),
        }
    return gold_label_arguments(arguments, **selection, **changes)


def check_selection(select_by, task):
    """Refuse to choose an epoch by a metric that the evaluation of a task does not report.

    Args:
        select_by (`str`, *optional*): see `fine_tuning_arguments`.
        task (`str`): one of `PROBLEM_TYPES`.

    Raises:
        ValueError: naming those that it reports.
    """
    legal = ("loss", *_METRICS[task])
    if select_by is not None and select_by.removeprefix("eval_") not in legal:
        raise ValueError(
            f"select_by={select_by!r} for a teacher with problem_type={task!r}: its evaluation does not report that, "
            f"which would end the training after its first epoch. Choose one of {', '.join(legal)}, or None."
        )


def fine_tune_teacher(
    teacher, tokenizer, train_dataset, eval_dataset, arguments, select_by="accuracy", resume_from_checkpoint=None
):
    """Fine-tune a classifier on gold labels, so that it can teach.

    Args:
        teacher (`PreTrainedModel`): a classifier with an untrained head (`load_classifier(..., to_be_trained=True)`);
            trained in place.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer.
        train_dataset (`Dataset`): texts with gold labels.
        eval_dataset (`Dataset`): texts with gold labels, on which the best checkpoint is chosen. Its figures are
            flattered by that choice: report the teacher on other data.
        arguments (`DistillationArguments`): optimizer, batch size, epochs, columns. What says how a teacher teaches is
            not read, and `epochs_per_cycle` neither (see `gold_label_arguments`).
        select_by (`str`, *optional*, defaults to `"accuracy"`): see `fine_tuning_arguments`. Several labels a row, and
            scores, have no accuracy: choose "micro_f1", "pearson", "loss" or another metric of theirs.
        resume_from_checkpoint (`str` or `bool`, *optional*): as in `Trainer.train`.

    Returns:
        `tuple[PreTrainedModel, dict[str, float]]`: the teacher with its best weights, in evaluation mode, and its
        metrics on `eval_dataset`.

    Raises:
        ValueError: if the task has no such metric.

    Example:

    ```python
    names = ["negative", "positive"]
    teacher, tokenizer = load_classifier("google/electra-large-discriminator", label_names=names, to_be_trained=True)
    arguments = DistillationArguments("teacher", learning_rate=2e-5, num_train_epochs=3)
    teacher, metrics = fine_tune_teacher(teacher, tokenizer, train, validation, arguments)
    ```
    """
    check_selection(select_by, problem_type(teacher.config))
    trainer = DistillationTrainer(
        teacher,
        fine_tuning_arguments(arguments, select_by),
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=resume_from_checkpoint)
    return trainer.model.eval(), trainer.evaluate()
