"""Bag of embeddings: the mean of the word vectors, and a small network on it; the fastest of the students.

Paper: Deep Unordered Composition Rivals Syntactic Methods for Text Classification
(https://aclanthology.org/P15-1162).

There is no weight of each word beside its vector: the length of a trained vector is its weight already, and the rows
of a frozen table can be multiplied by weights before they are set, at no cost when texts are read.
"""

from .masked_layers import mean_over_time, relu_head
from .student_configuration import StudentConfig, check_dropouts, check_sizes
from .student_models import StudentClassifier, StudentModel


class EmbeddingBagConfig(StudentConfig):
    """Shape of a bag of embeddings; 77,570 parameters beside the word vectors, with the defaults and two labels.

    Args:
        classifier_size (`int`, *optional*, defaults to 256): width of the hidden layer.
        classifier_dropout (`float`, *optional*, defaults to 0.2): dropout behind it.
        kwargs: those of [`StudentConfig`].

    Raises:
        ValueError: if a setting is out of range.
    """

    model_type = "embedding_bag"

    def __init__(self, classifier_size=256, classifier_dropout=0.2, **kwargs):
        super().__init__(**kwargs)
        check_sizes(classifier_size=classifier_size)
        check_dropouts(classifier_dropout=classifier_dropout)
        self.classifier_size = classifier_size
        self.classifier_dropout = classifier_dropout

    @property
    def hidden_sizes(self):
        """Width of the word vectors (`list[int]`): there is no layer beyond them."""
        return [self.embedding_size]


class EmbeddingBagModel(StudentModel):
    """The mean of the word vectors of a text.

    Args:
        config ([`EmbeddingBagConfig`]): the shape.
    """

    config_class = EmbeddingBagConfig

    def __init__(self, config):
        super().__init__(config)
        self.post_init()

    def encode(self, input_ids, mask):
        embedded = self.embed(input_ids, mask)
        return mean_over_time(embedded, mask), (embedded,)


class EmbeddingBagForSequenceClassification(StudentClassifier):
    """A bag of embeddings with a head of one hidden layer.

    Args:
        config ([`EmbeddingBagConfig`]): the shape.
    """

    config_class = EmbeddingBagConfig

    def __init__(self, config):
        head = relu_head(config.pooled_size, config.classifier_size, config.num_labels, config.classifier_dropout)
        super().__init__(config, EmbeddingBagModel(config), head)
