"""What a `DistillationTrainer` does at certain moments of its training, besides what `Trainer` does."""

import logging

import torch
from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback

from distil_trainer.preflight import check_distillation, findings_table

logger = logging.getLogger(__name__)


class TrainingEvents(TrainerCallback):
    """Begin reading states, run the pre-flight checks, tell the sampler its epoch, and look after projections.

    Args:
        trainer (`DistillationTrainer`): whose training it is.
    """

    def __init__(self, trainer):
        self._trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        trainer = self._trainer
        trainer._term_means.reset()  # an earlier training may have been cut off between two logs
        trainer._student_reader.attach()
        if trainer.teacher is not None:
            trainer.teacher.attach()
        refused = []
        if trainer.is_world_process_zero():
            findings = check_distillation(trainer.model, args, *trainer._given)
            logger.info("Before the first step:\n%s", findings_table(findings))
            for finding in findings:
                if finding.status == "warning":
                    logger.warning("%s: %s", finding.check, finding.message)
            refused = [f"{finding.check}: {finding.message}" for finding in findings if finding.status == "refused"]
            warmup_steps = args.get_warmup_steps(state.max_steps)
            if warmup_steps >= state.max_steps:
                logger.warning(
                    "The learning rate rises for %d steps, and there are %d: it never reaches %g, and never falls. "
                    "Give fewer warmup_steps, or more steps.",
                    warmup_steps,
                    state.max_steps,
                    args.learning_rate,
                )
        # One process has looked, and all must stop, or the others would wait for it for ever.
        (refused,) = broadcast_object_list([refused])
        if refused:
            raise ValueError("\n".join(["Refused before the first step.", *refused]))

    def on_epoch_begin(self, args, state, control, **kwargs):
        # transformers 5 skips the rows that a resumed run has seen before it tells the sampler the epoch, and in a
        # multi-process run the news then does not arrive: the order would be that of epoch 0.
        if self._trainer._train_sampler is not None:
            self._trainer._train_sampler.set_epoch(int(state.epoch or 0))

    # `Trainer` clears and clips the gradients of the student; the projections' are clipped by themselves, so that the
    # student's step is the same with and without them.
    def on_step_begin(self, args, state, control, **kwargs):
        if self._trainer._projections is not None:
            self._trainer._projections.zero_grad()

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if self._trainer._projections is not None and args.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self._trainer._projections.parameters(), args.max_grad_norm)
