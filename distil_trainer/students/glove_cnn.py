"""GloVe-CNN: parallel convolutions over word vectors, and the largest answer of each filter.

Paper: Kim, Convolutional Neural Networks for Sentence Classification (https://huggingface.co/papers/1408.5882).
"""

from .masked_layers import TextCnn, left_align, normalized_head, restore_order
from .student_configuration import StudentConfig, check_dropouts, check_kernel_sizes, check_sizes
from .student_models import StudentClassifier, StudentModel


class GloveCnnConfig(StudentConfig):
    """Shape of a GloVe-CNN; 1,868,802 parameters beside the word vectors, with the defaults and two labels.

    Args:
        kernel_sizes (`list[int]`, *optional*, defaults to `[2, 3, 4, 5, 6]`): tokens in a window.
        num_filters (`int`, *optional*, defaults to 256): filters of each window size.
        classifier_size (`int`, *optional*, defaults to 256): width inside of the head.
        embedding_dropout (`float`, *optional*, defaults to 0.2): dropout of the word vectors.
        classifier_dropout (`float`, *optional*, defaults to 0.2): dropout before both layers of the head.
        kwargs: those of [`StudentConfig`].

    Raises:
        ValueError: if a setting is out of range.
    """

    model_type = "glove_cnn"

    def __init__(
        self,
        kernel_sizes=(2, 3, 4, 5, 6),
        num_filters=256,
        classifier_size=256,
        embedding_dropout=0.2,
        classifier_dropout=0.2,
        **kwargs,
    ):
        super().__init__(embedding_dropout=embedding_dropout, **kwargs)
        check_kernel_sizes(kernel_sizes)
        check_sizes(num_filters=num_filters, classifier_size=classifier_size)
        check_dropouts(classifier_dropout=classifier_dropout)
        self.kernel_sizes = list(kernel_sizes)
        self.num_filters = num_filters
        self.classifier_size = classifier_size
        self.classifier_dropout = classifier_dropout

    @property
    def hidden_sizes(self):
        """Widths of the word vectors and of the filters' answers (`list[int]`)."""
        return [self.embedding_size, self.num_filters * len(self.kernel_sizes)]


class GloveCnnModel(StudentModel):
    """Word vectors, convolutions, maximum over the text.

    Args:
        config ([`GloveCnnConfig`]): the shape.
    """

    config_class = GloveCnnConfig

    def __init__(self, config):
        super().__init__(config)
        self.cnn = TextCnn(config.embedding_size, config.kernel_sizes, config.num_filters)
        self.post_init()

    def encode(self, input_ids, mask):
        if self.config.type_vocab_size == 1:
            embedded = self.embed(input_ids, mask)
            pooled, answers = self.cnn(embedded, mask)
            return pooled, (embedded, answers)
        # A text of a pair may be laid out with the other in between, which windows must not tell from its own words.
        input_ids, mask, position = left_align(input_ids, mask)
        embedded = self.embed(input_ids, mask)
        pooled, answers = self.cnn(embedded, mask)
        return pooled, (restore_order(embedded, position), restore_order(answers, position))


class GloveCnnForSequenceClassification(StudentClassifier):
    """GloVe-CNN with its head of two linear layers, each behind a layer norm.

    Args:
        config ([`GloveCnnConfig`]): the shape.
    """

    config_class = GloveCnnConfig

    def __init__(self, config):
        head = normalized_head(
            config.pooled_size, config.classifier_size, config.num_labels, config.classifier_dropout
        )
        super().__init__(config, GloveCnnModel(config), head)
