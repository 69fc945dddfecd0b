"""What each loss term was on average since the last log, over optimizer steps and processes."""

import torch


class TermMeans:
    """Add up terms on their device, and read them there once a log.

    A batch counts by its share of the rows of its optimizer step, and each step counts the same, as they do in the
    loss that `Trainer` logs.
    """

    def __init__(self):
        self.reset()

    def reset(self):
        """Forget what was added."""
        self._sums, self._num_steps = {}, 0.0

    def add(self, terms, share, num_batches):
        """Add the terms of a batch.

        Args:
            terms (`dict[str, torch.Tensor]`): detached scalars by name, the same names each time.
            share (`float` or `torch.Tensor`): the batch's share of the rows of its step; over all batches of a step in
                all processes, the mean over processes of the sum of shares is 1.
            num_batches (`int`): batches of the step in this process.
        """
        for name, term in terms.items():
            self._sums[name] = self._sums.get(name, 0) + share * term
        self._num_steps += 1 / num_batches

    def take(self, reduce):
        """Return the means and forget what was added.

        Args:
            reduce (`Callable`): takes the mean of a tensor over all processes (`accelerator.reduce`).

        Returns:
            `dict[str, float]`: empty where nothing was added.
        """
        if not self._sums:
            return {}
        means = reduce(torch.stack(list(self._sums.values())) / self._num_steps, reduction="mean").tolist()
        means = dict(zip(self._sums, means, strict=True))
        self.reset()
        return means
