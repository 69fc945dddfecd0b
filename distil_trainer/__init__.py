"""Distil a large fine-tuned text classifier into a small, fast one, with the objects of the Hugging Face ecosystem.

Importing this package is cheap: every public name is loaded on first use.
"""

import importlib

_MODULE_OF = {
    "MASK_WORD": "text",
    "predict_logits": "inference",
    "torch_runner": "inference",
}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605
__version__ = "0.1.0"


def __getattr__(name):
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"distil_trainer.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'distil_trainer' has no attribute {name!r}")


def __dir__():
    return __all__
