"""The hyper-parameters of a training, as report and card show them."""

from dataclasses import fields

from distil_trainer.arguments import DistillationArguments
from distil_trainer.meta_pseudo_labels import MetaPseudoLabelsArguments
from distil_trainer.objective import logit_loss_name

# What distillation adds to the losses on logits and labels: shown on the card where it was set.
_STATE_LOSSES = (
    "layer_map",
    "hidden_loss_weight",
    "hidden_loss",
    "attention_loss_weight",
    "attention_loss",
    "relation_loss_weight",
    "relation_heads",
    "matches",
    "projection_learning_rate",
)
_SCHEDULES = (
    "final_temperature",
    "final_logit_loss_weight",
    "final_hard_label_weight",
    "final_hidden_loss_weight",
    "final_attention_loss_weight",
    "final_relation_loss_weight",
    "epochs_per_cycle",
)


# What Meta Pseudo Labels add; a recipe has no rewritten texts beside their originals, so it has no consistency term.
_NOT_SHOWN = {each.name for each in fields(DistillationArguments)}
_NOT_SHOWN |= {"consistency_weight", "consistency_ramp_share", "augmented_text_column"}
_OF_FEEDBACK = [each.name for each in fields(MetaPseudoLabelsArguments) if each.name not in _NOT_SHOWN]


def hyper_parameters(training, task, steps):
    """List what a training was told, as far as it had an effect.

    Args:
        training ([`DistillationArguments`]): the arguments.
        task (`str`): the student's `problem_type`.
        steps (`int`): optimizer steps that were done.

    Returns:
        `dict`: values by name, in the order to show them; `None` for what had no effect.
    """
    batch_size = training.per_device_train_batch_size * training.gradient_accumulation_steps * training.world_size
    logit_loss = logit_loss_name(training, task)
    learns = isinstance(training, MetaPseudoLabelsArguments)
    if learns and training.student_targets == "sampled":
        logit_loss = "cross-entropy with drawn labels"
    shown = _SCHEDULES + (_STATE_LOSSES if training.distils_states else ())
    shown += ("target_class_weight", "non_target_class_weight") if logit_loss == "decoupled" else ()
    return {
        "logit_loss": logit_loss,
        "logit_loss_weight": training.logit_loss_weight,
        "temperature": None if logit_loss in ("mse", "cross-entropy with drawn labels") else training.temperature,
        "hard_label_weight": training.hard_label_weight,
        "label_smoothing_factor": training.label_smoothing_factor or None,
        **{name: getattr(training, name) for name in shown if _has_effect(training, name)},
        "optimizer": str(training.optim.value),
        "learning_rate": training.learning_rate,
        "schedule": "cyclic" if training.epochs_per_cycle else str(training.lr_scheduler_type.value),
        "warmup_steps": training.warmup_steps,
        "weight_decay": training.weight_decay,
        "batch_size": batch_size,
        "epochs": training.num_train_epochs if training.max_steps <= 0 else None,
        "optimizer_steps": steps,
        "length_grouped_batches": training.length_grouped_batches,
        "precision": "bf16" if training.bf16 else "fp16" if training.fp16 else "fp32",
        "seed": training.seed,
        **({name: getattr(training, name) for name in _OF_FEEDBACK} if learns else {}),
    }


def _has_effect(training, name):
    """Return whether a setting is worth showing: not a weight of 0, nor the kind of a loss whose weight is 0."""
    if name in _STATE_LOSSES and name.endswith("_weight"):
        return bool(getattr(training, name))
    return bool(getattr(training, f"{name}_weight", True))
