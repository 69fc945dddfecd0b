"""The order of training rows: decided by seed and epoch alone, at random or in batches of similar length."""

import numpy as np
from torch.utils.data import Sampler

_STEPS_PER_WINDOW = 50


class EpochSampler(Sampler):
    """Draw every row once an epoch, in an order that depends on `(seed, epoch)` and on nothing else that can vary.

    So a run that is resumed sees the rows that it would have seen, and the number of processes does not change the
    order, as long as the rows of one optimizer step stay the same in number.

    With `lengths`, the rows of one optimizer step have similar lengths: a random window of rows, worth 50 steps, is
    sorted by length and cut into steps, and all steps are then shuffled. The step with the longest row comes first, so
    that memory runs out at once or never; rows too few for a whole step come last.

    Args:
        num_rows (`int`): rows in the data set.
        seed (`int`): 0 or above.
        lengths (`np.ndarray` of shape `(num_rows,)`, *optional*): tokens in each row.
        rows_per_step (`int`, *optional*, defaults to 1): rows of one optimizer step, over all processes and
            accumulated batches. Read with `lengths` only.
    """

    def __init__(self, num_rows, seed, lengths=None, rows_per_step=1):
        self.num_rows = num_rows
        self.seed = seed
        self.lengths = lengths
        self.rows_per_step = rows_per_step
        self.epoch = 0

    def set_epoch(self, epoch):
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self):
        return self.num_rows

    def __iter__(self):
        generator = np.random.default_rng((self.seed, self.epoch))
        order = generator.permutation(self.num_rows)
        if self.lengths is not None:
            order = self._group_by_length(order, generator)
        return iter(order.tolist())

    def _group_by_length(self, order, generator):
        window = self.rows_per_step * _STEPS_PER_WINDOW
        windows = [order[start : start + window] for start in range(0, self.num_rows, window)]
        order = np.concatenate([rows[np.argsort(-self.lengths[rows], kind="stable")] for rows in windows])
        num_whole = self.num_rows // self.rows_per_step
        if num_whole == 0:
            return order
        whole, rest = np.split(order, [num_whole * self.rows_per_step])
        steps = generator.permutation(whole.reshape(num_whole, self.rows_per_step))
        longest = self.lengths[steps].max(axis=1).argmax()
        steps[[0, longest]] = steps[[longest, 0]]
        return np.concatenate([steps.ravel(), rest])
