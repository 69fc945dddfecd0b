"""Small hand-written parts of a report."""

import copy

from distil_trainer.report import make_report


def scores(accuracy, n=872):
    """Figures as `evaluate_logits` returns them, with an interval of ± 2 points."""
    return {
        "n": n,
        "accuracy": accuracy,
        "accuracy_low": accuracy - 0.02,
        "accuracy_high": accuracy + 0.02,
        "macro_f1": accuracy - 0.001,
        "macro_f1_low": accuracy - 0.021,
        "macro_f1_high": accuracy + 0.019,
        "cross_entropy": 0.3,
    }


def with_constant(evaluation, difference=0.2, only_answer=None, metric="accuracy"):
    """Figures with those of `compare_with_constant`, where "positive" is the label of 68.4 % of the rows."""
    p_value = 2 / 2001 if difference else 1.0
    ends = {} if metric == "accuracy" else {"difference_low": difference - 0.1, "difference_high": difference + 0.1}
    constant = {
        "label": "positive",
        "share": 0.684,
        "macro_f1": 0.406,
        "only_answer": only_answer,
        f"{metric}_difference": difference,
        **ends,
        "p_value": p_value,
        "distinguishable": p_value < 0.05,
        "is_better": difference > 0,
    }
    return {**evaluation, "constant": constant}


def timing(p50_ms):
    """Figures as `measure_latencies` returns them."""
    return {
        "batch_size": 1,
        "n": 200,
        "p50_ms": p50_ms,
        "p95_ms": 2 * p50_ms,
        "mean_ms": 1.1 * p50_ms,
        "tokenization_p50_ms": 0.21,
        "mean_tokens": 25.3,
        "threads": 1,
        "warmup": 10,
        "cpu": "Example CPU 1000",
    }


def comparison(a, b, difference, p_value):
    """Figures as `compare` returns them, with the two roles."""
    return {
        "a": a,
        "b": b,
        "split": "validation",
        "n": 872,
        "accuracy_difference": difference,
        "only_a_right": 20,
        "only_b_right": 30,
        "agreement": 0.951,
        "p_value": p_value,
        "distinguishable": p_value < 0.05,
    }


def _row(role, engine, parameters, size_bytes, accuracy, p50_ms):
    return {
        "role": role,
        "engine": engine,
        "parameters": parameters,
        "size_bytes": size_bytes,
        "evaluation": {"validation": scores(accuracy)},
        "latency": timing(p50_ms),
    }


PARTS = {
    "name": "minilm-3-layers",
    "license": "apache-2.0",
    "run": {
        "recipe": "sst2_electra_to_distilbert.py",
        "command": "accelerate launch recipes/sst2_electra_to_distilbert.py --num_train_epochs 1",
        "seed": 13,
        "date": "2026-11-21T09:00:00+00:00",
        "duration_s": 660.0,
        "versions": {"torch": "2.13.0", "transformers": "4.57.6"},
        "cpu": "Example CPU 1000",
        "device": "cpu",
        "processes": 1,
    },
    "task": {"language": "en", "labels": ["negative", "positive"], "text_pair": False, "max_length": 128},
    "teacher": {"name": "minilm-sst2", "fingerprint": "0123456789abcdef", "trained_here": False},
    "student": {"base": "layers 2, 4, 6 of the teacher"},
    "data": {
        "train": {"source": "train.parquet", "rows": 67349, "fingerprint": "aaaa"},
        "validation": {"source": "validation.parquet", "rows": 872, "used_for": ["the int8 file"]},
        "transfer": {
            "rows": 190000,
            "operators": {"original": 67000, "mask": 123000},
            "duplicates": 1203,
            "near_evaluation_data": 5,
            "in_evaluation_data": 12,
            "settings": {"copies": 2, "seed": 13, "analyzer": None},
        },
    },
    "training": {"num_train_epochs": 1.0, "learning_rate": 8e-5},
    "models": [
        _row("teacher", "PyTorch", 22_700_000, 90_900_000, 0.88, 12.0),
        _row("control", "PyTorch", 17_400_000, 69_600_000, 0.86, 6.1),
        _row("student", "PyTorch", 17_400_000, 69_600_000, 0.877, 6.0),
        _row("onnx fp32", "ONNX Runtime", 17_400_000, 69_700_000, 0.877, 5.0),
        _row("onnx int8", "ONNX Runtime", 17_400_000, 17_600_000, 0.875, 2.0),
    ],
    "comparisons": [
        comparison("student", "teacher", -0.003, 0.62),
        comparison("student", "control", 0.017, 0.04),
    ],
    "export": {
        "subfolder": "onnx",
        "chosen": "model_quantized.onnx",
        "num_rows": 872,
        "max_accuracy_drop": 0.005,
        "export": {"engine": "optimum", "opset": 17, "parity": {"max_abs_difference": 3.2e-07, "shapes": [[1, 5]]}},
        "quantization": {"cpu_configuration": "avx2"},
        "rungs": [
            {
                "name": "fp32",
                "file": "model.onnx",
                "size_bytes": 69_700_000,
                "accuracy": 0.877,
                "accuracy_change": 0.0,
                "agreement_with_pytorch": 1.0,
                "agreement_batch_1": None,
                "passed": True,
            },
            {
                "name": "int8 dynamic",
                "file": "model_quantized.onnx",
                "size_bytes": 17_600_000,
                "accuracy": 0.875,
                "accuracy_change": -0.002,
                "agreement_with_pytorch": 0.995,
                "agreement_batch_1": 0.994,
                "passed": True,
            },
        ],
    },
}


def example_parts(**changes):
    """Arguments of `make_report` that may be changed at will."""
    return {**copy.deepcopy(PARTS), **changes}


def example_report(**changes):
    """A complete report with a teacher, a control, a student and two ONNX files."""
    return make_report(**example_parts(**changes))


def minimal_report():
    """A report of nothing but what must be there."""
    return make_report(
        name="student", run={}, teacher={"name": "teacher"}, student={"base": "bert"}, models=[{"role": "student"}]
    )
