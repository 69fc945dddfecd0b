"""The densely connected block of convolutions over word vectors that DenseNet-CNN and DenseNet-DSA begin with.

Paper: Densely Connected CNN with Multi-scale Feature Attention for Text Classification (IJCAI 2018,
https://www.ijcai.org/proceedings/2018/621) connects the layers of a branch; the branches side by side are those of
the prior systems whose students these are.
"""

import torch
from torch import nn

from .masked_layers import SameLengthConv1d
from .student_configuration import StudentConfig, check_dropouts, check_kernel_sizes, check_sizes


class DenseBlockConfig(StudentConfig):
    """Shape of the block, for the configurations of the networks that begin with it.

    Args:
        block_kernel_sizes (`list[list[int]]`): one list for each layer, with one window size for each branch.
        first_filters (`int`, *optional*, defaults to 200): filters of the first layer of a branch.
        growth_filters (`int`, *optional*, defaults to 100): filters of each further layer.
        block_size (`int`, *optional*, defaults to 400): width of the block's output.
        embedding_dropout (`float`, *optional*, defaults to 0.3): dropout of the word vectors.
        block_dropout (`float`, *optional*, defaults to 0.3): dropout of the block's output.
        kwargs: those of [`StudentConfig`].

    Raises:
        ValueError: if a setting is out of range.
    """

    reads_pairs = False

    def __init__(
        self,
        block_kernel_sizes=((1, 1), (3, 3)),
        first_filters=200,
        growth_filters=100,
        block_size=400,
        embedding_dropout=0.3,
        block_dropout=0.3,
        **kwargs,
    ):
        super().__init__(embedding_dropout=embedding_dropout, **kwargs)
        check_sizes(first_filters=first_filters, growth_filters=growth_filters, block_size=block_size)
        check_dropouts(block_dropout=block_dropout)
        _check_layers(block_kernel_sizes)
        self.block_kernel_sizes = [list(layer) for layer in block_kernel_sizes]
        self.first_filters = first_filters
        self.growth_filters = growth_filters
        self.block_size = block_size
        self.block_dropout = block_dropout


class DenseBlock(nn.Module):
    """Branches of convolutions, in each of which a layer reads all that the layers before it made.

    What a branch makes in its last layer is joined with the word vectors, mixed token by token, and normalized.

    Args:
        config ([`DenseBlockConfig`]): the shape.
        activation (`nn.Module`): of all convolutions; maps 0 to 0, so that padding stays zero.
    """

    def __init__(self, config, activation):
        super().__init__()
        self.activation = activation
        self.branches = nn.ModuleList(
            _branch(config, kernel_sizes) for kernel_sizes in zip(*config.block_kernel_sizes, strict=True)
        )
        depth = len(config.block_kernel_sizes)
        branch_size = config.first_filters if depth == 1 else config.growth_filters
        joined_size = config.embedding_size + branch_size * len(self.branches)
        self.mix = nn.Conv1d(joined_size, config.block_size, 1)
        self.norm = nn.LayerNorm(config.block_size)
        self.dropout = nn.Dropout(config.block_dropout)

    def forward(self, embedded, mask):
        """Read word vectors `(batch_size, length, embedding_size)`, zero on padding.

        Returns:
            `torch.Tensor` of shape `(batch_size, length, block_size)`: zero on padding. The norm moves padding off
            zero, so that it is masked once more behind it, which the published networks leave out.
        """
        channel_mask = mask.unsqueeze(1)
        embedded = embedded.transpose(1, 2)
        joined = [embedded]
        for branch in self.branches:
            made = [self.activation(branch[0](embedded) * channel_mask)]
            for layer in branch[1:]:
                made.append(self.activation(layer(torch.cat(made, dim=1)) * channel_mask))
            joined.append(made[-1])
        mixed = self.activation(self.mix(torch.cat(joined, dim=1)))
        return self.dropout(self.norm(mixed.transpose(1, 2))) * mask.unsqueeze(-1)


def _branch(config, kernel_sizes):
    layers = [SameLengthConv1d(config.embedding_size, config.first_filters, kernel_sizes[0])]
    for index, kernel_size in enumerate(kernel_sizes[1:]):
        in_size = config.first_filters + index * config.growth_filters
        layers.append(SameLengthConv1d(in_size, config.growth_filters, kernel_size))
    return nn.ModuleList(layers)


def _check_layers(block_kernel_sizes):
    if not isinstance(block_kernel_sizes, (list, tuple)) or not block_kernel_sizes:
        raise ValueError(
            f"block_kernel_sizes={block_kernel_sizes!r} must be a list with one list for each layer, such as "
            "[[1, 1], [3, 5]]: two layers of two branches."
        )
    for layer in block_kernel_sizes:
        check_kernel_sizes(layer)
    if len({len(layer) for layer in block_kernel_sizes}) > 1:
        raise ValueError(
            f"block_kernel_sizes={block_kernel_sizes!r}: each layer must have one window size for each branch, so "
            "that all lists are of the same length. Some branches would end before the others."
        )
