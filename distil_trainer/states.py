"""The inner states of a model: hidden states, attention maps, and the queries, keys and values of self-attention."""

import logging
from typing import NamedTuple

import torch
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

logger = logging.getLogger(__name__)

_STATES = ("hidden_states", "attentions", "queries", "keys", "values")
_RELATIONS = _STATES[2:]
# What the layers of self-attention call the modules that make queries, keys and values, in this order. GPT-2 makes
# all three with one module, one after the other in its output.
_PROJECTIONS = (
    ("query", "key", "value"),  # BERT, RoBERTa, ELECTRA, ALBERT
    ("q_lin", "k_lin", "v_lin"),  # DistilBERT
    ("q_proj", "k_proj", "v_proj"),  # BART
    ("q", "k", "v"),  # T5, and XLNet, where they are parameters and not modules
    ("c_attn",),  # GPT-2
)
_DROPOUTS = ("attention_dropout", "attn_dropout", "dropout")
_OUTSIDE_OF_THE_ENCODER = {"decoder", "crossattention"}


class ModelShape(NamedTuple):
    """The figures of a Transformer that decide which of its layers can be matched with those of another.

    Args:
        num_layers (`int`): layers of the encoder; the embedding output is layer 0 and does not count.
        hidden_size (`int`): width of its hidden states.
        num_heads (`int`): attention heads of each layer, where heads were pruned of the layer with the fewest; 0 for
            networks without (the students of this package).
        hidden_sizes (`tuple[int, ...]`, *optional*): widths of the embedding output and of each layer, where they
            differ.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    hidden_sizes: tuple[int, ...] = ()

    def width(self, layer):
        """Return the width of a layer's hidden states; 0 is the embedding output, `None` the last layer."""
        return self.hidden_size if layer is None or not self.hidden_sizes else self.hidden_sizes[layer]


def model_shape(config):
    """Read the shape of a model from its configuration.

    Args:
        config (`PretrainedConfig`): the model's configuration; of an encoder-decoder (BART, T5) the encoder counts.

    Returns:
        [`ModelShape`]

    Raises:
        ValueError: if the configuration does not have these figures.
    """
    try:
        num_layers, hidden_size, num_heads = config.num_hidden_layers, config.hidden_size, config.num_attention_heads
    except AttributeError as error:
        raise ValueError(
            f"The configuration of model_type={config.model_type!r} does not say {error.name}. Matching layers needs "
            "a Transformer (num_hidden_layers, hidden_size, num_attention_heads): distil this model from logits."
        ) from error
    pruned_heads = getattr(config, "pruned_heads", None) or {}  # transformers 5 has no such entry
    num_heads -= max(map(len, pruned_heads.values()), default=0)
    return ModelShape(num_layers, hidden_size, num_heads, tuple(getattr(config, "hidden_sizes", ())))


def head_token(config):
    """Say which token of a text the classification head reads.

    Decoders (GPT-2, XLNet), and encoder-decoders (BART, T5), whose head reads the end token, see the whole text only
    at its last token. Encoders have a token for it in front. The head of a Transformer-CNN reads all tokens; the one
    that stands for the text in its encoder is said.

    Args:
        config (`PretrainedConfig`): the model's configuration.

    Returns:
        `str`: `"first"` or `"last"`, among the tokens that are not padding.
    """
    if config.model_type == "transformer_cnn":
        config = config.encoder_config
    return "last" if config.is_encoder_decoder or _is_decoder(config) else "first"


def select_token(states, mask, where):
    """Take the state of the first or the last unmasked token of each row, whatever side was padded.

    Args:
        states (`torch.Tensor` of shape `(batch_size, length, hidden_size)`): hidden states.
        mask (`torch.Tensor` of shape `(batch_size, length)`): 1 for tokens, 0 for padding. A row of nothing but
            padding gives the state at its edge.
        where (`str`): `"first"` or `"last"`.

    Returns:
        `torch.Tensor` of shape `(batch_size, hidden_size)`

    Raises:
        ValueError: if `where` is something else.
    """
    unmasked = (mask != 0).int()
    if where == "first":
        positions = unmasked.argmax(dim=1)
    elif where == "last":
        positions = unmasked.shape[1] - 1 - unmasked.flip(1).argmax(dim=1)
    else:
        raise ValueError(f"where={where!r} must be 'first' or 'last'.")
    return states[torch.arange(len(states), device=states.device), positions]


def pool_states(states, mask):
    """Average the states of the unmasked tokens of each row.

    Args:
        states (`torch.Tensor` of shape `(batch_size, length, hidden_size)`): hidden states.
        mask (`torch.Tensor` of shape `(batch_size, length)`): 1 for tokens, 0 for padding. A row of nothing but
            padding gives zeros.

    Returns:
        `torch.Tensor` of shape `(batch_size, hidden_size)`, float32.
    """
    unmasked = (mask != 0).unsqueeze(-1)
    return states.float().masked_fill(~unmasked, 0.0).sum(dim=1) / unmasked.sum(dim=1).clamp(min=1)


class StateReader:
    """Read a model's inner states after each forward pass, in one form for all architectures.

    Of an encoder-decoder the states of the encoder are read. Layers are in order; hidden states begin with the
    embedding output. The model may be called through a wrapper (DDP) and may checkpoint gradients, with
    `use_reentrant=False`: what is read belongs to the graph of the first pass.

    Attention maps come from the model's own eager attention, to which the model is switched while a reader that wants
    them is attached, because others return none. Maps are returned after dropout, so that an attention loss would
    compare random zeros: the dropout of attention maps (alone; in XLNet also that of the attention's output, which is
    the same module) is off as long.

    Args:
        model (`PreTrainedModel`): BERT, RoBERTa, ELECTRA, DistilBERT, ALBERT, GPT-2, BART, T5, or any other that
            returns its states in the same way; the model itself, not a wrapper of it.
        wanted (`Collection[str]`): of `"hidden_states"`, `"attentions"`, `"queries"`, `"keys"`, `"values"`. XLNet has
            only the first two.

    Raises:
        ValueError: if `wanted` names something else, or the model has no modules that make queries, keys and values.

    Example:

    ```python
    >>> reader = StateReader(model, {"hidden_states", "queries"})
    >>> reader.attach()
    >>> states = reader.read(model(**batch, **reader.forward_arguments))
    >>> states["queries"][-1].shape
    torch.Size([32, 40, 384])
    ```
    """

    def __init__(self, model, wanted):
        unknown = sorted(set(wanted) - set(_STATES))
        if unknown:
            raise ValueError(f"wanted={unknown} cannot be read from a model. What can: {list(_STATES)}.")
        self.model = model
        self.wanted = [name for name in _STATES if name in wanted]
        # Models of any kind can be distilled from logits, for which nothing is read.
        self.num_layers = model_shape(model.config).num_layers if self.wanted else 0
        self._layers = _attention_layers(model)
        self._handles = []
        self._dropouts = []
        self._attention_before = None
        self._recorded = {}
        self._recording = False
        made_by_modules = [layer._modules.keys() >= set(names) for layer, names in self._layers]
        if self._wanted_relations() and not (made_by_modules and all(made_by_modules)):
            raise ValueError(
                f"{type(model).__name__} makes its queries, keys and values in no modules that are known here, so "
                f"{self._wanted_relations()} cannot be read. Relation losses work with BERT-like models, DistilBERT, "
                "GPT-2, BART and T5 on both sides: match hidden_states, attentions or pooled_states instead."
            )
        if "attentions" in self.wanted and not self._layers:
            logger.warning(
                "%s: its layers of self-attention are not known here, so the dropout of attention maps stays on in "
                "training. If this is a student, set that dropout to 0 in its configuration before it is made.",
                type(model).__name__,
            )

    @property
    def forward_arguments(self):
        """What to call the model with, so that it returns what is wanted (`dict[str, bool]`)."""
        return {f"output_{name}": True for name in ("hidden_states", "attentions") if name in self.wanted}

    def attach(self):
        """Begin to record in each forward pass of the model. Does nothing where it is attached already.

        What a pass recorded is held until it is read, or the next pass begins.
        """
        if self._handles:
            return
        if "attentions" in self.wanted:
            self._switch_dropout_off()
            self._switch_to_eager_attention()
        self._handles = [
            self.model.register_forward_pre_hook(self._begin),
            self.model.register_forward_hook(self._end),
        ]
        if self._wanted_relations():
            for layer, names in self._layers:
                made = [_RELATIONS] if len(names) == 1 else [(relation,) for relation in _RELATIONS]
                for name, relations in zip(names, made, strict=True):
                    if set(relations) & set(self.wanted):
                        hook = self._recorder(relations)
                        self._handles.append(layer.get_submodule(name).register_forward_hook(hook))

    def detach(self):
        """Leave the model as it was, and forget what was recorded."""
        for handle in self._handles:
            handle.remove()
        for module, name, p in self._dropouts:
            setattr(module, name, p)
        if self._attention_before is not None:
            self.model.set_attn_implementation(self._attention_before)
        self._handles, self._dropouts, self._attention_before, self._recorded = [], [], None, {}

    def read(self, outputs):
        """Return the states of the forward pass that has just ended, and forget them.

        Args:
            outputs (`ModelOutput`): what the model returned, called with `forward_arguments`.

        Returns:
            `dict[str, tuple[torch.Tensor, ...]]`: for each wanted name one tensor a layer: `hidden_states` of shape
            `(batch_size, length, hidden_size)`, the embedding output first, so one more than layers; `attentions` of
            shape `(batch_size, num_heads, length, length)`, rows summing to 1; `queries`, `keys` and `values` of
            shape `(batch_size, length, width)`, all heads side by side, before they are scaled.

        Raises:
            ValueError: if the model returned or recorded another number of layers than it has.
        """
        recorded, self._recorded = self._recorded, {}
        prefix = "encoder_" if self.model.config.is_encoder_decoder else ""
        states = {}
        for name in self.wanted:
            found = recorded.get(name) if name in _RELATIONS else outputs.get(f"{prefix}{name}")
            states[name] = tuple(state for state in found or () if state is not None)
            expected = self.num_layers + (name == "hidden_states")
            if len(states[name]) != expected:
                raise ValueError(
                    f"{type(self.model).__name__} gave {len(states[name])} {name} where {expected} are expected. "
                    "Attach the reader before the forward pass, call the model with `**reader.forward_arguments`, "
                    "read once after each pass, and leave its attention eager (others return no maps: "
                    "`model.set_attn_implementation('eager')`). A model that drops whole layers in training must not: "
                    "set its layerdrop to 0."
                )
        return states

    def _wanted_relations(self):
        return [name for name in self.wanted if name in _RELATIONS]

    def _begin(self, model, arguments):
        self._recorded = {}
        self._recording = True

    def _end(self, model, arguments, output):
        # Gradient checkpointing runs layers again in the backward pass; those runs are not recorded.
        self._recording = False

    def _recorder(self, relations):
        def record(module, arguments, output):
            if self._recording:
                for relation, part in zip(relations, output.chunk(len(relations), dim=-1), strict=True):
                    if relation in self.wanted:
                        self._recorded.setdefault(relation, []).append(part)

        return record

    def _switch_to_eager_attention(self):
        before = self.model.config._attn_implementation
        if before != "eager":
            self._attention_before = before
            self.model.set_attn_implementation("eager")
            # On transformers 4.57 a loaded BERT cannot be switched, which it warns of, and falls back in each pass.
            logger.info("%s: maps are read, so eager attention is used, not %s.", type(self.model).__name__, before)

    def _switch_dropout_off(self):
        for layer, _ in self._layers:
            modules = layer._modules
            places = [(modules[name], "p") if name in modules else (layer, name) for name in _DROPOUTS]
            for module, name in places:
                if name in vars(module):
                    self._dropouts.append((module, name, getattr(module, name)))
                    setattr(module, name, 0.0)


def _is_decoder(config):
    # Models that predict the next word and were not also made to predict masked ones.
    names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return config.model_type in names and config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _attention_layers(model):
    """Find the self-attention layers of the encoder, in order, each with the names of its projections."""
    layers = []
    for path, module in model.named_modules():
        if _OUTSIDE_OF_THE_ENCODER.isdisjoint(path.split(".")):
            parts = {*module._modules, *module._parameters}
            layers += [(module, names) for names in _PROJECTIONS if parts.issuperset(names)]
    return layers
