"""Float ONNX to static int8: weights and activations in 8 bits, with scales found once on texts of the training data.

Dynamic int8 looks for the range of each activation anew in every call. In a convolution that takes as long as the
integer arithmetic saves; ranges that are known beforehand cost nothing.
"""

import logging
from collections import Counter

import numpy as np

from distil_trainer.export.onnx import check_installed, graph_feed, network_config, onnx_runner
from distil_trainer.export.quantization import (
    WEIGHT_SETTINGS,
    cpu_configuration,
    find_model,
    float_products,
    quiet_root_logger,
)
from distil_trainer.export.staging import staged_file
from distil_trainer.inference import predict_logits

logger = logging.getLogger(__name__)

_MOST_TEXTS = 512
_FEWEST_TEXTS = 8
_SMALLEST_GAIN = 2.5
_FUSED_NODES = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat")


def quantize_static(
    folder, tokenizer, calibration_texts, calibration_text_pairs=None, *, max_length=128, float_nodes=()
):
    """Write `model_quantized.onnx` beside `model.onnx`: int8 weights and activations, with scales fixed beforehand.

    Convolutions, products with a weight and embedding tables become integer ones; what lies between them (layer norms,
    softmax, recurrences) stays in float. The weights have a scale for each output channel, each activation has one,
    from its smallest and largest value on the calibration texts. So logits do not depend on the other rows of a batch.
    The file appears only when onnxruntime is seen to run integer nodes and it is 2.5 times smaller (with
    `float_nodes`: smaller). Quantize on the kind of CPU that will serve.

    Args:
        folder (`str` or `os.PathLike`): what `export_onnx` wrote; its float model is left as it is.
        tokenizer (`PreTrainedTokenizerFast`): the model's tokenizer.
        calibration_texts (`list[str]`): texts of the training data, like those to be served. Of more than 512 texts
            512 are read, evenly spaced.
        calibration_text_pairs (`list[str]`, *optional*): second sentences.
        max_length (`int`, *optional*, defaults to 128): tokens kept of each text.
        float_nodes (`Iterable[str]`, *optional*, defaults to `()`): names of nodes of `model.onnx` that stay in float
            too, such as those that [`node_harms`] finds.

    Returns:
        `dict`: `path` (`str`), `engine` (`"onnxruntime"`), `cpu_configuration`, `weight_type`, `reduce_range`,
        `per_channel` and `float_nodes` as of `quantize_dynamic`, `activation_type` (`"QUInt8"`), `calibration`
        (`method`, `rows` read, and `mean_abs_logit_difference` from the float model on them), `nodes` (counts of the
        integer nodes that onnxruntime runs; `"Gather"` are embedding tables), `float_size_bytes`, `size_bytes`.

    Raises:
        ImportError: if `onnx` or `onnxruntime` is not installed.
        FileNotFoundError: if `folder` has no `model.onnx`.
        TypeError: if a text is not a string.
        ValueError: if fewer than 8 texts are not blank, or there are not as many second sentences.
        RuntimeError: if nothing became integer, the file is not that much smaller, or logits are not finite.

    Reference:
        Integer quantization for deep learning inference, https://arxiv.org/abs/2004.09602, sections 3 and 4.
    """
    check_installed()
    source = find_model(folder)
    texts, pairs = choose_calibration_rows(calibration_texts, calibration_text_pairs)
    batches = _calibration_batches(source, tokenizer, texts, pairs, max_length)
    expected = _finite_logits(source, batches, "float")
    cpu = cpu_configuration()
    signed, reduce_range = WEIGHT_SETTINGS[cpu]
    with staged_file(source.with_name("model_quantized.onnx")) as path:
        _quantize(source, path, batches, signed, reduce_range, float_nodes)
        result = _verify(source, path, 1.0 if float_nodes else _SMALLEST_GAIN)
        difference = float(np.abs(_finite_logits(path, batches, "int8") - expected).mean())
    logger.info("Static int8 model, calibrated on %d texts: %s.", len(texts), result)
    return {
        "path": str(source.with_name("model_quantized.onnx")),
        "engine": "onnxruntime",
        "cpu_configuration": cpu,
        "weight_type": "QInt8" if signed else "QUInt8",
        "activation_type": "QUInt8",
        "reduce_range": reduce_range,
        "per_channel": True,
        "float_nodes": list(float_nodes),
        "calibration": {"method": "minmax", "rows": len(texts), "mean_abs_logit_difference": difference},
        **result,
    }


def choose_calibration_rows(texts, pairs=None):
    """Check texts for calibration and take at most 512 of them, evenly spaced; blank ones are left out.

    Args:
        texts (`list[str]`): texts of the training data.
        pairs (`list[str]`, *optional*): second sentences.

    Returns:
        `tuple[list[str], list[str] | None]`: the texts to read, and their second sentences.

    Raises:
        TypeError: if a text is not a string.
        ValueError: if fewer than 8 texts are not blank, or there are not as many second sentences.
    """
    columns = {"calibration_texts": texts} | ({} if pairs is None else {"calibration_text_pairs": pairs})
    for name, column in columns.items():
        if isinstance(column, str):
            raise TypeError(f"{name}={column[:60]!r} is one string: give a list of texts of the training data.")
        if len(column) != len(texts):
            raise ValueError(
                f"calibration_texts has {len(texts)} rows, {name} has {len(column)}: give one second sentence for "
                "each text, or texts would be joined with those of other rows."
            )
    rows = np.linspace(0, len(texts) - 1, min(len(texts), _MOST_TEXTS)).round().astype(int).tolist()
    kept = []
    for row in rows:
        given = [column[row] for column in columns.values()]
        for name, text in zip(columns, given, strict=True):
            if not isinstance(text, str):
                raise TypeError(f"{name}[{row}]={text!r} is not a string. Drop such rows, or fill them.")
        if all(text.strip() for text in given):
            kept.append(given)
    if len(kept) < _FEWEST_TEXTS:
        raise ValueError(
            f"calibration_texts has {len(texts)} rows, of which {len(kept)} are to be read and not blank; at least "
            f"{_FEWEST_TEXTS} are needed, some hundreds are better. The largest activation on a few texts is below "
            "that on others, which int8 would cut off in silence: give texts of the training data."
        )
    texts, *rest = map(list, zip(*kept, strict=True))
    return texts, rest[0] if rest else None


def _calibration_batches(source, tokenizer, texts, pairs, max_length):
    """Return the inputs that the graph will get for these texts, batch by batch."""
    import onnx

    names = [node.name for node in onnx.load(source, load_external_data=False).graph.input]
    batches, config = [], network_config(source.parent)

    def keep(inputs):
        batches.append(graph_feed(names, inputs, config))
        return np.zeros((len(inputs["input_ids"]), 1), dtype=np.float32)

    # Batches as the gate makes them, of texts of similar length: little padding, whose activations are not those of
    # texts.
    predict_logits(keep, tokenizer, texts, pairs, max_length=max_length)
    return batches


def _finite_logits(path, batches, form):
    run = onnx_runner(path)
    logits = np.concatenate([run(batch) for batch in batches])
    if not np.isfinite(logits).all():
        raise RuntimeError(
            f"The {form} model gives logits that are not finite on "
            f"{int((~np.isfinite(logits)).any(axis=1).sum())} of {len(logits)} calibration texts, so that its "
            "activations have no range to scale. Nothing was written: train the model again with a lower learning "
            "rate, or in float32."
        )
    return logits


class _Reader:
    """Batches in the form that onnxruntime's calibration asks for."""

    def __init__(self, batches):
        self._batches = iter(batches)

    def get_next(self):
        return next(self._batches, None)


def _quantize(source, path, batches, signed, reduce_range, float_nodes):
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with quiet_root_logger():
        quantize_static(
            onnx.load(source),  # given a path, it writes beside it
            path,
            _Reader(batches),
            quant_format=QuantFormat.QDQ,
            # A ReLU becomes the lower end of its convolution's range, which spends all 256 levels above zero.
            op_types_to_quantize=["Conv", "Relu", "MatMul", "Gemm", "Gather"],
            nodes_to_exclude=[*float_products(source, down_projections=False), *float_nodes],
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8 if signed else QuantType.QUInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "WeightSymmetric": True,
                "ActivationSymmetric": False,
                # These have integer kernels with a float result, so it need not be rounded to 8 bits before the bias,
                # the layer norm or the softmax that follows. A convolution has none.
                "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
            },
        )


def _verify(source, path, smallest_gain):
    nodes = _integer_nodes(path)
    float_size, size = source.stat().st_size, path.stat().st_size
    if not any(name in nodes for name in _FUSED_NODES) or size * smallest_gain >= float_size:
        raise RuntimeError(
            f"Static quantization left {nodes or 'no integer nodes'} and {size} bytes of {float_size}, where integer "
            f"products and a file more than {smallest_gain} times smaller are needed: this file would be called int8 "
            "without being it, so it was not written. Use quantize_dynamic: it takes recurrences too, which stay "
            "float here."
        )
    return {"nodes": nodes, "float_size_bytes": float_size, "size_bytes": size}


def _integer_nodes(path):
    """Count the integer nodes that onnxruntime makes of the file: a pattern that it does not know stays in float."""
    import onnx
    import onnxruntime

    optimized = path.with_name("optimized.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimized)
    options.log_severity_level = 3  # it warns that the file is for this kind of CPU only; the file is read here only
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    graph = onnx.load(optimized).graph
    integers = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    }
    tables = sum(node.op_type == "Gather" and node.input[0] in integers for node in graph.node)
    counts = Counter(node.op_type for node in graph.node)
    counts["Gather"] = tables
    return {name: counts[name] for name in (*_FUSED_NODES, "Gather") if counts[name]}
