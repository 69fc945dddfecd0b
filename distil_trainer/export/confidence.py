"""How sure a shipped model is: rows set aside for its temperature, and the share of texts it may answer alone."""

import logging
from typing import NamedTuple

import numpy as np

from distil_trainer.calibration import evaluate_calibration, fit_temperature
from distil_trainer.cascade import cascade_report
from distil_trainer.export.judging import gold_answers, read_texts
from distil_trainer.export.temperature import check_has_probabilities
from distil_trainer.labels import dataset_label_names, label_permutation, model_label_names
from distil_trainer.training_data import check_teacher_logits

logger = logging.getLogger(__name__)


class HeldOutRows(NamedTuple):
    """Labelled rows for a temperature: `texts`, `pairs` or `None`, `gold`, and `teacher_logits` or `None`."""

    texts: list
    pairs: list
    gold: np.ndarray
    teacher_logits: np.ndarray


def read_held_out(dataset, columns, config, evaluated):
    """Read the rows that a temperature, and a cascade where they have `teacher_logits`, are chosen on.

    Args:
        dataset (`Dataset`): labelled rows.
        columns (`tuple[str]`): the columns of texts, of second texts (or `None`) and of gold labels.
        config (`PretrainedConfig`): the model's configuration.
        evaluated (`tuple`): texts and second texts (or `None`) of the evaluation set; a warning says how many of them
            are here too.

    Returns:
        [`HeldOutRows`]

    Raises:
        TypeError: if a text is not a string.
        ValueError: if the model is a regression, a column or label is missing or illegal, all labels are alike, or
            teacher logits are not the model's in number and names.
    """
    check_has_probabilities(config, "calibrate_on is given")
    dataset = dataset.with_format(None)
    *text_columns, label_column = columns
    texts, pairs = read_texts(dataset, *text_columns, name="calibrate_on")
    gold = gold_answers(dataset, label_column, config, name="calibrate_on")
    read = set(zip(texts, pairs or texts, strict=True))
    shared = sum(row in read for row in zip(evaluated[0], evaluated[1] or evaluated[0], strict=True))
    if shared:
        logger.warning(
            "%d of %d rows of eval_dataset are in calibrate_on too. On rows that chose the temperature the "
            "calibration looks better than it is: take them out of one of the two.",
            shared,
            len(evaluated[0]),
        )
    teacher_logits = _read_teacher_logits(dataset, config) if "teacher_logits" in dataset.column_names else None
    return HeldOutRows(texts, pairs, gold, teacher_logits)


def held_out_temperature(held_out, logits):
    """Fit a temperature on rows set aside; `None`, with a warning, where the model is right on all of them.

    Args:
        held_out ([`HeldOutRows`]): the rows.
        logits (`np.ndarray` of shape `(n, num_labels)`): the model's.

    Returns:
        `float`, *optional*

    Raises:
        ValueError: as `fit_temperature` in all other cases.
    """
    if (logits.argmax(axis=1) == held_out.gold).all():
        logger.warning(
            "The model is right on all %d rows of calibrate_on, so no temperature is the best, and the logits stay as "
            "they are. Give more rows, none of which the model was trained on.",
            len(held_out.gold),
        )
        return None
    return fit_temperature(logits, held_out.gold)


def confidence_facts(temperature, held_out, before, after, gold, held_out_logits):
    """Say what a temperature did; the report's part `confidence`.

    Args:
        temperature (`float`): what the logits of the files are divided by.
        held_out ([`HeldOutRows`]): the rows that it was fitted on.
        before (`np.ndarray` of shape `(n, num_labels)`): PyTorch's logits of the evaluation set.
        after (`np.ndarray` of shape `(n, num_labels)`): those of the chosen file.
        gold (`np.ndarray` of shape `(n,)`): the gold labels of the evaluation set.
        held_out_logits (`np.ndarray`): those of the chosen file for the held-out rows; `None` without a cascade.

    Returns:
        `dict`: `temperature`, `rows` it was fitted on, `before` and `after` (see `evaluate_calibration`), `cascade`
        (see `cascade_report`; `None` where there are no teacher logits).
    """
    return {
        "temperature": temperature,
        "rows": len(held_out.texts),
        "before": evaluate_calibration(before, gold),
        "after": evaluate_calibration(after, gold),
        "cascade": None if held_out_logits is None else cascade_report(held_out_logits, held_out.teacher_logits),
    }


def _read_teacher_logits(dataset, config):
    check_teacher_logits(dataset, config.num_labels, "calibrate_on")
    logits = np.asarray(dataset["teacher_logits"], dtype=np.float32)
    given, wanted = dataset_label_names(dataset, "teacher_label"), model_label_names(config)
    if given is None or wanted is None:
        return logits
    permutation = label_permutation(given, wanted, given="the teacher (column 'teacher_label')", wanted="the model")
    return logits if permutation is None else logits[:, permutation]
