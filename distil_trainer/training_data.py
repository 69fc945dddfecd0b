"""From a data set as users have it to one a training step can read, and every check that must not wait for step 1."""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from distil_trainer.alignment import word_ids
from distil_trainer.columns import check_column, column_batches
from distil_trainer.text import check_texts, write_mask_token

logger = logging.getLogger(__name__)


def check_dataset(dataset, what):
    """Refuse anything but a data set with at least one row that can be read by row number.

    Raises:
        TypeError: if it is no `datasets.Dataset`.
        ValueError: if it has no rows, or a transform that is run on each access.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"{what} is a {type(dataset).__name__}, but must be a `datasets.Dataset`: rows are tokenized once, "
            "checked and ordered by length. Read it with `datasets.load_dataset`, or build it with "
            "`Dataset.from_dict`."
        )
    if not len(dataset):
        raise ValueError(f"{what} has no rows.")
    if dataset.format["type"] == "custom":
        raise ValueError(
            f"{what} has a transform (`with_transform`, `set_transform`), which is run anew on each access. Rows are "
            "read and tokenized once here, as they are stored, so it would be left out: run it with `dataset.map`, "
            "and take it off with `dataset.with_format(None)`."
        )


def tokenize(
    dataset,
    tokenizer,
    *,
    text_column,
    text_pair_column,
    max_length,
    token_types,
    keep_columns,
    what,
    teacher_tokenizer=None,
    teacher_token_types=False,
    align_words=False,
):
    """Tokenize a data set once, keeping only what a step reads. One that has `input_ids` already is left as it is.

    The attention mask is not stored, because the collator makes it from the lengths; neither are token types of all
    zeros, which is what a model assumes without them.

    Args:
        dataset (`Dataset`): texts, or rows with `input_ids`.
        tokenizer (`PreTrainedTokenizerBase`): the student's tokenizer; the mask word becomes its mask token.
        text_column (`str`): column of the texts.
        text_pair_column (`str`, *optional*): column of the second texts.
        max_length (`int`): tokens kept, special tokens included; a tokenizer's own limit holds where it is smaller.
        token_types (`bool`): whether the model reads `token_type_ids`.
        keep_columns (`list[str]`): columns that stay.
        what (`str`): the data set's name, for errors.
        teacher_tokenizer (`PreTrainedTokenizerBase`, *optional*): the tokenizer of a teacher that reads tokens of its
            own; the mask word becomes its own mask token.
        teacher_token_types (`bool`, *optional*, defaults to `False`): whether that teacher reads `token_type_ids`.
        align_words (`bool`, *optional*, defaults to `False`): number the words that the tokens of student and teacher
            are part of (see `alignment.word_ids`). Without a teacher tokenizer nothing needs aligning.

    Returns:
        `Dataset` with `input_ids`, `token_type_ids` where they say something, and `keep_columns`; with a teacher
        tokenizer also `teacher_input_ids` and `teacher_token_type_ids`; with `align_words` also `word_ids` and
        `teacher_word_ids`.

    Raises:
        ValueError: if a text column is missing, or a text is missing or empty (with the row's number); if rows with
            `input_ids` lack what the teacher needs; if words shall be aligned for a tokenizer that is not a fast one.
        TypeError: if a text column does not hold strings.
    """
    if "input_ids" in dataset.column_names:
        if teacher_tokenizer is not None:
            _check_teacher_columns(dataset, align_words, what)
        return dataset
    text_columns = check_text_columns(dataset, text_column, text_pair_column, what)
    if tokenizer is None:
        raise ValueError(
            f"{what} holds texts, and processing_class is None. Pass the student's tokenizer as processing_class=."
        )
    first_row = [dataset[column][0] for column in text_columns]
    readers = {"": _reader(tokenizer, "student", max_length, token_types, first_row)}
    if teacher_tokenizer is not None:
        readers["teacher_"] = _reader(teacher_tokenizer, "teacher", max_length, teacher_token_types, first_row)
    keep_columns = [column for column in keep_columns if column in dataset.column_names]
    return dataset.map(
        _encode,
        batched=True,
        fn_kwargs={
            "readers": readers,
            "text_columns": text_columns,
            "align_words": align_words and teacher_tokenizer is not None,
        },
        remove_columns=[column for column in dataset.column_names if column not in keep_columns],
        desc=f"Tokenizing {what}",
    )


def check_text_columns(dataset, text_column, text_pair_column, what):
    """Refuse missing columns of texts, and texts that are missing or empty; streamed.

    Returns:
        `list[str]`: the columns, one or two.

    Raises:
        ValueError: if a column is missing, or a text is missing or empty (with the row's number).
        TypeError: if a column does not hold strings.
    """
    columns = {"text_column": text_column, "text_pair_column": text_pair_column}
    columns = {argument: column for argument, column in columns.items() if column is not None}
    for argument, column in columns.items():
        check_column(dataset, column, what, argument)
        for start, values in column_batches(dataset, column):
            check_texts(values, source=what, column=column, first_row=start)
    return list(columns.values())


def check_teacher_logits(dataset, num_labels, what):
    """Refuse teacher logits that are missing, not finite, or not `num_labels` in number; streamed, a few MB at a time.

    Raises:
        ValueError: with the number of the first such row.
        TypeError: if the column does not hold lists.
    """
    for start, values in column_batches(dataset, "teacher_logits"):
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


def check_token_numbers(dataset, prefix, config, reader, what):
    """Refuse tokens and token types that a model has no embedding for; streamed.

    Args:
        dataset (`Dataset`): tokenized rows.
        prefix (`str`): of the columns that the model reads: `""` or `"teacher_"`.
        config (`PretrainedConfig`): of the model that reads them.
        reader (`str`): what that model is, for the error: "the student", "the teacher".
        what (`str`): the data set's name, for the error.

    Raises:
        ValueError: if a token's number is beyond the model's vocabulary, or its type beyond the model's types.
    """
    remedies = {
        "input_ids": (
            config.vocab_size,
            "The tokenizer is not the model's: load both from the same place, or call "
            "`model.resize_token_embeddings(len(tokenizer))` where tokens were added.",
        )
    }
    if config.model_type != "xlnet":  # which only asks whether two types are equal
        remedies["token_type_ids"] = (
            getattr(config, "type_vocab_size", None),
            "Build the model with as many types as its tokenizer gives (type_vocab_size=).",
        )
    for name, (number, remedy) in remedies.items():
        if number is None or f"{prefix}{name}" not in dataset.column_names:
            continue
        for _, values in column_batches(dataset, f"{prefix}{name}"):
            highest = pc.max(values.flatten()).as_py()
            if highest is not None and highest >= number:
                raise ValueError(
                    f"{what}: {name} holds the number {highest}, but {reader} has embeddings for {number} only, and "
                    f"training would end in an index error. {remedy}"
                )


def token_lengths(dataset, column="input_ids"):
    """Return the number of tokens of each row, read from Arrow: `np.ndarray` of shape `(num_rows,)`."""
    return np.concatenate(
        [pc.list_value_length(values).to_numpy(zero_copy_only=False) for _, values in column_batches(dataset, column)]
    )


def _reader(tokenizer, whose, max_length, token_types, first_row):
    if tokenizer.model_max_length < max_length:
        logger.info(
            "The %s's tokenizer reads at most %d tokens: max_length is cut to that.", whose, tokenizer.model_max_length
        )
    return {
        "tokenizer": tokenizer,
        "max_length": min(max_length, tokenizer.model_max_length),
        "token_types": token_types and any(tokenizer(*first_row, return_token_type_ids=True)["token_type_ids"]),
    }


def _encode(batch, readers, text_columns, align_words):
    columns = {}
    for prefix, reader in readers.items():
        tokenizer = reader["tokenizer"]
        texts = [write_mask_token(batch[column], tokenizer) for column in text_columns]
        encoding = tokenizer(
            *texts,
            truncation=True,
            max_length=reader["max_length"],
            return_attention_mask=False,
            return_token_type_ids=reader["token_types"],
        )
        for name, values in encoding.items():
            # `datasets` stores the student's columns in small integers by their names; the teacher's are told to be.
            columns[prefix + name] = [np.array(row, dtype=np.int32) for row in values] if prefix else values
        if align_words:
            columns[f"{prefix}word_ids"] = word_ids(encoding, *texts)
    return columns


def _check_teacher_columns(dataset, align_words, what):
    needed = ["teacher_input_ids", *(["word_ids", "teacher_word_ids"] if align_words else [])]
    missing = [column for column in needed if column not in dataset.column_names]
    if missing:
        raise ValueError(
            f"{what} has input_ids, but no {' and no '.join(missing)}, while the teacher has a tokenizer of its own: "
            "read as its own, the student's tokens would be other words to it. Give texts, of which both make their "
            "tokens; where they stand beside the tokens, `dataset.remove_columns('input_ids')` is enough."
        )
