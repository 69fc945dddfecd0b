"""What a model's scores are worth on rows with gold scores, with intervals, and whether two models differ.

Fisher, On the "probable error" of a coefficient of correlation deduced from a small sample (1921); Bonett and Wright,
Sample size requirements for estimating Pearson, Kendall and Spearman correlations (2000).
"""

import numpy as np
from scipy.stats import norm, rankdata

from distil_trainer.bootstrap import CONFIDENCE_LEVEL, paired_test, resampled_counts

# A column that varies by less than this share of its size varies by rounding alone.
_ROUNDING = 1e-12


def evaluate_scores(logits, scores):
    """Score a regression against gold scores: Pearson's and Spearman's correlation and the mean squared error.

    The 95 % interval of Pearson's r is Fisher's, with a standard error of 1 / √(n − 3) in z = artanh r; Spearman's is
    the same with √((1 + ρ²/2) / (n − 3)), after Bonett and Wright. Both are −1 to 1 below four rows. A model that
    answers all rows alike gets a correlation of 0.

    Args:
        logits (`np.ndarray` of shape `(n, 1)` or `(n,)`): finite outputs.
        scores (`Sequence[float]` of length `n`): finite gold scores that are not all the same.

    Returns:
        `dict`: `n`, `pearson`, `pearson_low`, `pearson_high`, `spearman`, `spearman_low`, `spearman_high`, `mse`;
        plain Python numbers.

    Raises:
        ValueError: if shapes do not fit, a number is not finite, or all gold scores are the same.
    """
    predictions, scores = _checked(logits, scores)
    n = len(scores)
    pearson = _correlation(_centred(predictions), _centred(scores))
    spearman = _correlation(_centred(rankdata(predictions)), _centred(rankdata(scores)))
    pearson_low, pearson_high = _fisher_interval(pearson, n, variance=1.0)
    spearman_low, spearman_high = _fisher_interval(spearman, n, variance=1 + spearman**2 / 2)
    return {
        "n": n,
        "pearson": pearson,
        "pearson_low": pearson_low,
        "pearson_high": pearson_high,
        "spearman": spearman,
        "spearman_low": spearman_low,
        "spearman_high": spearman_high,
        "mse": float(np.mean((predictions - scores) ** 2)),
    }


def compare_scores(logits_a, logits_b, scores, *, seed=0):
    """Compare two regressions on the same rows by their Pearson correlations, with a paired bootstrap over rows.

    The bootstrap (see `paired_test`) asks for no normal distribution, as the tests of Williams and Steiger do: gold
    scores have ends, and heap up there.

    Args:
        logits_a (`np.ndarray` of shape `(n, 1)` or `(n,)`): outputs of the first model.
        logits_b (`np.ndarray` of shape `(n, 1)` or `(n,)`): outputs of the second model.
        scores (`Sequence[float]` of length `n`): gold scores.
        seed (`int`, *optional*, defaults to 0): seed of the bootstrap.

    Returns:
        `dict`: `n`; `pearson_difference` (first minus second) and the ends of its 95 % interval, `difference_low` and
        `difference_high`; `output_correlation` (Pearson's r between the two models' outputs); `p_value`;
        `distinguishable` (`p_value < 0.05`).

    Raises:
        ValueError: as in `evaluate_scores`.
    """
    a, gold = _checked(logits_a, scores)
    b, _ = _checked(logits_b, scores)
    a, b, gold = _centred(a), _centred(b), _centred(gold)
    moments = np.stack([a, b, gold, a * a, b * b, gold * gold, a * gold, b * gold], axis=1)
    differences = []
    for counts in resampled_counts(np.ones(len(gold), dtype=np.int64), seed):
        means = (counts @ moments).T / len(gold)
        of_a, of_b = (
            _correlation_of_moments(means[own], means[2], means[own + 3], means[5], means[own + 6]) for own in (0, 1)
        )
        differences.append(of_a - of_b)
    return {
        "n": len(gold),
        "pearson_difference": _correlation(a, gold) - _correlation(b, gold),
        "output_correlation": _correlation(a, b),
        **paired_test(np.concatenate(differences)),
    }


def _checked(logits, scores):
    predictions, scores = np.asarray(logits, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if predictions.ndim == 2 and predictions.shape[1] == 1:
        predictions = predictions[:, 0]
    if predictions.ndim != 1 or predictions.shape != scores.shape or not len(scores):
        raise ValueError(
            f"logits has shape {np.shape(logits)}, scores has shape {scores.shape}. Needed: one output and one gold "
            "score a row, (n, 1) and (n,), with n at least 1."
        )
    for name, values in (("logits", predictions), ("scores", scores)):
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            raise ValueError(
                f"{name} holds NaN or infinite values in {len(wrong)} of {len(values)} rows (the first is row "
                f"{wrong[0]}). One of them would make every figure NaN: leave rows without a gold score out of "
                "evaluation data, and find out why a model gives such outputs (half precision? a diverged run?)."
            )
    if not _varies(scores):
        raise ValueError(
            f"All {len(scores)} gold scores are {scores[0]:g}: no correlation is defined, and every model would look "
            "alike. Give rows with different scores."
        )
    return predictions, scores


def _correlation(a, b):
    """Return Pearson's r of two centred columns; 0 where one of them does not vary."""
    size = np.sqrt((a @ a) * (b @ b))
    return float(np.clip(a @ b / size, -1, 1)) if size else 0.0


def _centred(values):
    """Return a column less its mean; exact zeros where it varies by rounding alone."""
    return values - values.mean() if _varies(values) else np.zeros_like(values)


def _varies(values):
    return np.ptp(values) > _ROUNDING * np.abs(values).max()


def _correlation_of_moments(mean_a, mean_b, mean_aa, mean_bb, mean_ab):
    variances = (mean_aa - mean_a**2) * (mean_bb - mean_b**2)
    # Of a resample that holds one row again and again, or of a model that answers all rows alike.
    defined = variances > _ROUNDING * mean_aa * mean_bb
    covariance = mean_ab - mean_a * mean_b
    return np.where(defined, covariance / np.sqrt(np.where(defined, variances, 1.0)), 0.0)


def _fisher_interval(correlation, n, variance):
    if n < 4:
        return -1.0, 1.0
    half = norm.ppf((1 + CONFIDENCE_LEVEL) / 2) * np.sqrt(variance / (n - 3))
    with np.errstate(divide="ignore"):  # artanh 1 is infinite, and the interval a point
        z = np.arctanh(correlation)
    return float(np.tanh(z - half)), float(np.tanh(z + half))
