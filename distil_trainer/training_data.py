"""From a data set as users have it to one a training step can read, and every check that must not wait for step 1."""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from distil_trainer.labels import dataset_label_names, label_permutation, renumber
from distil_trainer.text import check_texts, write_mask_token

logger = logging.getLogger(__name__)


def check_dataset(dataset, what):
    """Refuse anything but a data set with at least one row that can be read by row number.

    Raises:
        TypeError: if it is no `datasets.Dataset`.
        ValueError: if it has no rows.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"{what} is a {type(dataset).__name__}, but must be a `datasets.Dataset`: rows are tokenized once, "
            "checked and ordered by length. Read it with `datasets.load_dataset`, or build it with "
            "`Dataset.from_dict`."
        )
    if not len(dataset):
        raise ValueError(f"{what} has no rows.")


def tokenize(dataset, tokenizer, *, text_column, text_pair_column, max_length, token_types, keep_columns, what):
    """Tokenize a data set once, keeping only what a step reads. One that has `input_ids` already is left as it is.

    The attention mask is not stored, because the collator makes it from the lengths; neither are token types of all
    zeros, which is what a model assumes without them.

    Args:
        dataset (`Dataset`): texts, or rows with `input_ids`.
        tokenizer (`PreTrainedTokenizerBase`): the student's tokenizer; the mask word becomes its mask token.
        text_column (`str`): column of the texts.
        text_pair_column (`str`, *optional*): column of the second texts.
        max_length (`int`): tokens kept, special tokens included; the tokenizer's own limit holds where it is smaller.
        token_types (`bool`): whether a model reads `token_type_ids`.
        keep_columns (`list[str]`): columns that stay.
        what (`str`): the data set's name, for errors.

    Returns:
        `Dataset` with `input_ids`, `token_type_ids` where they say something, and `keep_columns`.

    Raises:
        ValueError: if a text column is missing, or a text is missing or empty (with the row's number).
        TypeError: if a text column does not hold strings.
    """
    if "input_ids" in dataset.column_names:
        return dataset
    text_columns = [text_column]
    _check_texts(dataset, text_column, what, "text_column")
    if text_pair_column is not None:
        text_columns.append(text_pair_column)
        _check_texts(dataset, text_pair_column, what, "text_pair_column")
    if tokenizer is None:
        raise ValueError(
            f"{what} holds texts, and processing_class is None. Pass the student's tokenizer as processing_class=."
        )
    if tokenizer.model_max_length < max_length:
        logger.info("The tokenizer reads at most %d tokens: max_length is cut to that.", tokenizer.model_max_length)
        max_length = tokenizer.model_max_length
    if token_types:
        first_row = [dataset[column][0] for column in text_columns]
        token_types = any(tokenizer(*first_row, return_token_type_ids=True)["token_type_ids"])
    keep_columns = [column for column in keep_columns if column in dataset.column_names]
    return dataset.map(
        _encode,
        batched=True,
        fn_kwargs={
            "tokenizer": tokenizer,
            "text_columns": text_columns,
            "max_length": max_length,
            "token_types": token_types,
        },
        remove_columns=[column for column in dataset.column_names if column not in keep_columns],
        desc=f"Tokenizing {what}",
    )


def read_labels(dataset, label_column, label_names, num_labels, what):
    """Bring the gold labels of a data set into the student's order, in a column called `labels`.

    Args:
        dataset (`Dataset`): any, with `label_column`.
        label_column (`str`): integers; -1, -100 and null mean unlabelled.
        label_names (`list[str]`, *optional*): the student's label names; `None` where it has none.
        num_labels (`int`): number of the student's labels.
        what (`str`): the data set's name, for errors.

    Returns:
        `tuple[Dataset, int]`: the data set, and its number of labelled rows.

    Raises:
        ValueError: if the column is missing, a label is out of range, or the label names do not match.
        TypeError: if the column does not hold integers.
    """
    _check_column(dataset, label_column, what, "label_column")
    num_labelled = 0
    for start, values in _column_batches(dataset, label_column):
        if not (pa.types.is_integer(values.type) or pa.types.is_null(values.type)):
            raise TypeError(
                f"{what}: label_column={label_column!r} holds {values.type}, but labels must be integers. "
                f"`dataset.class_encode_column({label_column!r})` turns names into them."
            )
        values = pc.fill_null(values.cast(pa.int64()), -100).to_numpy(zero_copy_only=False)
        labelled = (values != -1) & (values != -100)
        wrong = labelled & ((values < 0) | (values >= num_labels))
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"{what}: row {start + row} has {label_column}={values[row]}, but the student has {num_labels} "
                f"labels, 0 to {num_labels - 1}. Only -1, -100 and null mean unlabelled."
            )
        num_labelled += int(labelled.sum())
    permutation = None
    given_names = dataset_label_names(dataset, label_column)
    if given_names and label_names:
        permutation = label_permutation(
            given_names, label_names, given=f"{what} (column {label_column!r})", wanted="the student"
        )
    if label_column != "labels":
        if "labels" in dataset.column_names:
            dataset = dataset.remove_columns("labels")
        dataset = dataset.rename_column(label_column, "labels")
    if permutation is not None:
        logger.info("%s: labels %s are put into the student's order %s.", what, given_names, label_names)
        new_index = np.argsort(permutation).tolist()
        features = dataset.features.copy()
        features["labels"] = type(features["labels"])(names=list(label_names))
        dataset = dataset.map(_renumber, batched=True, fn_kwargs={"new_index": new_index}, features=features)
    return dataset, num_labelled


def check_teacher_logits(dataset, num_labels, what):
    """Refuse teacher logits that are missing, not finite, or not `num_labels` in number; streamed, a few MB at a time.

    Raises:
        ValueError: with the number of the first such row.
        TypeError: if the column does not hold lists.
    """
    for start, values in _column_batches(dataset, "teacher_logits"):
        if not (pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type)):
            raise TypeError(f"{what}: teacher_logits holds {values.type}, but must hold one list of numbers a row.")
        if values.null_count:
            row = start + int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
            raise ValueError(f"{what}: row {row} has no teacher_logits. Label every row, or filter such rows out.")
        lengths = pc.list_value_length(values).to_numpy(zero_copy_only=False)
        if (lengths != num_labels).any():
            row = int((lengths != num_labels).argmax())
            raise ValueError(
                f"{what}: row {start + row} has {lengths[row]} teacher_logits, but the student has {num_labels} "
                "labels. Distillation compares them label by label: build the student with the teacher's labels."
            )
        logits = values.flatten().to_numpy(zero_copy_only=False).reshape(-1, num_labels)
        finite = np.isfinite(logits).all(axis=1)
        if not finite.all():
            row = int((~finite).argmax())
            raise ValueError(
                f"{what}: row {start + row} has teacher_logits={logits[row].tolist()}. One value that is not finite "
                "turns every weight of the student into NaN: label this row again (an overflow in half precision is "
                "the usual cause), or filter it out."
            )


def token_lengths(dataset):
    """Return the number of tokens of each row, read from Arrow: `np.ndarray` of shape `(num_rows,)`."""
    return np.concatenate(
        [
            pc.list_value_length(values).to_numpy(zero_copy_only=False)
            for _, values in _column_batches(dataset, "input_ids")
        ]
    )


def _encode(batch, tokenizer, text_columns, max_length, token_types):
    texts = [write_mask_token(batch[column], tokenizer) for column in text_columns]
    return tokenizer(
        *texts,
        truncation=True,
        max_length=max_length,
        return_attention_mask=False,
        return_token_type_ids=token_types,
    ).data


def _renumber(batch, new_index):
    return {"labels": renumber(batch["labels"], new_index, unlabelled=-100)}


def _check_texts(dataset, column, what, argument):
    _check_column(dataset, column, what, argument)
    for start, values in _column_batches(dataset, column):
        check_texts(values, source=what, column=column, first_row=start)


def _check_column(dataset, column, what, argument):
    if column not in dataset.column_names:
        raise ValueError(
            f"{what} has no column {column!r}; its columns are {', '.join(dataset.column_names)}. Name the right one "
            f"with {argument}=."
        )


def _column_batches(dataset, column, batch_size=10_000):
    table = dataset.select_columns([column]).with_format("arrow")
    for start in range(0, len(table), batch_size):
        values = table[start : start + batch_size].column(0)
        yield start, values.combine_chunks() if values.num_chunks != 1 else values.chunk(0)
