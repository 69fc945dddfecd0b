"""What a distillation is made of, as the checks ask for it."""

import copy
import json
from types import SimpleNamespace

import numpy as np

from distil_trainer.inference import forward_names
from distil_trainer.input_checks import padding_side
from distil_trainer.labels import gold_label_column, reads_gold_labels
from distil_trainer.loss_plan import plan_losses
from distil_trainer.tasks import problem_type
from distil_trainer.training_data import tokenize


class Run:
    """Models, data sets, tokenizers and arguments, in one place.

    Args:
        student (`PreTrainedModel`): the student.
        args (`DistillationArguments`): the arguments.
        train_dataset (`Dataset`, *optional*): rows to learn from.
        eval_datasets (`dict[str, Dataset]`): rows to evaluate on; entries may be `None`.
        tokenizer (`PreTrainedTokenizerFast`, *optional*): the student's.
        teachers (`list[PreTrainedModel]`): those that are asked in every step; may be empty.
        teacher_tokenizer (`PreTrainedTokenizerFast`, *optional*): theirs.
        sample_size (`int`): rows in a sample.
    """

    def __init__(
        self, student, args, train_dataset, eval_datasets, tokenizer, teachers, teacher_tokenizer, sample_size
    ):
        self.student = student
        self.args = args
        self.train_dataset = train_dataset
        self.eval_datasets = {name: dataset for name, dataset in eval_datasets.items() if dataset is not None}
        self.tokenizer = tokenizer
        self.teachers = teachers
        self.teacher_tokenizer = teacher_tokenizer
        self._sample_size = sample_size
        # The labels that the student will have; a copy, because here it may be given names that it keeps without.
        self.named_student = SimpleNamespace(config=copy.deepcopy(student.config))

    @property
    def task(self):
        """The kind of task (`str`, one of `PROBLEM_TYPES`)."""
        return problem_type(self.student.config)

    @property
    def own_tokens(self):
        """Whether the teachers read tokens of their own."""
        return reads_own_tokens(self.student, self.tokenizer, self.teachers, self.teacher_tokenizer)

    @property
    def datasets(self):
        """All data sets by name (`dict[str, Dataset]`)."""
        training = {} if self.train_dataset is None else {"train_dataset": self.train_dataset}
        return {**training, **self.eval_datasets}

    @property
    def labelled_datasets(self):
        """The data sets whose gold labels are read, by name."""
        reads_labels = self.train_dataset is not None and reads_gold_labels(self.args, self.train_dataset)
        return self.datasets if reads_labels else self.eval_datasets

    @property
    def text_columns(self):
        """The one or two columns of texts."""
        return [column for column in (self.args.text_column, self.args.text_pair_column) if column is not None]

    @property
    def readers(self):
        """What each model is, the model itself and its tokenizer, the student's first."""
        tokenizer = self.teacher_tokenizer if self.own_tokens else self.tokenizer
        many = len(self.teachers) > 1
        teachers = [
            (f"teacher {number}" if many else "teacher", model, tokenizer)
            for number, model in enumerate(self.teachers)
        ]
        return [("student", self.student, self.tokenizer), *teachers]

    def has_texts(self, dataset):
        """Return whether a data set has the columns of texts."""
        return all(column in dataset.column_names for column in self.text_columns)

    def label_column(self, dataset):
        """Return the column of gold labels, `None` where there is none."""
        column = gold_label_column(dataset, self.args.label_column)
        return column if column in dataset.column_names else None

    def sample(self, most_rows=None):
        """Return rows of the training set, spread evenly over it."""
        dataset = self.train_dataset.with_format(None)
        rows = min(len(dataset), self._sample_size, most_rows or self._sample_size)
        return dataset.select(np.linspace(0, len(dataset) - 1, rows).astype(np.int64))

    def tokens(self):
        """Return the sample as the models read it (`Dataset`)."""
        teacher_names = set().union(*(forward_names(teacher) for teacher in self.teachers))
        student_names = forward_names(self.student) | (set() if self.own_tokens else teacher_names)
        return tokenize(
            self.sample(),
            self.tokenizer,
            text_column=self.args.text_column,
            text_pair_column=self.args.text_pair_column,
            max_length=self.args.max_length,
            token_types="token_type_ids" in student_names,
            keep_columns=[],
            what="train_dataset",
            teacher_tokenizer=self.teacher_tokenizer if self.own_tokens else None,
            teacher_token_types="token_type_ids" in teacher_names,
        )

    def prefix(self, reader):
        """Return what the names of the columns that a model reads begin with, by what the model is."""
        return "teacher_" if self.own_tokens and reader != "student" else ""

    def plan(self):
        """Return the [`LossPlan`].

        Raises:
            ValueError: if the losses do not fit the two models.
        """
        return plan_losses(self.args, self.student.config, [teacher.config for teacher in self.teachers])


def reads_own_tokens(student, tokenizer, teachers, teacher_tokenizer):
    """Return whether the teachers must be given other tokens than the student.

    Args:
        student (`PreTrainedModel`): the student.
        tokenizer (`PreTrainedTokenizerFast`): the student's tokenizer.
        teachers (`list[PreTrainedModel]`): the teachers that are asked in every step; may be empty.
        teacher_tokenizer (`PreTrainedTokenizerFast`, *optional*): theirs.

    Raises:
        ValueError: if the teachers' tokenizer is given without the teachers, or without the student's.
    """
    if teacher_tokenizer is None:
        return False
    if not teachers:
        raise ValueError(
            "teacher_processing_class= is given without teacher=: cached teacher logits need no tokenizer, so it "
            "would be ignored. Pass the teacher too, or leave its tokenizer out."
        )
    if tokenizer is None:
        raise ValueError("teacher_processing_class= is given without processing_class=: pass the student's too.")
    same_tokenizer = _same_tokenizer(tokenizer, teacher_tokenizer)
    return not same_tokenizer or padding_side(student.config) != padding_side(teachers[0].config)


def _same_tokenizer(tokenizer, other):
    # What tokenizers without a fast version do stands in their code, which cannot be compared.
    if tokenizer is other or not (tokenizer.is_fast and other.is_fast):
        return tokenizer is other
    return _content(tokenizer) == _content(other)


def _content(tokenizer):
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    # What the last call asked for, not what the tokenizer is.
    del content["truncation"], content["padding"]
    return content
