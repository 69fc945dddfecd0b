"""The formulas of Meta Pseudo Labels: how labels are drawn, what a student's step was worth, how the teacher hears it.

A teacher with weights T draws one pseudo-label for each of the B unlabelled rows of a step. They move the student from
its weights S to S'(labels). What the teacher should lower is the *expected* labelled loss of the student, over its own
draws, and the gradient of that is (the score function; L is the student's loss on labelled rows):

    grad_T E[L(S')] = E[(L(S') - L(S)) * grad_T log P_T(labels)] = E[B * (L(S) - L(S')) * grad_T CE(labels, teacher)]

The second form has the *mean* cross-entropy over rows, as losses have it here and in the paper's own code; the factor
B is the number of rows in that mean, since the probability of a batch of labels is a product over its rows. Anything
that does not depend on the draws may be taken from `L(S) - L(S')` without changing the expectation: L(S) is that
already, and a moving average of earlier feedback goes too.

Reference: Pham et al. 2020, https://arxiv.org/abs/2003.10580, section 2 and appendix A (there B is 1).
"""

import numpy as np
import torch
from torch.nn import functional as F

# Keeps these draws apart from others that begin with the same seed.
_STREAM = 1


def draw_uniforms(seed, step, num_rows):
    """Draw one number in [0, 1) for each row of an optimizer step.

    They depend on the seed, the step and the row's place in the step alone: not on how the step is cut into batches
    and processes, nor on what was drawn before, so that a resumed run draws what an uninterrupted one would.

    Args:
        seed (`int`): 0 or above.
        step (`int`): number of the optimizer step, from 0.
        num_rows (`int`): rows of the step, over all processes and accumulated batches.

    Returns:
        `np.ndarray` of shape `(num_rows,)`
    """
    return np.random.default_rng((seed, step, _STREAM)).random(num_rows)


def sample_pseudo_labels(logits, uniforms):
    """Draw a label for each row from `softmax(logits)`.

    Hard labels, drawn: with soft ones, or the most probable ones, nothing of the student's gain or loss would say
    which way the teacher's probabilities should move.

    Args:
        logits (`torch.Tensor` of shape `(batch_size, num_labels)`): the teacher's.
        uniforms (`torch.Tensor` of shape `(batch_size,)`): in [0, 1), one for each row.

    Returns:
        `torch.Tensor` of shape `(batch_size,)`, int64.
    """
    upper_edges = logits.float().softmax(dim=-1).cumsum(dim=-1)
    # Rounding may leave the last edge below a number close to 1.
    return (upper_edges <= uniforms.unsqueeze(-1)).sum(dim=-1).clamp(max=logits.shape[-1] - 1)


def feedback_loss(teacher_logits, pseudo_labels, feedback):
    """Compute `feedback * CE(pseudo-labels, teacher)`, mean over rows.

    Above 0, the feedback makes the teacher surer of the labels it drew; below 0, less sure. Its gradient, times the
    number of rows, is an unbiased estimate of that of the student's expected labelled loss (see the module).

    Args:
        teacher_logits (`torch.Tensor` of shape `(batch_size, num_labels)`): gradients flow into these.
        pseudo_labels (`torch.Tensor` of shape `(batch_size,)`): drawn from them.
        feedback (`torch.Tensor` or `float`): the student's labelled loss before the step minus that after it.

    Returns:
        `torch.Tensor`: a scalar.
    """
    return feedback * F.cross_entropy(teacher_logits.float(), pseudo_labels)


def feedback_of_step(gradients, weights_before, weights_after):
    """Estimate how far a step lowered a loss from the loss's gradients: `sum of gradient * (before - after)`.

    For a step of plain descent, `after = before - learning rate * g`, this is the paper's `learning rate * <gradient,
    g>`. For any other optimizer it measures the step that was really taken. The difference of the two losses tends to
    it as the step becomes small; the relative error falls in proportion to the step.

    Args:
        gradients (`list[torch.Tensor]`): of the loss, at the weights after the step.
        weights_before, weights_after (`list[torch.Tensor]`): of the same shapes.

    Returns:
        `torch.Tensor`: a scalar; above 0 where the step lowered the loss.

    Reference:
        Pham et al. 2020, https://arxiv.org/abs/2003.10580, equation 12 and section 2.
    """
    pairs = zip(gradients, weights_before, weights_after, strict=True)
    return sum((gradient * (before - after)).sum() for gradient, before, after in pairs)


def trial_weights(weights, gradients, length):
    """Return the weights after a step of a given length straight down a gradient.

    Args:
        weights, gradients (`list[torch.Tensor]`): of the same shapes.
        length (`torch.Tensor` or `float`): Euclidean length of the step, over all weights together.

    Returns:
        `list[torch.Tensor]`: the weights themselves where the gradient is zero.
    """
    steepness = euclidean_length(gradients).clamp(min=torch.finfo(torch.float32).tiny)
    return [weight - length * (gradient / steepness) for weight, gradient in zip(weights, gradients, strict=True)]


def euclidean_length(tensors):
    """Return the Euclidean length of all entries of some tensors taken together."""
    return torch.stack([tensor.float().square().sum() for tensor in tensors]).sum().sqrt()


class Baseline:
    """A moving average of the feedback, which is taken from each new one before that one is added.

    It makes the teacher's updates less noisy: early on every step helps the student, whatever its labels. Earlier
    feedback does not depend on this step's labels, so nothing is biased. As in Adam the average is divided by the sum
    of its weights, so that it is right from the second step on; before the first it is 0.

    Args:
        momentum (`float`): in [0, 1): what stays of the average at each step.

    Reference:
        The paper's own code, https://github.com/google-research/google-research/tree/master/meta_pseudo_labels, keeps
        an average with momentum 0.99; it begins at random, and has this step's feedback in it already.
    """

    def __init__(self, momentum):
        self._momentum = momentum
        self._sum, self._weight = torch.tensor(0.0), 0.0

    def centre(self, feedback):
        """Return a step's feedback (`torch.Tensor`, a scalar) minus the average so far, and add it to the average."""
        centred = feedback - self._sum.to(feedback.device) / (self._weight or 1.0)
        self._sum = self._momentum * self._sum.to(feedback.device) + (1 - self._momentum) * feedback
        self._weight = self._momentum * self._weight + 1 - self._momentum
        return centred

    def state_dict(self):
        """Return what a checkpoint must hold."""
        return {"sum": self._sum.cpu(), "weight": self._weight}

    def load_state_dict(self, state):
        """Go on from what `state_dict` returned."""
        self._sum, self._weight = state["sum"], state["weight"]
