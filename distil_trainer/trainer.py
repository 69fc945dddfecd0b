"""`DistillationTrainer`: a `Trainer` whose loss compares the student's logits and inner states with a teacher's.

Reference: Hinton et al. 2015, https://arxiv.org/abs/1503.02531; each further loss names its paper in `losses`.
"""

import torch
from transformers import Trainer
from transformers.modeling_outputs import SequenceClassifierOutput

from distil_trainer.arguments import DistillationArguments
from distil_trainer.collator import DistillationCollator
from distil_trainer.compatibility import check_not_sharded, match_labels, positive_label, set_label_names
from distil_trainer.data_preparation import TEACHER_COLUMNS, DataPreparation, datasets_by_name
from distil_trainer.inference import forward_names
from distil_trainer.input_checks import padding_side
from distil_trainer.interruption import SaveOnInterrupt
from distil_trainer.loading import name_tokenizer_class
from distil_trainer.loss_plan import check_optimizers, plan_losses
from distil_trainer.objective import DistillationObjective, Signals, gold_label_loss
from distil_trainer.preflight import check_models_and_data, reads_own_tokens
from distil_trainer.projections import Projections, load_projections, save_projections
from distil_trainer.sampler import EpochSampler
from distil_trainer.schedules import cyclic_schedule, steps_per_cycle
from distil_trainer.states import StateReader, head_token
from distil_trainer.tasks import problem_type
from distil_trainer.teachers import OnlineTeacher
from distil_trainer.term_means import TermMeans
from distil_trainer.training_data import check_dataset, token_lengths
from distil_trainer.training_events import TrainingEvents


class DistillationTrainer(Trainer):
    """Train a small text classifier to answer, and if asked to work inside, like a large one.

    The loss is `logit_loss_weight · logit loss + hard_label_weight · gold-label loss + Σ weight · match`, where the
    matches compare hidden states, attention maps, self-attention relations or pooled states (see
    `DistillationArguments.matches` and its short forms). Every term of weight above 0 is logged by name, unweighted.
    Evaluation never needs a teacher: its loss is the task's own on gold labels, and there is none where the rows are
    unlabelled.

    Each row of an optimizer step counts the same, however the step is cut into batches, also where the last one of an
    epoch is short. Several processes repeat a few rows there, so that all have equally many (accelerate's
    `even_batches`).

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
        self._term_means = TermMeans()
        self._projections = self._project = None
        self._own_tokens = reads_own_tokens(self.model, processing_class, teachers, teacher_processing_class)
        if data_collator is None:
            self.data_collator = DistillationCollator(
                processing_class,
                teacher_processing_class if self._own_tokens else None,
                padding_side=padding_side(self.model.config),
                teacher_padding_side=padding_side(teachers[0].config) if teachers else None,
            )
        self._task = problem_type(self.model.config)
        self._student_inputs = forward_names(self.model)
        self._given = (train_dataset, eval_dataset, processing_class, teacher, teacher_processing_class)
        self._teachers, self.teacher, self._preparation = teachers, None, None
        self._fit_together()
        check_optimizers(args, self._plan, *optimizers)

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None):
        """Train as `Trainer.train` does; Ctrl-C finishes the step under way and saves a checkpoint.

        Raises:
            KeyboardInterrupt: after an interrupted training.
        """
        interruption = SaveOnInterrupt(self.accelerator)
        self.add_callback(interruption)
        try:
            with interruption:
                output = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
            if self.teacher is not None:
                self.teacher.check_answers(self.accelerator.reduce)
            return output
        finally:
            self.remove_callback(interruption)
            self._release()

    def hyperparameter_search(
        self, hp_space=None, compute_objective=None, n_trials=20, direction="minimize", **kwargs
    ):
        """Search as `Trainer.hyperparameter_search` does; by default for the least evaluation loss.

        `Trainer`'s own default is the sum of all metrics: here of some that shall be great and some that shall not.

        Raises:
            ValueError: if anything else is looked for without saying what.
        """
        if compute_objective is None and (direction != "minimize" or isinstance(self.eval_dataset, dict)):
            raise ValueError(
                f"direction={direction!r} without compute_objective=, or with several evaluation data sets: say what "
                "is looked for, such as compute_objective=lambda metrics: metrics['eval_accuracy']."
            )
        compute_objective = compute_objective or (lambda metrics: metrics["eval_loss"])
        return super().hyperparameter_search(hp_space, compute_objective, n_trials, direction, **kwargs)

    def get_batch_samples(self, *args):
        # `compute_loss` is told how many rows the whole optimizer step has, over all processes: the last batch of an
        # epoch is smaller than the others, and each row counts the same.
        batches, _ = super().get_batch_samples(*args)
        num_rows = sum(len(next(iter(batch.values()))) for batch in batches)
        return batches, self.accelerator.reduce(torch.tensor(num_rows, device=self.args.device), reduction="sum")

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Compute the distillation loss in training mode, the task's loss on gold labels in evaluation mode.

        Args:
            model (`torch.nn.Module`): the student, as accelerate wrapped it.
            inputs (`dict[str, torch.Tensor]`): a batch of the collator.
            return_outputs (`bool`, *optional*, defaults to `False`): return the logits too.
            num_items_in_batch (`torch.Tensor`, *optional*): rows of the optimizer step that the batch is part of. The
                loss is scaled by the batch's share of them, so that the step's is a mean over rows; without it the
                batch is taken to be the whole step.

        Returns:
            `torch.Tensor`, a scalar, or `tuple[torch.Tensor, SequenceClassifierOutput]`.
        """
        student_inputs = {name: value for name, value in inputs.items() if name in self._student_inputs}
        if model.training:
            outputs = model(**student_inputs, **self._student_reader.forward_arguments)
            loss = self._distillation_loss(outputs, inputs, num_items_in_batch)
        else:
            outputs = model(**student_inputs)
            loss = gold_label_loss(self._task, outputs.logits, inputs["labels"])
        if return_outputs:
            return loss, SequenceClassifierOutput(loss=loss, logits=outputs.logits)
        return loss

    def log(self, logs, start_time=None):
        """Add to a training log the mean of each loss term since the last one, over batches and processes."""
        if "loss" in logs and (means := self._term_means.take(self.accelerator.reduce)):
            logs = {**logs, **means}
            if self.teacher is not None:
                self.teacher.check_answers(self.accelerator.reduce)
            if self.args.final_temperature is not None:
                logs["temperature"] = self._temperature
        super().log(logs, start_time)

    def get_train_dataloader(self):
        if self.model_init is not None and self.is_in_train:
            # There is a new model, and hyper-parameter search has changed the arguments by now: transformers 4.57 does
            # so before `call_model_init`, 5 after it. Where a smaller batch size is tried, training began already.
            self._release()
            self.args.check()
            self._fit_together()
        return super().get_train_dataloader()

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
        optimizer = super().create_optimizer(*args)
        if created:
            self._projections = self._project = None
            if self._plan.widths:
                self._projections = Projections(self._plan.widths, self.args.seed).to(self.args.device)
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
            steps = steps_per_cycle(self.args, len(self.train_dataset), self._train_batch_size)
            self.lr_scheduler = cyclic_schedule(optimizer or self.optimizer, steps)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _distillation_loss(self, outputs, inputs, num_rows_of_step):
        progress = min(1.0, self.state.global_step / max(1, self.state.max_steps - 1))
        self._temperature = self._objective.temperature(progress)
        states, head = self._student_reader.read(outputs), head_token(self.model.config)
        student = Signals(outputs.logits, states, inputs.get("attention_mask"), head)
        teacher = None
        if self.teacher is not None:
            teacher = self.teacher(inputs, self._temperature)
        elif "teacher_logits" in inputs:
            logits = inputs["teacher_logits"]
            if self._cached_permutation is not None:
                logits = logits[:, self._cached_permutation]
            teacher = Signals(logits, {}, None, None)
        loss, terms = self._objective(student, teacher, inputs, self._project, progress)
        # `Trainer` divides the loss by the number of batches, which is right for batches of one size.
        share, num_batches = 1.0, 1
        if num_rows_of_step is not None:
            share = len(outputs.logits) * self.args.world_size / num_rows_of_step
            num_batches = self.current_gradient_accumulation_steps
        self._term_means.add(terms, share, num_batches)
        return loss * share * num_batches

    def _release(self):
        self._student_reader.detach()
        if self.teacher is not None:
            self.teacher.detach()

    def _fit_together(self):
        """Check, plan and prepare all that the arguments decide: at first, and for each model of `model_init`."""
        args, teachers = self.args, self._teachers
        train_dataset, eval_dataset, tokenizer, _, teacher_tokenizer = self._given
        eval_datasets = datasets_by_name(eval_dataset)
        check_models_and_data(self.model, args, train_dataset, eval_datasets, teachers, self._own_tokens)
        self._plan = plan_losses(args, self.model.config, [each.config for each in teachers])
        self._objective = DistillationObjective(args, self._task, self._plan.matches, projected={*self._plan.widths})
        given, orders = match_labels(self.model, train_dataset, [*eval_datasets.values()], teachers, args)
        self._given_label_names = given or self._given_label_names
        orders = [None if order is None else torch.tensor(order, device=args.device) for order in orders]
        self._cached_permutation = None if teachers else orders[0]
        if teachers:
            self.teacher = self.teacher or OnlineTeacher(
                teachers,
                prepare=lambda each: self.accelerator.prepare_model(each, evaluation_mode=True),
                task=self._task,
                own_tokens=self._own_tokens,
            )
            self.teacher.plan(orders, args.teacher_weights, args.teacher_average, self._plan.states)
        self._student_reader = StateReader(self.model, self._plan.states)
        preparation = DataPreparation(
            args,
            self.model,
            tokenizer,
            teachers=teachers,
            teacher_tokenizer=teacher_tokenizer if self._own_tokens else None,
            align_words=self._own_tokens and self._plan.compares_tokens,
        )
        if self._preparation is not None and preparation.settings == self._preparation.settings:
            return
        self._preparation = preparation
        self.train_dataset, self.eval_dataset = preparation.both(train_dataset, eval_dataset)
        self._prepared_eval_datasets = list(datasets_by_name(self.eval_dataset).values())

    def _metrics(self, eval_prediction):
        from distil_trainer.metrics import metrics_for  # importing `evaluate` takes seconds

        config, pairs = self.model.config, self.args.text_pair_column is not None
        datasets = [*datasets_by_name(self._given[1]).values(), self._given[0]]
        positive = positive_label(self.model, datasets, self.args.label_column) if pairs else 1
        return metrics_for(self._task, config.num_labels, pairs, positive)(eval_prediction)

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

    def _save(self, output_dir=None, state_dict=None):
        super()._save(output_dir, state_dict)
        if self.args.should_save:  # transformers 5 comes here in every process
            name_tokenizer_class(self.args.output_dir if output_dir is None else output_dir)

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
