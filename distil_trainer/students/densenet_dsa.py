"""DenseNet-DSA: a densely connected block of convolutions, pooled by dynamic self-attention.

Paper: Dynamic Self-Attention: Computing Attention over Words Dynamically for Sentence Embedding
(https://huggingface.co/papers/1808.07383).
"""

import torch
from torch import nn
from torch.nn import functional as F

from .dense_block import DenseBlock, DenseBlockConfig
from .masked_layers import masked_softmax, normalized_head
from .student_configuration import check_dropouts, check_sizes
from .student_models import StudentClassifier, StudentModel


class DensenetDsaConfig(DenseBlockConfig):
    """Shape of a DenseNet-DSA; 3,785,282 parameters beside the word vectors, with the defaults and two labels.

    Args:
        block_kernel_sizes (`list[list[int]]`, *optional*, defaults to `[[1, 1], [3, 3], [5, 5], [7, 7], [9, 9]]`): one
            list for each layer of the block, with one window size for each branch.
        num_heads (`int`, *optional*, defaults to 8): heads of the pooling; they return no attention maps.
        head_size (`int`, *optional*, defaults to 300): width of a head.
        num_iterations (`int`, *optional*, defaults to 2): how often the attention is recomputed.
        classifier_size (`int`, *optional*, defaults to 256): width inside of the head.
        classifier_dropout (`float`, *optional*, defaults to 0.3): dropout before both layers of the head.
        kwargs: those of [`DenseBlockConfig`] and [`StudentConfig`].

    Raises:
        ValueError: if a setting is out of range.
    """

    model_type = "densenet_dsa"

    def __init__(
        self,
        block_kernel_sizes=((1, 1), (3, 3), (5, 5), (7, 7), (9, 9)),
        num_heads=8,
        head_size=300,
        num_iterations=2,
        classifier_size=256,
        classifier_dropout=0.3,
        **kwargs,
    ):
        super().__init__(block_kernel_sizes=block_kernel_sizes, **kwargs)
        check_sizes(
            num_heads=num_heads, head_size=head_size, num_iterations=num_iterations, classifier_size=classifier_size
        )
        check_dropouts(classifier_dropout=classifier_dropout)
        self.num_heads = num_heads
        self.head_size = head_size
        self.num_iterations = num_iterations
        self.classifier_size = classifier_size
        self.classifier_dropout = classifier_dropout

    @property
    def hidden_sizes(self):
        """Widths of the word vectors, the block's output and what all heads read (`list[int]`)."""
        return [self.embedding_size, self.block_size, self.num_heads * self.head_size]


class DynamicSelfAttention(nn.Module):
    """Pool a text by attention whose query is made of the text itself, in a few rounds.

    Of each head, with tokens x_t and scores q_t = 0 at first, a round is: weights a = softmax(q) over the tokens,
    z = tanh(sum_t a_t x_t), q_t += x_t · z. The last z is the pooled state.

    Args:
        config ([`DensenetDsaConfig`]): the shape.

    Reference:
        Dynamic Self-Attention (https://huggingface.co/papers/1808.07383), algorithm 1. As in the networks that this
        follows, no gradient goes through the weights. There, padding took its share of the weights, and a negative
        score of padding became a huge positive one; here the softmax is over the tokens alone.
    """

    def __init__(self, config):
        super().__init__()
        self.num_heads, self.head_size = config.num_heads, config.head_size
        self.num_iterations = config.num_iterations
        self.projection = nn.Linear(config.block_size, self.num_heads * self.head_size)  # of all heads at once

    def forward(self, states, mask):
        """Read states `(batch_size, length, block_size)`.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: the pooled states `(batch_size, heads * head_size)`, and what the
            heads read, `(batch_size, length, heads * head_size)`, zero on padding.
        """
        projected = F.leaky_relu(self.projection(states)) * mask.unsqueeze(-1)
        tokens = projected.unflatten(-1, (self.num_heads, self.head_size)).transpose(1, 2)
        # Of equal scores all weights are equal.
        pooled = torch.tanh(tokens.sum(dim=2, keepdim=True) / mask.sum(dim=1).clamp(min=1)[:, None, None, None])
        scores = 0.0
        for _ in range(self.num_iterations - 1):
            scores = scores + pooled @ tokens.transpose(-1, -2)
            pooled = torch.tanh(masked_softmax(scores, mask[:, None, None]).detach() @ tokens)
        return pooled.flatten(start_dim=1), projected


class DensenetDsaModel(StudentModel):
    """Word vectors, the block, dynamic self-attention.

    Args:
        config ([`DensenetDsaConfig`]): the shape.
    """

    config_class = DensenetDsaConfig

    def __init__(self, config):
        super().__init__(config)
        self.block = DenseBlock(config, nn.LeakyReLU(0.01))
        self.attention = DynamicSelfAttention(config)
        self.post_init()

    def encode(self, input_ids, mask):
        embedded = self.embed(input_ids, mask)
        block = self.block(embedded, mask)
        pooled, projected = self.attention(block, mask)
        return pooled, (embedded, block, projected)


class DensenetDsaForSequenceClassification(StudentClassifier):
    """DenseNet-DSA with its head of two linear layers, each behind a layer norm.

    Args:
        config ([`DensenetDsaConfig`]): the shape.
    """

    config_class = DensenetDsaConfig

    def __init__(self, config):
        head = normalized_head(
            config.pooled_size, config.classifier_size, config.num_labels, config.classifier_dropout
        )
        super().__init__(config, DensenetDsaModel(config), head)
