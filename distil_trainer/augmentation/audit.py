"""What stands in an augmented data set: duplicates, texts of the evaluation data, the rows of each operator."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset

from distil_trainer.augmentation.analyzers import text_keys
from distil_trainer.augmentation.near_duplicates import NEAR_THRESHOLD, NearTexts
from distil_trainer.columns import check_columns_differ

_ROWS_PER_STEP = 20_000
_SHOWN = ("text", "evaluation_text", "similarity")


def drop_duplicates_and_leaks(
    dataset, evaluation_texts, text_column="sentence", text_pair_column=None, near_threshold=NEAR_THRESHOLD
):
    """Drop the rows whose text is in evaluation data or near it, and of equal texts all but the first in row order.

    Two texts are equal here when they differ only in case and white space, two pairs when both of their texts are, in
    the same order. An original, as the column `operators` says, goes before copies that equal it, wherever they stand.
    What is near says `NearTexts`. Originals are dropped like copies. Texts are read in steps and held as 64-bit
    hashes: about 50 bytes for each row at the peak.

    Args:
        dataset (`Dataset`): the rows, in the order in which the first one wins.
        evaluation_texts (`Iterable[str]`): every text that models are selected or scored on; may be empty. For several
            sets: `itertools.chain(validation["sentence"], test["sentence"])`. With `text_pair_column`, tuples of two
            texts. `texts_of` makes both.
        text_column (`str`, *optional*, defaults to `"sentence"`): the column of texts in `dataset`.
        text_pair_column (`str`, *optional*): the column of second texts.
        near_threshold (`float`, *optional*, defaults to 0.6): least similarity of a row to an evaluation text at which
            it is dropped; see `NearTexts`. `None` drops equal texts only.

    Returns:
        `tuple[Dataset, dict[str, int]]`: the kept rows, in order, and the counts `rows_in`, `in_evaluation_data`,
        `near_evaluation_data` (of rows not in evaluation data), `duplicates` (of rows neither in nor near evaluation
        data) and `rows_out`.

    Raises:
        TypeError: as in `read_evaluation_texts`.
        ValueError: if a column is missing, a text is missing, or `near_threshold` is not between 0 and 1.
    """
    found = find_duplicates_and_leaks(dataset, evaluation_texts, text_column, text_pair_column, near_threshold)
    kept = np.flatnonzero(~(found.is_leak | found.is_near | found.is_repeat))
    counts = {
        "rows_in": len(found.is_leak),
        "in_evaluation_data": int(found.is_leak.sum()),
        "near_evaluation_data": int(found.is_near.sum()),
        "duplicates": int((found.is_repeat & ~found.is_leak & ~found.is_near).sum()),
        "rows_out": len(kept),
    }
    return dataset if len(kept) == len(dataset) else dataset.select(kept), counts


def drop_leaks(dataset, evaluation_texts, text_column="sentence", text_pair_column=None, near_threshold=None):
    """Drop the rows whose text occurs in evaluation data; texts compare as in `drop_duplicates_and_leaks`.

    It is for rows with gold labels, and by default drops equal texts only: a near one among real texts is often
    another text with a label of its own ("rate the current series 1 points", "rate the current series 4 points").

    Args:
        dataset (`Dataset`): rows to train on.
        evaluation_texts (`Iterable[str]`): every text that models are selected or scored on; may be empty. With
            `text_pair_column`, tuples of two texts.
        text_column (`str`, *optional*, defaults to `"sentence"`): the column of texts in `dataset`.
        text_pair_column (`str`, *optional*): the column of second texts.
        near_threshold (`float`, *optional*): drop near texts too; see `drop_duplicates_and_leaks`.

    Returns:
        `tuple[Dataset, int]`: the kept rows, in order, and the number of dropped ones.

    Raises:
        TypeError: as in `read_evaluation_texts`.
        ValueError: if a column is missing, a text is missing, or `near_threshold` is not between 0 and 1.
    """
    found = find_duplicates_and_leaks(dataset, evaluation_texts, text_column, text_pair_column, near_threshold)
    is_leak = found.is_leak | found.is_near
    return (dataset.select(np.flatnonzero(~is_leak)), int(is_leak.sum())) if is_leak.any() else (dataset, 0)


@dataclasses.dataclass
class Findings:
    """What was found out about each row, in arrays of shape `(num_rows,)`.

    Attributes:
        is_leak (`np.ndarray`): whether its text is one of the evaluation data.
        is_near (`np.ndarray`): whether it is near one, and is none.
        is_repeat (`np.ndarray`): whether another row with the same text goes before it.
        examples (`list[dict]`): some of the near rows, with `row`, `text`, `evaluation_text` and `similarity`; a pair
            is a list of two texts.
        num_evaluation_texts (`int`): how many texts were compared with.
    """

    is_leak: np.ndarray
    is_near: np.ndarray
    is_repeat: np.ndarray
    examples: list
    num_evaluation_texts: int


def find_duplicates_and_leaks(
    dataset, evaluation_texts, text_column="sentence", text_pair_column=None, near_threshold=None, num_examples=0
):
    """Find the rows whose text is in evaluation data, near it, or that of an earlier row, and drop none.

    Args:
        dataset (`Dataset`): the rows.
        evaluation_texts (`Iterable[str]`): as in `drop_duplicates_and_leaks`.
        text_column (`str`, *optional*, defaults to `"sentence"`): the column of texts in `dataset`.
        text_pair_column (`str`, *optional*): the column of second texts.
        near_threshold (`float`, *optional*): least similarity of near texts; `None` looks for equal ones only.
        num_examples (`int`, *optional*, defaults to 0): how many near rows to show, the first ones.

    Returns:
        [`Findings`]

    Raises:
        TypeError: as in `read_evaluation_texts`.
        ValueError: if a column is missing, a text is missing, or `near_threshold` is not between 0 and 1.
    """
    columns = _given_columns(dataset, text_column, text_pair_column)
    evaluation = read_evaluation_texts(evaluation_texts, len(columns))
    evaluation_keys = _normalised_keys(*evaluation)
    near_texts = None if near_threshold is None else NearTexts(evaluation, near_threshold)
    keys, leaks, nears, examples, row = [np.zeros(0, np.uint64)], [np.zeros(0, bool)], [np.zeros(0, bool)], [], 0
    for table in dataset.select_columns(columns).with_format("arrow").iter(_ROWS_PER_STEP):
        texts = [table[column].combine_chunks() for column in columns]
        keys.append(_normalised_keys(*texts))
        leaks.append(np.isin(keys[-1], evaluation_keys))
        if near_texts is None:
            nears.append(np.zeros(len(table), bool))
        else:
            similarities, numbers = near_texts.nearest(*texts)
            nears.append((similarities > 0) & ~leaks[-1])
            for place in np.flatnonzero(nears[-1])[: num_examples - len(examples)]:
                shown = _row(texts, place), _row(evaluation, numbers[place]), float(similarities[place])
                examples.append({"row": row + int(place)} | dict(zip(_SHOWN, shown, strict=True)))
        row += len(table)
    keys = np.concatenate(keys)
    is_repeat = np.ones(len(keys), bool)
    if "operators" in dataset.column_names:  # a copy gives way to an original, which may have a gold label
        tables = dataset.select_columns("operators").with_format("arrow").iter(_ROWS_PER_STEP)
        is_copy = [pc.fill_null(pc.not_equal(table["operators"], "original"), True).to_numpy() for table in tables]
        order = np.lexsort((np.concatenate([np.zeros(0, bool), *is_copy]), keys))
        is_repeat[order[np.unique(keys[order], return_index=True)[1]]] = False
    else:
        is_repeat[np.unique(keys, return_index=True)[1]] = False
    return Findings(np.concatenate(leaks), np.concatenate(nears), is_repeat, examples, len(evaluation_keys))


def read_evaluation_texts(evaluation_texts, num_columns):
    """Read evaluation texts, as `drop_duplicates_and_leaks` takes them, into Arrow arrays.

    Args:
        evaluation_texts (`Iterable[str]`, or of `tuple[str, str]`): the texts.
        num_columns (`int`): 1 for texts, 2 for pairs.

    Returns:
        `list[pyarrow.Array]`: the first texts, and of pairs the second ones.

    Raises:
        TypeError: if it is one string, rows of a data set, or holds pairs where texts are needed or the other way
            round.
        ValueError: if a text has a lone surrogate.
    """
    if isinstance(evaluation_texts, str):
        raise TypeError(
            f"evaluation_texts={evaluation_texts[:40]!r} is one string, which would be read as single letters, and "
            'every evaluation text would stay in the training data: give a list, such as validation["sentence"].'
        )
    if isinstance(evaluation_texts, Mapping | Dataset | IterableDataset):
        _refuse_rows(type(evaluation_texts).__name__, num_columns)
    evaluation_texts = iter(evaluation_texts)
    chunks = iter(lambda: list(islice(evaluation_texts, _ROWS_PER_STEP)), [])
    arrays = [[pa.array([], pa.large_string())] * num_columns, *(_text_arrays(chunk, num_columns) for chunk in chunks)]
    return [pa.concat_arrays(column) for column in zip(*arrays, strict=True)]


def texts_of(datasets, text_column="sentence", text_pair_column=None):
    """Read the texts of data sets, a few at a time, in the form that `drop_leaks` compares.

    Args:
        datasets (`Iterable[Dataset]`): such as the validation and the test split.
        text_column (`str`, *optional*, defaults to `"sentence"`): their column of texts.
        text_pair_column (`str`, *optional*): their column of second texts.

    Yields:
        `str`, or `tuple[str, str]` with `text_pair_column`.

    Raises:
        TypeError: if `datasets` is one data set.
        ValueError: if a column is missing.
    """
    if isinstance(datasets, Dataset):
        raise TypeError("datasets is one Dataset, where several are needed: give `texts_of([validation], ...)`.")
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


def _row(columns, number):
    texts = [column[number].as_py() for column in columns]
    return texts[0] if len(texts) == 1 else texts


def _given_columns(dataset, text_column, text_pair_column):
    columns = {"text_column": text_column, "text_pair_column": text_pair_column}
    check_columns_differ(**columns)
    columns = {argument: column for argument, column in columns.items() if column is not None}
    for argument, column in columns.items():
        if column not in dataset.column_names:
            raise ValueError(
                f"{argument}={column!r} is not in the data set, which has the columns {dataset.column_names}."
            )
    return list(columns.values())


def _refuse_rows(kind, num_columns):
    raise TypeError(
        f"evaluation_texts is or holds a {kind}, where texts are needed: its column names would be compared in their "
        "place, and every evaluation text would stay in the training data. Give "
        + ("`texts_of([validation], first, second)`." if num_columns == 2 else '`validation["sentence"]`.')
    )


def _text_arrays(texts, num_columns):
    """Turn evaluation texts, or pairs of them, into one Arrow array for each text of a row."""
    for text in texts:
        if isinstance(text, Mapping):
            _refuse_rows(type(text).__name__, num_columns)
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
    try:
        return [pa.array(column, pa.large_string()) for column in zip(*rows, strict=True)]
    except UnicodeEncodeError as error:
        raise ValueError(
            f"evaluation_texts holds {error.object[:40]!r} with a lone surrogate, half a character that no file in "
            "UTF-8 can hold, so it could be compared with nothing: correct or remove that text."
        ) from error


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
