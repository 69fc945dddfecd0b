"""Gold labels of each kind of task, brought into the student's order and into the form that its loss reads."""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Sequence, Value

from distil_trainer.columns import check_column, column_batches, one_array
from distil_trainer.labels import dataset_label_names, label_permutation, renumber

logger = logging.getLogger(__name__)


def read_labels(dataset, label_column, label_names, num_labels, what, problem_type="single_label_classification"):
    """Bring the gold labels of a data set into the student's order, in a column called `labels`.

    What `label_column` may hold, and what `labels` then holds:

    - `"single_label_classification"`: integers, and the same; -1, -100 and null mean unlabelled.
    - `"multi_label_classification"`: lists of `num_labels` zeros and ones, or lists of label numbers where the feature
      is `List(ClassLabel(...))`; `labels` holds float32 zeros and ones. An empty list of numbers is a labelled row to
      which no label applies.
    - `"regression"`: numbers, or lists of `num_labels` numbers where that is more than 1; `labels` holds them as
      float32. Every finite number is a value: -1 does not mean unlabelled.

    In the last two, a null, or a list of nothing but nulls and NaN, means unlabelled, and becomes NaN.

    Args:
        dataset (`Dataset`): any, with `label_column`.
        label_column (`str`): column of the gold labels.
        label_names (`list[str]`, *optional*): the student's label names; `None` where it has none.
        num_labels (`int`): number of the student's labels, or of the values it regresses.
        what (`str`): the data set's name, for errors.
        problem_type (`str`, *optional*, defaults to `"single_label_classification"`): as in the student's
            configuration.

    Returns:
        `tuple[Dataset, int]`: the data set, and its number of labelled rows.

    Raises:
        ValueError: if the column is missing, a label is not one the student has (with the row's number), or the label
            names do not match.
        TypeError: if the column holds something else than the task needs.
    """
    check_column(dataset, label_column, what, "label_column")
    if problem_type == "multi_label_classification":
        if dataset_label_names(dataset, label_column) is None:
            return _read_floats(dataset, label_column, num_labels, what, _zeros_and_ones)
        new_index = _new_index(dataset, label_column, label_names, what)
        return _read_floats(dataset, label_column, num_labels, what, _ones_at_numbers, new_index=new_index)
    if problem_type == "regression":
        if num_labels > 1:
            return _read_floats(dataset, label_column, num_labels, what, _several_numbers)
        return _read_floats(dataset, label_column, num_labels, what, _one_number, one_number=True)
    num_labelled = _count_numbers(dataset, label_column, num_labels, what)
    new_index = _new_index(dataset, label_column, label_names, what)
    dataset = _name_labels(dataset, label_column)
    if new_index is not None:
        features = dataset.features.copy()
        features["labels"] = type(features["labels"])(names=list(label_names))
        dataset = dataset.map(_renumber, batched=True, fn_kwargs={"new_index": new_index}, features=features)
    return dataset, num_labelled


def _count_numbers(dataset, label_column, num_labels, what):
    num_labelled = 0
    for start, values in column_batches(dataset, label_column):
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
    return num_labelled


def _new_index(dataset, label_column, label_names, what):
    # The student's number of each label of the data, or `None` where the numbers are the same or no one names them.
    given_names = dataset_label_names(dataset, label_column)
    if not given_names or not label_names:
        return None
    permutation = label_permutation(
        given_names, label_names, given=f"{what} (column {label_column!r})", wanted="the student"
    )
    if permutation is None:
        return None
    logger.info("%s: labels %s are put into the student's order %s.", what, given_names, label_names)
    return np.argsort(permutation).tolist()


def _name_labels(dataset, label_column):
    if label_column == "labels":
        return dataset
    if "labels" in dataset.column_names:
        dataset = dataset.remove_columns("labels")
    return dataset.rename_column(label_column, "labels")


def _renumber(batch, new_index):
    return {"labels": renumber(batch["labels"], new_index, unlabelled=-100)}


def _read_floats(dataset, label_column, num_labels, what, read, one_number=False, **arguments):
    # `read` makes of the Arrow values of a batch a float array of shape (rows, num_labels), NaN where unlabelled.
    dataset = _name_labels(dataset, label_column)
    features = dataset.features.copy()
    features["labels"] = Value("float32") if one_number else Sequence(Value("float32"), length=num_labels)
    arguments = {"what": what, "column": label_column, "num_labels": num_labels, **arguments}
    dataset = dataset.with_format("arrow").map(
        _replace_labels,
        batched=True,
        with_indices=True,
        fn_kwargs={"read": read, "one_number": one_number, "arguments": arguments},
        features=features,
        desc=f"Reading the labels of {what}",
    )
    num_labelled = 0
    for _, values in column_batches(dataset, "labels"):
        numbers = (values if one_number else values.flatten()).to_numpy().reshape(len(values), -1)
        num_labelled += int((~np.isnan(numbers[:, 0])).sum())
    return dataset.with_format(None), num_labelled


def _replace_labels(table, indices, read, one_number, arguments):
    index = table.column_names.index("labels")
    labels = read(one_array(table.column(index)), first_row=indices[0], **arguments)
    values = pa.array(labels.ravel(), type=pa.float32())
    if not one_number:
        values = pa.FixedSizeListArray.from_arrays(values, labels.shape[1])
    # The whole table: what is missing from it would be null in silence.
    return table.set_column(index, "labels", values)


def _one_number(values, *, first_row, what, column, num_labels):
    if not _is_number(values.type):
        raise TypeError(
            f"{what}: label_column={column!r} holds {values.type}, but a student that regresses one value needs a "
            f"number a row. `dataset.cast_column({column!r}, Value('float32'))` turns strings of digits into numbers."
        )
    numbers = _floats(values)
    _refuse_row(np.isinf(numbers), values, first_row, what, column, "Only finite numbers can be regressed")
    return numbers[:, None]


def _several_numbers(values, *, first_row, what, column, num_labels):
    numbers = _equal_lists(values, first_row, what, column, num_labels)
    wrong = ~np.isfinite(numbers) & ~np.isnan(numbers).all(axis=1, keepdims=True)
    _refuse_row(wrong.any(axis=1), values, first_row, what, column, "All its values must be finite, or none given")
    return numbers


def _zeros_and_ones(values, *, first_row, what, column, num_labels):
    numbers = _equal_lists(values, first_row, what, column, num_labels)
    unlabelled = np.isnan(numbers).all(axis=1, keepdims=True)
    wrong = (numbers != 0) & (numbers != 1) & ~unlabelled
    needed = "Each label applies (1) or does not (0); a teacher's degrees of belief belong in 'teacher_logits'"
    _refuse_row(wrong.any(axis=1), values, first_row, what, column, needed)
    return numbers


def _ones_at_numbers(values, *, first_row, what, column, num_labels, new_index):
    if not (pa.types.is_nested(values.type) or pa.types.is_null(values.type)):
        raise TypeError(
            f"{what}: label_column={column!r} holds {values.type}, but a student with several labels a row needs a "
            "list of label numbers a row. With one label a row, give the student "
            "problem_type='single_label_classification'."
        )
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    row = np.repeat(np.arange(len(values)), lengths)
    number = pc.fill_null(values.flatten(), -1).to_numpy(zero_copy_only=False)
    wrong = np.zeros(len(values), dtype=bool)
    wrong[row[(number < 0) | (number >= num_labels)]] = True
    needed = f"The student has {num_labels} labels, 0 to {num_labels - 1}; a row without labels known is null"
    _refuse_row(wrong, values, first_row, what, column, needed)
    labels = np.zeros((len(values), num_labels), dtype=np.float32)
    labels[values.is_null().to_numpy(zero_copy_only=False)] = np.nan
    labels[row, number if new_index is None else np.array(new_index)[number]] = 1
    return labels


def _equal_lists(values, first_row, what, column, num_labels):
    # Lists as an array of shape (rows, num_labels), NaN where a list or a value is null.
    if pa.types.is_null(values.type):
        return np.full((len(values), num_labels), np.nan)
    is_list = pa.types.is_list(values.type) or pa.types.is_large_list(values.type)
    if not (is_list or pa.types.is_fixed_size_list(values.type)) or not _is_number(values.type.value_type):
        raise TypeError(
            f"{what}: label_column={column!r} holds {values.type}, but this student needs a list of {num_labels} "
            "numbers a row. Where the lists hold label names, cast the column to `List(ClassLabel(names=...))`."
        )
    given = values.is_valid().to_numpy(zero_copy_only=False)
    lengths = pc.list_value_length(values).fill_null(num_labels).to_numpy(zero_copy_only=False)
    needed = (
        f"The student has {num_labels} labels, so the list must be as long. Where lists hold label numbers, cast the "
        "column to `List(ClassLabel(names=...))`"
    )
    _refuse_row(lengths != num_labels, values, first_row, what, column, needed)
    numbers = np.full((len(values), num_labels), np.nan)
    numbers[given] = _floats(values.flatten()).reshape(-1, num_labels)
    return numbers


def _floats(values):
    return values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _is_number(kind):
    tests = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_null)
    return any(test(kind) for test in tests)


def _refuse_row(wrong, values, first_row, what, column, needed):
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"{what}: row {first_row + row} has {column}={values[row].as_py()}. {needed}.")
