"""Where the encoders of BERT, RoBERTa, ELECTRA and DistilBERT keep their attention heads and FFN neurons."""

from typing import NamedTuple

import torch
from torch import nn

# Model types of pruned encoders begin with this, followed by the family.
PRUNED_PREFIX = "pruned_"


class Family(NamedTuple):
    """The names that a family of encoders gives to what can be pruned.

    Args:
        layers (`str`): the list of layers, in the base model.
        depth (`str`): the number of layers, in the configuration.
        width (`str`): the number of FFN neurons of each layer, in the configuration.
        projections (`tuple[str, ...]`): the linear modules of a layer that make queries, keys and values.
        attention_output (`str`): the linear module that reads the heads.
        ffn_input (`str`): the linear module whose outputs are the neurons.
        ffn_output (`str`): the linear module that reads the neurons.
    """

    layers: str
    depth: str
    width: str
    projections: tuple[str, ...]
    attention_output: str
    ffn_input: str
    ffn_output: str


_BERT_LIKE = Family(
    layers="encoder.layer",
    depth="num_hidden_layers",
    width="intermediate_size",
    projections=("attention.self.query", "attention.self.key", "attention.self.value"),
    attention_output="attention.output.dense",
    ffn_input="intermediate.dense",
    ffn_output="output.dense",
)
FAMILIES = {
    "bert": _BERT_LIKE,
    "roberta": _BERT_LIKE,
    "electra": _BERT_LIKE,
    "distilbert": Family(
        layers="transformer.layer",
        depth="n_layers",
        width="hidden_dim",
        projections=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        attention_output="attention.out_lin",
        ffn_input="ffn.lin1",
        ffn_output="ffn.lin2",
    ),
}


def family_of(config):
    """Return the [`Family`] of a configuration, pruned or not."""
    return FAMILIES[config.model_type.removeprefix(PRUNED_PREFIX)]


def head_size(config):
    """Return the width of one head (`int`), which pruning does not change."""
    return config.hidden_size // config.num_attention_heads


def pruned_heads(config):
    """Return the heads that each layer lacks, by their numbers in the unpruned model (`dict[int, set[int]]`)."""
    # transformers 5 knows nothing of this entry, so that its keys come as strings from config.json.
    return {int(layer): set(heads) for layer, heads in (getattr(config, "pruned_heads", None) or {}).items()}


def shrink_to_config(model):
    """Shrink the layers of a newly made encoder to the sizes that its configuration gives each of them.

    The weights that are left mean nothing: this is for a model whose weights are loaded next.

    Args:
        model (`PreTrainedModel`): a classifier of one of `FAMILIES`, as its class of transformers makes it. Of that,
            4.57 has cut heads that are pruned already, and 5.x has not.

    Raises:
        ValueError: if the configuration leaves a layer without a head, or does not name one width for each layer.
    """
    config, family = model.config, family_of(model.config)
    layers = model.base_model.get_submodule(family.layers)
    pruned = pruned_heads(config)
    widths = getattr(config, "intermediate_sizes", None) or [getattr(config, family.width)] * len(layers)
    if len(widths) != len(layers):
        raise ValueError(
            f"intermediate_sizes={widths} in the configuration names {len(widths)} widths for {len(layers)} layers. "
            "Weights would be loaded into the wrong layers: config.json is not the one that was saved with the model."
        )
    for index, (layer, width) in enumerate(zip(layers, widths, strict=True)):
        attention_width = head_size(config) * (config.num_attention_heads - len(pruned.get(index, ())))
        for name in family.projections:
            _shrink(layer.get_submodule(name), rows=attention_width)
        _shrink(layer.get_submodule(family.attention_output), columns=attention_width)
        _shrink(layer.get_submodule(family.ffn_input), rows=width)
        _shrink(layer.get_submodule(family.ffn_output), columns=width)


def check_heads_left(config):
    """Refuse a configuration that prunes every head of a layer.

    Raises:
        ValueError: naming the layer.
    """
    for layer, heads in pruned_heads(config).items():
        if len(heads) >= config.num_attention_heads:
            raise ValueError(
                f"pruned_heads={config.pruned_heads} in the configuration leaves layer {layer} none of its "
                f"{config.num_attention_heads} heads, and a layer without heads cannot be run. Keep at least one."
            )


def _shrink(linear, rows=None, columns=None):
    with torch.no_grad():
        linear.weight = nn.Parameter(linear.weight[:rows, :columns].clone())
        if rows is not None and linear.bias is not None:
            linear.bias = nn.Parameter(linear.bias[:rows].clone())
    linear.out_features, linear.in_features = linear.weight.shape
