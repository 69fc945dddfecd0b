"""Float ONNX to a float graph of fused nodes: attention, layer norms with their sums, GELU with its bias."""

import logging
from collections import Counter
from contextlib import contextmanager

from distil_trainer.export.onnx import check_installed, network_config, optimum_is_usable
from distil_trainer.export.quantization import find_model
from distil_trainer.export.staging import brings_code, read_config, staged_file

logger = logging.getLogger(__name__)

# Encoders in whose graphs onnxruntime finds the attention of BERT.
_LIKE_BERT = ("albert", "bert", "distilbert", "electra", "roberta", "xlm-roberta")


def optimize_onnx(folder):
    """Write `model_optimized.onnx` beside `model.onnx`: the same function in fewer nodes, all float.

    Encoders of BERT's kind get onnxruntime's fusions of Transformers, through Optimum where that is usable. All
    others, our networks among them, get what onnxruntime does of its own while it loads a graph, here done beforehand.
    Nothing is approximated, so that logits differ by rounding only; `ship` checks that.

    Args:
        folder (`str` or `os.PathLike`): what `export_onnx` wrote; its model is left as it is.

    Returns:
        `dict`: `path` (`str`), `engine` (`"optimum"`, `"onnxruntime fusions"` or `"onnxruntime"`), `nodes` and
        `nodes_before` (`int`), `fused` (counts of the nodes that only onnxruntime knows), `size_bytes`.

    Raises:
        ImportError: if `onnx` or `onnxruntime` is not installed.
        FileNotFoundError: if `folder` has no `model.onnx`.
        RuntimeError: if the graph does not become smaller.
    """
    import onnx

    check_installed()
    source = find_model(folder)
    with staged_file(source.with_name("model_optimized.onnx")) as path:
        if read_config(source.parent).get("model_type") not in _LIKE_BERT or network_config(source.parent) is not None:
            engine = "onnxruntime"
            _optimize_while_loading(source, path)
        elif optimum_is_usable() and not brings_code(source.parent):
            engine = "optimum"
            _fuse_through_optimum(source, path)
        else:
            engine = "onnxruntime fusions"
            _fuse_directly(source, path)
        before, after = (onnx.load(file, load_external_data=False).graph.node for file in (source, path))
        if len(after) >= len(before):
            raise RuntimeError(
                f"Optimization left {len(after)} nodes of {len(before)}: there is nothing to fuse in this graph, and "
                "the file would be the float model under another name, so it was not written. Serve model.onnx."
            )
        size_bytes = path.stat().st_size
    result = {
        "path": str(source.with_name("model_optimized.onnx")),
        "engine": engine,
        "nodes": len(after),
        "nodes_before": len(before),
        "fused": dict(Counter(node.op_type for node in after if node.domain not in ("", "ai.onnx"))),
        "size_bytes": size_bytes,
    }
    logger.info("Optimized model: %s.", result)
    return result


def _fuse_through_optimum(source, path):
    from optimum.onnxruntime import ORTOptimizer
    from optimum.onnxruntime.configuration import OptimizationConfig

    optimizer = ORTOptimizer.from_pretrained(source.parent, file_names=[source.name])
    # It names the file model_optimized.onnx, as `path` is named.
    with _quiet_fusions():
        optimizer.optimize(OptimizationConfig(optimization_level=1), save_dir=path.parent)


def _fuse_directly(source, path):
    from onnxruntime.transformers.optimizer import optimize_model

    # The numbers of heads and of hidden units are read from the graph where they are given as 0.
    with _quiet_fusions():
        optimized = optimize_model(str(source), model_type="bert", num_heads=0, hidden_size=0, opt_level=1)
    optimized.save_model_to_file(str(path))


@contextmanager
def _quiet_fusions():
    """Keep back warnings about pruned layers: what cannot be fused stays as it is, and logits are compared."""
    loggers = [logging.getLogger(name) for name in ("fusion_attention", "fusion_embedlayer")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def _optimize_while_loading(source, path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    # The level above it writes a layout of convolutions that only this kind of CPU reads.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
