"""What stands in an augmented data set: duplicates, texts of the evaluation data, the rows of each operator."""

from collections import Counter
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distil_trainer.augmentation.analyzers import text_keys

_ROWS_PER_STEP = 20_000


def drop_duplicates_and_leaks(dataset, evaluation_texts, text_column="sentence", text_pair_column=None):
    """Drop the rows whose text occurs in evaluation data, and of equal texts all but the first in row order.

    Two texts are equal here when they differ only in case and white space, two pairs when both of their texts are, in
    the same order. Originals are dropped like copies. Texts are read in steps and held as 64-bit hashes: about 30
    bytes for each row at the peak.

    Args:
        dataset (`Dataset`): the rows, in the order in which the first one wins.
        evaluation_texts (`Iterable[str]`): every text that models are selected or scored on; may be empty. For several
            sets: `itertools.chain(validation["sentence"], test["sentence"])`. With `text_pair_column`, tuples of two
            texts. `texts_of` makes both.
        text_column (`str`, *optional*, defaults to `"sentence"`): the column of texts in `dataset`.
        text_pair_column (`str`, *optional*): the column of second texts.

    Returns:
        `tuple[Dataset, dict[str, int]]`: the kept rows, in order, and the counts `rows_in`, `in_evaluation_data`,
        `duplicates` (of rows not in evaluation data) and `rows_out`.

    Raises:
        TypeError: if `evaluation_texts` is one string, or holds pairs where texts are needed or the other way round.
        ValueError: if a column is missing, or a text is missing.
    """
    keys, leaked = _keys_and_leaks(dataset, evaluation_texts, text_column, text_pair_column)
    first = np.zeros(len(keys), bool)
    first[np.unique(keys, return_index=True)[1]] = True
    kept = np.flatnonzero(first & ~leaked)
    counts = {
        "rows_in": len(keys),
        "in_evaluation_data": int(leaked.sum()),
        "duplicates": int((~first & ~leaked).sum()),
        "rows_out": len(kept),
    }
    return dataset if len(kept) == len(keys) else dataset.select(kept), counts


def drop_leaks(dataset, evaluation_texts, text_column="sentence", text_pair_column=None):
    """Drop the rows whose text occurs in evaluation data; texts compare as in `drop_duplicates_and_leaks`.

    Args:
        dataset (`Dataset`): rows to train on.
        evaluation_texts (`Iterable[str]`): every text that models are selected or scored on; may be empty. With
            `text_pair_column`, tuples of two texts.
        text_column (`str`, *optional*, defaults to `"sentence"`): the column of texts in `dataset`.
        text_pair_column (`str`, *optional*): the column of second texts.

    Returns:
        `tuple[Dataset, int]`: the kept rows, in order, and the number of dropped ones.

    Raises:
        TypeError: if `evaluation_texts` is one string, or holds pairs where texts are needed or the other way round.
        ValueError: if a column is missing, or a text is missing.
    """
    _, leaked = _keys_and_leaks(dataset, evaluation_texts, text_column, text_pair_column)
    return (dataset.select(np.flatnonzero(~leaked)), int(leaked.sum())) if leaked.any() else (dataset, 0)


def texts_of(datasets, text_column="sentence", text_pair_column=None):
    """Read the texts of data sets, a few at a time, in the form that `drop_leaks` compares.

    Args:
        datasets (`Iterable[Dataset]`): such as the validation and the test split.
        text_column (`str`, *optional*, defaults to `"sentence"`): their column of texts.
        text_pair_column (`str`, *optional*): their column of second texts.

    Yields:
        `str`, or `tuple[str, str]` with `text_pair_column`.

    Raises:
        ValueError: if a column is missing.
    """
    for dataset in datasets:
        columns = _given_columns(dataset, text_column, text_pair_column)
        for table in dataset.select_columns(columns).with_format("arrow").iter(_ROWS_PER_STEP):
            texts = [table[column].to_pylist() for column in columns]
            yield from texts[0] if text_pair_column is None else zip(*texts, strict=True)


def operator_counts(dataset):
    """Count the rows of each value of the column `operators`, most frequent first.

    Raises:
        ValueError: if the data set has no column `operators`.
    """
    if "operators" not in dataset.column_names:
        raise ValueError(
            f"the data set has no column 'operators'; it has {dataset.column_names}. RuleAugmenter writes it: count "
            "before the column is removed."
        )
    counts = Counter()
    for table in dataset.select_columns("operators").with_format("arrow").iter(_ROWS_PER_STEP):
        counts.update({item["values"]: item["counts"] for item in pc.value_counts(table["operators"]).to_pylist()})
    return dict(counts.most_common())


def _keys_and_leaks(dataset, evaluation_texts, text_column, text_pair_column):
    """Return each row's key and whether it is that of an evaluation text, both of shape `(num_rows,)`."""
    columns = _given_columns(dataset, text_column, text_pair_column)
    if isinstance(evaluation_texts, str):
        raise TypeError(
            f"evaluation_texts={evaluation_texts[:40]!r} is one string, which would be read as single letters, and "
            'every evaluation text would stay in the training data: give a list, such as validation["sentence"].'
        )
    evaluation_texts = iter(evaluation_texts)
    chunks = iter(lambda: list(islice(evaluation_texts, _ROWS_PER_STEP)), [])
    evaluation_keys = _concatenate(_normalised_keys(*_text_arrays(chunk, len(columns))) for chunk in chunks)
    tables = dataset.select_columns(columns).with_format("arrow").iter(_ROWS_PER_STEP)
    keys = _concatenate(_normalised_keys(*(table[column].combine_chunks() for column in columns)) for table in tables)
    return keys, np.isin(keys, evaluation_keys)


def _given_columns(dataset, text_column, text_pair_column):
    columns = {"text_column": text_column, "text_pair_column": text_pair_column}
    columns = {argument: column for argument, column in columns.items() if column is not None}
    for argument, column in columns.items():
        if column not in dataset.column_names:
            raise ValueError(
                f"{argument}={column!r} is not in the data set, which has the columns {dataset.column_names}."
            )
    return list(columns.values())


def _text_arrays(texts, num_columns):
    """Turn evaluation texts, or pairs of them, into one Arrow array for each text of a row."""
    rows = [(text,) if text is None or isinstance(text, str) else tuple(text) for text in texts]
    wrong = next((row for row in rows if len(row) != num_columns), None)
    if wrong is not None and num_columns == 1:
        raise TypeError(
            f"evaluation_texts holds {wrong!r}, but text_pair_column is None, so each must be one text: name the "
            "column of second texts."
        )
    if wrong is not None:
        raise TypeError(
            f"evaluation_texts holds {wrong[0]!r}, but text_pair_column is given, so each must be a tuple of two "
            "texts, as `texts_of` makes them: one text alone is never equal to a pair, and every evaluation row would "
            "stay in the training data."
        )
    return [pa.array(column, pa.large_string()) for column in zip(*rows, strict=True)]


def _normalised_keys(*columns):
    normalised = []
    for texts in columns:
        if texts.null_count:
            raise ValueError(
                f"{texts.null_count} texts are missing (null), and nothing can be compared with them: remove them."
            )
        words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pc.utf8_lower(texts)))
        normalised.append(pc.binary_join(words, pa.scalar(" ", texts.type)).cast(pa.large_string()))
    # A line end is white space, so it stands in no normalised text: each pair has a key of its own.
    return text_keys(pc.binary_join_element_wise(*normalised, pa.scalar("\n", pa.large_string())).to_pylist())


def _concatenate(arrays):
    return np.concatenate([np.zeros(0, np.uint64), *arrays])
