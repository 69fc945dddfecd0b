"""A smaller model from chosen layers, heads and FFN neurons of a larger one."""

import copy
import re

import numpy as np
import torch

from distil_trainer.pruning.checks import STOCK_CLASSES
from distil_trainer.students.encoder_layers import PRUNED_PREFIX, family_of, head_size, pruned_heads
from distil_trainer.students.pruned_encoders import PRUNED_CLASSES

# What a configuration says of one class and one saved folder.
_OF_THE_CLASS = ("model_type", "architectures", "auto_map", "intermediate_sizes", "transformers_version")


def rebuild(model, layers, kept):
    """Make a model of the layers, heads and neurons that are kept; the given one is left as it is.

    Pooler, head and embeddings are copied. Where all FFN layers are of one width, the configuration is that of the
    family; where no head was ever cut either, the class is too.

    Args:
        model (`PreTrainedModel`): a classifier of a known family, pruned before or not.
        layers (`list[int]`): the layers that are kept, from 0, increasing.
        kept (`list[LayerUnits]`): for every layer of `model` the numbers of the heads and neurons that are kept, among
            those that it has now.

    Returns:
        `PreTrainedModel` in float32, in evaluation mode, on the model's device.
    """
    config = _new_config(model, layers, kept)
    name = config.model_type.removeprefix(PRUNED_PREFIX)
    is_stock = config.model_type == name and not pruned_heads(config)
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are all overwritten
        rebuilt = (STOCK_CLASSES if is_stock else PRUNED_CLASSES)[name](config)
    rebuilt.to(dtype=torch.float32)
    rebuilt.load_state_dict(_select(model, layers, kept))
    return rebuilt.to(model.device).eval()


def plain_copy(model, without=None):
    """Copy a model as float32 in evaluation mode, without what mixed precision training put around it.

    Args:
        model (`PreTrainedModel`): left as it is.
        without (`torch.nn.Module`, *optional*): a part of it that is not copied, and must be replaced in the copy.

    Returns:
        `PreTrainedModel`
    """
    # What is in the memo already is taken from there.
    copied = copy.deepcopy(model, {} if without is None else {id(without): torch.nn.Identity()})
    # accelerate 1.15 leaves its autocast around the forward of a trained model, bound to that model.
    if copied.__dict__.pop("_original_forward", None) is not None:
        copied.__dict__.pop("forward", None)
    copied.config.dtype = torch.float32
    return copied.to(dtype=torch.float32).eval()


def _new_config(model, layers, kept):
    config, family = model.config, family_of(model.config)
    settings = {name: value for name, value in config.to_dict().items() if name not in _OF_THE_CLASS}
    lacking, all_heads = pruned_heads(config), set(range(config.num_attention_heads))
    # Heads are named by their numbers in the unpruned model, as `pruned_heads` of transformers 4.57 counts them.
    heads_left = [np.array(sorted(all_heads - lacking.get(layer, set())))[kept[layer].heads] for layer in layers]
    newly_lacking = {
        index: sorted(all_heads - set(left.tolist()))
        for index, left in enumerate(heads_left)
        if len(left) < len(all_heads)
    }
    settings.pop("pruned_heads", None)
    if newly_lacking:
        settings["pruned_heads"] = newly_lacking
    widths = [len(kept[layer].neurons) for layer in layers]
    settings[family.depth] = len(layers)
    settings[family.width] = max(widths)
    settings["dtype"] = "float32"
    name = config.model_type.removeprefix(PRUNED_PREFIX)
    kind = STOCK_CLASSES[name].config_class
    if len(set(widths)) > 1:
        kind = PRUNED_CLASSES[name].config_class
        settings["intermediate_sizes"] = widths
    return kind.from_dict(settings, attn_implementation=config._attn_implementation)


def _select(model, layers, kept):
    """Return the weights that are kept, with the names that they have in the smaller model."""
    family, size = family_of(model.config), head_size(model.config)
    stem = f"{model.base_model_prefix}.{family.layers}"
    new_index = {layer: index for index, layer in enumerate(layers)}
    selected = {}
    for name, weight in model.state_dict().items():
        match = re.fullmatch(rf"{re.escape(stem)}\.(\d+)\.(.+)\.(weight|bias)", name)
        if match is None:
            selected[name] = weight
            continue
        layer, module, is_weight = int(match[1]), match[2], match[3] == "weight"
        if layer not in new_index:
            continue
        positions = kept[layer].heads[:, None] * size + np.arange(size)
        positions, neurons = torch.from_numpy(positions.ravel()), torch.from_numpy(kept[layer].neurons)
        if module in family.projections:
            weight = weight[positions.to(weight.device)]
        elif module == family.attention_output and is_weight:
            weight = weight[:, positions.to(weight.device)]
        elif module == family.ffn_input:
            weight = weight[neurons.to(weight.device)]
        elif module == family.ffn_output and is_weight:
            weight = weight[:, neurons.to(weight.device)]
        selected[f"{stem}.{new_index[layer]}.{module}.{match[3]}"] = weight
    return selected
