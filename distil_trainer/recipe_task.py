"""The kind of task that a recipe makes of its data, one label or one score a row, and whether models fit it."""

import numpy as np
from datasets import LargeList, Sequence, Value

from distil_trainer.labels import dataset_label_names
from distil_trainer.tasks import REGRESSION, SINGLE_LABEL, problem_type

# `List`, or before datasets 4 `Sequence` itself, or a Python list.
_LIST_TYPES = (list, type(Sequence(Value("int64"))), LargeList)
# What acts on probabilities, and the value beside its default that does nothing to scores.
_OF_PROBABILITIES = {
    "logit_loss": "mse",
    "temperature": 1.0,
    "final_temperature": None,
    "label_smoothing_factor": 0.0,
    "teacher_average": "logits",
}
# The name that transformers gives the one output of a regression.
_SCORE_NAMES = ["LABEL_0"]


def recipe_task(dataset, label_column):
    """Return what kind of task a recipe makes of a data set (`str`): scores are regressed, labels are classes.

    Args:
        dataset (`Dataset`): any, with `label_column`.
        label_column (`str`): the column of labels or scores.

    Raises:
        ValueError: if it holds lists: several labels or scores a row.
    """
    feature = dataset.features[label_column]
    if isinstance(feature, _LIST_TYPES):
        raise ValueError(
            f"label_column={label_column!r} holds lists ({feature}): recipes distil tasks of one label or one score a "
            "row, and cannot judge several. `TeacherLabeler` and `DistillationTrainer` take them, with "
            "problem_type='multi_label_classification' (or 'regression') in both models' configurations."
        )
    return REGRESSION if is_score(feature) else SINGLE_LABEL


def is_score(feature):
    """Tell whether a column's feature is that of scores: decimal numbers, where labels are integers or names."""
    return isinstance(feature, Value) and feature.dtype in ("float16", "float32", "float64")


def check_training(training, task):
    """Refuse settings that scores have no use for, before a teacher is trained for nothing.

    Args:
        training (`DistillationArguments`): the settings.
        task (`str`): what `recipe_task` says of the data.

    Raises:
        ValueError: naming them.
    """
    if task != REGRESSION:
        return
    fields = type(training).__dataclass_fields__
    ignored = [
        f"{name}={getattr(training, name)!r}"
        for name in _OF_PROBABILITIES
        if getattr(training, name) not in (fields[name].default, _OF_PROBABILITIES[name])
    ]
    if ignored:
        raise ValueError(
            f"{', '.join(ignored)} for scores: a regression has no probabilities to soften, smooth or average. It "
            "learns by the mean squared error, so this would fail or be ignored. Leave it out."
        )


def output_names(dataset, label_column):
    """Return the names of the outputs that a model of a data set has: its labels', or of scores the one of theirs."""
    return dataset_label_names(dataset, label_column) or _SCORE_NAMES


def fit_task(model, task, role):
    """Refuse a model that does not answer what the data ask; of a regression, write the task into its configuration.

    Where that does not say it, transformers' pipelines take the one output for a logit and give its sigmoid.

    Args:
        model (`PreTrainedModel`): a model that is trained, or made for these data.
        task (`str`): what `recipe_task` says of the data.
        role (`str`): what the model is, for the error.

    Raises:
        ValueError: if it has another number of outputs, or is of another kind.
    """
    config = model.config
    if problem_type(config) != task or (task == REGRESSION) != (config.num_labels == 1):
        wanted = (
            "scores (decimal numbers), for a regression: num_labels=1, problem_type='regression'"
            if task == REGRESSION
            else "one label a row: num_labels of 2 or more, problem_type='single_label_classification' or None"
        )
        raise ValueError(
            f"The {role} has num_labels={config.num_labels}, problem_type={config.problem_type!r}, and the training "
            f"split's labels are {wanted}. What the model says would be read as something else: choose another model, "
            "or write the labels as integers or names, and scores as decimal numbers (4.0)."
        )
    if task == REGRESSION:
        set_task(model, task)


def set_task(model, task):
    """Write the kind of task into the configuration of a model whose head is new, where it does not follow by itself.

    Args:
        model (`PreTrainedModel`): a model that will be trained; its configuration is changed.
        task (`str`): what `recipe_task` says of the data.
    """
    if task == REGRESSION or problem_type(model.config) != task:
        model.config.problem_type = task


def score_range(dataset, label_column):
    """Return the lowest and the highest score of a data set (`list[float]`), or `None` where it has labels."""
    if recipe_task(dataset, label_column) != REGRESSION:
        return None
    scores = np.asarray(dataset[label_column], dtype=np.float64)
    return [float(np.nanmin(scores)), float(np.nanmax(scores))]
