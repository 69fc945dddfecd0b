"""What a file's answers are worth: by the headline metric against gold answers, and beside PyTorch's."""

import numpy as np

from distil_trainer.evaluate_metrics import Accuracy, MacroF1, PearsonCorrelation
from distil_trainer.labels import dataset_label_names, label_permutation, model_label_names
from distil_trainer.tasks import REGRESSION, problem_type

_METRICS = {"accuracy": Accuracy, "macro_f1": MacroF1, "pearson": PearsonCorrelation}
# What rounding alone may cost: shares of rows are exact but for their last bits, scores may differ as logits may in
# `export_onnx`.
_SLACK = {"accuracy": 1e-12, "macro_f1": 1e-12, "pearson": 1e-4}
# Filled in by `apply_limits` and `choose_rung`, once all files are there to be timed in turns.
_NO_LATENCY = dict.fromkeys(["p50_ms", "p95_ms", "p50_difference_ms"])


def read_texts(dataset, text_column, text_pair_column, name="eval_dataset"):
    """Read the texts of an evaluation set.

    Args:
        dataset (`Dataset`): the evaluation set.
        text_column (`str`): the column of texts.
        text_pair_column (`str`): the column of second texts; `None` for single texts.
        name (`str`, *optional*, defaults to `"eval_dataset"`): of the data set, for errors.

    Returns:
        `list`: the texts and the second texts, each `list[str]`; `None` for second texts that there are not.

    Raises:
        TypeError: if a text is not a string.
        ValueError: if a column is missing, or there are no rows.
    """
    if not len(dataset):
        raise ValueError(f"{name} has no rows, so nothing can be measured on it: give labelled texts.")
    columns = []
    for column in (text_column, text_pair_column):
        if column is None:
            columns.append(None)
            continue
        _check_column(dataset, column, "text", name)
        texts = list(dataset[column])
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(
                    f"Row {row} of {name} has {column}={text!r}; a text must be a string. Drop such rows, or fill "
                    "them."
                )
        columns.append(texts)
    return columns


def gold_answers(dataset, label_column, config, name="eval_dataset"):
    """Read the gold labels of an evaluation set as the model's label numbers, or its gold scores.

    Args:
        dataset (`Dataset`): the evaluation set.
        label_column (`str`): the column of gold labels or scores.
        config (`PretrainedConfig`): the model's configuration.
        name (`str`, *optional*, defaults to `"eval_dataset"`): of the data set, for errors.

    Returns:
        `np.ndarray` of shape `(n,)`

    Raises:
        ValueError: if a label or score is missing or illegal, the model's labels are others, or all are alike.
    """
    _check_column(dataset, label_column, "label", name)
    if problem_type(config) == REGRESSION:
        return _gold_scores(dataset, label_column)
    labels = list(dataset[label_column])
    names, model_names = dataset_label_names(dataset, label_column), model_label_names(config)
    permutation = None
    if names is not None and model_names is not None:
        permutation = label_permutation(model_names, names, given="the model", wanted=name)
    for row, label in enumerate(labels):
        if not isinstance(label, int) or not 0 <= label < config.num_labels:
            raise ValueError(
                f"Row {row} of {name} has {label_column}={label!r}; every row needs a label from 0 to "
                f"{config.num_labels - 1}, or it would count as an error of the model. Drop unlabelled rows, and "
                "encode names as a ClassLabel (`dataset.class_encode_column`)."
            )
    if len(set(labels)) == 1:
        raise ValueError(
            f"All {len(labels)} rows of {name} have {label_column}={labels[0]}: a file that gives every text this "
            "label would look right, whatever became of the others. Give rows of every label."
        )
    gold = np.array(labels)
    return gold if permutation is None else np.array(permutation)[gold]


def answers_of(logits, config):
    """Return what a model's logits say: the numbers of the labels, or the scores; of shape `(n,)`."""
    return logits[:, 0] if problem_type(config) == REGRESSION else logits.argmax(axis=1)


def value_of(metric, answers, gold):
    """Return the value (`float`) that a headline metric ("accuracy", "macro_f1", "pearson") has for some answers."""
    return _METRICS[metric]().compute(predictions=answers, references=gold)[metric]


def judge_file(path, answers, pytorch_answers, gold, metric, max_drop):
    """Judge an ONNX file by its answers.

    Args:
        path (`Path`): the file.
        answers (`list[np.ndarray]`): its answers, once for each way of batching; the worst of them counts.
        pytorch_answers (`np.ndarray` of shape `(n,)`): the PyTorch model's.
        gold (`np.ndarray` of shape `(n,)`): the gold answers.
        metric (`str`): the headline metric.
        max_drop (`float`): how much of it the file may lose.

    Returns:
        `dict`: what `ship` reports of a rung, but for its name.
    """
    before = value_of(metric, pytorch_answers, gold)
    after = min(value_of(metric, one, gold) for one in answers)
    passed = after - before >= -max_drop - _SLACK[metric]
    # A correlation does not see scores that are shifted or stretched: the largest difference does.
    beside_pytorch = _largest_difference if metric == "pearson" else _agreement
    beside = [beside_pytorch(one, pytorch_answers) for one in answers]
    return {
        "file": path.name,
        "size_bytes": path.stat().st_size,
        metric: after,
        f"{metric}_change": after - before,
        **dict(zip(_beside_keys(metric), [*beside, None][:2], strict=True)),
        **_NO_LATENCY,
        "passed": passed,
        "reason": f"{metric} {before:.4f} -> {after:.4f}, {'within' if passed else 'beyond'} the allowed drop of "
        f"{max_drop}",
    }


def not_made(metric, reason):
    """Return what `ship` reports of a rung, but for its name, that there is no file of."""
    figures = dict.fromkeys(["file", "size_bytes", metric, f"{metric}_change", *_beside_keys(metric)])
    return {**figures, **_NO_LATENCY, "passed": False, "reason": reason}


def _beside_keys(metric):
    """Return the keys under which answers are set beside PyTorch's: in batches, and text by text."""
    if metric == "pearson":
        return "difference_from_pytorch", "difference_batch_1"
    return "agreement_with_pytorch", "agreement_batch_1"


def _agreement(answers, pytorch_answers):
    return float(np.mean(answers == pytorch_answers))


def _largest_difference(answers, pytorch_answers):
    return float(np.abs(answers - pytorch_answers).max())


def _gold_scores(dataset, label_column):
    scores = list(dataset[label_column])
    for row, score in enumerate(scores):
        if not isinstance(score, int | float) or not np.isfinite(score):
            raise ValueError(
                f"Row {row} of eval_dataset has {label_column}={score!r}; every row needs a finite gold score, or no "
                "correlation with the gold scores would be defined. Drop rows without one."
            )
    if len(set(scores)) == 1:
        raise ValueError(
            f"All {len(scores)} rows of eval_dataset have {label_column}={scores[0]}: no correlation with them is "
            "defined, and every file would pass. Give rows with different scores."
        )
    return np.array(scores, dtype=np.float64)


def _check_column(dataset, column, what, name):
    if column not in dataset.column_names:
        raise ValueError(
            f"{what}_column={column!r} is not in {name}, which has the columns {dataset.column_names}: name the one "
            f"that holds the {what}s."
        )
