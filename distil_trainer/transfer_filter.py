"""Rows of a transfer set, kept or dropped by how certain the teacher is and whether its label left the parent's."""

import logging

import numpy as np

from distil_trainer.transfer_rows import compare_with_parents, has_teacher_labels, read_teacher_labels

logger = logging.getLogger(__name__)


def filter_transfer_set(dataset, max_entropy_bits=None, min_entropy_bits=None, keep_disagreements=True):
    """Drop rows by the entropy of the teacher's softmax, or where the teacher's label left that of the parent.

    The bounds hold for every row, originals too, so that no row of the result is beyond them (`keep_confident` spares
    rows with gold labels). An original cannot disagree with itself, so only a bound takes it, and its copies are
    judged by its label even then. Copies whose original is not in the data set cannot be judged, and stay.

    Args:
        dataset (`Dataset`): rows with `teacher_logits`, of a task with one label a row.
        max_entropy_bits (`float`, *optional*): rows of which the teacher is less certain go. 0 is certainty,
            `log2(number of labels)` that of a teacher that knows nothing.
        min_entropy_bits (`float`, *optional*): rows of which the teacher is more certain go: they teach little.
        keep_disagreements (`bool`, *optional*, defaults to `True`): keep rewritten rows whose teacher's label is
            another than that of the text they were made from. `False` needs the columns `parent` and `operators`.

    Returns:
        `tuple[Dataset, dict[str, int]]`: the kept rows, in order, and the counts `rows_in`, `above_max_entropy`,
        `below_min_entropy`, `copies_compared` (with the label of their original), `disagreements` (of rows within the
        bounds) and `rows_out`.

    Raises:
        ValueError: if no filter is given, a column is missing, a bound is out of range, teacher logits are missing,
            not finite or only one a row, two originals have the same parent, or no row is left.
        TypeError: if `teacher_logits` holds no lists.
    """
    if max_entropy_bits is None and min_entropy_bits is None and keep_disagreements:
        raise ValueError(
            "No filter is given, so every row would stay: give max_entropy_bits, min_entropy_bits or "
            "keep_disagreements=False."
        )
    if not has_teacher_labels(dataset):
        raise ValueError(
            f"dataset has the columns {', '.join(dataset.column_names)}; needed are 'teacher_logits' of several "
            "labels, or there is no certainty to filter by: label the rows with "
            "`TeacherLabeler(teacher, tokenizer).map(dataset)`. A teacher that regresses one score has none."
        )
    entropies, labels, num_labels = read_teacher_labels(dataset)
    _check_bounds(max_entropy_bits, min_entropy_bits, num_labels)
    no_row = np.zeros(len(dataset), bool)
    above = no_row if max_entropy_bits is None else entropies > max_entropy_bits
    below = no_row if min_entropy_bits is None else entropies < min_entropy_bits
    is_compared, left = (no_row, no_row) if keep_disagreements else compare_with_parents(dataset, labels)
    if not keep_disagreements and not is_compared.any():
        logger.warning(
            "keep_disagreements=False drops nothing: no copy has its original in the data set, so no label can be "
            "compared. Filter before the originals are dropped, as `drop_duplicates_and_leaks` does where another "
            "source has the same texts."
        )
    kept = np.flatnonzero(~(above | below | left))
    counts = {
        "rows_in": len(dataset),
        "above_max_entropy": int(above.sum()),
        "below_min_entropy": int(below.sum()),
        "copies_compared": int(is_compared.sum()),
        "disagreements": int((left & ~above & ~below).sum()),
        "rows_out": len(kept),
    }
    if not len(kept):
        raise ValueError(
            f"max_entropy_bits={max_entropy_bits} and min_entropy_bits={min_entropy_bits} leave none of "
            f"{len(dataset)} rows: entropies go from {entropies.min():.4g} to {entropies.max():.4g} bits, and half of "
            f"them are at most {np.median(entropies):.4g}. Widen the bounds; `audit_transfer_set` shows their "
            "quantiles."
        )
    return dataset if len(kept) == len(dataset) else dataset.select(kept), counts


def _check_bounds(max_entropy_bits, min_entropy_bits, num_labels):
    highest = np.log2(num_labels)
    for name, bound in (("max_entropy_bits", max_entropy_bits), ("min_entropy_bits", min_entropy_bits)):
        if bound is not None and not 0 < bound < highest:
            raise ValueError(
                f"{name}={bound} with {num_labels} labels: it must be above 0 and below {highest:.4g}, the entropy of "
                "a teacher that knows nothing. Outside of that it would take no row or every row: leave it out, or "
                "correct it."
            )
    if max_entropy_bits is not None and min_entropy_bits is not None and min_entropy_bits > max_entropy_bits:
        raise ValueError(
            f"min_entropy_bits={min_entropy_bits} is above max_entropy_bits={max_entropy_bits}, and no row is above "
            "the one and below the other: exchange them."
        )
