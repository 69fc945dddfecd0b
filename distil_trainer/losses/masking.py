"""The mean over a row's unmasked positions, then over rows: the reduction of every loss that compares tokens."""


def unmasked(mask, states):
    """Return where a position counts.

    Args:
        mask (`torch.Tensor` of shape `(batch_size, length)`): integers, floats or booleans; 0 where it does not count.
        states (`torch.Tensor` of shape `(batch_size, ..., length, size)`): what the mask belongs to.

    Returns:
        `torch.Tensor` of shape `(batch_size, length)`, boolean.

    Raises:
        ValueError: if the mask has another shape.
    """
    needed = (states.shape[0], states.shape[-2])
    if mask.shape != needed:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}, but (batch_size, length)={needed} is needed: it would be repeated "
            "along the states in silence. Give one value for each position of each row, 0 for padding."
        )
    return mask.bool()


def without_padding(states, keep):
    """Return the states in float32, 0 at positions that do not count, so that nothing there reaches a gradient.

    Args:
        states (`torch.Tensor` of shape `(batch_size, length, size)`).
        keep (`torch.Tensor` of shape `(batch_size, length)`, boolean).
    """
    return states.float().masked_fill(~keep[:, :, None], 0.0)


def mean_over_positions(values, keep):
    """Average over each row's unmasked positions, then over all rows; a row without any contributes 0.

    Args:
        values (`torch.Tensor` of shape `(batch_size, length)`).
        keep (`torch.Tensor` of shape `(batch_size, length)`, boolean).
    """
    return (values.masked_fill(~keep, 0.0).sum(dim=1) / keep.sum(dim=1).clamp(min=1)).mean()
