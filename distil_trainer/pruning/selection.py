"""Which heads and FFN neurons stay: equally many in each layer, or the best that a budget of FLOPs buys."""

import heapq

import numpy as np

from distil_trainer.pruning.gates import LayerUnits

# Matrix kernels, int8 ones above all, work on blocks of so many columns.
_BLOCK = 32


def keep_most_important(importance, num_heads, num_neurons):
    """Keep the most important heads and neurons of each layer, equally many in all.

    Args:
        importance (`list[LayerUnits]`): for each layer arrays, of its heads and of its neurons.
        num_heads (`int`): heads kept in each layer.
        num_neurons (`int`): neurons kept in each layer.

    Returns:
        `list[LayerUnits]`: for each layer the numbers of those kept, in increasing order. Among equals the first stay.
    """
    return [LayerUnits(_top(heads, num_heads), _top(neurons, num_neurons)) for heads, neurons in importance]


def encoder_flops(sizes, hidden_size, head_size, sequence_length):
    """Count the floating-point operations of an encoder's heads and neurons, for one text.

    A head has four linear maps between the hidden state and its own width, and compares each token with each; a neuron
    has two linear maps. What pruning does not change (embeddings, layer norms, pooler, classifier) is not counted.

    Args:
        sizes (`list[LayerUnits]` of `int`): heads and neurons of each layer.
        hidden_size (`int`): width of the hidden states.
        head_size (`int`): width of a head.
        sequence_length (`int`): tokens of the text.

    Returns:
        `int`: multiplications and additions, each counted as one.
    """
    head, neuron = _unit_flops(hidden_size, head_size, sequence_length)
    return sum(heads * head + neurons * neuron for heads, neurons in sizes)


def keep_within_budget(importance, keep, *, hidden_size, head_size, sequence_length):
    """Keep what is most important for its cost, over all layers, until a share of the FLOPs is spent.

    Neurons are bought in blocks of 32, the most important of a layer first, so that all widths are multiples of 32
    (or the layer's own width); one at a time where the budget does not buy a block for each layer. Each layer keeps at
    least one head and one block.

    Args:
        importance (`list[LayerUnits]`): for each layer arrays, of its heads and of its neurons, on one scale, of which
            sums mean something: squared effects, squared weights.
        keep (`float`): share of the FLOPs kept, in (0, 1].
        hidden_size (`int`): width of the hidden states.
        head_size (`int`): width of a head.
        sequence_length (`int`): tokens of a text, for counting; see `encoder_flops`.

    Returns:
        `list[LayerUnits]`: for each layer the numbers of those kept, in increasing order.

    Raises:
        ValueError: if a head and a neuron in each layer cost more already.
    """
    costs = _unit_flops(hidden_size, head_size, sequence_length)
    sizes = [LayerUnits(len(heads), len(neurons)) for heads, neurons in importance]
    total = encoder_flops(sizes, hidden_size, head_size, sequence_length)
    # A hair more, so that a share that was worked out from sizes is enough for them.
    budget = keep * total * (1 + 1e-9)
    least_of = {
        block: encoder_flops(
            [LayerUnits(1, min(block, neurons)) for _, neurons in sizes], hidden_size, head_size, sequence_length
        )
        for block in (_BLOCK, 1)
    }
    block = next((block for block, least in least_of.items() if least <= budget), None)
    if block is None:
        raise ValueError(
            f"keep={keep}: one head and one neuron in each layer, which must stay, are {least_of[1] / total:.4f} of "
            "the encoder's FLOPs already. Keep more, or leave out layers with num_layers=."
        )
    counts = _buy(importance, costs, block, budget)
    return [
        LayerUnits(_top(units.heads, num_heads), _top(units.neurons, num_neurons))
        for units, (num_heads, num_neurons) in zip(importance, counts, strict=True)
    ]


def _buy(importance, costs, block, budget):
    """Return how many heads and neurons each layer gets, the most important for their cost first."""
    queues, counts = {}, []
    for layer, units in enumerate(importance):
        counts.append([0, 0])
        for kind, (values, cost, step) in enumerate(zip(units, costs, (1, block), strict=True)):
            ordered = np.sort(values)[::-1]
            parts = [ordered[start : start + step] for start in range(0, len(ordered), step)]
            # What comes first in a layer is worth the most for its cost, so that one queue for each is in order.
            queues[layer, kind] = [(len(part), len(part) * cost, float(part.mean()) / cost) for part in parts]
    waiting = []
    for (layer, kind), queue in queues.items():
        size, cost, _ = queue.pop(0)  # each layer keeps one of each
        counts[layer][kind] += size
        budget -= cost
        _push(waiting, queue, layer, kind)
    while waiting:
        _, layer, kind = heapq.heappop(waiting)
        size, cost, _ = queues[layer, kind].pop(0)
        if cost <= budget:  # else nothing more of this kind is bought here: what follows is as dear
            counts[layer][kind] += size
            budget -= cost
            _push(waiting, queues[layer, kind], layer, kind)
    return counts


def _push(waiting, queue, layer, kind):
    if queue:
        heapq.heappush(waiting, (-queue[0][2], layer, kind))


def _unit_flops(hidden_size, head_size, sequence_length):
    head = sequence_length * (4 * 2 * hidden_size * head_size + 2 * 2 * sequence_length * head_size)
    return head, sequence_length * 2 * 2 * hidden_size


def _top(values, number):
    return np.sort(np.argsort(-np.asarray(values), kind="stable")[:number])
