"""From the data sets a user gives to those a trainer reads: leaks dropped, labels in order, texts tokenized once."""

import logging

from distil_trainer.augmentation.audit import drop_leaks, texts_of
from distil_trainer.inference import forward_names
from distil_trainer.input_checks import check_end_tokens, check_padding, check_pairs
from distil_trainer.label_columns import read_labels
from distil_trainer.labels import gold_label_column, model_label_names, reads_gold_labels
from distil_trainer.preflight import check_lengths, check_token_lengths
from distil_trainer.tasks import problem_type
from distil_trainer.training_data import check_teacher_logits, check_text_columns, check_token_numbers, tokenize

logger = logging.getLogger(__name__)

TEACHER_COLUMNS = {"teacher_input_ids", "teacher_token_type_ids", "word_ids", "teacher_word_ids"}


class DataPreparation:
    """Prepare training and evaluation data for one student and its teachers.

    Args:
        args (`DistillationArguments`): columns, lengths, weights.
        student (`PreTrainedModel`): its configuration names the labels.
        tokenizer (`PreTrainedTokenizerBase`): the student's; may be `None` for data that have `input_ids`.
        teachers (`list[PreTrainedModel]`): the teachers that are asked in every step; may be empty.
        teacher_tokenizer (`PreTrainedTokenizerBase`, *optional*): where the teachers read tokens of their own.
        align_words (`bool`): whether a loss compares tokens of the two.

    Attributes:
        settings (`tuple`): what the arguments say of the data. Where a search leaves it as it is, so are the data.

    Raises:
        ValueError: if a model would read its tokenizer's padding as text.
    """

    def __init__(self, args, student, tokenizer, *, teachers, teacher_tokenizer, align_words):
        self._args = args
        # For each that reads: what it is, its configuration, its tokenizer, and the prefix of its columns.
        teacher_reads = (tokenizer, "") if teacher_tokenizer is None else (teacher_tokenizer, "teacher_")
        self._readers = [("student", student.config, tokenizer, "")]
        self._readers += [("teacher", teacher.config, *teacher_reads) for teacher in teachers]
        for _, config, reader_tokenizer, _ in self._readers:
            if reader_tokenizer is not None:
                check_padding(config, reader_tokenizer)
        self._label_names = model_label_names(student.config)
        self._num_labels = student.config.num_labels
        self._task = problem_type(student.config)
        self._tokenizer = tokenizer
        self._teacher_tokenizer = teacher_tokenizer
        self._input_names = forward_names(student)
        self._teacher_input_names = set().union(*(forward_names(teacher) for teacher in teachers))
        self._align_words = align_words
        self.settings = (
            args.distils_logits, args.uses_hard_labels, args.logit_loss == "decoupled", align_words, args.max_length,
            args.text_column, args.text_pair_column, args.label_column, args.drop_evaluation_rows,
        )  # fmt: skip

    def both(self, train_dataset, eval_dataset):
        """Return what a trainer was given, prepared: evaluation data as one set, several, or none.

        Raises:
            ValueError: see `training` and `evaluation`.
        """
        by_name = datasets_by_name(eval_dataset)
        if train_dataset is not None:
            train_dataset = self.training(train_dataset, by_name.values())
        prepared = {name: self.evaluation(dataset, name) for name, dataset in by_name.items()}
        return train_dataset, prepared if isinstance(eval_dataset, dict) else prepared.get("eval_dataset")

    def training(self, dataset, evaluation_datasets):
        """Return a training set that holds what a step reads, and nothing else.

        Rows whose text stands in evaluation data are dropped first, if the arguments say so.

        Args:
            dataset (`Dataset`): texts or `input_ids`, with teacher logits and labels as the losses need them.
            evaluation_datasets (`Iterable[Dataset]`): data sets that the student is evaluated on.

        Raises:
            ValueError: if nothing is labelled where gold labels shall teach, or nothing is left.
        """
        args = self._args
        dataset = self._without_leaks(dataset.with_format(None), evaluation_datasets)
        keep = []
        if reads_gold_labels(args, dataset):
            dataset, num_labelled = self._read_labels(dataset, "train_dataset")
            if args.uses_hard_labels and not num_labelled:
                raise ValueError(
                    f"train_dataset has no labelled row in column {args.label_column!r}, so hard_label_weight="
                    f"{args.hard_label_weight} would act on nothing. Set it to 0, or give rows with gold labels."
                )
            keep.append("labels")
        if args.distils_logits and not self._teacher_input_names:
            check_teacher_logits(dataset, self._num_labels, "train_dataset")
            keep.append("teacher_logits")
        return self._tokenize(dataset, keep, "train_dataset", with_teacher=bool(self._teacher_input_names))

    def evaluation(self, dataset, what, labelled=True):
        """Return an evaluation set: the student's tokens, and the labels of a labelled one.

        Raises:
            ValueError: if only some of the rows are labelled.
        """
        num_labelled, dataset = 0, dataset.with_format(None)
        if labelled:
            dataset, num_labelled = self._read_labels(dataset, what)
            if 0 < num_labelled < len(dataset):
                raise ValueError(
                    f"{what}: {len(dataset) - num_labelled} of {len(dataset)} rows are unlabelled, and metrics would "
                    "count each of them as a mistake. Filter them out, or evaluate without the label column."
                )
        return self._tokenize(dataset, ["labels"] if num_labelled else [], what, with_teacher=False)

    def is_labelled(self, dataset):
        """Return whether a data set has a column of gold labels."""
        return gold_label_column(dataset, self._args.label_column) in dataset.column_names

    def _without_leaks(self, dataset, evaluation_datasets):
        args = self._args
        columns = [column for column in (args.text_column, args.text_pair_column) if column is not None]
        evaluation_datasets = [
            each for each in evaluation_datasets if all(column in each.column_names for column in columns)
        ]
        readable = all(column in dataset.column_names for column in columns)
        if not (args.drop_evaluation_rows and evaluation_datasets and readable):
            return dataset
        check_text_columns(dataset, args.text_column, args.text_pair_column, "train_dataset")
        evaluation_texts = texts_of(evaluation_datasets, args.text_column, args.text_pair_column)
        kept, dropped = drop_leaks(dataset, evaluation_texts, args.text_column, args.text_pair_column)
        if not len(kept):
            raise ValueError(
                f"All {len(dataset)} rows of train_dataset stand in the evaluation data too: nothing is left to train "
                "on. Give other evaluation data, or, to see a student learn its rows by heart, "
                "drop_evaluation_rows=False."
            )
        if dropped:
            logger.warning(
                "%d of %d training rows stand in the evaluation data too and are dropped: a student that has seen "
                "them would be scored too well.",
                dropped,
                len(dataset),
            )
        return kept

    def _read_labels(self, dataset, what):
        column = gold_label_column(dataset, self._args.label_column)
        return read_labels(dataset, column, self._label_names, self._num_labels, what, problem_type=self._task)

    def _tokenize(self, dataset, keep_columns, what, with_teacher):
        args = self._args
        input_names = self._input_names | (self._teacher_input_names if with_teacher else set())
        teacher_tokenizer = self._teacher_tokenizer if with_teacher else None
        readers = self._readers if with_teacher else self._readers[:1]
        if "input_ids" not in dataset.column_names:
            for reader, config, tokenizer, _ in readers:
                if tokenizer is not None:
                    check_lengths(config, tokenizer, args, reader)
                    check_pairs(config, tokenizer, args.text_pair_column)
        with args.main_process_first(desc=f"tokenizing {what}"):
            dataset = tokenize(
                dataset,
                self._tokenizer,
                text_column=args.text_column,
                text_pair_column=args.text_pair_column,
                max_length=args.max_length,
                token_types="token_type_ids" in (self._input_names if teacher_tokenizer else input_names),
                keep_columns=keep_columns,
                what=what,
                teacher_tokenizer=teacher_tokenizer,
                teacher_token_types="token_type_ids" in self._teacher_input_names,
                align_words=self._align_words,
            )
        for reader, config, _, prefix in readers:
            check_token_numbers(dataset, prefix, config, f"the {reader}", what)
            check_token_lengths(dataset, prefix, config, reader, what)
            if config.is_encoder_decoder:
                check_end_tokens(config, dataset[f"{prefix}input_ids"])
        wanted = input_names | {*keep_columns}
        if teacher_tokenizer is not None:
            wanted |= TEACHER_COLUMNS
        return dataset.select_columns([name for name in dataset.column_names if name in wanted])


def datasets_by_name(eval_dataset):
    """Return the evaluation data sets that a trainer was given, one or several or none, as `dict[str, Dataset]`."""
    datasets = eval_dataset if isinstance(eval_dataset, dict) else {"eval_dataset": eval_dataset}
    return {name: dataset for name, dataset in datasets.items() if dataset is not None}
