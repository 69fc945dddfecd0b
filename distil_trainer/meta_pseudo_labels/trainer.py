"""`MetaPseudoLabelsTrainer`: the teacher labels, the student learns, and what the student gained moves the teacher.

Paper: Pham et al. 2020, https://arxiv.org/abs/2003.10580.
"""

import os

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import SaveStrategy

from distil_trainer.collator import DistillationCollator
from distil_trainer.data_preparation import datasets_by_name
from distil_trainer.input_checks import padding_side
from distil_trainer.meta_pseudo_labels.arguments import MetaPseudoLabelsArguments
from distil_trainer.meta_pseudo_labels.checks import check_meta_pseudo_labels, check_supervised_steps
from distil_trainer.meta_pseudo_labels.data import (
    REWRITTEN,
    LabelledBatches,
    LearningData,
    RewrittenCollator,
    drop_rewritten_leaks,
)
from distil_trainer.meta_pseudo_labels.feedback import Baseline, draw_uniforms, sample_pseudo_labels
from distil_trainer.meta_pseudo_labels.last_phase import last_phase_arguments
from distil_trainer.meta_pseudo_labels.objective import PseudoLabelObjective
from distil_trainer.meta_pseudo_labels.student import StudentMeasure
from distil_trainer.meta_pseudo_labels.teacher import LearningTeacher
from distil_trainer.term_means import TermMeans
from distil_trainer.trainer import DistillationTrainer

_TEACHER_FOLDER = "teacher"


class MetaPseudoLabelsTrainer(DistillationTrainer):
    """Train a student on labels that a teacher draws, and the teacher on what each of its draws did to the student.

    In every optimizer step:

    1. The teacher draws a label for each unlabelled row, and the student makes a step on them, as `Trainer` does it.
    2. The student's loss on a batch of labelled rows, before that step minus after it, is the feedback; a moving
       average of earlier feedback is taken from it.
    3. The teacher makes a step down `feedback_weight · feedback · CE(pseudo-labels) + CE(labels) + λ · consistency`,
       with an optimizer of its own. It learns in place: `teacher` is the adapted model afterwards.

    `fine_tune_student` is the last phase: the student learns from the labelled rows alone.

    Each row of a step counts the same, and draws the same number, however the step is cut into batches and processes.
    A resumed run is the uninterrupted one, bit by bit: checkpoints hold the teacher (folder `teacher`, a model folder
    of its own), its optimizer and the moving average. `save_model` writes the teacher beside the student too, and
    `load_best_model_at_end` takes both from the best checkpoint.

    Single-label classification alone. `model_init`, and with it hyper-parameter search, is not there: a second trial
    would begin with the teacher that the first one left.

    Args:
        model (`PreTrainedModel`): the student.
        args (`MetaPseudoLabelsArguments`): the arguments.
        train_dataset (`Dataset`): unlabelled texts; labels are not read unless `hard_label_weight` is above 0.
        eval_dataset (`Dataset` or `dict[str, Dataset]`, *optional*): rows to evaluate the student on.
        processing_class (`PreTrainedTokenizerBase`): the student's tokenizer.
        teacher (`PreTrainedModel`): one classifier, in float32, with weights that require gradients. Best trained on
            the labelled rows before.
        teacher_processing_class (`PreTrainedTokenizerBase`, *optional*): its tokenizer, where it is not the student's.
        labelled_dataset (`Dataset`): texts with gold labels, all labelled.
        data_collator, compute_metrics, callbacks, optimizers, preprocess_logits_for_metrics: as in
            `DistillationTrainer`; `optimizers` are the student's.

    Raises:
        TypeError: if `args` or a data set is of the wrong type.
        ValueError: if something is missing or does not fit; always before the first step.

    Example:

    ```python
    args = MetaPseudoLabelsArguments("out", max_steps=1000, teacher_learning_rate=1e-5)
    trainer = MetaPseudoLabelsTrainer(student, args, train_dataset=unlabelled, eval_dataset=validation,
    processing_class=tokenizer, teacher=teacher, labelled_dataset=labelled)
    trainer.train()
    trainer.fine_tune_student().evaluate()
    ```
    """

    def __init__(
        self,
        model,
        args,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        teacher=None,
        teacher_processing_class=None,
        labelled_dataset=None,
        data_collator=None,
        compute_metrics=None,
        callbacks=None,
        optimizers=(None, None),
        preprocess_logits_for_metrics=None,
    ):
        if not isinstance(args, MetaPseudoLabelsArguments):
            raise TypeError(f"args is a {type(args).__name__}, but must be a `MetaPseudoLabelsArguments`.")
        teachers = [] if teacher is None else [*teacher] if isinstance(teacher, list | tuple) else [teacher]
        check_meta_pseudo_labels(model, teachers, args, train_dataset, labelled_dataset)
        if args.augmented_text_column is not None:
            evaluation_datasets = [*datasets_by_name(eval_dataset).values()]
            train_dataset = drop_rewritten_leaks(train_dataset, evaluation_datasets, args)
        super().__init__(
            model,
            args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            teacher=teachers,
            teacher_processing_class=teacher_processing_class,
            data_collator=data_collator,
            compute_metrics=compute_metrics,
            callbacks=[_Steps(self), *(callbacks or [])],
            optimizers=optimizers,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        self._given_labelled_dataset = labelled_dataset
        self._given_collator = data_collator
        self._given_metrics = (compute_metrics, preprocess_logits_for_metrics)
        self._drawn = None  # a list within an optimizer step
        self._objective = PseudoLabelObjective(args, self._task, self._draw)
        self._measure = StudentMeasure(self.model, args, self.accelerator.reduce)
        self._baseline = Baseline(args.feedback_momentum)
        self._means, self._means_of_drawn = TermMeans(), TermMeans()
        self._prepare_learning_data(teachers)

    def fine_tune_student(self):
        """Train the student on the labelled rows alone: the last phase, after `train`, in the folder `fine_tuning`.

        It has an optimizer and a log of its own, no warm-up and no callbacks, and keeps the last weights. Order and
        dropout aside, nothing is drawn; the teacher is not asked.

        Returns:
            `DistillationTrainer`: of that phase, for its `evaluate`, `save_model` and `state.log_history`.

        Reference:
            Pham et al. 2020, https://arxiv.org/abs/2003.10580, section 2: the student is fine-tuned on
            labelled data last, because it has seen none until then.
        """
        compute_metrics, preprocess_logits = self._given_metrics
        args = last_phase_arguments(
            self.args,
            output_dir=os.path.join(self.args.output_dir, "fine_tuning"),
            save_strategy=SaveStrategy.NO,
            push_to_hub=False,
        )
        trainer = DistillationTrainer(
            self.model,
            args,
            train_dataset=self._given_labelled_dataset,
            eval_dataset=self._given[1],
            processing_class=self.processing_class,
            data_collator=self._given_collator,
            compute_metrics=compute_metrics,
            preprocess_logits_for_metrics=preprocess_logits,
        )
        trainer.train()
        return trainer

    def log(self, logs, start_time=None):
        """Add to a training log what the teacher learned, and what of, since the last one."""
        if "loss" in logs:
            means = {**self._means.take(self.accelerator.reduce), **self._means_of_drawn.take(self.accelerator.reduce)}
            logs = {**logs, **means, "teacher_learning_rate": self.teacher.learning_rate}
        super().log(logs, start_time)

    def get_batch_samples(self, *args):
        batches, self._num_drawn = super().get_batch_samples(*args)
        return batches, self._num_drawn

    def create_scheduler(self, num_training_steps, optimizer=None):
        (teacher,) = self._teachers
        check_supervised_steps(self.args, num_training_steps)
        self.teacher.begin(num_training_steps, decayed=set(self.get_decay_parameter_names(teacher)))
        self._baseline = Baseline(self.args.feedback_momentum)
        return super().create_scheduler(num_training_steps, optimizer)

    def _fit_together(self):
        (teacher,) = self._teachers
        self.teacher = LearningTeacher(teacher, self.args, own_tokens=self._own_tokens, accelerator=self.accelerator)
        super()._fit_together()

    def _prepare_learning_data(self, teachers):
        args, own_tokens = self.args, self._own_tokens
        train_dataset, eval_dataset, tokenizer, _, teacher_tokenizer = self._given
        data = LearningData(
            args, self.model, tokenizer, teachers=teachers, teacher_tokenizer=teacher_tokenizer if own_tokens else None
        )
        self._labelled = LabelledBatches(
            data.labelled(self._given_labelled_dataset, [*datasets_by_name(eval_dataset).values()]),
            self.data_collator,
            rows_per_step=args.labelled_batch_size,
            rows_per_batch=args.train_batch_size,
            seed=args.seed if args.data_seed is None else args.data_seed,
            process_index=args.process_index,
            num_processes=args.world_size,
        )
        if args.augmented_text_column is not None:
            self.train_dataset = data.with_rewritten(self.train_dataset, train_dataset)
            reader = teacher_tokenizer if own_tokens else tokenizer
            pads = DistillationCollator(reader, padding_side=padding_side(teachers[0].config))
            self.data_collator = RewrittenCollator(self.data_collator, pads)

    def _set_signature_columns_if_needed(self):
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            self._signature_columns += [f"{REWRITTEN}{name}" for name in sorted(self.teacher.input_names)]

    def _draw(self, batch, teacher_logits):
        args, first = self.args, 0
        if self._drawn is not None:
            # The place of the batch's first row in the step. Whatever deals out the batches, process after process
            # gets one, and then each gets its next.
            first = (len(self._drawn) * args.world_size + args.process_index) * self._train_batch_size
        uniforms = draw_uniforms(args.seed, self.state.global_step, first + len(teacher_logits))[first:]
        uniforms = torch.from_numpy(uniforms).to(teacher_logits.device, torch.float32)
        pseudo_labels = sample_pseudo_labels(teacher_logits, uniforms)
        if self._drawn is not None:
            self._drawn.append((batch, pseudo_labels))
        return pseudo_labels

    def _release(self):
        super()._release()
        self._drawn = None  # `compute_loss` may be called outside of a training too

    def _before_student_step(self):
        batches = self._labelled(self.state.global_step)
        self._labelled_batches = [self._prepare_inputs(batch) for batch in batches]
        self._measure.before_step(self._labelled_batches, self._labelled.num_rows)

    def _after_student_step(self):
        args, step = self.args, self.state.global_step
        labelled = (self._labelled_batches, self._labelled.num_rows)
        drawn = (self._drawn, self._num_drawn)
        measured = self._measure.after_step(*labelled, *drawn)
        feedback = self._baseline.centre(measured["feedback"])
        supervised = step < args.teacher_supervised_steps
        terms = self.teacher.learn(*drawn, *labelled, None if supervised else feedback, self._consistency_weight(step))
        always = {name: terms.pop(name) for name in ("teacher_label_cross_entropy",)}
        self._means.add({**measured, "centred_feedback": feedback, **always}, share=1.0, num_batches=1)
        if terms:
            self._means_of_drawn.add(terms, share=1.0, num_batches=1)
        self._drawn = None

    def _consistency_weight(self, step):
        # It rises from the first step that has it, and is whole at the end of the ramp.
        args, begin = self.args, self.args.teacher_supervised_steps
        ramp = max(1.0, args.consistency_ramp_share * (self.state.max_steps - begin))
        return args.consistency_weight * min(1.0, (step - begin + 1) / ramp)

    def _save(self, output_dir=None, state_dict=None):
        super()._save(output_dir, state_dict)
        # transformers 5 calls this in every process, 4.57 in the one that saves.
        if self.args.should_save:
            folder = self.args.output_dir if output_dir is None else output_dir
            self.teacher.save(os.path.join(folder, _TEACHER_FOLDER), self._given[4] or self.processing_class)

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            self.teacher.save_state(output_dir, baseline=self._baseline.state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.teacher.load(os.path.join(checkpoint, _TEACHER_FOLDER))
            self._baseline.load_state_dict(self.teacher.load_state(checkpoint)["baseline"])

    def _load_best_model(self):
        super()._load_best_model()
        self.teacher.load(os.path.join(self.state.best_model_checkpoint, _TEACHER_FOLDER))


class _Steps(TrainerCallback):
    # The moments of an optimizer step that `Trainer` tells of: before its first batch, and right before and after the
    # optimizer moves the student, when nothing has been logged, evaluated or saved yet.
    def __init__(self, trainer):
        self._trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        # An earlier training may have been cut off between two logs.
        self._trainer._means.reset()
        self._trainer._means_of_drawn.reset()

    def on_step_begin(self, args, state, control, **kwargs):
        self._trainer._drawn = []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self._trainer._before_student_step()

    def on_optimizer_step(self, args, state, control, **kwargs):
        self._trainer._after_student_step()
