"""Float ONNX to dynamic int8: weights stored as 8 bits, activations scaled while running, no calibration data."""

import logging
import platform
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from distil_trainer.export.onnx import check_installed, optimum_is_usable
from distil_trainer.export.staging import brings_code, staged_file

logger = logging.getLogger(__name__)

_INTEGER_NODES = ("MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul")

# Optimum's name of a CPU -> (signed weights, 7 bits only). CPUs with AVX2 or AVX-512 but without VNNI add pairs of
# 8-bit products in 16 bits: signed weights saturate there unless they keep to 7 bits; unsigned ones take another road.
WEIGHT_SETTINGS = {
    "arm64": (True, False),
    "avx2": (False, False),
    "avx512": (True, True),
    "avx512_vnni": (True, False),
}


def quantize_dynamic(folder, *, keep_float=(), float_nodes=()):
    """Write `model_quantized.onnx` beside `model.onnx`: int8 weights in a form chosen by this CPU's flags.

    Products with a weight (MatMul, convolution, LSTM) become integer ones, with a scale for each output channel;
    products of two activations stay in float. The scales of activations are found while running, over the whole batch:
    logits change a little with the batch. The file appears only when it is verified to hold integer nodes and to be
    smaller. Quantize on the kind of CPU that will serve.

    Args:
        folder (`str` or `os.PathLike`): what `export_onnx` wrote; its float model is left as it is.
        keep_float (`tuple[str]`, *optional*, defaults to `()`): parts that stay in float, for logits closer to the
            float model's: `"down_projections"`, products whose input is wider than their output, such as the second of
            each feed-forward block (its input has the outliers), and `"embeddings"`, the tables, most of a small
            model's size.
        float_nodes (`Iterable[str]`, *optional*, defaults to `()`): names of nodes of `model.onnx` that stay in float
            too, such as those that [`node_harms`] finds.

    Returns:
        `dict`: `path` (`str`), `engine` (`"optimum"`; `"onnxruntime"` where that is not usable, and for our students),
        `cpu_configuration` (`"arm64"`, `"avx2"`, `"avx512"` or `"avx512_vnni"`), `weight_type` (`"QInt8"` or
        `"QUInt8"`), `reduce_range`, `per_channel`, `keep_float` and `float_nodes` (`list[str]`), `nodes` (counts of
        the nodes that quantization made), `float_size_bytes`, `size_bytes`.

    Raises:
        ImportError: if `onnx` or `onnxruntime` is not installed.
        FileNotFoundError: if `folder` has no `model.onnx`.
        ValueError: if `keep_float` names another part.
        RuntimeError: if nothing became integer, or the file is not smaller than the float one.
    """
    check_installed()
    source = find_model(folder)
    if unknown := set(keep_float) - {"down_projections", "embeddings"}:
        raise ValueError(
            f"keep_float={keep_float!r}: {sorted(unknown)} is not one of 'down_projections', 'embeddings'."
        )
    cpu = cpu_configuration()
    # With signed weights a dynamic convolution takes three times as long as a float one, with unsigned ones as long
    # (GloVe-CNN, onnxruntime 1.31, AVX-512 with VNNI).
    signed, reduce_range = (False, False) if _has_nodes(source, "Conv") else WEIGHT_SETTINGS[cpu]
    operators = ["MatMul", "Conv", "LSTM"] + ([] if "embeddings" in keep_float else ["Gather"])
    excluded = float_products(source, down_projections="down_projections" in keep_float)
    # onnxruntime makes a MatMul of this name, and an Add, of each Gemm before it quantizes.
    excluded += [name for node in float_nodes for name in (node, f"{node}_MatMul")]
    # Optimum would load the configuration, and ask whether the code that lies beside it may run.
    engine = "optimum" if optimum_is_usable() and not brings_code(source.parent) else "onnxruntime"
    with staged_file(source.with_name("model_quantized.onnx")) as path:
        quantize = _quantize_through_optimum if engine == "optimum" else _quantize_directly
        quantize(source, path.parent, cpu, signed, reduce_range, operators, excluded)
        result = _verify(source, path)
    return {
        "path": str(source.with_name("model_quantized.onnx")),
        "engine": engine,
        "cpu_configuration": cpu,
        "weight_type": "QInt8" if signed else "QUInt8",
        "reduce_range": reduce_range,
        "per_channel": True,
        "keep_float": list(keep_float),
        "float_nodes": list(float_nodes),
        **result,
    }


def find_model(folder):
    source = Path(folder) / "model.onnx"
    if not source.is_file():
        raise FileNotFoundError(f"folder={str(folder)!r} has no model.onnx: write it with export_onnx first.")
    return source


def cpu_configuration():
    """Return Optimum's name of this CPU; where nothing is known of it `"avx2"`, whose settings are safe anywhere."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return "arm64"
    flags = _cpu_flags()
    if {"avx512_vnni", "avx_vnni"} & flags:
        return "avx512_vnni"
    return "avx512" if "avx512f" in flags else "avx2"


def _cpu_flags():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


def float_products(source, down_projections):
    """Name the MatMul nodes to leave alone: attention scores, which gain nothing from int8, and narrowing weights."""
    import onnx

    graph = onnx.load(source, load_external_data=False).graph
    weights = {tensor.name: tensor.dims for tensor in graph.initializer}
    names = []
    for node in graph.node:
        if node.op_type == "MatMul":
            shapes = [weights[name] for name in node.input if name in weights]
            if not shapes or (down_projections and shapes[0][-2] > shapes[0][-1]):
                names.append(node.name)
    return names


def has_convolutions(folder):
    """Return whether the `model.onnx` of a folder has convolutions, which static int8 makes fast and dynamic not."""
    return _has_nodes(find_model(folder), "Conv")


def has_recurrences(folder):
    """Return whether the `model.onnx` of a folder has LSTM nodes, which static int8 leaves in float."""
    return _has_nodes(find_model(folder), "LSTM")


def _has_nodes(source, kind):
    import onnx

    return any(node.op_type == kind for node in onnx.load(source, load_external_data=False).graph.node)


def _quantize_through_optimum(source, staging, cpu, signed, reduce_range, operators, excluded):
    from onnxruntime.quantization import QuantType
    from optimum.onnxruntime import AutoQuantizationConfig, ORTQuantizer

    make = getattr(AutoQuantizationConfig, cpu)
    configuration = make(is_static=False, per_channel=True, operators_to_quantize=operators, nodes_to_exclude=excluded)
    configuration.weights_dtype = QuantType.QInt8 if signed else QuantType.QUInt8
    configuration.reduce_range = reduce_range
    ORTQuantizer.from_pretrained(source.parent, file_name=source.name).quantize(configuration, save_dir=staging)


def _quantize_directly(source, staging, cpu, signed, reduce_range, operators, excluded):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet_root_logger():
        quantize_dynamic(
            source,
            staging / "model_quantized.onnx",
            op_types_to_quantize=operators,
            nodes_to_exclude=excluded,
            per_channel=True,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8 if signed else QuantType.QUInt8,
            extra_options={"WeightSymmetric": True, "ActivationSymmetric": False},
        )


@contextmanager
def quiet_root_logger():
    # onnxruntime 1.31 advises another optimisation pass on the root logger, and so configures that for its caller. The
    # pass changed nothing here but the time.
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    root.addFilter(_refuse)
    try:
        yield
    finally:
        root.removeFilter(_refuse)
        root.removeHandler(handler)


def _refuse(record):
    return False


def _verify(source, quantized):
    import onnx

    counts = Counter(node.op_type for node in onnx.load(quantized, load_external_data=False).graph.node)
    nodes = {
        name: counts[name] for name in (*_INTEGER_NODES, "DynamicQuantizeLinear", "DequantizeLinear") if counts[name]
    }
    float_size, size = source.stat().st_size, quantized.stat().st_size
    if not any(name in nodes for name in _INTEGER_NODES) or size >= float_size:
        raise RuntimeError(
            f"Quantization left {nodes or 'no integer nodes'} and {size} bytes of {float_size}: this file would be "
            "called int8 without being it, so it was not written. Serve the float model; a graph without MatMul, "
            "Conv or LSTM nodes with constant weights cannot be quantized this way."
        )
    logger.info("int8 model: %d bytes of %d, %s.", size, float_size, nodes)
    return {"nodes": nodes, "float_size_bytes": float_size, "size_bytes": size}
