"""The arguments of a distillation run: what `TrainingArguments` hold, and the losses, their weights, the columns."""

import math
import os
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

import torch
from transformers import SchedulerType, TrainingArguments

from distil_trainer.matches import RELATIONS, read_matches
from distil_trainer.matching import read_layer_map

LogitLoss = Literal["kl", "mse", "soft_cross_entropy", "decoupled"]
HiddenLoss = Literal["mse", "cosine"]
AttentionLoss = Literal["mse", "cosine", "kl"]
TeacherAverage = Literal["logits", "probabilities"]

_WEIGHTS = (
    "logit_loss_weight", "final_logit_loss_weight", "hard_label_weight", "final_hard_label_weight",
    "target_class_weight", "non_target_class_weight",
    "hidden_loss_weight", "attention_loss_weight", "relation_loss_weight",
    "final_hidden_loss_weight", "final_attention_loss_weight", "final_relation_loss_weight",
)  # fmt: skip
_SHORT_FORMS = ("hidden", "attention", "relation")
# Options that say how a loss is computed, and what it takes for there to be that loss.
_PARTS_OF_A_LOSS = {
    "hidden_loss": "hidden_loss_weight above 0 (matches name their own losses)",
    "attention_loss": "attention_loss_weight above 0 (matches name their own losses)",
    "relation_heads": "relation_loss_weight above 0, or a match of relations",
    "target_class_weight": "logit_loss='decoupled'",
    "non_target_class_weight": "logit_loss='decoupled'",
}
_ABOVE_ZERO = {
    "temperature": "it divides the logits",
    "final_temperature": "it divides the logits",
    "projection_learning_rate": "projections that do not learn would distort what the student is compared with",
    "epochs_per_cycle": "the learning rate rises and falls once in that many epochs",
}
_CHOICES = {
    "logit_loss": get_args(LogitLoss),
    "hidden_loss": get_args(HiddenLoss),
    "attention_loss": get_args(AttentionLoss),
    "teacher_average": get_args(TeacherAverage),
}


@dataclass
class DistillationArguments(TrainingArguments):
    """`TrainingArguments` plus what distillation adds: the losses, their weights, and which columns hold what.

    What is compared besides logits is a list of matches (see `Match`), in Python, in YAML or in a file, and the short
    forms `hidden_loss_weight`, `attention_loss_weight` and `relation_loss_weight` for the common cases:

    ```yaml
    layer_map: last
    hidden_loss_weight: 1.0
    matches:
      - {what: attentions, loss: kl, teacher_layer: 12, student_layer: 3, weight: 0.5}
      - {what: pooled_states, loss: rkd_distance, weight: 0.1, final_weight: 0.0}
    ```

    A weight or temperature with a `final_...` partner moves linearly, from the first step to the last.

    Three defaults differ from `TrainingArguments`: `report_to` is `"none"` on every version of transformers, `use_cpu`
    is true where there is no accelerator, and gradient checkpointing takes `{"use_reentrant": False}`, as 5.x does.

    Raises:
        ValueError: if a temperature, weight or length is out of range, if the loss would be zero everywhere, if the
            matches cannot be read, or if an option of `TrainingArguments` is set that this loss or this machine could
            not honour.
    """

    temperature: float = field(
        default=2.0,
        metadata={"help": "Both models' logits are divided by it before the softmax; above 0. Not read by mse."},
    )
    final_temperature: float | None = field(
        default=None, metadata={"help": "Temperature at the last step, reached linearly; constant by default."}
    )
    logit_loss: LogitLoss | None = field(
        default=None,
        metadata={
            "help": "What compares the student's logits with the teacher's; by default kl for labels and mse for "
            "regression."
        },
    )
    logit_loss_weight: float = field(
        default=1.0,
        metadata={"help": "Weight of the logit loss; 0 leaves it out."},
    )
    final_logit_loss_weight: float | None = field(
        default=None, metadata={"help": "Weight of the logit loss at the last step, reached linearly."}
    )
    target_class_weight: float = field(
        default=1.0, metadata={"help": "For decoupled: weight of the target class against all others."}
    )
    non_target_class_weight: float = field(
        default=8.0, metadata={"help": "For decoupled: weight of the distribution over the other classes."}
    )
    hard_label_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of the loss on gold labels; rows without one count as rows but add nothing."},
    )
    final_hard_label_weight: float | None = field(
        default=None, metadata={"help": "Weight of the loss on gold labels at the last step, reached linearly."}
    )
    hidden_loss_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of the hidden states of all mapped layers and the embeddings, averaged over them."},
    )
    hidden_loss: HiddenLoss = field(
        default="mse", metadata={"help": "What compares hidden states where hidden_loss_weight is above 0."}
    )
    final_hidden_loss_weight: float | None = field(
        default=None, metadata={"help": "hidden_loss_weight at the last step, reached linearly."}
    )
    attention_loss_weight: float = field(
        default=0.0, metadata={"help": "Weight of the attention maps of all mapped layers, averaged over them."}
    )
    attention_loss: AttentionLoss = field(
        default="kl", metadata={"help": "What compares attention maps where attention_loss_weight is above 0."}
    )
    final_attention_loss_weight: float | None = field(
        default=None, metadata={"help": "attention_loss_weight at the last step, reached linearly."}
    )
    relation_loss_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the query, key and value relations of the student's last layer, a third for each."
        },
    )
    final_relation_loss_weight: float | None = field(
        default=None, metadata={"help": "relation_loss_weight at the last step, reached linearly."}
    )
    relation_heads: int | None = field(
        default=None,
        metadata={
            "help": "Relation heads where a match names none; by default the teacher's heads where they divide."
        },
    )
    layer_map: None | str | list[int] = field(
        default="uniform",
        metadata={
            "help": "Which teacher layer each student layer learns from, for the weights above: uniform, last, or one "
            "teacher layer for each student layer, such as [4, 8, 12]."
        },
    )
    matches: None | str | list[dict] = field(
        default=None,
        metadata={
            "help": "Comparisons of single layers: a YAML list, or a .yaml, .yml or .json file of one. Each item has "
            "what, loss and as needed teacher_layer, student_layer, weight, final_weight, relation_heads."
        },
    )
    projection_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate of the projections between unequal widths; learning_rate by default."},
    )
    teacher_weights: list[float] | None = field(
        default=None, metadata={"help": "Weight of each teacher where there are several; equal by default."}
    )
    teacher_average: TeacherAverage = field(
        default="logits", metadata={"help": "What is averaged over several teachers."}
    )
    epochs_per_cycle: float | None = field(
        default=None,
        metadata={
            "help": "Let the learning rate rise from learning_rate / 25 to learning_rate and fall back once in that "
            "many epochs, in place of lr_scheduler_type."
        },
    )
    text_column: str = field(default="sentence", metadata={"help": "Column that holds the text."})
    text_pair_column: str | None = field(
        default=None, metadata={"help": "Column that holds the second text, for tasks on pairs."}
    )
    label_column: str = field(
        default="label", metadata={"help": "Column that holds the gold label; -1, -100 and null mean unlabelled."}
    )
    max_length: int = field(
        default=128, metadata={"help": "Tokens kept of a text or pair, special tokens included; at least 3."}
    )
    drop_evaluation_rows: bool = field(
        default=True,
        metadata={"help": "Leave out training rows whose text stands in the evaluation data too; they are counted."},
    )
    length_grouped_batches: bool = field(
        default=False,
        metadata={"help": "Make batches of texts of similar length: less padding, the same rows in every epoch."},
    )
    report_to: None | str | list[str] = field(
        default="none", metadata={"help": "The integrations that receive the logs, such as tensorboard; none, or all."}
    )

    def __post_init__(self):
        # Without this, accelerate 1.15 gives the processes of a launcher on a CPU machine one world each: every one of
        # them is the main process and trains alone. The device is asked for to fix that state now.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        # A launcher's choice, which accelerate would follow without a word here.
        launched_precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if launched_precision in ("bf16", "fp16") and not (self.bf16 or self.fp16):
            setattr(self, launched_precision, True)
        # transformers asks only whether the name ends in "loss", and would keep the worst checkpoint by some others.
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = is_better_when_greater(self.metric_for_best_model)
        super().__post_init__()
        self.device  # noqa: B018
        self.check()
        self._check_parts_of_losses()

    @property
    def distils_logits(self):
        """Whether the logit loss has a weight above 0 at some step."""
        return bool(self.logit_loss_weight or self.final_logit_loss_weight)

    @property
    def uses_hard_labels(self):
        """Whether the loss on gold labels has a weight above 0 at some step."""
        return bool(self.hard_label_weight or self.final_hard_label_weight)

    @property
    def distils_states(self):
        """Whether a match or a short form has a weight above 0 at some step, so that inner states are compared."""
        return bool(
            any(map(self.weights_of, _SHORT_FORMS))
            or any(match["weight"] or match["final_weight"] for match in self.matches or [])
        )

    def weights_of(self, short_form):
        """Return the first and the final weight of "hidden", "attention" or "relation"; `None` where both are 0."""
        weights = getattr(self, f"{short_form}_loss_weight"), getattr(self, f"final_{short_form}_loss_weight")
        return weights if any(weights) else None

    def check(self):
        """Refuse what cannot work, and bring `matches`, `layer_map` and what checkpointing needs into plain form.

        It is called at construction; call it again after setting attributes, as a hyper-parameter search does.

        Raises:
            ValueError: see the class.
        """
        self.matches = [asdict(match) for match in read_matches(self.matches)] or None
        self.layer_map = read_layer_map(self.layer_map)
        if self.gradient_checkpointing:
            # 4.57 would take the reentrant kind, under which relations carry no gradient. 5.x reads the second name.
            chosen = {"use_reentrant": False, **(self.gradient_checkpointing_kwargs or {})}
            self.gradient_checkpointing_kwargs = self.activation_checkpointing_kwargs = chosen
        self._check_numbers()
        self._check_losses()
        self._check_columns_and_lengths()
        self._check_training_options()

    def _check_parts_of_losses(self):
        # Not in `check`: a search may well set the weight of such a loss to 0.
        decoupled = self.logit_loss == "decoupled"
        relations = self.weights_of("relation") or any(match["what"] in RELATIONS for match in self.matches or [])
        used = [self.weights_of("hidden"), self.weights_of("attention"), relations, decoupled, decoupled]
        for (option, needed), is_used in zip(_PARTS_OF_A_LOSS.items(), used, strict=True):
            given = getattr(self, option)
            if not is_used and given != type(self).__dataclass_fields__[option].default:
                raise ValueError(
                    f"{option}={given!r} is part of a loss that is not asked for, so it would be ignored. It needs "
                    f"{needed}; otherwise leave it out."
                )

    def _check_numbers(self):
        for name, reason in _ABOVE_ZERO.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value}: {reason}, so it must be above 0 and finite.")
        for name in _WEIGHTS:
            weight = getattr(self, name)
            if weight is not None and not (math.isfinite(weight) and weight >= 0):
                raise ValueError(
                    f"{name}={weight}: a weight must be 0 or more and finite; a negative one would push the student "
                    "away from its target."
                )
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices and not (name == "logit_loss" and value is None):
                raise ValueError(f"{name}={value!r}: choose one of {', '.join(choices)}.")
        if self.relation_heads is not None and self.relation_heads < 1:
            raise ValueError(f"relation_heads={self.relation_heads}: it must be at least 1.")

    def _check_losses(self):
        if not (self.distils_logits or self.uses_hard_labels or self.distils_states):
            raise ValueError(
                "logit_loss_weight=0, hard_label_weight=0, hidden_loss_weight=0, attention_loss_weight=0, "
                "relation_loss_weight=0 and no match of weight above 0: the loss would be zero and nothing would be "
                "learned. Set one of them above 0."
            )
        if self.logit_loss == "decoupled" and not (self.target_class_weight or self.non_target_class_weight):
            raise ValueError(
                "target_class_weight=0 and non_target_class_weight=0 with logit_loss='decoupled': the logit loss "
                "would be zero. Set one of them above 0."
            )
        weights = self.teacher_weights
        if weights is not None and not (
            all(math.isfinite(weight) and weight >= 0 for weight in weights) and any(weights)
        ):
            raise ValueError(
                f"teacher_weights={weights}: each must be 0 or more and finite, and one of them above 0, or there "
                "would be no mean of the teachers."
            )
        if self.teacher_average == "probabilities" and self.logit_loss == "mse":
            raise ValueError(
                "teacher_average='probabilities' with logit_loss='mse': a mean of probabilities says nothing of the "
                "size of the logits, which mse compares. Take teacher_average='logits', or another logit_loss."
            )
        if not 0 <= self.label_smoothing_factor < 1:
            raise ValueError(f"label_smoothing_factor={self.label_smoothing_factor}: it must be in [0, 1).")
        if self.label_smoothing_factor and not self.uses_hard_labels:
            raise ValueError(
                f"label_smoothing_factor={self.label_smoothing_factor} with hard_label_weight=0: smoothing acts on "
                "gold labels only, so it would be ignored. Set hard_label_weight above 0, or leave smoothing out."
            )

    def _check_columns_and_lengths(self):
        if self.text_pair_column == self.text_column:
            raise ValueError(
                f"text_pair_column={self.text_pair_column!r} is text_column too: every text would be paired with "
                "itself. Name another column, or leave it out."
            )
        if self.max_length < 3:
            raise ValueError(
                f"max_length={self.max_length}: special tokens count too, so fewer than 3 would leave no text."
            )
        # Each version of transformers has one of the two, under another name.
        other_order = getattr(self, "group_by_length", False) or (
            getattr(self, "train_sampling_strategy", "random") != "random"
        )
        if self.length_grouped_batches and other_order:
            raise ValueError(
                "length_grouped_batches=True together with group_by_length or train_sampling_strategy: only one of "
                "them can order the rows. Keep one."
            )

    def _check_training_options(self):
        if self.fp16 and self.device.type == "cpu":
            raise ValueError(
                "fp16=True on a CPU, which has no mixed precision of that kind: accelerate would train in float32 "
                "without a word. Take bf16=True, or leave it out."
            )
        if self.use_liger_kernel:
            raise ValueError(
                "use_liger_kernel=True: Liger replaces the loss of language models and would go around the "
                "distillation loss. Leave it out."
            )
        if self.gradient_checkpointing and self.distils_states and self.gradient_checkpointing_kwargs["use_reentrant"]:
            raise ValueError(
                "gradient_checkpointing_kwargs={'use_reentrant': True} with a loss on inner states: layers run "
                "without gradients first then, and what is read inside of them (attention maps, queries) would teach "
                "nothing. Take {'use_reentrant': False}."
            )
        # 4.57 has warmup_ratio too.
        warmup = self.warmup_steps or getattr(self, "warmup_ratio", 0)
        if self.epochs_per_cycle is not None and (warmup or self.lr_scheduler_type != SchedulerType.LINEAR):
            raise ValueError(
                f"epochs_per_cycle={self.epochs_per_cycle} with warmup_steps={warmup} and lr_scheduler_type="
                f"{self.lr_scheduler_type.value!r}: the cycles are a schedule of their own, which rises by itself, "
                "and the other one would be ignored. Leave out warm-up and lr_scheduler_type, or epochs_per_cycle."
            )


def is_better_when_greater(metric):
    """Return whether a metric that a `DistillationTrainer` reports is the better the greater it is.

    Args:
        metric (`str`): its name, with or without `eval_` and the name of a data set: "loss", "eval_perplexity".
    """
    return not metric.endswith("loss") and metric.rsplit("_", 1)[-1] not in ("perplexity", "mse")
