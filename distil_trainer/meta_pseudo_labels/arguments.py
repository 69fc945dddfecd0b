"""The arguments of Meta Pseudo Labels: what `DistillationArguments` hold, and how the teacher learns."""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from distil_trainer.arguments import DistillationArguments

StudentTargets = Literal["sampled", "soft"]
Feedback = Literal["difference", "dot_product"]
TeacherSchedule = Literal["linear", "cosine", "constant_with_warmup"]

_CHOICES = {
    "student_targets": get_args(StudentTargets),
    "feedback": get_args(Feedback),
    "teacher_lr_scheduler_type": get_args(TeacherSchedule),
}
# name -> lowest value, whether that itself is allowed, highest value (itself allowed)
_RANGES = {
    "labelled_batch_size": (1, True, math.inf),
    "feedback_weight": (0, True, math.inf),
    "teacher_learning_rate": (0, False, math.inf),
    "teacher_weight_decay": (0, True, math.inf),
    "teacher_warmup_steps": (0, True, math.inf),
    "teacher_supervised_steps": (0, True, math.inf),
    "consistency_weight": (0, True, math.inf),
    "consistency_ramp_share": (0, True, 1),
    "fine_tuning_epochs": (0, False, math.inf),
    "fine_tuning_learning_rate": (0, False, math.inf),
}


@dataclass
class MetaPseudoLabelsArguments(DistillationArguments):
    """`DistillationArguments` plus what Meta Pseudo Labels add: labelled rows, the feedback, how the teacher learns.

    `learning_rate`, `weight_decay`, `warmup_steps` and the like are the student's; those of the teacher begin with
    `teacher_`. Adam's betas and `max_grad_norm` hold for both.

    Raises:
        ValueError: if a number is out of range, or an option is set that would be ignored, or one that was never tried
            with a teacher that learns.
    """

    student_targets: StudentTargets = field(
        default="sampled",
        metadata={
            "help": "What the student learns: sampled, labels drawn from the teacher; soft, its probabilities through "
            "logit_loss, while the feedback comes from a trial step on drawn labels."
        },
    )
    labelled_batch_size: int = field(
        default=32,
        metadata={"help": "Labelled rows in each step, over all processes; all of them where there are fewer."},
    )
    feedback: Feedback = field(
        default="difference",
        metadata={
            "help": "How the student's step is judged: difference of its labelled loss before and after, or "
            "dot_product of that loss's gradient with the step."
        },
    )
    feedback_weight: float = field(
        default=1.0,
        metadata={
            "help": "Weight of the feedback in the teacher's loss: 1 is the paper's; the number of rows in a step "
            "makes it the gradient of the student's expected labelled loss; 0 leaves it out."
        },
    )
    feedback_momentum: float = field(
        default=0.99,
        metadata={"help": "What stays at each step of the moving average that is taken from the feedback; below 1."},
    )
    teacher_learning_rate: float = field(default=5e-5, metadata={"help": "Learning rate of the teacher's AdamW."})
    teacher_weight_decay: float = field(default=0.0, metadata={"help": "Weight decay of the teacher's AdamW."})
    teacher_lr_scheduler_type: TeacherSchedule = field(
        default="linear", metadata={"help": "Schedule of the teacher's learning rate."}
    )
    teacher_warmup_steps: int = field(
        default=0, metadata={"help": "Steps in which the teacher's learning rate rises from 0."}
    )
    teacher_supervised_steps: int = field(
        default=0, metadata={"help": "Steps at the beginning in which the teacher learns from labelled rows alone."}
    )
    consistency_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of the teacher's answer to a rewritten text against its answer to the text itself."},
    )
    consistency_ramp_share: float = field(
        default=0.5, metadata={"help": "Share of the training over which that weight rises from 0, linearly."}
    )
    augmented_text_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the rewritten text of each row, which consistency_weight needs. Of pairs, the first "
            "text is rewritten."
        },
    )
    fine_tuning_epochs: float = field(
        default=3.0, metadata={"help": "Epochs over the labelled rows in the student's last phase, fine_tune_student."}
    )
    fine_tuning_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of that phase; learning_rate by default."}
    )

    def check(self):
        """Refuse what cannot work; see `DistillationArguments.check`.

        Raises:
            ValueError: see the class.
        """
        self._check_running()
        super().check()
        self._check_feedback()
        self._check_student()
        self._check_consistency()

    def _check_running(self):
        if self.fp16:
            raise ValueError(
                "fp16=True: half precision scales the loss, and skips steps that overflow, for one optimizer. Here "
                "are two, and the feedback of a skipped step would be taken for that of a step. Take bf16=True, or "
                "leave it out."
            )
        if self.auto_find_batch_size:
            raise ValueError(
                "auto_find_batch_size=True: where memory is short the training would begin anew with smaller batches "
                "of unlabelled rows, while the labelled ones stay as large, and feedback_weight would be set for more "
                "rows than a step has. Lower per_device_train_batch_size, which holds for both; with a greater "
                "gradient_accumulation_steps a step keeps its rows."
            )

    def _check_feedback(self):
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(choices)}.")
        for name, (lowest, itself, highest) in _RANGES.items():
            value = getattr(self, name)
            if value is None:
                continue
            above = value >= lowest if itself else value > lowest
            if not (above and value <= highest and math.isfinite(value)):
                bounds = f"{'at least' if itself else 'above'} {lowest}" + (f" and at most {highest}" * (highest == 1))
                raise ValueError(f"{name}={value}: it must be {bounds}, and finite.")
        if not 0 <= self.feedback_momentum < 1:
            raise ValueError(
                f"feedback_momentum={self.feedback_momentum}: it must be in [0, 1); at 1 no feedback would ever enter "
                "the average."
            )

    def _check_student(self):
        if self.student_targets == "sampled" and self.logit_loss is not None:
            raise ValueError(
                f"logit_loss={self.logit_loss!r} with student_targets='sampled': the student learns drawn labels, by "
                "cross-entropy, so it would be ignored. Leave logit_loss out, or take student_targets='soft'."
            )
        default = type(self).__dataclass_fields__["temperature"].default
        if self.student_targets == "sampled" and (self.temperature != default or self.final_temperature is not None):
            raise ValueError(
                f"temperature={self.temperature} and final_temperature={self.final_temperature} with "
                "student_targets='sampled': labels are drawn at temperature 1, since the feedback is on the teacher's "
                "own distribution, so they would be ignored. Leave them out, or take student_targets='soft'."
            )
        if self.distils_states:
            raise ValueError(
                "A loss on hidden states, attentions or relations is asked for: those of a teacher that learns were "
                "never tried as a target. Leave these losses out, or train with DistillationTrainer."
            )

    def _check_consistency(self):
        if bool(self.consistency_weight) != (self.augmented_text_column is not None):
            raise ValueError(
                f"consistency_weight={self.consistency_weight} with augmented_text_column="
                f"{self.augmented_text_column!r}: the one needs the other, or it would be ignored. Set both, or "
                "neither."
            )
        if self.augmented_text_column is not None and self.augmented_text_column == self.text_column:
            raise ValueError(
                f"augmented_text_column={self.augmented_text_column!r} is text_column too: the teacher would be asked "
                "to agree with itself on one text. Name the column of the rewritten texts."
            )
