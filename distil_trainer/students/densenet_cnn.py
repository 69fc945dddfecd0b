"""DenseNet-CNN: a densely connected block of convolutions, read by a text CNN."""

from torch import nn

from .dense_block import DenseBlock, DenseBlockConfig
from .masked_layers import TextCnn
from .student_configuration import check_dropouts, check_kernel_sizes, check_sizes
from .student_models import StudentClassifier, StudentModel


class DensenetCnnConfig(DenseBlockConfig):
    """Shape of a DenseNet-CNN; 2,607,842 parameters beside the word vectors, with the defaults and two labels.

    Args:
        block_kernel_sizes (`list[list[int]]`, *optional*, defaults to `[[1, 1], [3, 3], [3, 5], [3, 7], [3, 9]]`): one
            list for each layer of the block, with one window size for each branch.
        kernel_sizes (`list[int]`, *optional*, defaults to `[2, 3, 4]`): tokens in a window of the text CNN.
        num_filters (`int`, *optional*, defaults to 256): filters of each window size of the text CNN.
        classifier_dropout (`float`, *optional*, defaults to 0.3): dropout before the head.
        kwargs: those of [`DenseBlockConfig`] and [`StudentConfig`].

    Raises:
        ValueError: if a setting is out of range.
    """

    model_type = "densenet_cnn"

    def __init__(
        self,
        block_kernel_sizes=((1, 1), (3, 3), (3, 5), (3, 7), (3, 9)),
        kernel_sizes=(2, 3, 4),
        num_filters=256,
        classifier_dropout=0.3,
        **kwargs,
    ):
        super().__init__(block_kernel_sizes=block_kernel_sizes, **kwargs)
        check_kernel_sizes(kernel_sizes)
        check_sizes(num_filters=num_filters)
        check_dropouts(classifier_dropout=classifier_dropout)
        self.kernel_sizes = list(kernel_sizes)
        self.num_filters = num_filters
        self.classifier_dropout = classifier_dropout

    @property
    def hidden_sizes(self):
        """Widths of the word vectors, the block's output and the filters' answers (`list[int]`)."""
        return [self.embedding_size, self.block_size, self.num_filters * len(self.kernel_sizes)]


class DensenetCnnModel(StudentModel):
    """Word vectors, the block, a text CNN.

    Args:
        config ([`DensenetCnnConfig`]): the shape.
    """

    config_class = DensenetCnnConfig

    def __init__(self, config):
        super().__init__(config)
        self.block = DenseBlock(config, nn.ReLU())
        self.cnn = TextCnn(config.block_size, config.kernel_sizes, config.num_filters)
        self.post_init()

    def encode(self, input_ids, mask):
        embedded = self.embed(input_ids, mask)
        block = self.block(embedded, mask)
        pooled, answers = self.cnn(block, mask)
        return pooled, (embedded, block, answers)


class DensenetCnnForSequenceClassification(StudentClassifier):
    """DenseNet-CNN with its head: layer norm, dropout, one linear layer.

    Args:
        config ([`DensenetCnnConfig`]): the shape.
    """

    config_class = DensenetCnnConfig

    def __init__(self, config):
        head = nn.Sequential(
            nn.LayerNorm(config.pooled_size),
            nn.Dropout(config.classifier_dropout),
            nn.Linear(config.pooled_size, config.num_labels),
        )
        super().__init__(config, DensenetCnnModel(config), head)
