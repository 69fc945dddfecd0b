"""Layers over the tokens of a text that give the same result however the text is padded.

A mask of shape `(batch_size, length)` is 1 for tokens and 0 for padding. States are zero on padding, which a
convolution reads as it reads the world beyond the ends of the text: nothing depends on how much padding there is.
"""

import torch
from torch import nn


class SameLengthConv1d(nn.Conv1d):
    """A convolution with one window for each position, centred on it (an even window reaches one further right).

    Beyond both ends it reads zeros, so that a text may be shorter than the window. Of even windows torch makes one too
    many, which is cut off; its `padding="same"` copies the input instead.

    Args:
        in_channels (`int`): width of what is read.
        out_channels (`int`): filters.
        kernel_size (`int`): tokens in a window.
    """

    def __init__(self, in_channels, out_channels, kernel_size):
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, channels):
        windows = super().forward(channels)
        return windows if self.kernel_size[0] % 2 else windows[..., 1:]


class TextCnn(nn.Module):
    """Parallel convolutions of several window sizes, ReLU, and the largest answer of each filter over the text.

    After the ReLU no answer is below zero, so that multiplying by the mask is enough to keep padding out of the
    maximum: no infinities, which int8 could not represent. A text without tokens gives zeros.

    Args:
        in_size (`int`): width of the states that are read.
        kernel_sizes (`list[int]`): tokens in a window, one for each convolution.
        num_filters (`int`): filters of each convolution.

    Reference:
        Kim (https://huggingface.co/papers/1408.5882), section 2. Kim reads whole windows alone; here there is one
        around each token, so that texts shorter than a window can be read.
    """

    def __init__(self, in_size, kernel_sizes, num_filters):
        super().__init__()
        self.convolutions = nn.ModuleList(SameLengthConv1d(in_size, num_filters, size) for size in kernel_sizes)

    def forward(self, states, mask):
        """Read states that are zero on padding.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: the largest answers `(batch_size, filters)`, and the answers at each
            position `(batch_size, length, filters)`, zero on padding.
        """
        channels = states.transpose(1, 2)
        answers = torch.cat([convolution(channels) for convolution in self.convolutions], dim=1)
        answers = answers.relu() * mask.unsqueeze(1)
        return answers.amax(dim=2), answers.transpose(1, 2)


def mean_over_time(states, mask):
    """Average the states of the tokens of each row. A row without tokens gives zeros.

    Args:
        states (`torch.Tensor` of shape `(batch_size, length, hidden_size)`): zero on padding.
        mask (`torch.Tensor` of shape `(batch_size, length)`): 1 for tokens, 0 for padding, of the states' type.

    Returns:
        `torch.Tensor` of shape `(batch_size, hidden_size)`
    """
    return states.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def masked_softmax(scores, mask):
    """Turn scores into weights that sum to one over the tokens of each row, and are zero on padding.

    A row without tokens gives zeros. Padded scores become the lowest number of their type, and not minus infinity, of
    which a whole row would give NaN.

    Args:
        scores (`torch.Tensor` of shape `(batch_size, ..., length)`): any numbers.
        mask (`torch.Tensor` that broadcasts to it): 1 for tokens, 0 for padding.

    Returns:
        `torch.Tensor` of the shape of `scores`
    """
    weights = scores.masked_fill(mask == 0, torch.finfo(scores.dtype).min).softmax(dim=-1)
    return weights * mask


def left_align(input_ids, mask):
    """Move the tokens of each row to its left, in their order, whatever side was padded and whatever holes it has.

    Args:
        input_ids (`torch.Tensor` of shape `(batch_size, length)`): token numbers.
        mask (`torch.Tensor` of shape `(batch_size, length)`): 1 for tokens, 0 for padding.

    Returns:
        `tuple[torch.Tensor, torch.Tensor, torch.Tensor]`, all `(batch_size, length)`: token numbers and mask after the
        move, and the position that each token has moved to, for [`restore_order`].
    """
    tokens = (mask != 0).long()
    padding = 1 - tokens
    behind_the_tokens = tokens.sum(dim=1, keepdim=True) + padding.cumsum(dim=1)
    position = torch.where(tokens == 1, tokens.cumsum(dim=1), behind_the_tokens) - 1
    moved_ids = torch.zeros_like(input_ids).scatter(1, position, input_ids)
    return moved_ids, torch.zeros_like(mask).scatter(1, position, mask), position


def restore_order(states, position):
    """Bring states of tokens that [`left_align`] moved back to where the tokens came from.

    Args:
        states (`torch.Tensor` of shape `(batch_size, length, hidden_size)`): states of the moved tokens.
        position (`torch.Tensor` of shape `(batch_size, length)`): as returned by [`left_align`].

    Returns:
        `torch.Tensor` of the shape of `states`
    """
    return states.gather(1, position.unsqueeze(-1).expand(-1, -1, states.shape[-1]))


def normalized_head(in_size, classifier_size, num_labels, dropout):
    """Make the head of GloVe-CNN and DenseNet-DSA: two linear layers, each behind a layer norm and dropout.

    There is no activation between them, as in the published networks: the second layer norm is what is not linear.

    Args:
        in_size (`int`): width of the pooled state.
        classifier_size (`int`): width between the two.
        num_labels (`int`): logits.
        dropout (`float`): probability.

    Returns:
        `nn.Sequential`
    """
    return nn.Sequential(
        nn.LayerNorm(in_size),
        nn.Dropout(dropout),
        nn.Linear(in_size, classifier_size),
        nn.LayerNorm(classifier_size),
        nn.Dropout(dropout),
        nn.Linear(classifier_size, num_labels),
    )


def relu_head(in_size, classifier_size, num_labels, dropout):
    """Make a head of one hidden layer with ReLU, dropout behind it.

    Args:
        in_size (`int`): width of the pooled state.
        classifier_size (`int`): width of the hidden layer.
        num_labels (`int`): logits.
        dropout (`float`): probability.

    Returns:
        `nn.Sequential`
    """
    return nn.Sequential(
        nn.Linear(in_size, classifier_size), nn.ReLU(), nn.Dropout(dropout), nn.Linear(classifier_size, num_labels)
    )
