"""Accuracy and macro-F1 as `evaluate` metrics over scikit-learn, which, unlike `evaluate.load`, need no network."""

import tempfile

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, f1_score

_FEATURES = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
_CITATION = "Pedregosa et al., Scikit-learn: Machine Learning in Python, JMLR 12 (2011), 2825-2830."
_INPUTS = """
Args:
    predictions (`list[int]` of length `n`): predicted labels.
    references (`list[int]` of length `n`): gold labels.
"""


class _InMemoryMetric(evaluate.Metric):
    """A metric over two integer columns that leaves nothing in evaluate's cache folder."""

    def __init__(self):
        # evaluate makes its cache folder even where it keeps everything in memory.
        with tempfile.TemporaryDirectory() as folder:
            super().__init__(keep_in_memory=True, cache_dir=folder)

    def _info(self):
        return evaluate.MetricInfo(
            description=type(self).__doc__, citation=_CITATION, inputs_description=_INPUTS, features=_FEATURES
        )


class Accuracy(_InMemoryMetric):
    """Share of rows whose prediction is the gold label.

    Example:

        >>> Accuracy().compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0])
        {'accuracy': 0.75}
    """

    def _compute(self, predictions, references):
        return {"accuracy": float(accuracy_score(references, predictions))}


class MacroF1(_InMemoryMetric):
    """F1 of each class that occurs in the gold labels or the predictions, averaged with equal weights.

    Example:

        >>> MacroF1().compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0])
        {'macro_f1': 0.7333333333333334}
    """

    def _compute(self, predictions, references):
        return {"macro_f1": float(f1_score(references, predictions, average="macro", zero_division=0))}


def compute_metrics(eval_prediction):
    """Compute accuracy and macro-F1 for `Trainer(compute_metrics=...)`, over the labelled rows.

    Args:
        eval_prediction (`EvalPrediction`): `predictions` of shape `(n, num_labels)` (or a tuple that starts with them)
            and `label_ids` of shape `(n,)`; negative labels (-1, -100) mark unlabelled rows, which are left out.

    Returns:
        `dict[str, float]`: `accuracy`, `macro_f1`.

    Raises:
        ValueError: if no row is labelled, or logits are not finite.
    """
    logits = eval_prediction.predictions
    logits = np.asarray(logits[0] if isinstance(logits, tuple) else logits)
    labels = np.asarray(eval_prediction.label_ids)
    labelled = labels >= 0
    if not labelled.any():
        raise ValueError(
            f"None of the {len(labels)} evaluation rows is labelled (labels are all negative): accuracy and macro-F1 "
            "are not defined. Give a labelled evaluation data set, or leave out compute_metrics."
        )
    if not np.isfinite(logits).all():
        raise ValueError(
            f"The logits of {int((~np.isfinite(logits).all(axis=1)).sum())} of {len(logits)} evaluation rows hold NaN "
            "or infinite values, which would silently count as label 0: the run diverged, or half precision overflows."
        )
    rows = {"predictions": logits[labelled].argmax(axis=1), "references": labels[labelled]}
    return {**Accuracy().compute(**rows), **MacroF1().compute(**rows)}
