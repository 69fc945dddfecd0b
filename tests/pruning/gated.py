"""Models whose logits are of some size, and these logits, with heads and neurons gated off."""

import numpy as np
import torch

from distil_trainer.pruning.gates import Gates, LayerUnits
from distil_trainer.students.encoder_layers import pruned_heads

INPUTS = {
    "input_ids": torch.tensor([[2, 7, 9, 11, 30, 3], [2, 8, 3, 0, 0, 0], [2, 40, 41, 12, 3, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]]),
}


def shaken(model):
    """Give a model weights so large that each head and neuron is felt in the logits."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2 if parameter.dim() > 1 else 0.1).add_(parameter.dim() == 1)
    return model.eval()


def logits_of(model, inputs=INPUTS):
    with torch.no_grad():
        return model(**inputs).logits


def gated_logits(model, kept):
    """Return the logits of a model in which only the heads and neurons that are kept have open gates."""
    gates = Gates(model)
    gates.open = [
        LayerUnits(*(torch.from_numpy(np.isin(np.arange(len(each)), numbers)) for each, numbers in pair))
        for pair in (zip(layer, numbers, strict=True) for layer, numbers in zip(gates.open, kept, strict=True))
    ]
    gates.attach()
    try:
        return logits_of(model)
    finally:
        gates.detach()


def heads_left(model):
    """Return the heads that each layer of a model still has, by their numbers in the unpruned model."""
    pruned, config = pruned_heads(model.config), model.config
    return [
        np.array(sorted(set(range(config.num_attention_heads)) - pruned.get(layer, set())))
        for layer in range(config.num_hidden_layers)
    ]


def assert_same(first, second, atol=1e-5):
    torch.testing.assert_close(first, second, rtol=0, atol=atol)
