"""The ladder: the forms of one model that may be served, each made, judged and set aside."""

import logging
import os
from functools import partial

import numpy as np

from distil_trainer.export.half_weights import halve_weights
from distil_trainer.export.judging import not_made
from distil_trainer.export.onnx import onnx_runner
from distil_trainer.export.optimization import optimize_onnx
from distil_trainer.export.parity import TOLERANCE
from distil_trainer.export.quantization import has_convolutions, has_recurrences, quantize_dynamic
from distil_trainer.export.sensitivity import most_harmful, node_harms
from distil_trainer.export.static_quantization import quantize_static

logger = logging.getLogger(__name__)

# Name of the rung -> share of the harm of int8 that is left out of it, by keeping the most harmful nodes in float.
# These are larger and slower than int8 throughout, so they are tried where that does not hold the accuracy.
MIXED_RUNGS = {"int8 dynamic, half of the harm in float": 0.5, "int8 dynamic, 80 % of the harm in float": 0.8}
MIXED_STATIC_RUNGS = {"int8 static, half of the harm in float": 0.5, "int8 static, 80 % of the harm in float": 0.8}
# The same without texts to measure harm on: parts known to be harmful. On a 6-layer MiniLM their mean logit errors are
# 0.082 (34 MB) and 0.073 (69 MB), that of int8 throughout is 0.104 (23 MB), those of the measured ones 0.042 (34 MB)
# and 0.018 (79 MB).
FIXED_RUNGS = {
    "int8 dynamic, float down-projections": ("down_projections",),
    "int8 dynamic, float down-projections and embeddings": ("down_projections", "embeddings"),
}
_HARM_TEXTS = 64
# Rounding weights to the 11 bits of float16 moved logits by up to 0.1 % of the largest one (BERT, GloVe-CNN); ten
# times that is no rounding any more.
_HALF_TOLERANCE = 1e-2
_IN_BATCHES, _ALONE = {}, {"tokens_per_batch": 1}


class Ladder:
    """The forms of the model in a folder that `export_onnx` wrote.

    Args:
        folder (`Path`): holds `model.onnx`.
        predict (`Callable`): from a runner, and options of batching, to the logits of the evaluation texts.
        judge (`Callable`): from a path and a list of logits to what the report says of that file.
        metric (`str`): the headline metric.
        threads (`int`): threads of onnxruntime; `None` for all cores.
    """

    def __init__(self, folder, predict, judge, *, metric, threads):
        self.folder = folder
        self.rungs, self.runners, self.facts = [], {}, {}
        self._files = {}
        self._predict, self._judge, self._metric, self._threads = predict, judge, metric, threads
        self._float_logits = self._score("fp32", folder / "model.onnx", _IN_BATCHES)

    def climb(self, tokenizer, calibration, max_length, max_size_mb=None):
        """Try every form that suits the graph; `calibration` is a pair of columns of texts, or `None`."""
        self._attempt("fp32 optimized", lambda: optimize_onnx(self.folder), _IN_BATCHES, tolerance=TOLERANCE)
        # As fast as float32, and half the size: worth nothing but where the size is limited.
        if max_size_mb is not None and self.rungs[0]["size_bytes"] > 1e6 * max_size_mb:
            self._attempt("fp16", lambda: halve_weights(self.folder), _IN_BATCHES, tolerance=_HALF_TOLERANCE)
        if calibration is None:
            self.rungs.append({"name": "int8 static", **self._not_made("not tried: it needs calibration_texts")})
            logger.info("Static int8, the fast form of convolutions, was not tried: it needs calibration_texts.")
        elif not has_recurrences(self.folder):
            self._climb_static(tokenizer, calibration, max_length)
        self._attempt_int8("int8 dynamic", lambda: quantize_dynamic(self.folder))
        if not self._has_good_int8() and "int8 dynamic" in self._files:
            rungs = {name: {"keep_float": parts} for name, parts in FIXED_RUNGS.items()}
            if calibration is not None:
                rungs = self._with_nodes("int8 dynamic", MIXED_RUNGS, tokenizer, calibration, max_length)
            self._attempt_in_turn(rungs, partial(quantize_dynamic, self.folder))

    def keep(self, names):
        """Give the files of these rungs their names back, and remove the others."""
        self.runners.clear()
        for rung in self.rungs[1:]:
            path = self._files.get(rung["name"])
            if rung["name"] in names:
                path.rename(self.folder / rung["file"])
            elif path is not None:
                path.unlink()
            if rung["name"] not in names:
                rung["file"] = None

    def _climb_static(self, tokenizer, calibration, max_length):
        make = partial(quantize_static, self.folder, tokenizer, *calibration, max_length=max_length)
        self._attempt_int8("int8 static", make)
        # Dynamic int8 may hold the accuracy of convolutions, but is no faster than float.
        if not self._has_good_int8() and "int8 static" in self._files and has_convolutions(self.folder):
            rungs = self._with_nodes("int8 static", MIXED_STATIC_RUNGS, tokenizer, calibration, max_length)
            self._attempt_in_turn(rungs, make)

    def _with_nodes(self, name, mixed_rungs, tokenizer, calibration, max_length):
        """Find the nodes that mixed rungs keep in float, by measuring what the rung of this name does to each."""
        harms = node_harms(
            self.folder / "model.onnx",
            self._files[name],
            tokenizer,
            *(column and column[:_HARM_TEXTS] for column in calibration),
            max_length=max_length,
        )
        return {mixed: {"float_nodes": most_harmful(harms, share)} for mixed, share in mixed_rungs.items()}

    def _attempt_in_turn(self, rungs, make):
        """Try rungs, from the smallest file on, until one holds the accuracy."""
        for name, settings in rungs.items():
            self._attempt_int8(name, partial(make, **settings))
            if self._has_good_int8():
                return

    def _attempt_int8(self, name, make):
        self._attempt(name, make, _IN_BATCHES, _ALONE)

    def _attempt(self, name, make, *ways_of_batching, tolerance=None):
        """Make a file and judge it. It then waits under another name, so that the next of its kind can be made."""
        try:
            self.facts[name] = make()
        except RuntimeError as error:
            self.rungs.append({"name": name, **self._not_made(str(error))})
            return
        path = self.folder / os.path.basename(self.facts[name]["path"])
        logits = self._score(name, path, *ways_of_batching)
        if tolerance is not None and not _equal(logits, self._float_logits, tolerance):
            self.rungs[-1]["passed"] = False
            self.rungs[-1]["reason"] += "; its logits are not those of model.onnx: it is another function"
        self._files[name] = path.rename(self.folder / f"rung-{len(self.rungs)}.onnx")

    def _score(self, name, path, *ways_of_batching):
        self.runners[name] = onnx_runner(path, self._threads)
        logits = [self._predict(self.runners[name], **batching) for batching in ways_of_batching]
        self.rungs.append({"name": name, **self._judge(path, logits)})
        return logits[0]

    def _not_made(self, reason):
        return not_made(self._metric, reason)

    def _has_good_int8(self):
        return any(rung["passed"] for rung in self.rungs if is_int8(rung))


def is_int8(rung):
    """Tell whether a rung is of int8."""
    return rung["name"].startswith("int8")


def _equal(logits, expected, tolerance):
    """Return whether logits differ by rounding only, by the measure of `export_onnx`."""
    return np.abs(logits - expected).max() <= tolerance * max(1.0, float(np.abs(expected).max()))
