"""Transformer-CNN: any pretrained encoder, read by a text CNN over all of its last hidden states.

It is the "BERT-CNN" of the prior systems: a teacher's or a student's head that sees every token, and not the first.
"""

import copy
import inspect

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, PretrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .masked_layers import TextCnn, normalized_head
from .student_configuration import check_dropouts, check_kernel_sizes, check_sizes
from .student_models import StudentClassifier, StudentPreTrainedModel


class TransformerCnnConfig(PretrainedConfig):
    """Shape of a Transformer-CNN. What describes states, heads and vocabulary is read from the encoder's.

    Args:
        encoder_config (`PretrainedConfig` or `dict`): the encoder's configuration.
        kernel_sizes (`list[int]`, *optional*, defaults to `[2, 3, 4, 5, 6]`): tokens in a window.
        num_filters (`int`, *optional*, defaults to 256): filters of each window size.
        classifier_size (`int`, *optional*, defaults to 256): width inside of the head.
        encoder_dropout (`float`, *optional*, defaults to 0.2): dropout of the encoder's last hidden states.
        classifier_dropout (`float`, *optional*, defaults to 0.2): dropout before both layers of the head.
        freeze_embeddings (`bool`, *optional*, defaults to `False`): keep the encoder's word vectors as they are.
        kwargs: those of `PretrainedConfig`, such as `id2label`. `pad_token_id` is the encoder's unless it is given.

    Raises:
        ValueError: if a setting is out of range, there is no encoder, it is half of an encoder-decoder, or its code
            is not in transformers.
    """

    model_type = "transformer_cnn"
    sub_configs = {"encoder_config": AutoConfig}
    has_no_defaults_at_init = True

    def __init__(
        self,
        encoder_config=None,
        kernel_sizes=(2, 3, 4, 5, 6),
        num_filters=256,
        classifier_size=256,
        encoder_dropout=0.2,
        classifier_dropout=0.2,
        freeze_embeddings=False,
        **kwargs,
    ):
        if isinstance(encoder_config, dict):
            settings = copy.deepcopy(encoder_config)
            model_type = settings.pop("model_type", None)
            if model_type not in CONFIG_MAPPING:
                raise ValueError(_foreign(model_type))
            encoder_config = CONFIG_MAPPING[model_type](**settings)
        if not isinstance(encoder_config, PretrainedConfig) or encoder_config.is_encoder_decoder:
            raise ValueError(
                f"encoder_config={encoder_config!r} must be the configuration of an encoder, such as "
                "AutoConfig.from_pretrained('google/electra-small-discriminator'): the convolutions read its last "
                "hidden states. Of an encoder-decoder (BART, T5) these would be the decoder's."
            )
        if not type(encoder_config).__module__.startswith("transformers."):
            raise ValueError(_foreign(encoder_config.model_type))
        check_kernel_sizes(kernel_sizes)
        check_sizes(num_filters=num_filters, classifier_size=classifier_size)
        check_dropouts(encoder_dropout=encoder_dropout, classifier_dropout=classifier_dropout)
        self.encoder_config = encoder_config
        super().__init__(**{"pad_token_id": encoder_config.pad_token_id, **kwargs})
        self.kernel_sizes = list(kernel_sizes)
        self.num_filters = num_filters
        self.classifier_size = classifier_size
        self.encoder_dropout = encoder_dropout
        self.classifier_dropout = classifier_dropout
        self.freeze_embeddings = freeze_embeddings

    @property
    def vocab_size(self):
        """Rows of the encoder's table of tokens (`int`)."""
        return self.encoder_config.vocab_size

    @property
    def type_vocab_size(self):
        """Token types of the encoder, which reads both texts of a pair at once; 1 where it has none (`int`)."""
        return getattr(self.encoder_config, "type_vocab_size", 1)

    @property
    def hidden_size(self):
        """Width of the encoder's hidden states (`int`)."""
        return self.encoder_config.hidden_size

    @property
    def num_hidden_layers(self):
        """Layers of the encoder (`int`)."""
        return self.encoder_config.num_hidden_layers

    @property
    def num_attention_heads(self):
        """Heads of each layer of the encoder (`int`)."""
        return self.encoder_config.num_attention_heads

    @property
    def hidden_sizes(self):
        """Widths of the encoder's hidden states, the embedding output first (`list[int]`)."""
        return [self.hidden_size] * (self.num_hidden_layers + 1)

    @property
    def pooled_size(self):
        """Width of the filters' answers, which the head reads (`int`)."""
        return self.num_filters * len(self.kernel_sizes)


def _foreign(model_type):
    return (
        f"encoder_config has model_type={model_type!r}, which is not an encoder of the installed transformers. Its "
        "code would not be saved with the Transformer-CNN, which nobody could load again: give an encoder whose code "
        "is in transformers, such as ELECTRA."
    )


class TransformerCnnPreTrainedModel(StudentPreTrainedModel):
    """What the encoder inside can do: other kinds of attention, and gradient checkpointing."""

    config_class = TransformerCnnConfig
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True


class TransformerCnnModel(TransformerCnnPreTrainedModel):
    """An encoder, and a text CNN over its last hidden states.

    Args:
        config ([`TransformerCnnConfig`]): the shape.
    """

    def __init__(self, config):
        super().__init__(config)
        self.encoder = AutoModel.from_config(config.encoder_config)
        if "add_pooling_layer" in inspect.signature(type(self.encoder)).parameters:
            self.encoder.pooler = None  # nothing reads it, and DDP waits for the gradient of each parameter
        self._freeze_embeddings()
        self._takes_token_types = "token_type_ids" in inspect.signature(self.encoder.forward).parameters
        self.dropout = nn.Dropout(config.encoder_dropout)
        self.cnn = TextCnn(config.hidden_size, config.kernel_sizes, config.num_filters)
        self.post_init()

    def get_input_embeddings(self):
        """Return the encoder's table of tokens."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value):
        """Replace the encoder's table of tokens."""
        self.encoder.set_input_embeddings(value)

    def forward(
        self,
        input_ids,
        attention_mask=None,
        token_type_ids=None,
        output_hidden_states=None,
        output_attentions=None,
        return_dict=None,
    ):
        """Encode a batch.

        Args:
            input_ids (`torch.Tensor` of shape `(batch_size, length)`): token numbers.
            attention_mask (`torch.Tensor` of shape `(batch_size, length)`, *optional*): 1 for tokens, 0 for padding.
                Default: all but `pad_token_id` are tokens.
            token_type_ids (`torch.Tensor` of shape `(batch_size, length)`, *optional*): handed to an encoder that has
                more than one type; others tell the texts of a pair apart by the separator between them.
            output_hidden_states (`bool`, *optional*): return the encoder's hidden states too.
            output_attentions (`bool`, *optional*): return the encoder's attention maps too, which needs
                `model.set_attn_implementation("eager")`.
            return_dict (`bool`, *optional*): `False` for a tuple.

        Returns:
            `BaseModelOutputWithPooling`: the encoder's states as it makes them, not zero on padding, and the largest
            answers of the filters.

        Raises:
            ValueError: if there is neither a mask nor a `pad_token_id` in the configuration.
        """
        if attention_mask is None:
            attention_mask = self._mask_without_padding(input_ids)
        encoder_inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self._takes_token_types and self.config.type_vocab_size > 1 and token_type_ids is not None:
            encoder_inputs["token_type_ids"] = token_type_ids
        wants_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        wants_maps = self.config.output_attentions if output_attentions is None else output_attentions
        encoded = self.encoder(
            **encoder_inputs, output_hidden_states=wants_states, output_attentions=wants_maps, return_dict=True
        )
        # Filled and not multiplied: what attention makes of a row without tokens may not be a number.
        states = encoded.last_hidden_state.masked_fill((attention_mask == 0).unsqueeze(-1), 0.0)
        pooled, _ = self.cnn(self.dropout(states), attention_mask.to(states.dtype))
        outputs = BaseModelOutputWithPooling(
            last_hidden_state=encoded.last_hidden_state,
            pooler_output=pooled,
            hidden_states=encoded.hidden_states if wants_states else None,
            attentions=encoded.attentions if wants_maps else None,
        )
        wants_dict = self.config.return_dict if return_dict is None else return_dict
        return outputs if wants_dict else outputs.to_tuple()

    def _mask_without_padding(self, input_ids):
        if self.config.pad_token_id is None:
            raise ValueError(
                "There is no attention_mask, and the configuration has pad_token_id=None, so that padding cannot be "
                "told from tokens and would be read. Give the mask, or set `model.config.pad_token_id`."
            )
        return (input_ids != self.config.pad_token_id).long()


class TransformerCnnForSequenceClassification(TransformerCnnPreTrainedModel, StudentClassifier):
    """Transformer-CNN with its head of two linear layers, each behind a layer norm.

    Args:
        config ([`TransformerCnnConfig`]): the shape.

    Example:

    ```python
    >>> student = TransformerCnnForSequenceClassification.from_encoder("google/electra-small-discriminator")
    ```
    """

    def __init__(self, config):
        head = normalized_head(
            config.pooled_size, config.classifier_size, config.num_labels, config.classifier_dropout
        )
        super().__init__(config, TransformerCnnModel(config), head)

    @classmethod
    def from_encoder(cls, encoder, **settings):
        """Start from the weights of a pretrained encoder; the convolutions and the head are new.

        Args:
            encoder (`PreTrainedModel`, `str` or `os.PathLike`): an encoder, a classifier (whose encoder is taken), or
                the Hub id or folder of one. It is left as it is; no tensor is shared with it.
            settings: those of [`TransformerCnnConfig`]. Label names are the encoder's configuration's unless
                `id2label` or `num_labels` is given.

        Returns:
            [`TransformerCnnForSequenceClassification`] in float32, in evaluation mode, on the encoder's device.

        Raises:
            ValueError: if the encoder is half of an encoder-decoder or its code is not in transformers, or a setting
                is out of range.
        """
        if not isinstance(encoder, nn.Module):
            encoder = AutoModel.from_pretrained(encoder, dtype=torch.float32)
        encoder = encoder.base_model
        encoder_config = copy.deepcopy(encoder.config)
        encoder_config.dtype = torch.float32
        if not {"id2label", "num_labels"} & set(settings):
            settings = {"id2label": encoder_config.id2label, "label2id": encoder_config.label2id, **settings}
        attention = encoder.config._attn_implementation
        model = cls(TransformerCnnConfig(encoder_config, **{"attn_implementation": attention, **settings}))
        weights = encoder.state_dict()
        model.student.encoder.load_state_dict({name: weights[name] for name in model.student.encoder.state_dict()})
        return model.to(encoder.device).eval()

    def forward(
        self,
        input_ids,
        attention_mask=None,
        token_type_ids=None,
        labels=None,
        output_hidden_states=None,
        output_attentions=None,
        return_dict=None,
    ):
        """Classify a batch; see [`TransformerCnnModel.forward`].

        Args:
            input_ids (`torch.Tensor` of shape `(batch_size, length)`): token numbers.
            attention_mask (`torch.Tensor` of shape `(batch_size, length)`, *optional*): 1 for tokens, 0 for padding.
            token_type_ids (`torch.Tensor` of shape `(batch_size, length)`, *optional*): for the encoder.
            labels (`torch.Tensor` of shape `(batch_size,)` or `(batch_size, num_labels)`, *optional*): for the loss,
                which `config.problem_type` chooses as in all classifiers of transformers.
            output_hidden_states (`bool`, *optional*): return hidden states too.
            output_attentions (`bool`, *optional*): return attention maps too.
            return_dict (`bool`, *optional*): `False` for a tuple.

        Returns:
            `SequenceClassifierOutput`
        """
        outputs = self.student(
            input_ids, attention_mask, token_type_ids, output_hidden_states, output_attentions, return_dict=True
        )
        return self._classify(outputs, labels, return_dict)
