"""Gates: a factor on the output of each attention head and of each FFN neuron, without any change to the model's code.

Michel et al. 2019, Are Sixteen Heads Really Better than One?, https://arxiv.org/abs/1905.10650, sections 2.3 and 4.1.
"""

from typing import NamedTuple

import torch

from distil_trainer.students.encoder_layers import family_of, head_size


class LayerUnits(NamedTuple):
    """One value for each head and for each FFN neuron of a layer, or the numbers of some of them.

    Args:
        heads (`torch.Tensor` or `np.ndarray`): for the heads.
        neurons (`torch.Tensor` or `np.ndarray`): for the FFN neurons.
    """

    heads: object
    neurons: object


def layer_modules(model):
    """Return the layers of an encoder, in order (`torch.nn.ModuleList`)."""
    return model.base_model.get_submodule(family_of(model.config).layers)


def layer_sizes(model):
    """Return how many heads and neurons each layer has (`list[LayerUnits]` of `int`)."""
    family, size = family_of(model.config), head_size(model.config)
    return [
        LayerUnits(
            layer.get_submodule(family.attention_output).in_features // size,
            layer.get_submodule(family.ffn_output).in_features,
        )
        for layer in layer_modules(model)
    ]


class Gates:
    """Multiply the output of each head and neuron by its gate, 1 or 0, and measure what the loss would feel of it.

    While gradients are computed in training mode, or where `measure_always` is true, each row of a batch has gates of
    its own, so that what is measured is `Σ over rows of |∂loss / ∂gate|`: absolute before it is summed, and the same
    however rows are cut into batches. Nothing of one pass is left in the next.

    Args:
        model (`PreTrainedModel`): a classifier of a known family; its weights are left as they are.
        measure_always (`bool`, *optional*, defaults to `False`): measure in evaluation mode too.

    Attributes:
        open (`list[LayerUnits]`): for each layer booleans, on the CPU: which gates are 1. May be replaced.
    """

    def __init__(self, model, measure_always=False):
        self._model = model
        self._measure_always = measure_always
        self._head_size = head_size(model.config)
        self._handles = []
        self._passes = []
        self.open = [
            LayerUnits(torch.ones(heads, dtype=torch.bool), torch.ones(neurons, dtype=torch.bool))
            for heads, neurons in layer_sizes(model)
        ]

    def attach(self):
        """Begin to gate the model's forward passes."""
        family = family_of(self._model.config)
        self._handles = [self._model.register_forward_pre_hook(self._begin_pass)]
        for index, layer in enumerate(layer_modules(self._model)):
            for kind, name in (("heads", family.attention_output), ("neurons", family.ffn_output)):
                module = layer.get_submodule(name)
                self._handles.append(module.register_forward_pre_hook(self._gate(index, kind)))

    def detach(self):
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._passes = [], []

    def take(self):
        """Return the sums since the last call, on the model's device, and forget them (`list[LayerUnits]`).

        Gates that are 0, and heads and neurons whose output is 0, have a sum of 0.
        """
        passes, self._passes = self._passes, []
        sums = []
        for index, layer in enumerate(self.open):
            of_layer = []
            for kind, is_open in layer._asdict().items():
                total = torch.zeros(len(is_open), device=self._model.device)
                for gates in passes:
                    if (index, kind) in gates and gates[index, kind].grad is not None:
                        total += gates[index, kind].grad.abs().sum(dim=0)
                of_layer.append(total)
            sums.append(LayerUnits(*of_layer))
        return sums

    def zero_closed(self):
        """Zero the weights that read what is gated off, so that the model is the same without its gates."""
        family = family_of(self._model.config)
        with torch.no_grad():
            for layer, is_open in zip(layer_modules(self._model), self.open, strict=True):
                heads = layer.get_submodule(family.attention_output).weight
                heads[:, ~is_open.heads.repeat_interleave(self._head_size).to(heads.device)] = 0
                neurons = layer.get_submodule(family.ffn_output).weight
                neurons[:, ~is_open.neurons.to(neurons.device)] = 0

    def _begin_pass(self, model, arguments):
        measures = torch.is_grad_enabled() and (model.training or self._measure_always)
        self._current = {} if measures else None
        if measures:
            self._passes.append(self._current)

    def _gate(self, index, kind):
        width = self._head_size if kind == "heads" else 1

        def gate(module, arguments):
            states, is_open = arguments[0], getattr(self.open[index], kind)
            factor = is_open.to(device=states.device, dtype=states.dtype)
            if self._current is not None:
                # A layer that is run again within the pass (gradient checkpointing) finds its gates here.
                gates = self._current.setdefault(
                    (index, kind), torch.ones(len(states), len(is_open), device=states.device, requires_grad=True)
                )
                factor = factor * gates.to(states.dtype)[:, None]
            return (states * factor.repeat_interleave(width, dim=-1), *arguments[1:])

        return gate
