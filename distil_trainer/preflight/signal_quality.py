"""Is what a teacher says worth learning? Judged on the logits of some rows, and on their gold labels where known."""

import numpy as np
from scipy.special import expit, softmax
from scipy.stats import binomtest, spearmanr

from distil_trainer.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL

# Above this mean probability of what the teacher says, soft targets are hard labels.
_CERTAIN = 0.999
_SIGNIFICANCE = 0.05


def judge_logits(logits, task, temperature=None, what="teacher"):
    """Say what is wrong with the logits of a teacher over several rows.

    Args:
        logits (`np.ndarray` of shape `(n, num_labels)`): finite.
        task (`str`): one of `PROBLEM_TYPES`.
        temperature (`float`, *optional*): at which the loss softens them; `None` for a loss that does not.
        what (`str`, *optional*, defaults to `"teacher"`): what the sentences call it, where there are several.

    Returns:
        `list[str]`: one sentence or two for each weakness, with what to do; empty where there is none.
    """
    n = len(logits)
    if n < 2:
        return []
    if np.ptp(logits, axis=0).max() < 1e-6:
        return [
            f"The {what} gives all {n} rows of the sample the same logits, {_rounded(logits[0])}: it does not read "
            "the text, and the student would not either. Check that its tokenizer is its own and its weights are "
            "loaded."
        ]
    if task == REGRESSION:
        return []
    found = []
    if task == SINGLE_LABEL and np.ptp(logits, axis=1).max() < 1e-6:
        found.append(
            f"The {what} gives all labels equal logits in each of {n} rows of the sample: it prefers none, and there "
            "is nothing to learn. Check that its classification head is trained."
        )
    elif task == SINGLE_LABEL and len(set(logits.argmax(axis=1))) == 1:
        found.append(
            f"The {what} gives all {n} rows of the sample the label number {logits[0].argmax()}: either the rows are "
            "sorted or of one kind, and more of the others are needed, or it has collapsed onto that label."
        )
    if temperature is not None:
        scaled = logits / temperature
        most = softmax(scaled, axis=1).max(axis=1) if task == SINGLE_LABEL else expit(np.abs(scaled))
        if most.mean() > _CERTAIN:
            found.append(
                f"The {what} is {most.mean():.2%} sure of its answers on average at temperature={temperature:g}: "
                "these soft targets say no more than hard labels. Raise temperature, or take logit_loss=mse, which "
                "reads the logits themselves."
            )
    return found


def beats_chance(logits, labels, task):
    """Test whether a teacher's answers have to do with the gold labels.

    Labels: a binomial test of the share of right answers (multi-label: over all rows and labels) against the share
    that answers of the same frequencies would get right if they were dealt out at random. A teacher that always gives
    the most frequent label is therefore no better than chance, and one that finds a few rare ones is. Regression: a
    test of Spearman's correlation, which one of the values must pass.

    Args:
        logits (`np.ndarray` of shape `(n, num_labels)`): finite logits, in the order of the labels.
        labels (`np.ndarray`): gold labels of shape `(n, num_labels)`; single-label: `(n, 1)`.
        task (`str`): one of `PROBLEM_TYPES`.

    Returns:
        `bool`: whether it is better than chance at a significance of 0.05.
    """
    if task == REGRESSION:
        # A column that does not vary has no ranks to correlate.
        pairs = [pair for pair in zip(logits.T, labels.T, strict=True) if all(np.ptp(column) > 0 for column in pair)]
        return any(spearmanr(*pair, alternative="greater").pvalue < _SIGNIFICANCE for pair in pairs)
    if task == MULTI_LABEL:
        answers, truth = logits > 0, labels > 0
        shares, true_shares = answers.mean(axis=0), truth.mean(axis=0)
        chance = float((shares * true_shares + (1 - shares) * (1 - true_shares)).mean())
    else:
        answers, truth = logits.argmax(axis=1), labels[:, 0].astype(np.int64)
        counts = [np.bincount(each, minlength=logits.shape[1]) / len(labels) for each in (answers, truth)]
        chance = float(counts[0] @ counts[1])
    right = answers == truth
    test = binomtest(int(right.sum()), right.size, min(chance, 1.0), alternative="greater")
    return test.pvalue < _SIGNIFICANCE


def on_another_scale(logits, scores):
    """Tell whether a teacher's scores lie further from the gold scores than the mean of those does.

    Args:
        logits (`np.ndarray` of shape `(n, num_labels)`): finite outputs.
        scores (`np.ndarray` of shape `(n, num_labels)`): gold scores.

    Returns:
        `bool`
    """
    return bool((np.mean((logits - scores) ** 2, axis=0) > scores.var(axis=0)).any())


def _rounded(logits):
    return np.round(logits, 3).tolist()
