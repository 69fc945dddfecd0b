"""What stands in an augmented data set: duplicates, texts of the evaluation data, the rows of each operator."""

from collections import Counter
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distil_trainer.augmentation.analyzers import text_keys

_ROWS_PER_STEP = 20_000


def drop_duplicates_and_leaks(dataset, evaluation_texts, text_column="sentence"):
    """Drop the rows whose text occurs in evaluation data, and of equal texts all but the first in row order.

    Two texts are equal here when they differ only in case and white space. Originals are dropped like copies. Texts
    are read in steps and held as 64-bit hashes: about 30 bytes for each row at the peak.

    Args:
        dataset (`Dataset`): the rows, in the order in which the first one wins.
        evaluation_texts (`Iterable[str]`): every text that models are selected or scored on; may be empty. For several
            sets: `itertools.chain(validation["sentence"], test["sentence"])`.
        text_column (`str`, *optional*, defaults to `"sentence"`): the column of texts in `dataset`.

    Returns:
        `tuple[Dataset, dict[str, int]]`: the kept rows, in order, and the counts `rows_in`, `in_evaluation_data`,
        `duplicates` (of rows not in evaluation data) and `rows_out`.

    Raises:
        TypeError: if `evaluation_texts` is one string.
        ValueError: if `text_column` is missing, or a text is missing.
    """
    keys, leaked = _keys_and_leaks(dataset, evaluation_texts, text_column)
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


def drop_leaks(dataset, evaluation_texts, text_column="sentence"):
    """Drop the rows whose text occurs in evaluation data; texts compare as in `drop_duplicates_and_leaks`.

    Args:
        dataset (`Dataset`): rows to train on.
        evaluation_texts (`Iterable[str]`): every text that models are selected or scored on; may be empty.
        text_column (`str`, *optional*, defaults to `"sentence"`): the column of texts in `dataset`.

    Returns:
        `tuple[Dataset, int]`: the kept rows, in order, and the number of dropped ones.

    Raises:
        TypeError: if `evaluation_texts` is one string.
        ValueError: if `text_column` is missing, or a text is missing.
    """
    _, leaked = _keys_and_leaks(dataset, evaluation_texts, text_column)
    return (dataset.select(np.flatnonzero(~leaked)), int(leaked.sum())) if leaked.any() else (dataset, 0)


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


def _keys_and_leaks(dataset, evaluation_texts, text_column):
    """Return each row's key and whether it is that of an evaluation text, both of shape `(num_rows,)`."""
    if text_column not in dataset.column_names:
        raise ValueError(
            f"text_column={text_column!r} is not in the data set, which has the columns {dataset.column_names}."
        )
    if isinstance(evaluation_texts, str):
        raise TypeError(
            f"evaluation_texts={evaluation_texts[:40]!r} is one string, which would be read as single letters, and "
            'every evaluation text would stay in the training data: give a list, such as validation["sentence"].'
        )
    evaluation_texts = iter(evaluation_texts)
    chunks = iter(lambda: list(islice(evaluation_texts, _ROWS_PER_STEP)), [])
    evaluation_keys = _concatenate(_normalised_keys(pa.array(chunk, pa.large_string())) for chunk in chunks)
    columns = dataset.select_columns(text_column).with_format("arrow").iter(_ROWS_PER_STEP)
    keys = _concatenate(_normalised_keys(table[text_column].combine_chunks()) for table in columns)
    return keys, np.isin(keys, evaluation_keys)


def _normalised_keys(texts):
    if texts.null_count:
        raise ValueError(
            f"{texts.null_count} texts are missing (null), and nothing can be compared with them: remove them."
        )
    words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pc.utf8_lower(texts)))
    return text_keys(pc.binary_join(words, pa.scalar(" ", texts.type)).to_pylist())


def _concatenate(arrays):
    return np.concatenate([np.zeros(0, np.uint64), *arrays])
