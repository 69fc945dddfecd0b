"""The bootstrap over rows: what a figure might have been on other rows of the same kind.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 13 and 15; for two systems on the same rows,
Koehn, Statistical Significance Tests for Machine Translation Evaluation (EMNLP 2004).
"""

import numpy as np

CONFIDENCE_LEVEL = 0.95
RESAMPLES = 2000
# Of `paired_test`: no resample had the other sign.
LEAST_P_VALUE = 2 / (1 + RESAMPLES)
_MOST_COUNTS_AT_ONCE = 4_000_000
_ROUNDING = 1e-12


def resampled_counts(counts, seed):
    """Draw rows anew, with replacement, where rows of the same kind are counted and not listed.

    Args:
        counts (`np.ndarray` of shape `(kinds,)`): how many rows there are of each kind; ones, where no two are alike.
        seed (`int`): of the draws.

    Yields:
        `np.ndarray` of shape `(m, kinds)`: counts of the next m resamples, each of as many rows as there are;
        `RESAMPLES` in all.
    """
    generator, total = np.random.default_rng(seed), counts.sum()
    at_once = max(1, _MOST_COUNTS_AT_ONCE // len(counts))
    for start in range(0, RESAMPLES, at_once):
        yield generator.multinomial(total, counts / total, size=min(at_once, RESAMPLES - start))


def percentile_interval(values):
    """Return the ends of the percentile interval at `CONFIDENCE_LEVEL`, as `tuple[float, float]`."""
    tail = (1 - CONFIDENCE_LEVEL) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def paired_test(differences):
    """Test whether two models differ, from the differences of their figures on the same resamples.

    The p-value is that of the percentile interval: twice the share of resamples in which the difference is zero or
    has the other sign, where one resample is added to both counts, so that it is never zero.

    Args:
        differences (`np.ndarray` of shape `(resamples,)`): first model minus second.

    Returns:
        `dict`: `difference_low`, `difference_high`, `p_value`, `distinguishable` (`p_value < 0.05`).
    """
    differences = np.where(np.abs(differences) < _ROUNDING, 0.0, differences)
    fewer = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    p_value = min(1.0, 2 * (1 + fewer) / (1 + len(differences)))
    low, high = percentile_interval(differences)
    return {
        "difference_low": low,
        "difference_high": high,
        "p_value": p_value,
        "distinguishable": p_value < 1 - CONFIDENCE_LEVEL,
    }
