"""Fine-tune a teacher on gold labels, and keep the checkpoint that did best on the validation data."""

import copy
from dataclasses import fields

from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from distil_trainer.arguments import DistillationArguments
from distil_trainer.trainer import DistillationTrainer

# Every other field of `DistillationArguments` says how a teacher teaches.
_ABOUT_DATA = {
    "text_column", "text_pair_column", "label_column", "max_length", "drop_evaluation_rows", "length_grouped_batches",
}  # fmt: skip


def gold_label_arguments(arguments, **changes):
    """Return a copy of distillation arguments that trains on gold labels alone, without any teacher.

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
            "accuracy" or any other that is reported and better when greater, or "loss". `None` keeps the last weights
            and evaluates nothing.
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
            "greater_is_better": not select_by.endswith("loss"),
        }
    return gold_label_arguments(arguments, **selection, **changes)


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
        arguments (`DistillationArguments`): optimizer, batch size, epochs, columns. Weights of the distillation terms
            are not read.
        select_by (`str`, *optional*, defaults to `"accuracy"`): see `fine_tuning_arguments`.
        resume_from_checkpoint (`str` or `bool`, *optional*): as in `Trainer.train`.

    Returns:
        `tuple[PreTrainedModel, dict[str, float]]`: the teacher with its best weights, in evaluation mode, and its
        metrics on `eval_dataset`.

    Example:

    ```python
    names = ["negative", "positive"]
    teacher, tokenizer = load_classifier("google/electra-large-discriminator", label_names=names, to_be_trained=True)
    arguments = DistillationArguments("teacher", learning_rate=2e-5, num_train_epochs=3)
    teacher, metrics = fine_tune_teacher(teacher, tokenizer, train, validation, arguments)
    ```
    """
    trainer = DistillationTrainer(
        teacher,
        fine_tuning_arguments(arguments, select_by),
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=resume_from_checkpoint)
    return trainer.model.eval(), trainer.evaluate()
