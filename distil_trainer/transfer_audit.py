"""What a transfer set is made of: rows of each operator, duplicates, leaks, what the teacher says, and lengths."""

import numpy as np
import pyarrow.compute as pc

from distil_trainer.augmentation.audit import find_duplicates_and_leaks
from distil_trainer.augmentation.near_duplicates import NEAR_THRESHOLD
from distil_trainer.columns import column_batches
from distil_trainer.transfer_rows import (
    compare_with_parents,
    has_teacher_labels,
    read_teacher_labels,
    rows_of_values,
)

_GROUPING_COLUMNS = ("operators", "source", "rewritten")
_QUANTILES = {"min": 0.0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}


def audit_transfer_set(
    dataset,
    evaluation_texts=(),
    text_column="sentence",
    text_pair_column=None,
    near_threshold=NEAR_THRESHOLD,
    num_examples=5,
):
    """Count and measure the rows of a transfer set, all of them and those of each operator, source and rewritten side.

    Nothing is dropped: audit before `drop_duplicates_and_leaks` to see what it will take, or after it to see what was
    left. What the data set has no column for is left out: `operators`, `source` and `rewritten` give groups,
    `teacher_logits` of several labels give the teacher's entropy and, with `parent` and `operators`, how often its
    label left that of the text which was rewritten. Entropies are those of a teacher with one label a row.

    Columns are read in steps; some 50 bytes for each row stay in memory, and twice as many at the peak.

    Args:
        dataset (`Dataset`): the transfer set.
        evaluation_texts (`Iterable[str]`, *optional*, defaults to `()`): every text that models are selected or scored
            on, as for `drop_duplicates_and_leaks`.
        text_column (`str`, *optional*, defaults to `"sentence"`): the column of texts.
        text_pair_column (`str`, *optional*): the column of second texts. Lengths are then those of both together.
        near_threshold (`float`, *optional*, defaults to 0.6): least similarity of near texts; see `NearTexts`. `None`
            looks for equal ones only.
        num_examples (`int`, *optional*, defaults to 5): how many near rows to show.

    Returns:
        `dict`: plain values for JSON. `all` is the summary of all rows, `groups` holds those of each value of each
        grouping column, most rows first. A summary has `rows`, `share`; `in_evaluation_data`, `near_evaluation_data`
        and `duplicates`, counted as `drop_duplicates_and_leaks` counts them; `words` and `characters`, and with a
        teacher `entropy_bits`: `mean`, `min`, `p5`, `p25`, `median`, `p75`, `p95`, `max`; and with parents
        `copies_compared` and `label_left_parent`. `near_examples` has `row`, `text`, `evaluation_text` and
        `similarity`.

    Raises:
        TypeError: if `evaluation_texts` is one string or holds pairs where texts are needed or the other way round,
            or `teacher_logits` holds no lists.
        ValueError: if there are no rows, a column or a text is missing, teacher logits are missing or not finite, or
            two originals have the same parent.
    """
    if not len(dataset):
        raise ValueError("dataset has no rows: there is nothing to audit.")
    evaluation = find_duplicates_and_leaks(
        dataset, evaluation_texts, text_column, text_pair_column, near_threshold, num_examples
    )
    columns = [text_column] if text_pair_column is None else [text_column, text_pair_column]
    flags = {
        "in_evaluation_data": evaluation.is_leak,
        "near_evaluation_data": evaluation.is_near,
        "duplicates": evaluation.is_repeat & ~evaluation.is_leak & ~evaluation.is_near,
    }
    measures = {
        "words": sum(_counts(dataset, column, _count_words) for column in columns),
        "characters": sum(_counts(dataset, column, pc.utf8_length) for column in columns),
    }
    num_labels = None
    if has_teacher_labels(dataset):
        measures["entropy_bits"], labels, num_labels = read_teacher_labels(dataset)
        if {"parent", "operators"} <= set(dataset.column_names):
            flags["copies_compared"], flags["label_left_parent"] = compare_with_parents(dataset, labels)
    groups = {
        column: {name: _summary(rows, len(dataset), flags, measures) for name, rows in rows_of_values(dataset, column)}
        for column in _GROUPING_COLUMNS
        if column in dataset.column_names
    }
    return {
        "all": _summary(slice(None), len(dataset), flags, measures),
        "groups": groups,
        "evaluation_texts": evaluation.num_evaluation_texts,
        "near_threshold": near_threshold,
        "num_labels": num_labels,
        "near_examples": evaluation.examples,
    }


def _counts(dataset, column, count):
    counts = np.empty(len(dataset), np.int32)
    for start, values in column_batches(dataset, column):
        counts[start : start + len(values)] = count(values).to_numpy(zero_copy_only=False)
    return counts


def _count_words(texts):
    return pc.count_substring_regex(texts, r"\S+")


def _summary(rows, total, flags, measures):
    """Summarise some rows, all of them or those with the given numbers."""
    number = total if isinstance(rows, slice) else len(rows)
    summary = {"rows": number, "share": number / total}
    summary |= {name: int(flag[rows].sum()) for name, flag in flags.items()}
    for name, values in measures.items():
        values = values[rows].astype(np.float64)
        quantiles = np.quantile(values, list(_QUANTILES.values())).tolist()
        summary[name] = {"mean": float(values.mean()), **dict(zip(_QUANTILES, quantiles, strict=True))}
    return summary
