"""How much each node of a graph suffers from int8, found by measuring: one node at a time becomes integer."""

from pathlib import Path

import numpy as np

from distil_trainer.export.onnx import check_installed, graph_feed, network_config
from distil_trainer.inference import predict_logits

_WEIGHTED = ("MatMul", "Gemm", "Conv", "LSTM", "Gather")


def node_harms(source, quantized, tokenizer, texts, text_pairs=None, *, max_length=128):
    """Measure what dynamic int8 does to the logits, node by node.

    The two files are laid into one graph, with a switch for each node that became integer. So it is built and loaded
    once, and each node costs one pass over the texts.

    Args:
        source (`str` or `os.PathLike`): the `model.onnx` that `export_onnx` wrote.
        quantized (`str` or `os.PathLike`): what `quantize_dynamic` made of it.
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
    graph, switches = _switchable(onnx.load(source), onnx.load(quantized))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    output, names = session.get_outputs()[0].name, [node.name for node in session.get_inputs()]
    config, off = network_config(Path(source).parent), dict.fromkeys(switches.values(), np.array(False))

    def logits(**on):
        def run(inputs):
            return session.run([output], graph_feed(names, inputs, config) | off | on)[0]

        return predict_logits(run, tokenizer, texts, text_pairs, max_length=max_length)

    expected = logits()
    return {
        node: float(np.abs(logits(**{switch: np.array(True)}) - expected).mean()) for node, switch in switches.items()
    }


def most_harmful(harms, share):
    """Name the fewest nodes that together make up this share of all harm, the most harmful first."""
    names = sorted(harms, key=harms.get, reverse=True)
    sums = np.cumsum([harms[name] for name in names])
    return names[: 1 + int(np.searchsorted(sums, share * sum(harms.values())))]


def _switchable(full, quantized):
    """Return a model in which each node that `quantized` has as integer is so only where its switch is on."""
    import onnx

    kept = {tensor.name for tensor in quantized.graph.initializer}
    weights = {tensor.name: tensor for tensor in full.graph.initializer if tensor.name not in kept}
    lost = [
        node for node in full.graph.node if node.op_type in _WEIGHTED and any(name in weights for name in node.input)
    ]
    switches = {node.name: f"switch_{number}" for number, node in enumerate(lost)}
    chosen = {output: switches[node.name] for node in lost for output in node.output if output}
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
    quantized.graph.ClearField("node")
    quantized.graph.node.extend([*lost, *nodes])  # onnxruntime sorts them itself
    quantized.graph.initializer.extend(weights[name] for name in sorted(used))
    quantized.graph.input.extend(
        onnx.helper.make_tensor_value_info(switch, onnx.TensorProto.BOOL, []) for switch in switches.values()
    )
    quantized.graph.ClearField("value_info")
    return quantized, switches
