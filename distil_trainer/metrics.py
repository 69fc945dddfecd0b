"""What a `Trainer` reports of each kind of task: `compute_metrics` functions, and the counts behind them."""

import functools

import numpy as np
from scipy.special import log_softmax
from sklearn import metrics as scores

from distil_trainer.evaluate_metrics import (
    Accuracy,
    AveragePrecision,
    MacroF1,
    MatthewsCorrelation,
    MeanSquaredError,
    MicroF1,
    PairF1,
    PearsonCorrelation,
    SpearmanCorrelation,
)


def metrics_for(problem_type, num_labels, pairs=False, positive_label=1):
    """Return the function for `Trainer(compute_metrics=...)` that fits a task.

    It takes an `EvalPrediction` with logits of shape `(n, num_labels)` as `predictions` (or a tuple that starts with
    them) and leaves unlabelled rows out. What it returns are numbers only, since the `Trainer` logs each of them; for
    the counts behind them see `confusion_matrix`.

    - `"single_label_classification"`: `label_ids` are integers of shape `(n,)`, below 0 where a row is unlabelled.
      Gives `accuracy`, `macro_f1` and `perplexity`; for pairs of texts and two labels `f1` (of `positive_label`) and
      `mcc` too.
    - `"multi_label_classification"`: `label_ids` are 0 or 1, of shape `(n, num_labels)`; a row of NaN is unlabelled. A
      label is predicted where its logit is above 0. Gives `micro_f1`, `macro_f1`, `average_precision` and
      `average_precision_labels`.
    - `"regression"`: `label_ids` are numbers of shape `(n,)` or `(n, num_labels)`; a row with NaN is unlabelled. Gives
      `pearson`, `spearman` and `mse`, over several values their means.

    Perplexity is exp(mean cross-entropy on the gold labels): 1 at best, `num_labels` for even guesses.

    Args:
        problem_type (`str`): one of the three above.
        num_labels (`int`): number of the model's labels or values.
        pairs (`bool`, *optional*, defaults to `False`): whether a row holds two texts.
        positive_label (`int`, *optional*, defaults to 1): the label that the F1 of pairs is of, "is a paraphrase"; in
            the model's order, where it is not the data's, another one than the data's 1.

    Returns:
        `Callable[[EvalPrediction], dict[str, float]]`, which raises a `ValueError` if no row is labelled, or if labels
        or logits are not as above.

    Raises:
        ValueError: if `problem_type` is another one.
    """
    if problem_type == "multi_label_classification":
        return _multi_label_metrics
    if problem_type == "regression":
        return _regression_metrics
    if problem_type != "single_label_classification":
        raise ValueError(
            f"problem_type={problem_type!r}: metrics are known for single_label_classification, "
            "multi_label_classification and regression. Set `model.config.problem_type` to one of them."
        )
    return (
        functools.partial(_single_label_metrics, positive_label=positive_label)
        if pairs and num_labels == 2
        else compute_metrics
    )


def compute_metrics(eval_prediction):
    """Compute accuracy, macro-F1 and perplexity for `Trainer(compute_metrics=...)`, over the labelled rows.

    Args:
        eval_prediction (`EvalPrediction`): `predictions` of shape `(n, num_labels)` (or a tuple that starts with them)
            and `label_ids` of shape `(n,)`; negative labels (-1, -100) mark unlabelled rows, which are left out.

    Returns:
        `dict[str, float]`: `accuracy`, `macro_f1`, `perplexity`.

    Raises:
        ValueError: if no row is labelled, a label is not one of the model's, or logits are not finite.
    """
    return _single_label_metrics(eval_prediction)


def confusion_matrix(logits, labels, label_names):
    """Count for each gold label how often each label was predicted.

    Args:
        logits (`np.ndarray` of shape `(n, num_labels)`): finite logits.
        labels (`np.ndarray` of shape `(n,)`): gold labels; negative ones (-1, -100) mark unlabelled rows.
        label_names (`list[str]` of length `num_labels`): names in logit order.

    Returns:
        `dict[str, dict[str, int]]`: gold label, then predicted label, then the number of rows.

    Raises:
        ValueError: as in `compute_metrics`, or if the names are not as many as the logits.
    """
    logits, labels = _labelled_rows(logits, labels)
    if len(label_names) != logits.shape[1]:
        raise ValueError(
            f"label_names={label_names} are {len(label_names)}, but there are {logits.shape[1]} logits a row: counts "
            "would stand under the wrong name. Give the model's names, `model_label_names(model.config)`."
        )
    counts = scores.confusion_matrix(labels, logits.argmax(axis=1), labels=range(len(label_names)))
    return {
        name: dict(zip(label_names, row, strict=True)) for name, row in zip(label_names, counts.tolist(), strict=True)
    }


def _single_label_metrics(eval_prediction, positive_label=None):
    logits, labels = _labelled_rows(eval_prediction.predictions, eval_prediction.label_ids)
    rows = {"predictions": logits.argmax(axis=1), "references": labels}
    result = {**Accuracy().compute(**rows), **MacroF1().compute(**rows)}
    if positive_label is not None:
        result |= PairF1().compute(**rows, positive_label=positive_label) | MatthewsCorrelation().compute(**rows)
    cross_entropy = -log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean()
    with np.errstate(over="ignore"):  # a run that went astray may be perplexed without bounds
        result["perplexity"] = float(np.exp(cross_entropy))
    return result


def _multi_label_metrics(eval_prediction):
    logits, labels = _rows_with_values(eval_prediction)
    if not np.isin(labels, (0, 1)).all():
        row = int((~np.isin(labels, (0, 1))).any(axis=1).argmax())
        raise ValueError(
            f"The labels of row {row} of the labelled rows are {labels[row].tolist()}, but each must be 0 or 1 (a row "
            "of NaN is unlabelled): set config.problem_type='regression' for other values."
        )
    references = labels.astype(np.int64).tolist()
    predicted = {"predictions": (logits > 0).astype(np.int64).tolist(), "references": references}
    return {
        **MicroF1().compute(**predicted),
        **MacroF1().compute(**predicted),
        **AveragePrecision().compute(predictions=logits.tolist(), references=references),
    }


def _regression_metrics(eval_prediction):
    predictions, values = _rows_with_values(eval_prediction)
    columns = [
        {"predictions": predicted, "references": gold} for predicted, gold in zip(predictions.T, values.T, strict=True)
    ]
    result = {}
    for metric in (PearsonCorrelation(), SpearmanCorrelation(), MeanSquaredError()):
        of_column = [metric.compute(**column) for column in columns]
        result |= {name: float(np.mean([scored[name] for scored in of_column])) for name in of_column[0]}
    return result


def _labelled_rows(logits, labels):
    """Return logits and labels of the labelled rows of a single-label task."""
    logits, labels = _finite_logits(logits), np.asarray(labels)
    labelled = labels >= 0
    _check_some_labelled(labelled)
    logits, labels = logits[labelled], labels[labelled]
    if labels.max() >= logits.shape[1]:
        raise ValueError(
            f"An evaluation row has the label {labels.max()}, but there are {logits.shape[1]} logits a row: labels 0 "
            f"to {logits.shape[1] - 1}. Evaluate on data with the model's labels."
        )
    return logits, labels


def _rows_with_values(eval_prediction):
    """Return logits and labels of the labelled rows, both of shape `(n, num_labels)`, where NaN means unlabelled."""
    logits = _finite_logits(eval_prediction.predictions)
    values = np.asarray(eval_prediction.label_ids, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if values.shape != logits.shape:
        raise ValueError(
            f"The labels have shape {values.shape}, the logits {logits.shape}: they must have one value a row for "
            "each of the model's labels. Check config.num_labels and config.problem_type."
        )
    labelled = ~np.isnan(values).any(axis=1)
    _check_some_labelled(labelled)
    return logits[labelled], values[labelled]


def _finite_logits(logits):
    logits = np.asarray(logits[0] if isinstance(logits, tuple) else logits, dtype=np.float64)
    if not np.isfinite(logits).all():
        raise ValueError(
            f"The logits of {int((~np.isfinite(logits).all(axis=1)).sum())} of {len(logits)} evaluation rows hold NaN "
            "or infinite values, which would silently count as label 0: the run diverged, or half precision overflows."
        )
    return logits


def _check_some_labelled(labelled):
    if not labelled.any():
        raise ValueError(
            f"None of the {len(labelled)} evaluation rows is labelled (labels are all negative or NaN), so no metric "
            "is defined. Give a labelled evaluation data set, or leave out compute_metrics."
        )
