"""`evaluate` metrics over scikit-learn and SciPy, which, unlike those of `evaluate.load`, need no network."""

import tempfile
import warnings

import datasets
import evaluate
import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn import metrics as scores

_LABELS = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
_LABEL_SETS = datasets.Features(dict.fromkeys(_LABELS, datasets.Sequence(datasets.Value("int64"))))
_VALUES = datasets.Features(dict.fromkeys(_LABELS, datasets.Value("float64")))
_RANKINGS = datasets.Features(
    {"predictions": datasets.Sequence(datasets.Value("float64")), "references": _LABEL_SETS["references"]}
)
_CITATION = "Pedregosa et al., Scikit-learn: Machine Learning in Python, JMLR 12 (2011), 2825-2830."
_INPUTS = """
Args:
    predictions (`list` of length `n`): what the model says of each row.
    references (`list` of length `n`): the gold labels or values, in the same form.
"""


class _InMemoryMetric(evaluate.Metric):
    """A metric over two columns that leaves nothing in evaluate's cache folder."""

    # Either form of the two columns that `evaluate` shall take, or a list of them.
    columns = _LABELS

    def __init__(self):
        # evaluate makes its cache folder even where it keeps everything in memory.
        with tempfile.TemporaryDirectory() as folder:
            super().__init__(keep_in_memory=True, cache_dir=folder)

    def _info(self):
        return evaluate.MetricInfo(
            description=type(self).__doc__, citation=_CITATION, inputs_description=_INPUTS, features=self.columns
        )


class Accuracy(_InMemoryMetric):
    """Share of rows whose prediction is the gold label.

    Example:

        >>> Accuracy().compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0])
        {'accuracy': 0.75}
    """

    def _compute(self, predictions, references):
        return {"accuracy": float(scores.accuracy_score(references, predictions))}


class MacroF1(_InMemoryMetric):
    """F1 of each label that occurs in the gold labels or the predictions, averaged with equal weights; 0 without any.

    A row holds one label, or for multi-label tasks one 0 or 1 for each label.

    Example:

        >>> MacroF1().compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0])
        {'macro_f1': 0.7333333333333334}
    """

    columns = [_LABELS, _LABEL_SETS]

    def _compute(self, predictions, references):
        predictions, references = np.asarray(predictions), np.asarray(references)
        occurs = np.unique([predictions, references]) if predictions.ndim == 1 else (predictions | references).any(0)
        labels = occurs if predictions.ndim == 1 else np.flatnonzero(occurs)
        if not len(labels):
            return {"macro_f1": 0.0}
        if predictions.ndim == 2 and predictions.shape[1] == 1:
            # It would be read as one label a row, of which 0 is one too.
            return {"macro_f1": float(scores.f1_score(references, predictions, average="binary", zero_division=0))}
        score = scores.f1_score(references, predictions, labels=labels, average="macro", zero_division=0)
        return {"macro_f1": float(score)}


class MicroF1(_InMemoryMetric):
    """F1 over all pairs of a row and a label, for multi-label tasks; 0 where no label is gold or predicted.

    Example:

        >>> MicroF1().compute(predictions=[[1, 0], [1, 1]], references=[[1, 0], [0, 1]])
        {'micro_f1': 0.8}
    """

    columns = _LABEL_SETS

    def _compute(self, predictions, references):
        predictions, references = np.asarray(predictions), np.asarray(references)
        # One column would be read as one label a row, of which 0 is one too.
        average = "binary" if predictions.shape[-1] == 1 else "micro"
        return {"micro_f1": float(scores.f1_score(references, predictions, average=average, zero_division=0))}


class PairF1(_InMemoryMetric):
    """F1 of one label of two ("is a paraphrase", "is a duplicate"); 0 where it is neither gold nor predicted.

    It is label 1, or the one that `compute(..., positive_label=0)` names.

    Example:

        >>> PairF1().compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0])
        {'f1': 0.6666666666666666}
    """

    def _compute(self, predictions, references, positive_label=1):
        return {"f1": float(scores.f1_score(references, predictions, pos_label=positive_label, zero_division=0))}


class MatthewsCorrelation(_InMemoryMetric):
    """Matthews' correlation coefficient, from -1 to 1; 0 where the predictions or the gold labels are all one label.

    Example:

        >>> MatthewsCorrelation().compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0])
        {'mcc': 0.5773502691896258}
    """

    def _compute(self, predictions, references):
        if len(set(predictions)) < 2 or len(set(references)) < 2:
            return {"mcc": 0.0}
        return {"mcc": float(scores.matthews_corrcoef(references, predictions))}


class AveragePrecision(_InMemoryMetric):
    """Average precision of each label that some row has, averaged with equal weights; 0 where no row has a label.

    A label that no row has is left out, because its precision is not defined; `average_precision_labels` counts those
    that are in.

    Example:

        >>> AveragePrecision().compute(predictions=[[0.1, 2.0], [-1.0, 1.0], [0.3, 0.0]], references=[[1, 0]] * 3)
        {'average_precision': 1.0, 'average_precision_labels': 1}
    """

    columns = _RANKINGS

    def _compute(self, predictions, references):
        predictions, references = np.asarray(predictions), np.asarray(references)
        present = references.any(axis=0)
        score = 0.0
        if present.any():
            score = float(scores.average_precision_score(references[:, present], predictions[:, present]))
        return {"average_precision": score, "average_precision_labels": int(present.sum())}


class PearsonCorrelation(_InMemoryMetric):
    """Pearson's correlation of the values, from -1 to 1; 0 where predictions or gold values are all the same.

    SciPy gives NaN there, which no run could be selected on: predictions that never move say nothing of the values.

    Example:

        >>> PearsonCorrelation().compute(predictions=[1.0, 2.0], references=[2.0, -4.0])
        {'pearson': -1.0}
    """

    columns = _VALUES

    def _compute(self, predictions, references):
        return {"pearson": _correlation(pearsonr, predictions, references)}


class SpearmanCorrelation(_InMemoryMetric):
    """Spearman's correlation of the ranks, from -1 to 1; 0 where predictions or gold values are all the same.

    Example:

        >>> SpearmanCorrelation().compute(predictions=[1.0, 2.0, 9.0], references=[2.0, 4.0, 6.0])
        {'spearman': 1.0}
    """

    columns = _VALUES

    def _compute(self, predictions, references):
        return {"spearman": _correlation(spearmanr, predictions, references)}


class MeanSquaredError(_InMemoryMetric):
    """Mean of the squared differences.

    Example:

        >>> MeanSquaredError().compute(predictions=[1.0, 2.0], references=[1.0, 4.0])
        {'mse': 2.0}
    """

    columns = _VALUES

    def _compute(self, predictions, references):
        return {"mse": float(scores.mean_squared_error(references, predictions))}


def _correlation(function, predictions, references):
    if len(predictions) < 2:
        return 0.0
    with warnings.catch_warnings():
        # Of values that are all the same, or nearly: the result says it.
        warnings.simplefilter("ignore", RuntimeWarning)
        value = float(function(predictions, references).statistic)
    return 0.0 if np.isnan(value) else value
