"""Float ONNX to a file of half the size: weights stored in 16 bits, all arithmetic as before."""

import logging

import numpy as np

from distil_trainer.export.onnx import check_installed
from distil_trainer.export.quantization import find_model
from distil_trainer.export.staging import staged_file

logger = logging.getLogger(__name__)

# Smaller tensors are biases, layer norms and the constants of masks, which may lie beyond what 16 bits hold. They are
# a hundredth of a file.
_FEWEST_NUMBERS = 1024


def halve_weights(folder):
    """Write `model_fp16.onnx` beside `model.onnx`: weights in float16, all that is computed in float32.

    onnxruntime makes float32 of the weights while it loads the file, so it is as fast as `model.onnx` and needs as
    much memory. A graph that computes in float16 is no faster on x86 (MiniLM 9.8 ms beside 9.5, a GloVe-CNN 0.72
    beside 0.69; AVX-512 with VNNI, onnxruntime 1.31), its logits are up to three times as far from the float ones, and
    any activation above 65504 would become infinite.

    Args:
        folder (`str` or `os.PathLike`): what `export_onnx` wrote; its model is left as it is.

    Returns:
        `dict`: `path` (`str`), `tensors` (how many became float16), `float_size_bytes`, `size_bytes`.

    Raises:
        ImportError: if `onnx` or `onnxruntime` is not installed.
        FileNotFoundError: if `folder` has no `model.onnx`.
        RuntimeError: if a weight is beyond float16's largest number, or the file does not become smaller.
    """
    import onnx

    check_installed()
    source = find_model(folder)
    model = onnx.load(source)
    nodes = list(model.graph.node)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) >= _FEWEST_NUMBERS:
            name, stored = tensor.name, f"{tensor.name}_fp16"
            tensor.CopyFrom(onnx.numpy_helper.from_array(_halved(tensor, nodes), stored))
            casts.append(onnx.helper.make_node("Cast", [stored], [name], f"{name}_cast", to=onnx.TensorProto.FLOAT))
    model.graph.ClearField("node")
    model.graph.node.extend(casts + nodes)
    with staged_file(source.with_name("model_fp16.onnx")) as path:
        onnx.save(model, path)
        float_size, size = source.stat().st_size, path.stat().st_size
        if size >= float_size:
            raise RuntimeError(
                f"With {len(casts)} tensors in float16 the file has {size} bytes of {float_size}, so it was not "
                "written: this graph is hardly weights. Serve model.onnx."
            )
    result = {
        "path": str(source.with_name("model_fp16.onnx")),
        "tensors": len(casts),
        "float_size_bytes": float_size,
        "size_bytes": size,
    }
    logger.info("Model with weights in float16: %s.", result)
    return result


def _halved(tensor, nodes):
    import onnx

    weights = onnx.numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        halved = weights.astype(np.float16)
    if not np.isfinite(halved).all():
        readers = [node.name for node in nodes if tensor.name in node.input]
        raise RuntimeError(
            f"The weights {tensor.name!r} of {', '.join(readers)} reach {np.abs(weights).max():.4g}, and float16 ends "
            "at 65504: they would become infinite, and the logits with them. Nothing was written. Serve model.onnx."
        )
    return halved
