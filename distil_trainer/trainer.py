"""`DistillationTrainer`: a `Trainer` whose loss compares the student with teacher logits, cached or online.

Reference: Hinton et al. 2015, https://arxiv.org/abs/1503.02531.
"""

import inspect
import logging

import torch
from torch.nn import functional as F
from transformers import Trainer, TrainerCallback
from transformers.modeling_outputs import SequenceClassifierOutput

from distil_trainer.arguments import DistillationArguments
from distil_trainer.collator import DistillationCollator
from distil_trainer.compatibility import (
    check_online_teacher,
    check_student,
    check_teacher_signal,
    match_teacher_labels,
    name_student_labels,
    set_label_names,
    teacher_label_names,
)
from distil_trainer.labels import model_label_names
from distil_trainer.losses import hard_label_cross_entropy, logit_mse, soft_cross_entropy, soft_target_kl
from distil_trainer.sampler import EpochSampler
from distil_trainer.training_data import check_dataset, check_teacher_logits, read_labels, token_lengths, tokenize

logger = logging.getLogger(__name__)


class DistillationTrainer(Trainer):
    """Train a small text classifier to give the logits of a large one.

    The loss is `logit_loss_weight · logit loss + hard_label_weight · cross-entropy on gold labels`. Every term of
    weight above 0 is logged by name, unweighted. Evaluation never needs a teacher: its loss is the plain cross-entropy
    on gold labels, and there is none where the rows are unlabelled.

    Data sets hold texts, which are tokenized once, or `input_ids`. Teacher logits come from the column
    `teacher_logits` (see `TeacherLabeler`) or from `teacher`, never both. Label orders are matched by name: the
    teacher's names are those of the `ClassLabel` column `teacher_label` or of `teacher.config`, the gold labels' those
    of `label_column`. A student with placeholder names (`LABEL_0`, ...) gets the teacher's names, or else the data's.

    Args:
        model (`PreTrainedModel`): the student, a sequence classifier in float32; `None` with `model_init`.
        args (`DistillationArguments`): what `TrainingArguments` hold, and the losses, their weights, the columns.
        train_dataset (`Dataset`, *optional*): rows to learn from; labels are optional.
        eval_dataset (`Dataset` or `dict[str, Dataset]`, *optional*): rows to evaluate on.
        processing_class (`PreTrainedTokenizerBase`, *optional*): the student's tokenizer; needed unless the data sets
            have `input_ids` and `data_collator` is given.
        teacher (`PreTrainedModel`, *optional*): computes the logits in every step; it must read the student's tokens.
            It is put into evaluation mode and frozen.
        data_collator (`Callable`, *optional*, defaults to `DistillationCollator(processing_class)`): makes the
            batches.
        compute_metrics, callbacks, model_init, optimizers, preprocess_logits_for_metrics: as in `Trainer`.

    Raises:
        TypeError: if `args` or a data set is of the wrong type.
        ValueError: if the data sets, the teacher and the student do not fit together; always before the first step.

    Example:

    ```python
    args = DistillationArguments("out", temperature=2.0)
    trainer = DistillationTrainer(student, args, train_dataset=labelled, eval_dataset=validation,
    processing_class=tokenizer)
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
        data_collator=None,
        compute_metrics=None,
        callbacks=None,
        model_init=None,
        optimizers=(None, None),
        preprocess_logits_for_metrics=None,
    ):
        if not isinstance(args, DistillationArguments):
            raise TypeError(f"args is a {type(args).__name__}, but must be a `DistillationArguments`.")
        if data_collator is None:
            if processing_class is None:
                raise ValueError("processing_class=None: pass the student's tokenizer, which pads the batches.")
            data_collator = DistillationCollator(processing_class)
        self._given_label_names = None
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            model_init=model_init,
            compute_metrics=compute_metrics,
            callbacks=[_TellEpoch(self), *(callbacks or [])],
            optimizers=optimizers,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        # Otherwise the loss is not divided by the accumulated batches, and gradients grow with their number.
        self.model_accepts_loss_kwargs = False
        self._train_sampler = None
        self._term_sums = {}
        self._num_summed = 0
        self._student_inputs = _forward_names(self.model)
        self._teacher_inputs = set() if teacher is None else _forward_names(teacher)
        eval_datasets = eval_dataset if isinstance(eval_dataset, dict) else {"eval_dataset": eval_dataset}
        self._check(train_dataset, eval_datasets, teacher)
        teacher_names = teacher_label_names(train_dataset, teacher, args)
        self._given_label_names = name_student_labels(
            self.model, teacher_names, [train_dataset, *eval_datasets.values()], args.label_column
        )
        permutation = match_teacher_labels(teacher_names, self.model)
        self._teacher_permutation = None if permutation is None else torch.tensor(permutation, device=args.device)
        self.teacher = None
        if teacher is not None:
            teacher.requires_grad_(False)
            self.teacher = self.accelerator.prepare_model(teacher.eval(), evaluation_mode=True)
        if train_dataset is not None:
            self.train_dataset = self._prepare_training_data(train_dataset)
        prepared = {
            name: self._prepare_evaluation_data(dataset, name)
            for name, dataset in eval_datasets.items()
            if dataset is not None
        }
        self._prepared_eval_datasets = list(prepared.values())
        if eval_dataset is not None:
            self.eval_dataset = prepared if isinstance(eval_dataset, dict) else prepared["eval_dataset"]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Compute the distillation loss in training mode, the cross-entropy on gold labels in evaluation mode.

        Args:
            model (`torch.nn.Module`): the student, as accelerate wrapped it.
            inputs (`dict[str, torch.Tensor]`): a batch of the collator.
            return_outputs (`bool`, *optional*, defaults to `False`): return the logits too.
            num_items_in_batch (`int`, *optional*): not read: the loss is a mean over rows, and `Trainer` divides it by
                the number of accumulated batches.

        Returns:
            `torch.Tensor`, a scalar, or `tuple[torch.Tensor, SequenceClassifierOutput]`.
        """
        logits = model(**{name: value for name, value in inputs.items() if name in self._student_inputs}).logits
        if model.training:
            loss = self._distillation_loss(logits, inputs)
        else:
            loss = F.cross_entropy(logits.float(), inputs["labels"])
        return (loss, SequenceClassifierOutput(loss=loss, logits=logits)) if return_outputs else loss

    def log(self, logs, start_time=None):
        """Add to a training log the mean of each loss term since the last one, over batches and processes."""
        if "loss" in logs and self._num_summed:
            means = torch.stack(list(self._term_sums.values())) / self._num_summed
            means = self.accelerator.reduce(means, reduction="mean").tolist()
            logs = {**logs, **dict(zip(self._term_sums, means, strict=True))}
            self._term_sums, self._num_summed = {}, 0
        super().log(logs, start_time)

    def get_eval_dataloader(self, eval_dataset=None):
        # `evaluate` passes `self.eval_dataset` itself, which is prepared already.
        prepared = any(eval_dataset is dataset for dataset in self._prepared_eval_datasets)
        if eval_dataset is not None and not isinstance(eval_dataset, str) and not prepared:
            check_dataset(eval_dataset, "eval_dataset")
            eval_dataset = self._prepare_evaluation_data(eval_dataset, "eval_dataset")
        return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset):
        check_dataset(test_dataset, "test_dataset")
        labelled = self.args.label_column in test_dataset.column_names or "labels" in test_dataset.column_names
        return super().get_test_dataloader(self._prepare_evaluation_data(test_dataset, "test_dataset", labelled))

    def call_model_init(self, trial=None):
        model = super().call_model_init(trial)
        if self._given_label_names:
            set_label_names(model, self._given_label_names)
        return model

    def _distillation_loss(self, logits, inputs):
        args = self.args
        terms = {}
        if args.logit_loss_weight:
            teacher_logits = self._teacher_logits(inputs)
            if args.logit_loss == "kl":
                terms["soft_target_kl"] = soft_target_kl(logits, teacher_logits, args.temperature)
            elif args.logit_loss == "mse":
                terms["logit_mse"] = logit_mse(logits, teacher_logits)
            else:
                terms["soft_cross_entropy"] = soft_cross_entropy(logits, teacher_logits, args.temperature)
            loss = args.logit_loss_weight * next(iter(terms.values()))
        if args.hard_label_weight:
            hard_loss = hard_label_cross_entropy(logits, inputs["labels"], args.label_smoothing_factor)
            terms["hard_label_cross_entropy"] = hard_loss
            loss = args.hard_label_weight * hard_loss + (loss if args.logit_loss_weight else 0)
        for name, term in terms.items():
            self._term_sums[name] = self._term_sums.get(name, 0) + term.detach()
        self._num_summed += 1
        return loss

    def _teacher_logits(self, inputs):
        if self.teacher is None:
            teacher_logits = inputs["teacher_logits"]
        else:
            if self.teacher.training:
                self.teacher.eval()
            with torch.no_grad():
                teacher_inputs = {name: value for name, value in inputs.items() if name in self._teacher_inputs}
                teacher_logits = self.teacher(**teacher_inputs).logits
        if self._teacher_permutation is not None:
            teacher_logits = teacher_logits[:, self._teacher_permutation]
        return teacher_logits

    def _set_signature_columns_if_needed(self):
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            self._signature_columns += ["teacher_logits", *sorted(self._teacher_inputs)]

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

    def _load_optimizer_and_scheduler(self, checkpoint):
        # transformers 4.57 maps the file to "cpu:0" in multi-process CPU runs, which torch.load refuses; 5.x maps it
        # to "cpu". Can go with 4.57.
        if self.args.device.type == "cpu":
            self.args.__dict__["_setup_devices"] = torch.device("cpu")
        super()._load_optimizer_and_scheduler(checkpoint)

    def _check(self, train_dataset, eval_datasets, teacher):
        check_student(self.model, training=train_dataset is not None)
        if train_dataset is not None:
            check_dataset(train_dataset, "train_dataset")
            check_teacher_signal(train_dataset, teacher, self.args)
        for name, dataset in eval_datasets.items():
            if dataset is not None:
                check_dataset(dataset, name)
        if teacher is not None:
            check_online_teacher(teacher, self.model)

    def _prepare_training_data(self, dataset):
        args, num_labels = self.args, self.model.config.num_labels
        uses_labels = args.hard_label_weight > 0
        uses_cached_logits = args.logit_loss_weight > 0 and self.teacher is None
        if uses_labels:
            dataset, num_labelled = read_labels(
                dataset.with_format(None),
                self._label_column(dataset),
                model_label_names(self.model.config),
                num_labels,
                "train_dataset",
            )
            if not num_labelled:
                raise ValueError(
                    f"train_dataset has no labelled row in column {args.label_column!r}, so hard_label_weight="
                    f"{args.hard_label_weight} would act on nothing. Set it to 0, or give rows with gold labels."
                )
        if uses_cached_logits:
            check_teacher_logits(dataset, num_labels, "train_dataset")
        keep = ["labels"] * uses_labels + ["teacher_logits"] * uses_cached_logits
        return self._tokenize(dataset, keep, self._student_inputs | self._teacher_inputs, "train_dataset")

    def _prepare_evaluation_data(self, dataset, what, labelled=True):
        num_labelled = 0
        if labelled:
            config = self.model.config
            dataset, num_labelled = read_labels(
                dataset.with_format(None),
                self._label_column(dataset),
                model_label_names(config),
                config.num_labels,
                what,
            )
            if 0 < num_labelled < len(dataset):
                raise ValueError(
                    f"{what}: {len(dataset) - num_labelled} of {len(dataset)} rows are unlabelled, and metrics would "
                    "count each of them as a mistake. Filter them out, or evaluate without the label column."
                )
        return self._tokenize(dataset, ["labels"] if num_labelled else [], self._student_inputs, what)

    def _tokenize(self, dataset, keep_columns, input_names, what):
        args = self.args
        with args.main_process_first(desc=f"tokenizing {what}"):
            dataset = tokenize(
                dataset.with_format(None),
                self.processing_class,
                text_column=args.text_column,
                text_pair_column=args.text_pair_column,
                max_length=args.max_length,
                token_types="token_type_ids" in input_names,
                keep_columns=keep_columns,
                what=what,
            )
        return dataset.select_columns([name for name in dataset.column_names if name in input_names | {*keep_columns}])

    def _label_column(self, dataset):
        column = self.args.label_column
        return "labels" if column not in dataset.column_names and "labels" in dataset.column_names else column


class _TellEpoch(TrainerCallback):
    # transformers 5 skips the rows that a resumed run has seen before it tells the sampler the epoch, and in a
    # multi-process run the news then does not arrive: the order would be that of epoch 0.
    def __init__(self, trainer):
        self._trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        if self._trainer._train_sampler is not None:
            self._trainer._train_sampler.set_epoch(int(state.epoch or 0))


def _forward_names(model):
    return set(inspect.signature(model.forward).parameters) - {"labels", "kwargs"}
