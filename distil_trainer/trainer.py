"""`DistillationTrainer`: a `Trainer` whose loss compares the student's logits and inner states with a teacher's.

Reference: Hinton et al. 2015, https://arxiv.org/abs/1503.02531; each further loss names its paper in `losses`.
"""

import math

import torch
from transformers import Trainer
from transformers.modeling_outputs import SequenceClassifierOutput

from distil_trainer.arguments import DistillationArguments
from distil_trainer.collator import DistillationCollator
from distil_trainer.compatibility import (
    check_not_sharded,
    match_teacher_labels,
    name_student_labels,
    set_label_names,
    teacher_label_names,
)
from distil_trainer.data_preparation import TEACHER_COLUMNS, DataPreparation
from distil_trainer.inference import forward_names, padding_side
from distil_trainer.interruption import SaveOnInterrupt
from distil_trainer.labels import model_label_names
from distil_trainer.matches import states_of
from distil_trainer.matching import plan_matches, projection_widths
from distil_trainer.objective import DistillationObjective, Signals, gold_label_loss
from distil_trainer.preflight import check_models_and_data, reads_own_tokens
from distil_trainer.projections import Projections, load_projections, save_projections
from distil_trainer.sampler import EpochSampler
from distil_trainer.schedules import cyclic_schedule
from distil_trainer.states import StateReader, head_token, model_shape
from distil_trainer.tasks import problem_type
from distil_trainer.teachers import OnlineTeacher
from distil_trainer.training_data import check_dataset, token_lengths
from distil_trainer.training_events import TrainingEvents

# States of a whole row, which need no alignment of tokens.
_ROW_STATES = ("cls_states", "pooled_states")


class DistillationTrainer(Trainer):
    """Train a small text classifier to answer, and if asked to work inside, like a large one.

    The loss is `logit_loss_weight · logit loss + hard_label_weight · gold-label loss + Σ weight · match`, where the
    matches compare hidden states, attention maps, self-attention relations or pooled states (see
    `DistillationArguments.matches` and its short forms). Every term of weight above 0 is logged by name, unweighted.
    Evaluation never needs a teacher: its loss is the task's own on gold labels, and there is none where the rows are
    unlabelled.

    The student's `problem_type` decides the task: one label a row, several (sigmoid), or a score. Data sets hold
    texts, which are tokenized once, or `input_ids`. Teacher logits come from the column `teacher_logits` (see
    `TeacherLabeler`) or from `teacher`, never both. Label orders are matched by name: the teacher's names are those of
    the `ClassLabel` column `teacher_label` or of `teacher.config`, the gold labels' those of `label_column`. A student
    with placeholder names (`LABEL_0`, ...) gets the teacher's names, or else the data's.

    Ctrl-C finishes the step under way, saves a checkpoint and stops.

    Args:
        model (`PreTrainedModel`): the student, a sequence classifier in float32; `None` with `model_init`.
        args (`DistillationArguments`): what `TrainingArguments` hold, and the losses, their weights, the columns.
        train_dataset (`Dataset`, *optional*): rows to learn from; labels are optional.
        eval_dataset (`Dataset` or `dict[str, Dataset]`, *optional*): rows to evaluate on.
        processing_class (`PreTrainedTokenizerBase`, *optional*): the student's tokenizer; needed unless the data sets
            have `input_ids` and `data_collator` is given.
        teacher (`PreTrainedModel` or `list[PreTrainedModel]`, *optional*): computes logits and states in every step;
            put into evaluation mode and frozen. Several teach by the mean of their logits (`teacher_weights`,
            `teacher_average`).
        teacher_processing_class (`PreTrainedTokenizerBase`, *optional*): the teachers' tokenizer, where it is not the
            student's. Losses on single tokens then compare words: tokens are pooled to the words they lie in.
        data_collator (`Callable`, *optional*, defaults to `DistillationCollator(processing_class)`): makes the
            batches.
        compute_metrics (`Callable`, *optional*): by default the metrics of the task, see `metrics_for`.
        callbacks, model_init, optimizers, preprocess_logits_for_metrics: as in `Trainer`.

    Raises:
        TypeError: if `args` or a data set is of the wrong type.
        ValueError: if the data sets, the teacher, the student and the losses do not fit together; always before the
            first step.

    Example:

    ```python
    args = DistillationArguments("out", temperature=2.0, hidden_loss_weight=1.0)
    trainer = DistillationTrainer(student, args, train_dataset=train, eval_dataset=validation,
    processing_class=tokenizer, teacher=teacher)
    trainer.train()
    ```
    """

    # Read by transformers 5, where it says what `model_accepts_loss_kwargs` (below) says to 4.57.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model,
        args,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        teacher=None,
        teacher_processing_class=None,
        data_collator=None,
        compute_metrics=None,
        callbacks=None,
        model_init=None,
        optimizers=(None, None),
        preprocess_logits_for_metrics=None,
    ):
        if not isinstance(args, DistillationArguments):
            raise TypeError(f"args is a {type(args).__name__}, but must be a `DistillationArguments`.")
        if data_collator is None and processing_class is None:
            raise ValueError("processing_class=None: pass the student's tokenizer, which pads the batches.")
        teachers = [] if teacher is None else [*teacher] if isinstance(teacher, list | tuple) else [teacher]
        check_not_sharded(args, bool(teachers))
        self._given_label_names = None
        self._planned = False
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            model_init=model_init,
            compute_metrics=compute_metrics or self._metrics,
            callbacks=[TrainingEvents(self), *(callbacks or [])],
            optimizers=optimizers,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        # Otherwise the loss is not divided by the accumulated batches, and gradients grow with their number.
        self.model_accepts_loss_kwargs = False
        self._train_sampler = None
        self._term_sums, self._num_summed = {}, 0
        self._projections = self._project = None
        self._own_tokens = reads_own_tokens(self.model, processing_class, teachers, teacher_processing_class)
        if data_collator is None:
            self.data_collator = DistillationCollator(
                processing_class,
                teacher_processing_class if self._own_tokens else None,
                padding_side=padding_side(self.model.config),
                teacher_padding_side=padding_side(teachers[0].config) if teachers else None,
            )
        eval_datasets = eval_dataset if isinstance(eval_dataset, dict) else {"eval_dataset": eval_dataset}
        eval_datasets = {name: dataset for name, dataset in eval_datasets.items() if dataset is not None}
        check_models_and_data(self.model, args, train_dataset, eval_datasets, teachers, self._own_tokens)
        self._task = problem_type(self.model.config)
        permutations = self._match_labels(train_dataset, eval_datasets, teachers)
        self._cached_permutation = None if teachers else permutations[0]
        self.teacher = None
        if teachers:
            self.teacher = OnlineTeacher(
                teachers,
                prepare=lambda each: self.accelerator.prepare_model(each, evaluation_mode=True),
                permutations=permutations,
                weights=args.teacher_weights,
                average=args.teacher_average,
                task=self._task,
                own_tokens=self._own_tokens,
            )
        self._student_inputs = forward_names(self.model)
        self._plan_losses(self.model)
        self._preparation = DataPreparation(
            args,
            self.model,
            processing_class,
            teachers=teachers,
            teacher_tokenizer=teacher_processing_class if self._own_tokens else None,
            align_words=self._own_tokens and any(match.what not in _ROW_STATES for match in self._matches),
        )
        self._given = (train_dataset, eval_dataset, processing_class, teacher, teacher_processing_class)
        if train_dataset is not None:
            self.train_dataset = self._preparation.training(train_dataset, eval_datasets.values())
        prepared = {name: self._preparation.evaluation(dataset, name) for name, dataset in eval_datasets.items()}
        self._prepared_eval_datasets = list(prepared.values())
        if eval_dataset is not None:
            self.eval_dataset = prepared if isinstance(eval_dataset, dict) else prepared["eval_dataset"]

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None):
        """Train as `Trainer.train` does; Ctrl-C finishes the step under way and saves a checkpoint.

        Raises:
            KeyboardInterrupt: after an interrupted training.
        """
        interruption = SaveOnInterrupt(self.accelerator)
        self.add_callback(interruption)
        try:
            with interruption:
                return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            self.remove_callback(interruption)
            self._student_reader.detach()
            if self.teacher is not None:
                self.teacher.reader.detach()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Compute the distillation loss in training mode, the task's loss on gold labels in evaluation mode.

        Args:
            model (`torch.nn.Module`): the student, as accelerate wrapped it.
            inputs (`dict[str, torch.Tensor]`): a batch of the collator.
            return_outputs (`bool`, *optional*, defaults to `False`): return the logits too.
            num_items_in_batch (`int`, *optional*): not read: the loss is a mean over rows, and `Trainer` divides it by
                the number of accumulated batches.

        Returns:
            `torch.Tensor`, a scalar, or `tuple[torch.Tensor, SequenceClassifierOutput]`.
        """
        student_inputs = {name: value for name, value in inputs.items() if name in self._student_inputs}
        if model.training:
            outputs = model(**student_inputs, **self._student_reader.forward_arguments)
            loss = self._distillation_loss(outputs, inputs)
        else:
            outputs = model(**student_inputs)
            loss = gold_label_loss(self._task, outputs.logits, inputs["labels"])
        if return_outputs:
            return loss, SequenceClassifierOutput(loss=loss, logits=outputs.logits)
        return loss

    def log(self, logs, start_time=None):
        """Add to a training log the mean of each loss term since the last one, over batches and processes."""
        if "loss" in logs and self._num_summed:
            means = torch.stack(list(self._term_sums.values())) / self._num_summed
            means = self.accelerator.reduce(means, reduction="mean").tolist()
            logs = {**logs, **dict(zip(self._term_sums, means, strict=True))}
            if self.args.final_temperature is not None:
                logs["temperature"] = self._temperature
            self._term_sums, self._num_summed = {}, 0
        super().log(logs, start_time)

    def get_eval_dataloader(self, eval_dataset=None):
        # `evaluate` passes `self.eval_dataset` itself, which is prepared already.
        prepared = any(eval_dataset is dataset for dataset in self._prepared_eval_datasets)
        if eval_dataset is not None and not isinstance(eval_dataset, str) and not prepared:
            check_dataset(eval_dataset, "eval_dataset")
            eval_dataset = self._preparation.evaluation(eval_dataset, "eval_dataset")
        return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset):
        check_dataset(test_dataset, "test_dataset")
        labelled = self._preparation.is_labelled(test_dataset)
        return super().get_test_dataloader(self._preparation.evaluation(test_dataset, "test_dataset", labelled))

    def call_model_init(self, trial=None):
        model = super().call_model_init(trial)
        if self._given_label_names:
            set_label_names(model, self._given_label_names)
        return model

    def create_optimizer(self, *args):
        # transformers 5 passes the model.
        created = self.optimizer is None
        if created and self.model_init is not None:
            # There is a new model, and hyper-parameter search has changed the arguments by now: transformers 5 does so
            # after `call_model_init`.
            self.args.check()
            self._plan_losses(self.model)
        optimizer = super().create_optimizer(*args)
        if created:
            self._projections = self._project = None
            if self._projected_widths:
                self._projections = Projections(self._projected_widths, self.args.seed).to(self.args.device)
                self._project = self.accelerator.prepare_model(self._projections)
                learning_rate = self.args.projection_learning_rate or self.args.learning_rate
                optimizer.add_param_group(
                    {"params": list(self._projections.parameters()), "lr": learning_rate, "weight_decay": 0.0}
                )
        return optimizer

    def create_scheduler(self, num_training_steps, optimizer=None):
        if self.args.epochs_per_cycle is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            whole = math.floor if self.args.dataloader_drop_last else math.ceil
            batches = whole(len(self.train_dataset) / (self._train_batch_size * self.args.world_size))
            steps_per_epoch = math.ceil(batches / self.args.gradient_accumulation_steps)
            steps_per_cycle = round(self.args.epochs_per_cycle * steps_per_epoch)
            self.lr_scheduler = cyclic_schedule(optimizer or self.optimizer, steps_per_cycle)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _distillation_loss(self, outputs, inputs):
        progress = min(1.0, self.state.global_step / max(1, self.state.max_steps - 1))
        self._temperature = self._objective.temperature(progress)
        student = Signals(
            outputs.logits, self._student_reader.read(outputs), inputs["attention_mask"], self._student_head_token
        )
        teacher = None
        if self.teacher is not None:
            teacher = self.teacher(inputs, self._temperature)
        elif "teacher_logits" in inputs:
            logits = inputs["teacher_logits"]
            if self._cached_permutation is not None:
                logits = logits[:, self._cached_permutation]
            teacher = Signals(logits, {}, None, None)
        loss, terms = self._objective(student, teacher, inputs, self._project, progress)
        for name, term in terms.items():
            self._term_sums[name] = self._term_sums.get(name, 0) + term
        self._num_summed += 1
        return loss

    def _plan_losses(self, student):
        """Settle which terms there are; every model that `model_init` makes is planned for anew."""
        self._matches, self._projected_widths, wanted = [], {}, set()
        if self.args.distils_states and self.teacher is not None:
            shapes = self.teacher.shape, model_shape(student.config)
            self._matches = plan_matches(self.args, *shapes)
            widths = {match.name: projection_widths(match, *shapes) for match in self._matches}
            self._projected_widths = {name: pair for name, pair in widths.items() if pair}
            if self._projected_widths and self.optimizer is not None and not self._planned:
                raise ValueError(
                    f"optimizers= is given, and {', '.join(self._projected_widths)} need projections to the teacher's "
                    "width, which it would never train. Leave optimizers= out, and set optim=, learning_rate= and "
                    "projection_learning_rate= in the arguments."
                )
            wanted = {states_of(match.what) for match in self._matches}
            self.teacher.read_states(wanted)
        self._student_reader = StateReader(student, wanted)
        self._student_head_token = head_token(student.config)
        self._objective = DistillationObjective(
            self.args, self._task, self._matches, projected=set(self._projected_widths)
        )
        self._planned = True

    def _metrics(self, eval_prediction):
        from distil_trainer.metrics import metrics_for  # importing `evaluate` takes seconds

        pairs = self.args.text_pair_column is not None
        return metrics_for(self._task, self.model.config.num_labels, pairs=pairs)(eval_prediction)

    def _set_signature_columns_if_needed(self):
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            self._signature_columns += ["teacher_logits", *sorted(TEACHER_COLUMNS)]
            if self.teacher is not None:
                self._signature_columns += sorted(self.teacher.input_names)

    def _get_train_sampler(self, train_dataset=None):
        args = self.args
        # An order of `Trainer`'s own that was asked for, under the name it has in 4.57 or in 5.x.
        if getattr(args, "group_by_length", False) or getattr(args, "train_sampling_strategy", "random") != "random":
            return super()._get_train_sampler(train_dataset)
        dataset = self.train_dataset if train_dataset is None else train_dataset
        self._train_sampler = EpochSampler(
            len(dataset),
            seed=args.seed if args.data_seed is None else args.data_seed,
            lengths=token_lengths(dataset) if args.length_grouped_batches else None,
            rows_per_step=args.train_batch_size * args.world_size * args.gradient_accumulation_steps,
        )
        return self._train_sampler

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        if self._projections is not None and self.args.should_save:
            save_projections(self._projections, output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint):
        # transformers 4.57 maps the file to "cpu:0" in multi-process CPU runs, which torch.load refuses; 5.x maps it
        # to "cpu". Can go with 4.57.
        if self.args.device.type == "cpu":
            self.args.__dict__["_setup_devices"] = torch.device("cpu")
        if checkpoint is not None:  # first: the optimizer would only complain of its groups
            load_projections(self._projections, checkpoint)
        super()._load_optimizer_and_scheduler(checkpoint)

    def _match_labels(self, train_dataset, eval_datasets, teachers):
        """Name the student's labels, and return the order in which to read each teacher's logits."""
        args = self.args
        names = teacher_label_names(train_dataset, teachers, args, self._task)
        self._given_label_names = name_student_labels(
            self.model, names, [train_dataset, *eval_datasets.values()], args.label_column
        )
        all_names = [model_label_names(each.config) for each in teachers] if teachers else [names]
        permutations = [match_teacher_labels(each, self.model) for each in all_names]
        return [None if each is None else torch.tensor(each, device=args.device) for each in permutations]
