"""BiLSTM: a recurrence over word vectors in both directions; siamese for pairs.

Paper: Distilling Task-Specific Knowledge from BERT into Simple Neural Networks
(https://huggingface.co/papers/1903.12136), section 3.1.
"""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .masked_layers import left_align, masked_softmax, relu_head, restore_order
from .student_configuration import StudentConfig, check_dropouts, check_sizes
from .student_models import StudentClassifier, StudentModel

_POOLINGS = ("last", "attention")


class BilstmConfig(StudentConfig):
    """Shape of a BiLSTM; 1,686,002 parameters beside the word vectors, with the defaults and two labels.

    Args:
        lstm_size (`int`, *optional*, defaults to 300): width of each direction.
        classifier_size (`int`, *optional*, defaults to 400): width of the head's hidden layer; 0 for none.
        pooling (`str`, *optional*, defaults to `"last"`): `"last"` joins the forward state at the last token and the
            backward state at the first; `"attention"` weighs all states.
        classifier_dropout (`float`, *optional*, defaults to 0.15): dropout before the head's last layer.
        kwargs: those of [`StudentConfig`].

    Raises:
        ValueError: if a setting is out of range.
    """

    model_type = "bilstm"

    def __init__(self, lstm_size=300, classifier_size=400, pooling="last", classifier_dropout=0.15, **kwargs):
        super().__init__(**kwargs)
        check_sizes(lstm_size=lstm_size)
        if classifier_size != 0 or isinstance(classifier_size, bool):  # 0 stands for no hidden layer
            check_sizes(classifier_size=classifier_size)
        check_dropouts(classifier_dropout=classifier_dropout)
        if pooling not in _POOLINGS:
            raise ValueError(f"pooling={pooling!r} must be one of {', '.join(map(repr, _POOLINGS))}.")
        self.lstm_size = lstm_size
        self.classifier_size = classifier_size
        self.pooling = pooling
        self.classifier_dropout = classifier_dropout

    @property
    def hidden_sizes(self):
        """Widths of the word vectors and of the states of both directions (`list[int]`)."""
        return [self.embedding_size, 2 * self.lstm_size]


class AttentionPooling(nn.Module):
    """Weigh the states of a text by how much each has to say.

    Args:
        hidden_size (`int`): width of the states.

    Reference:
        Zhou et al., Attention-Based Bidirectional LSTM (https://aclanthology.org/P16-2034), equations 9 to 12. They
        add the two directions; here these stand side by side.
    """

    def __init__(self, hidden_size):
        super().__init__()
        self.score = nn.Linear(hidden_size, 1, bias=False)

    def forward(self, states, mask):
        """Read states `(batch_size, length, hidden_size)`; return `(batch_size, hidden_size)`."""
        weights = masked_softmax(self.score(torch.tanh(states)).transpose(1, 2), mask.unsqueeze(1))
        return torch.tanh(weights @ states).squeeze(1)


class BilstmModel(StudentModel):
    """Word vectors, one LSTM layer in both directions, pooling.

    Args:
        config ([`BilstmConfig`]): the shape.
    """

    config_class = BilstmConfig

    def __init__(self, config):
        super().__init__(config)
        self.lstm = nn.LSTM(config.embedding_size, config.lstm_size, batch_first=True, bidirectional=True)
        self.attention = AttentionPooling(config.hidden_size) if config.pooling == "attention" else None
        self.post_init()

    def encode(self, input_ids, mask):
        # Packed rows begin at the first column; over padding the recurrence would go on, and change what it holds.
        input_ids, mask, position = left_align(input_ids, mask)
        embedded = self.embed(input_ids, mask)
        # Counted in whole numbers, for half precision has no 257; an empty text is read as one zero vector.
        lengths = (mask != 0).sum(dim=1).clamp(min=1)
        packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=input_ids.shape[1])
        states = states * mask.unsqueeze(-1)
        if self.attention is None:
            # Not the final states that the LSTM returns: of one whose states nobody reads the exporter makes no graph.
            forward, backward = states.split(self.config.lstm_size, dim=-1)
            pooled = torch.cat([_select(forward, lengths - 1), backward[:, 0]], dim=-1)
        else:
            pooled = self.attention(states, mask)
        return pooled, (restore_order(embedded, position), restore_order(states, position))


class BilstmForSequenceClassification(StudentClassifier):
    """BiLSTM with a head of one hidden layer, or of none.

    Args:
        config ([`BilstmConfig`]): the shape.
    """

    config_class = BilstmConfig

    def __init__(self, config):
        if config.classifier_size:
            head = relu_head(config.pooled_size, config.classifier_size, config.num_labels, config.classifier_dropout)
        else:
            head = nn.Sequential(
                nn.Dropout(config.classifier_dropout), nn.Linear(config.pooled_size, config.num_labels)
            )
        super().__init__(config, BilstmModel(config), head)


def _select(states, positions):
    """Take the state at a position of each row."""
    return states.gather(1, positions[:, None, None].expand(-1, 1, states.shape[-1])).squeeze(1)
