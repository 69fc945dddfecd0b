"""Points of the plane as rows of two tokens, and classifiers of them small enough to be worked out by hand."""

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import SequenceClassifierOutput

from distil_trainer.collator import DistillationCollator

# A coordinate is a whole number of hundredths from -3.00 to 3.00; token 0 is padding.
_CENTRE = 301


class PointsConfig(PretrainedConfig):
    model_type = "points"

    def __init__(self, hidden_size=None, blind_beyond=None, **kwargs):
        self.hidden_size = hidden_size
        self.blind_beyond = blind_beyond
        self.vocab_size = 2 * _CENTRE
        super().__init__(**kwargs)


class PointsClassifier(PreTrainedModel):
    """`logits = [0, w · x]` with two weights; with `hidden_size` a network of one hidden layer.

    With `blind_beyond`, points further than that from the centre are read as the centre.
    """

    config_class = PointsConfig

    def __init__(self, config):
        super().__init__(config)
        if config.hidden_size is None:
            self.score = nn.Linear(2, 1, bias=False)
        else:
            self.hidden = nn.Linear(2, config.hidden_size)
            self.score = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def _init_weights(self, module):
        pass

    def forward(self, input_ids, attention_mask=None, labels=None):
        points = (input_ids.float() - _CENTRE) / 100
        if self.config.blind_beyond is not None:
            points = points * (points.norm(dim=-1, keepdim=True) <= self.config.blind_beyond)
        if self.config.hidden_size is not None:
            points = torch.tanh(self.hidden(points))
        score = self.score(points)
        return SequenceClassifierOutput(logits=torch.cat([torch.zeros_like(score), score], dim=-1))


def points_dataset(points, labels=None):
    """Rows of points of shape `(n, 2)`, rounded to hundredths."""
    tokens = (100 * torch.as_tensor(points)).round().int() + _CENTRE
    columns = {"input_ids": tokens.tolist()}
    return Dataset.from_dict(columns | ({} if labels is None else {"label": [int(label) for label in labels]}))


def points_collator():
    """The collator for `points_dataset`."""
    backend = Tokenizer(models.WordLevel({"[PAD]": 0}, unk_token="[PAD]"))
    return DistillationCollator(PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]"))
