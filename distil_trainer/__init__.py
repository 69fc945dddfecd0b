"""Distil a large fine-tuned text classifier into a small, fast one, with the objects of the Hugging Face ecosystem.

Importing this package is cheap: every public name is loaded on first use.
"""

import importlib

_NAMES = {
    "arguments": ["DistillationArguments", "parse_arguments"],
    "augmentation": ["RuleAugmenter", "drop_duplicates_and_leaks", "drop_leaks", "operator_counts"],
    "collator": ["DistillationCollator"],
    "data": ["DataArguments", "load_file", "load_splits"],
    "evaluation": ["compare", "evaluate_logits", "gap_closed"],
    "export": ["export_onnx", "onnx_runner", "quantize_dynamic", "ship"],
    "hub": ["check_can_push", "push_model_folder"],
    "inference": ["predict_logits", "torch_runner"],
    "labeled_dataset": ["push_labeled_dataset", "save_labeled_dataset"],
    "labeling": ["TeacherLabeler"],
    "labels": ["dataset_label_names", "label_permutation", "model_label_names"],
    "latency": ["measure_latencies", "measure_latency"],
    "loading": ["load_classifier"],
    "losses": ["hard_label_cross_entropy", "logit_mse", "soft_cross_entropy", "soft_target_kl"],
    "metrics": ["Accuracy", "MacroF1", "compute_metrics"],
    "model_card": ["render_model_card"],
    "plots": ["plot_accuracy_against_latency"],
    "recipe": ["distil", "open_run"],
    "recipe_arguments": ["RECIPE_ARGUMENTS", "AugmentationArguments", "ModelArguments", "ShippingArguments"],
    "report": ["make_report", "read_report", "write_report"],
    "run_folder": ["RunFolder"],
    "stages": [
        "gold_label_arguments",
        "load_teacher_and_splits",
        "make_student",
        "make_transfer_set",
        "train_once",
        "without_leaks",
    ],
    "students": ["student_from_teacher"],
    "tables": ["closing_table"],
    "text": ["MASK_WORD"],
    "trainer": ["DistillationTrainer"],
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605
__version__ = "0.1.0"


def __getattr__(name):
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"distil_trainer.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'distil_trainer' has no attribute {name!r}")


def __dir__():
    return __all__
