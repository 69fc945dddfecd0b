"""The rows of Meta Pseudo Labels: labelled ones, a batch for each step, and unlabelled ones with a rewritten form."""

import logging
from functools import lru_cache

import numpy as np
from datasets import concatenate_datasets

from distil_trainer.augmentation.audit import drop_leaks, texts_of
from distil_trainer.data_preparation import DataPreparation
from distil_trainer.input_checks import check_end_tokens
from distil_trainer.meta_pseudo_labels.checks import check_all_labelled
from distil_trainer.training_data import check_text_columns, tokenize

logger = logging.getLogger(__name__)

REWRITTEN = "augmented_"
# Keeps this order apart from others that begin with the same seed.
_STREAM = 2


class LearningData(DataPreparation):
    """`DataPreparation` of what a learning teacher reads besides: labelled rows, and rewritten texts.

    Args:
        args, student, tokenizer, teachers, teacher_tokenizer: as in `DataPreparation`.
    """

    def __init__(self, args, student, tokenizer, *, teachers, teacher_tokenizer):
        super().__init__(
            args, student, tokenizer, teachers=teachers, teacher_tokenizer=teacher_tokenizer, align_words=False
        )

    def labelled(self, dataset, evaluation_datasets):
        """Return labelled rows as both models read them, with `labels` in the student's order.

        Args:
            dataset (`Dataset`): texts or `input_ids`, all labelled.
            evaluation_datasets (`list[Dataset]`): rows whose text stands in them are dropped, if the arguments say so.

        Raises:
            ValueError: if a row has no label, or nothing is left.
        """
        columns = [self._args.text_column, self._args.text_pair_column]
        dataset = _without_leaks(
            dataset.with_format(None), [columns], evaluation_datasets, self._args, "labelled_dataset"
        )
        dataset, num_labelled = self._read_labels(dataset, "labelled_dataset")
        check_all_labelled(num_labelled, dataset, self._args.label_column)
        return self._tokenize(dataset, ["labels"], "labelled_dataset", with_teacher=True)

    def with_rewritten(self, prepared, dataset):
        """Put the tokens of rewritten texts, as the teacher reads them, beside the prepared rows of their originals.

        Args:
            prepared (`Dataset`): what `training` made of `dataset`, row by row.
            dataset (`Dataset`): has `augmented_text_column`.

        Returns:
            `Dataset` with `augmented_input_ids` and, where they say something, `augmented_token_type_ids`.
        """
        args = self._args
        _, config, tokenizer, _ = self._readers[-1]
        columns = [args.augmented_text_column, *([args.text_pair_column] if args.text_pair_column else [])]
        tokens = tokenize(
            dataset.with_format(None).select_columns(columns),
            tokenizer,
            text_column=args.augmented_text_column,
            text_pair_column=args.text_pair_column,
            max_length=args.max_length,
            token_types="token_type_ids" in self._teacher_input_names,
            keep_columns=[],
            what="train_dataset",
        )
        check_end_tokens(config, tokens["input_ids"])
        tokens = tokens.rename_columns({name: f"{REWRITTEN}{name}" for name in tokens.column_names})
        return concatenate_datasets([prepared, tokens], axis=1)


def drop_rewritten_leaks(dataset, evaluation_datasets, args):
    """Drop the rows of which the text, or its rewritten form, stands in evaluation data, if the arguments say so.

    `DataPreparation` would drop the texts too, but the rewritten ones must be kept beside them row by row.

    Args:
        dataset (`Dataset`): the training set, with `augmented_text_column`.
        evaluation_datasets (`list[Dataset]`): data sets that the student is evaluated on.
        args (`MetaPseudoLabelsArguments`): columns.

    Returns:
        `Dataset`

    Raises:
        ValueError: if nothing is left.
    """
    pair = args.text_pair_column
    columns = [[args.text_column, pair], [args.augmented_text_column, pair]]
    return _without_leaks(dataset.with_format(None), columns, evaluation_datasets, args, "train_dataset")


class RewrittenCollator:
    """Make a batch of rows as another collator does, and pad their rewritten texts beside it.

    Args:
        collator (`Callable`): makes the batch.
        teacher_collator (`Callable`): pads tokens for the teacher.
    """

    def __init__(self, collator, teacher_collator):
        self._collator = collator
        self._teacher_collator = teacher_collator

    def __call__(self, rows):
        """Make one batch; the columns `augmented_...` are those of the rewritten texts."""
        rewritten = [
            {name.removeprefix(REWRITTEN): value for name, value in row.items() if name.startswith(REWRITTEN)}
            for row in rows
        ]
        padded = self._teacher_collator(rewritten)
        return {**self._collator(rows), **{f"{REWRITTEN}{name}": value for name, value in padded.items()}}


class LabelledBatches:
    """The labelled rows of each optimizer step: decided by the step's number alone, so that a resume needs no state.

    Args:
        dataset (`Dataset`): prepared rows.
        collator (`Callable`): makes batches of them.
        rows_per_step (`int`): over all processes; the whole data set where it is smaller.
        rows_per_batch (`int`): at most so many rows are in a batch.
        seed (`int`): decides the order.
        process_index (`int`): of this process, which gets every `num_processes`-th row of a step.
        num_processes (`int`): number of processes.

    Attributes:
        num_rows (`int`): rows of a step, over all processes.
    """

    def __init__(self, dataset, collator, *, rows_per_step, rows_per_batch, seed, process_index, num_processes):
        self.num_rows = min(rows_per_step, len(dataset))
        self._dataset = dataset
        self._collator = collator
        self._rows_per_batch = rows_per_batch
        self._seed = seed
        self._process_index = process_index
        self._num_processes = num_processes

    def __call__(self, step):
        """Return the batches (`list[dict[str, torch.Tensor]]`) of this process for a step."""
        rows = labelled_rows(len(self._dataset), self.num_rows, self._seed, step)
        rows = rows[self._process_index :: self._num_processes]
        return [
            self._collator(self._dataset.__getitems__(rows[start : start + self._rows_per_batch].tolist()))
            for start in range(0, len(rows), self._rows_per_batch)
        ]


def labelled_rows(num_rows, rows_per_step, seed, step):
    """Choose the rows of a step: all rows once in an order of their own, then all once more in another, and so on.

    Args:
        num_rows (`int`): rows there are.
        rows_per_step (`int`): rows of a step, at most `num_rows`.
        seed (`int`): 0 or above.
        step (`int`): number of the optimizer step, from 0.

    Returns:
        `np.ndarray` of shape `(rows_per_step,)`
    """
    places = step * rows_per_step + np.arange(rows_per_step)
    rounds = places // num_rows
    orders = {number: _order(num_rows, seed, number) for number in np.unique(rounds).tolist()}
    return np.array([orders[number][place] for number, place in zip(rounds, places % num_rows, strict=True)])


@lru_cache(maxsize=4)
def _order(num_rows, seed, number):
    return np.random.default_rng((seed, number, _STREAM)).permutation(num_rows)


def _without_leaks(dataset, column_pairs, evaluation_datasets, args, what):
    # The texts under each pair of columns of `dataset` are compared with those of the evaluation data.
    given = [column for column in (args.text_column, args.text_pair_column) if column is not None]
    readable = [each for each in evaluation_datasets if all(column in each.column_names for column in given)]
    if not (args.drop_evaluation_rows and readable and all(column in dataset.column_names for column in given)):
        return dataset
    num_rows = len(dataset)
    for columns in column_pairs:
        check_text_columns(dataset, *columns, what)
        dataset, _ = drop_leaks(dataset, texts_of(readable, args.text_column, args.text_pair_column), *columns)
    if not len(dataset):
        raise ValueError(
            f"All {num_rows} rows of {what} stand in the evaluation data too: nothing is left to learn from. Give "
            "other evaluation data."
        )
    if len(dataset) < num_rows:
        logger.warning(
            "%d of %d rows of %s stand in the evaluation data too and are dropped: models that have seen them would "
            "be scored too well.",
            num_rows - len(dataset),
            num_rows,
            what,
        )
    return dataset
