"""How much each node of a graph suffers from int8, found by measuring: one node at a time becomes integer."""

from pathlib import Path

import numpy as np

from distil_trainer.export.onnx import check_installed, graph_feed, network_config
from distil_trainer.inference import predict_logits

_WEIGHTED = ("MatMul", "Gemm", "Conv", "LSTM", "Gather")
# Nodes whose output `quantize_static` rounds too, whoever reads it.
_ROUNDED_OUTPUT = ("Conv", "Gather")
_SWITCH = "switch_"


def node_harms(source, quantized, tokenizer, texts, text_pairs=None, *, max_length=128):
    """Measure what int8, dynamic or static, does to the logits, node by node.

    The two files are laid into one graph, with switches for each node that became integer. So it is built and loaded
    once, and each node costs one pass over the texts. Static int8 rounds tensors between nodes; a node alone then has
    integer weights, and what it reads is rounded for all who read it, as in a file in which it is the only one.

    Args:
        source (`str` or `os.PathLike`): the `model.onnx` that `export_onnx` wrote.
        quantized (`str` or `os.PathLike`): what `quantize_dynamic` or `quantize_static` made of it.
        tokenizer (`PreTrainedTokenizerFast`): the model's tokenizer.
        texts (`list[str]`): some dozens of texts of the training data.
        text_pairs (`list[str]`, *optional*): second sentences.
        max_length (`int`, *optional*, defaults to 128): tokens kept of each text.

    Returns:
        `dict[str, float]`: for the name of each node in `source` that is integer in `quantized`, the mean absolute
        difference of the logits where this node alone is integer.

    Raises:
        ImportError: if `onnx` or `onnxruntime` is not installed.
    """
    import onnx

    onnxruntime = check_installed()
    full, quantized = onnx.load(source), onnx.load(quantized)
    is_static = any(node.op_type == "QuantizeLinear" for node in quantized.graph.node)
    graph, switches = (_with_switched_tensors if is_static else _with_switched_nodes)(full, quantized)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    output, names = session.get_outputs()[0].name, [node.name for node in session.get_inputs()]
    config = network_config(Path(source).parent)
    off = dict.fromkeys((name for name in names if name.startswith(_SWITCH)), np.array(False))

    def logits(on):
        def run(inputs):
            feed = graph_feed(names, inputs, config) | off | dict.fromkeys(on, np.array(True))
            return session.run([output], feed)[0]

        return predict_logits(run, tokenizer, texts, text_pairs, max_length=max_length)

    expected = logits([])
    return {node: float(np.abs(logits(on) - expected).mean()) for node, on in switches.items()}


def most_harmful(harms, share):
    """Name the fewest nodes that together make up this share of all harm, the most harmful first."""
    names = sorted(harms, key=harms.get, reverse=True)
    sums = np.cumsum([harms[name] for name in names])
    return names[: 1 + int(np.searchsorted(sums, share * sum(harms.values())))]


def _lost_nodes(full, quantized):
    """Return the nodes of `full` that `quantized` has as integer, and the weights that it has no more."""
    kept = {tensor.name for tensor in quantized.graph.initializer}
    weights = {tensor.name: tensor for tensor in full.graph.initializer if tensor.name not in kept}
    nodes = [
        node for node in full.graph.node if node.op_type in _WEIGHTED and any(name in weights for name in node.input)
    ]
    return nodes, weights


def _with_switched_nodes(full, quantized):
    """Of dynamic int8: the graph of `quantized`, where each integer node is so only where its switch is on."""
    import onnx

    lost, weights = _lost_nodes(full, quantized)
    switches = {node.name: [f"{_SWITCH}{number}"] for number, node in enumerate(lost)}
    chosen = {output: switches[node.name][0] for node in lost for output in node.output if output}
    nodes = []
    for node in quantized.graph.node:
        switched = [(place, name) for place, name in enumerate(node.output) if name in chosen]
        for place, name in switched:
            node.output[place] = f"{name}_integer"
        nodes.append(node)
        for _, name in switched:
            both = [chosen[name], f"{name}_integer", f"{name}_float"]
            nodes.append(onnx.helper.make_node("Where", both, [name], name=f"{name}_switch"))
    for node in lost:
        node.name += "_float"  # the integer one may have kept its name
        node.output[:] = [name and f"{name}_float" for name in node.output]
    used = {name for node in lost for name in node.input if name in weights}
    quantized.graph.initializer.extend(weights[name] for name in sorted(used))
    return _finished(quantized, [*lost, *nodes], chosen.values()), switches


def _with_switched_tensors(full, quantized):
    """Of static int8: the graph of `full`, where each tensor that `quantized` rounds is so where its switch is on."""
    import onnx

    makers = {name: node for node in quantized.graph.node for name in node.output}
    lost, _ = _lost_nodes(full, quantized)
    switch_of, rounding = {}, []
    for node in quantized.graph.node:
        if node.op_type == "DequantizeLinear":
            name = node.output[0].removesuffix("_DequantizeLinear_Output")
            switch_of[name] = f"{_SWITCH}{len(switch_of)}"
            node.output[0] = f"{name}_rounded"
            both = [switch_of[name], f"{name}_rounded", name]
            switch = onnx.helper.make_node("Where", both, [f"{name}_switched"], name=f"{name}_switch")
            # A weight is stored as integers; what is computed becomes integer first.
            rounding += [makers[node.input[0]], node, switch] if node.input[0] in makers else [node, switch]
    switches = {}
    for node in lost:
        touched = list(node.input)
        if node.op_type in _ROUNDED_OUTPUT:
            output = node.output[0]
            # A ReLU behind it has become the lower end of its range.
            after = [] if output in makers else [each for each in full.graph.node if output in each.input]
            touched += [after[0].output[0] if after else output]
        switches[node.name] = [switch_of[name] for name in touched if name in switch_of]
    for node in full.graph.node:
        node.input[:] = [f"{name}_switched" if name in switch_of else name for name in node.input]
    read, kept = {name for node in rounding for name in node.input}, {each.name for each in full.graph.initializer}
    full.graph.initializer.extend(
        tensor for tensor in quantized.graph.initializer if tensor.name in read and tensor.name not in kept
    )
    return _finished(full, [*full.graph.node, *rounding], switch_of.values()), switches


def _finished(model, nodes, switches):
    """Give a model these nodes, in whatever order, and boolean inputs of these names."""
    import onnx

    model.graph.ClearField("node")
    model.graph.node.extend(nodes)  # onnxruntime sorts them itself
    model.graph.input.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, []) for name in dict.fromkeys(switches)
    )
    model.graph.ClearField("value_info")
    return model
