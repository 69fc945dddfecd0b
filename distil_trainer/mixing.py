"""One transfer set out of several: labelled and unlabelled rows by given shares, no row twice, with one schema."""

import logging
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Value, concatenate_datasets

from distil_trainer.columns import check_column, column_batches
from distil_trainer.unlabelled import missing_values

logger = logging.getLogger(__name__)

_ROWS_PER_STEP = 10_000
# What augmentation would have written in a row that it never saw.
_OF_ORIGINALS = {"operators": "original", "rewritten": "none"}


def mix(sources, shares=None, num_rows=None, seed=0, *, text_column="sentence", text_pair_column=None):
    """Put rows of several data sets into one, by given shares.

    Rows are drawn without replacement, so none stands there twice; which ones depends on the seed alone. They stay
    in their order, one source after the other: trainers shuffle anyway, and where texts are equal,
    `drop_duplicates_and_leaks` keeps the first, so give the labelled rows first. Drop duplicates before mixing where
    the shares shall be exact afterwards.

    All columns of all sources are kept. Where a source lacks one, its rows have -1 in columns of whole numbers (no
    label, no `parent`), "original" in `operators`, "none" in `rewritten`, and null in any other. `parent` still counts
    the rows of each source on its own: two rows have the same parent where `source` and `parent` are equal.

    Args:
        sources (`dict[str, Dataset]`): the data sets by name, augmented or not.
        shares (`dict[str, float]`, *optional*): each source's share of the rows, above 0 and 1 together. By default
            the share that it has of all rows.
        num_rows (`int`, *optional*): rows of the result. Default: as many as the shares allow.
        seed (`int`, *optional*, defaults to 0): draws the rows.
        text_column (`str`, *optional*, defaults to `"sentence"`): the column of texts, which all sources must have.
        text_pair_column (`str`, *optional*): the column of second texts.

    Returns:
        `Dataset` with the column `source`: the name of each row's source, or what an earlier mix wrote there.

    Raises:
        TypeError: if `sources` is no dictionary, or a source no `Dataset`.
        ValueError: if a source is empty, lacks a text column or has a column `source` of no strings; if columns of one
            name are of different types or have different label names; if the shares are not legal, or ask for more
            rows than there are.

    Example:

    ```python
    mixed = mix({"labelled": train, "unlabelled": comments}, shares={"labelled": 0.3, "unlabelled": 0.7}, seed=13)
    ```
    """
    _check_sources(sources, [column for column in (text_column, text_pair_column) if column is not None])
    features = _common_features(sources)
    counts = _row_counts({name: len(dataset) for name, dataset in sources.items()}, shares, num_rows)
    parts = []
    for number, (name, dataset) in enumerate(sources.items()):
        drawn = np.ones(len(dataset), bool)
        if counts[name] < len(dataset):
            drawn[:] = False
            drawn[np.random.default_rng([seed, number]).choice(len(dataset), counts[name], replace=False)] = True
        if counts[name]:
            parts.append(_drawn_rows(dataset, name, features, drawn))
    logger.info("Mixed %s.", ", ".join(f"{counts[name]} of {len(sources[name])} {name} rows" for name in sources))
    return concatenate_datasets(parts)


def inherit_column(dataset, parents, column="source"):
    """Give each row of an augmented data set the value that its parent has in a column.

    Augmentation keeps texts, labels and `parent` alone; this brings `source` back.

    Args:
        dataset (`Dataset`): augmented rows; their `parent` is a row number of `parents`, or -1 for none.
        parents (`Dataset`): the rows that were augmented, as they were.
        column (`str`, *optional*, defaults to `"source"`): the column of strings to inherit, of few different values.

    Returns:
        `Dataset` with the column; null in rows without a parent.

    Raises:
        ValueError: if a column is missing, or a parent is no row of `parents`.
    """
    if "parent" not in dataset.column_names:
        raise ValueError(
            f"dataset has no column 'parent'; its columns are {', '.join(dataset.column_names)}. Only augmented rows "
            "have parents: give what augmentation returned."
        )
    check_column(parents, column, "parents", "column")
    highest = max((int(values.to_numpy().max()) for _, values in column_batches(dataset, "parent")), default=-1)
    if highest >= len(parents):
        raise ValueError(
            f"dataset has parent={highest}, but parents has {len(parents)} rows. Rows would inherit from strangers: "
            "give the data set that was augmented, before anything was dropped from it."
        )
    chunks = [values.dictionary_encode() for _, values in column_batches(parents, column)]
    values = pa.chunked_array(chunks).unify_dictionaries().combine_chunks()
    features = Features({**dataset.features, column: parents.features[column]})
    inherited = dataset.with_format("arrow").map(
        _inherit,
        batched=True,
        batch_size=_ROWS_PER_STEP,
        fn_kwargs={"values": values, "column": column},
        features=features,
        desc=f"Inheriting {column}",
    )
    return inherited.with_format(None)


def _check_sources(sources, text_columns):
    if not isinstance(sources, Mapping):
        raise TypeError(
            f"sources is a {type(sources).__name__}, but must be a dictionary of data sets by name, such as "
            "{'labelled': train, 'unlabelled': comments}: each row tells where it is from."
        )
    if not sources:
        raise ValueError("sources is empty: give at least one data set, such as {'labelled': train}.")
    for name, dataset in sources.items():
        if not isinstance(dataset, Dataset):
            raise TypeError(
                f"sources[{name!r}] is a {type(dataset).__name__}, but must be a `Dataset`: `load_unlabelled` makes "
                "one of files and streams."
            )
        if not len(dataset):
            raise ValueError(f"sources[{name!r}] has no rows: leave it out.")
        for column in text_columns:
            check_column(
                dataset,
                column,
                f"sources[{name!r}]",
                "text_column" if column == text_columns[0] else "text_pair_column",
            )
        if "source" in dataset.column_names and dataset.features["source"] != Value("string"):
            raise ValueError(
                f"sources[{name!r}] has a column 'source' of {dataset.features['source']}, which cannot name where a "
                "row is from. Rename it: `dataset.rename_column('source', 'origin')`."
            )


def _common_features(sources):
    """Return the features of the mix: every column of any source, in the order in which they first occur."""
    features, given_by = {}, {}
    for name, dataset in sources.items():
        for column, feature in dataset.features.items():
            known = features.get(column)
            if (
                known is None
                or known == Value("null")
                or (known == Value("int64") and isinstance(feature, ClassLabel))
            ):
                features[column], given_by[column] = feature, name
    for name, dataset in sources.items():
        for column, feature in dataset.features.items():
            wanted = features[column]
            if not (feature in (wanted, Value("null")) or _fits(feature, wanted)):
                raise ValueError(
                    f"Column {column!r} is {feature} in sources[{name!r}] and {wanted} in "
                    f"sources[{given_by[column]!r}]. One of them would be read wrongly: bring both to one type "
                    "(`dataset.cast_column`, or `dataset.align_labels_with_mapping` for labels in another order)."
                )
    return Features({**features, "source": Value("string")})


def _fits(feature, wanted):
    strings = (Value("string"), Value("large_string"))
    return (feature == Value("int64") and isinstance(wanted, ClassLabel)) or (feature in strings and wanted in strings)


def _row_counts(sizes, shares, num_rows):
    """Return how many rows each source gives: exact shares, rounded by the largest remainder."""
    total = sum(sizes.values())
    if shares is None:
        if num_rows is None:
            return sizes
        shares = {name: Fraction(size, total) for name, size in sizes.items()}
    else:
        shares = _checked_shares(shares, sizes)
    scarce = min(sizes, key=lambda name: sizes[name] / shares[name])
    most = int(sizes[scarce] / shares[scarce])
    if num_rows is None:
        num_rows = most
    if num_rows < 1:
        raise ValueError(f"num_rows={num_rows} must be at least 1. These shares and sources allow up to {most}.")
    counts = {name: int(num_rows * share) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: counts[name] - num_rows * shares[name])
    for name in by_remainder[: num_rows - sum(counts.values())]:
        counts[name] += 1
    for name, count in counts.items():
        if count > sizes[name]:
            raise ValueError(
                f"num_rows={num_rows} with a share of {float(shares[name]):.4g} asks for {count} rows of {name!r}, "
                f"which has {sizes[name]}. Rows are not repeated: these shares allow num_rows={most} at most, for "
                f"which {scarce!r} is used up."
            )
    return counts


def _checked_shares(shares, sizes):
    if set(shares) != set(sizes):
        raise ValueError(
            f"shares names {', '.join(shares)}, sources names {', '.join(sizes)}. Give each source a share, or leave "
            "it out of both."
        )
    for name, share in shares.items():
        if not 0 < share <= 1:
            raise ValueError(
                f"shares[{name!r}]={share} must be above 0 and at most 1; leave out what shall give none."
            )
    exact = {name: Fraction(str(float(shares[name]))) for name in sizes}  # 0.3 is three tenths, as it was meant
    total = sum(exact.values())
    if abs(total - 1) > Fraction(1, 1_000_000):
        raise ValueError(
            f"shares={shares} make {float(total):.6g} together, but must make 1. Scaled in silence, a forgotten "
            "source or a slip of the pen would give another mix than was asked for."
        )
    return {name: share / total for name, share in exact.items()}


def _drawn_rows(dataset, name, features, drawn):
    # `Dataset.select` would leave an indirection by which every later reader goes row by row, at a tenth of the speed.
    mixed = dataset.with_format("arrow").map(
        _bring_to_schema,
        batched=True,
        batch_size=_ROWS_PER_STEP,
        with_indices=True,
        fn_kwargs={"name": name, "features": features, "drawn": drawn},
        features=features,
        desc=f"Mixing {name}",
    )
    return mixed.with_format(None)


def _bring_to_schema(table, rows, name, features, drawn):
    table = table.filter(pa.array(drawn[rows[0] : rows[0] + len(table)]))
    arrays = []
    for field in features.arrow_schema:
        if field.name == "source" and "source" not in table.column_names:
            array = pa.repeat(pa.scalar(name, field.type), len(table))
        elif field.name in table.column_names and not pa.types.is_null(table[field.name].type):
            array = table[field.name].cast(field.type)
        elif field.name in _OF_ORIGINALS and pa.types.is_string(field.type):
            array = pa.repeat(_OF_ORIGINALS[field.name], len(table))
        else:
            array = missing_values(len(table), field.type)
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=features.arrow_schema)


def _inherit(table, values, column):
    parents = table["parent"].to_numpy()
    taken = values.take(pa.array(parents, mask=parents < 0)).dictionary_decode()
    kept = table.drop_columns([column] if column in table.column_names else [])
    return kept.append_column(column, taken)
