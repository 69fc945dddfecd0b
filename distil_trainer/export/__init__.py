"""From a PyTorch classifier to an ONNX folder that serves it, nothing written that was not checked."""

from distil_trainer.export.gate import ship
from distil_trainer.export.half_weights import halve_weights
from distil_trainer.export.onnx import export_onnx, onnx_runner
from distil_trainer.export.optimization import optimize_onnx
from distil_trainer.export.quantization import quantize_dynamic
from distil_trainer.export.static_quantization import quantize_static

__all__ = [
    "export_onnx",
    "halve_weights",
    "onnx_runner",
    "optimize_onnx",
    "quantize_dynamic",
    "quantize_static",
    "ship",
]
