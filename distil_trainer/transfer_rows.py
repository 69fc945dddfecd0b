"""What is known about each row of a transfer set: what the teacher says, whether that left its parent, its group."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distil_trainer.columns import column_batches
from distil_trainer.pseudo_labels import entropy_bits
from distil_trainer.training_data import check_teacher_logits


def has_teacher_labels(dataset):
    """Return whether rows have `teacher_logits` of several labels, about which a teacher can be uncertain."""
    return "teacher_logits" in dataset.column_names and _num_labels(dataset) != 1


def read_teacher_labels(dataset):
    """Read how certain the teacher is of each row, and its first choice; a few MB at a time.

    Args:
        dataset (`Dataset`): rows with `teacher_logits`, of a task with one label a row.

    Returns:
        `tuple[np.ndarray, np.ndarray, int]`: the entropy of the teacher's softmax in bits and the number of its first
        choice, both of shape `(num_rows,)`, and the number of labels.

    Raises:
        ValueError: if a row's logits are missing, not finite, or not as many as the first row's.
        TypeError: if the column does not hold lists.
    """
    num_labels = _num_labels(dataset)
    check_teacher_logits(dataset, num_labels, "dataset")
    entropies, labels = np.empty(len(dataset), np.float32), np.empty(len(dataset), np.int32)
    for start, values in column_batches(dataset, "teacher_logits"):
        logits = values.flatten().to_numpy(zero_copy_only=False).reshape(-1, num_labels)
        entropies[start : start + len(logits)] = entropy_bits(logits)
        labels[start : start + len(logits)] = logits.argmax(axis=1)
    return entropies, labels, num_labels


def compare_with_parents(dataset, labels):
    """Compare the teacher's label of each copy with its label of the text that was rewritten.

    That text is the row with the same `parent` (and `source`, where there is such a column) whose `operators` is
    "original". A row without a parent (-1 or null) or whose original is not in the data set cannot be compared.

    Args:
        dataset (`Dataset`): rows with `parent` and `operators`.
        labels (`np.ndarray` of shape `(num_rows,)`): the teacher's labels.

    Returns:
        `tuple[np.ndarray, np.ndarray]` of shape `(num_rows,)` each: whether a row is a copy that could be compared,
        and whether its label is another than that of its original.

    Raises:
        ValueError: if a column is missing, or two originals have the same parent.
    """
    missing = [column for column in ("parent", "operators") if column not in dataset.column_names]
    if missing:
        raise ValueError(
            f"dataset has no column {missing[0]!r}; its columns are {', '.join(dataset.column_names)}. Without "
            "parents there is nothing to compare a copy's label with: `RuleAugmenter` writes both columns, keep them."
        )
    parents = np.concatenate(
        [pc.fill_null(values, -1).to_numpy(zero_copy_only=False) for _, values in column_batches(dataset, "parent")]
    ).astype(np.int64)
    is_original = np.zeros(len(dataset), bool)
    is_original[dict(rows_of_values(dataset, "operators")).get("original", [])] = True
    has_parent, families = parents >= 0, parents.copy()
    if "source" in dataset.column_names:
        for number, (_, rows) in enumerate(rows_of_values(dataset, "source")):
            families[rows] += number * (parents.max() + 1)
    originals = np.flatnonzero(is_original & has_parent)
    originals = originals[np.argsort(families[originals], kind="stable")]
    given = families[originals]
    twice = np.flatnonzero(given[1:] == given[:-1])
    if len(twice):
        raise ValueError(
            f"Rows {originals[twice[0]]} and {originals[twice[0] + 1]} are both the original with parent="
            f"{parents[originals[twice[0]]]}, so it is not known which of them a copy was made from, and copies would "
            "be compared with strangers. Data sets that are put together need a column 'source': see `mix`."
        )
    copies = np.flatnonzero(~is_original & has_parent)
    places = np.minimum(np.searchsorted(given, families[copies]), max(0, len(given) - 1))
    found = given[places] == families[copies] if len(given) else np.zeros(len(copies), bool)
    is_compared, left = np.zeros(len(dataset), bool), np.zeros(len(dataset), bool)
    is_compared[copies[found]] = True
    left[copies[found]] = labels[copies[found]] != labels[originals[places[found]]]
    return is_compared, left


def rows_of_values(dataset, column):
    """Return pairs of each value of a column of strings and the numbers of its rows, most rows first.

    Null is called "none"; a value of few rows comes after one of many, equal numbers in the order of their first row.
    """
    names, codes = {}, np.empty(len(dataset), np.int32)
    for start, values in column_batches(dataset, column):
        encoded = pc.fill_null(values.cast(pa.string()), "none").dictionary_encode()
        numbers = [names.setdefault(name, len(names)) for name in encoded.dictionary.to_pylist()]
        codes[start : start + len(values)] = np.array(numbers, np.int32)[encoded.indices.to_numpy()]
    counts = np.bincount(codes, minlength=len(names))
    rows = np.split(np.argsort(codes, kind="stable"), np.cumsum(counts)[:-1])
    return sorted(zip(names, rows, strict=True), key=lambda group: -len(group[1]))


def _num_labels(dataset):
    """How many logits the first row has; 0 where it has none."""
    _, first = next(column_batches(dataset, "teacher_logits", batch_size=1))
    is_list = pa.types.is_list(first.type) or pa.types.is_fixed_size_list(first.type)
    return (pc.list_value_length(first)[0].as_py() or 0) if is_list else 0
