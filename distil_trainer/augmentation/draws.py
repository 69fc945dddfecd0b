"""Random draws that are functions of what they are for: (seed, row, position, ...), whatever else is in the batch."""

import numpy as np
import torch

from distil_trainer.augmentation.splitmix import GOLDEN, mix, unit_interval

_NUM_WINDOWS = 2**20


def uniform(seed, *coordinates):
    """Draw a number for each point of a grid; equal coordinates give equal draws, in any call.

    Args:
        seed (`int`): any integer.
        coordinates (`int` or `np.ndarray` of integers): broadcast together; each 0 or above.

    Returns:
        `np.ndarray` of float64 in (0, 1), in the coordinates' common shape, which has at least one dimension.
    """
    state = mix(np.array([seed % 2**64], np.uint64))
    for coordinate in coordinates:
        state = mix(state + GOLDEN * np.atleast_1d(coordinate).astype(np.uint64))
    return unit_interval(state) + 2.0**-54


class TokenDraws:
    """Gumbel noise: the token with the highest sum of score and noise is a draw from the softmax of the scores.

    Scores of one text in differently padded batches differ in their last digits. They then choose another token with
    about the probability by which the two distributions differ, measured as 2 in 10 million for float32. (To invert
    the distribution function needs one number only, but it has as many borders as tokens: 4 in 10,000.)

    Noise is a window of one table of 2²⁰ numbers and some; where it begins is drawn. So a token of probability `p` has
    a share of `p ± √(p / 2²⁰)` in a long run, and two draws may have the same noise, in one pair of a million.

    Args:
        seed (`int`): any integer.
        vocab_size (`int`): scores of a row.
        device (`torch.device`): where the scores are.
    """

    def __init__(self, seed, vocab_size, device):
        table = -np.log(-np.log(uniform(seed, np.arange(_NUM_WINDOWS + vocab_size - 1))))
        self._windows = torch.from_numpy(table.astype(np.float32)).to(device).unfold(0, vocab_size, 1)
        self._seed = seed

    def add_noise(self, scores, *coordinates):
        """Add to each row of scores the noise of its coordinates.

        Args:
            scores (`torch.Tensor` of shape `(n, vocab_size)`): logits; a token of score `-inf` is never the highest.
            coordinates (`int` or `np.ndarray` of integers): broadcast to shape `(n,)`.

        Returns:
            `torch.Tensor` of shape `(n, vocab_size)`: the highest of each row is its draw.

        Raises:
            ValueError: if a score is NaN.
        """
        if torch.isnan(scores).any():
            raise ValueError(
                "The language model gave NaN scores, from which nothing can be sampled. Check its weights; if it is "
                "float16 that overflows, load it with dtype=torch.float32."
            )
        first = (uniform(self._seed, *coordinates) * _NUM_WINDOWS).astype(np.int64)
        return scores + self._windows[torch.from_numpy(first).to(scores.device)]
