"""Distil a large fine-tuned text classifier into a small, fast one, with the objects of the Hugging Face ecosystem.

Importing this package is cheap: every public name is loaded on first use.
"""

import importlib

_NAMES = {
    "arguments": ["DistillationArguments"],
    "audit_plot": ["plot_transfer_audit"],
    "audit_tables": ["audit_table"],
    "augmentation": [
        "RuleAugmenter",
        "drop_duplicates_and_leaks",
        "drop_leaks",
        "operator_counts",
        "spaced_morphemes",
        "texts_of",
        "to_morphemes",
    ],
    "augmentation.generation": ["first_token_counts", "generate_transfer_set"],
    "augmentation.language_model": ["fine_tune_language_model", "load_language_model"],
    "augmentation.masked_rewriting": ["MaskedRewriter"],
    "augmentation.small_gpt2": ["small_gpt2"],
    "calibration": ["evaluate_calibration", "fit_temperature"],
    "cascade": ["cascade_report"],
    "closing": ["Contender", "measure", "onnx_contender", "pytorch_contender", "ship_once"],
    "collator": ["DistillationCollator"],
    "command_line": ["parse_arguments"],
    "data": ["DataArguments", "load_file", "load_splits"],
    "evaluate_metrics": [
        "Accuracy",
        "AveragePrecision",
        "MacroF1",
        "MatthewsCorrelation",
        "MeanSquaredError",
        "MicroF1",
        "PairF1",
        "PearsonCorrelation",
        "SpearmanCorrelation",
    ],
    "evaluation": ["compare", "compare_macro_f1", "compare_with_constant", "evaluate_logits", "gap_closed"],
    "export": [
        "export_onnx",
        "halve_weights",
        "onnx_runner",
        "optimize_onnx",
        "quantize_dynamic",
        "quantize_static",
        "ship",
    ],
    "fine_tuning": ["fine_tune_teacher", "fine_tuning_arguments", "gold_label_arguments"],
    "hub": ["check_can_push", "push_model_folder"],
    "inference": ["predict_logits", "torch_runner"],
    "labeled_dataset": ["push_labeled_dataset", "save_labeled_dataset"],
    "labeling": ["TeacherLabeler"],
    "labels": ["dataset_label_names", "label_permutation", "model_label_names"],
    "latency": ["dollars_per_100m_texts", "measure_latencies", "measure_latency"],
    "latency_benchmark": ["benchmark_latency", "latency_table", "plot_latency"],
    "loading": ["load_classifier"],
    "losses": [
        "attention_cosine",
        "attention_kl",
        "attention_mse",
        "decoupled_kd",
        "hard_label_binary_cross_entropy",
        "hard_label_cross_entropy",
        "hard_label_mse",
        "hidden_cosine",
        "hidden_mse",
        "logit_mse",
        "pkd",
        "pooled_cosine",
        "pooled_mse",
        "relation_kl",
        "rkd_angle",
        "rkd_distance",
        "sigmoid_cross_entropy",
        "sigmoid_kl",
        "similarity_preserving",
        "soft_cross_entropy",
        "soft_target_kl",
    ],
    "matches": ["Match"],
    "meta_pseudo_labels": ["MetaPseudoLabelsArguments", "MetaPseudoLabelsTrainer", "plot_meta_pseudo_labels"],
    "metrics": ["compute_metrics", "confusion_matrix", "metrics_for"],
    "mixing": ["inherit_column", "mix"],
    "model_card": ["render_model_card"],
    "opening": ["open_run"],
    "plots": ["plot_accuracy_against_latency"],
    "preflight": ["check_distillation", "findings_table"],
    "pruning": ["GradualPruning", "prune", "prune_vocabulary", "recover"],
    "pruning_arguments": ["PruningArguments"],
    "pseudo_labels": ["entropy_bits", "hard_pseudo_labels", "keep_confident"],
    "recipe": ["distil", "run_recipe"],
    "recipe_arguments": ["RECIPE_ARGUMENTS", "ModelArguments", "ShippingArguments"],
    "report": ["make_report", "read_report", "write_report"],
    "run_folder": ["RunFolder"],
    "runtime": ["Classifier"],
    "scratch_teacher": ["teacher_from_scratch"],
    "scores": ["compare_scores", "evaluate_scores"],
    "self_training": ["self_train"],
    "sharded_map": ["map_shards"],
    "small_tokenizers": ["sentencepiece_tokenizer", "train_tokenizer", "word_level_tokenizer"],
    "stages": [
        "load_teacher_and_splits",
        "make_student",
        "train_once",
        "without_leaks",
    ],
    "students": ["student_from_teacher"],
    "tables": ["closing_table"],
    "teachers": ["average_teachers"],
    "text": ["MASK_WORD"],
    "trainer": ["DistillationTrainer"],
    "transfer_arguments": ["TransferSetArguments"],
    "transfer_audit": ["audit_transfer_set"],
    "transfer_filter": ["filter_transfer_set"],
    "transfer_set": ["make_transfer_set"],
    "unlabelled": ["load_unlabelled"],
    "vectors": ["WordVectors", "word_vectors"],
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
