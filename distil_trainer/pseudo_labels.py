"""A teacher's answers as hard labels: given to rows without a gold label, where the teacher is certain enough.

Lee 2013, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural Networks".
"""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Features, Value
from scipy.special import entr, softmax

from distil_trainer.columns import column_batches, one_array
from distil_trainer.labels import UNLABELLED, dataset_label_names, label_permutation
from distil_trainer.training_data import check_teacher_logits

logger = logging.getLogger(__name__)

_ROWS_PER_STEP = 10_000
_FLAG = "is_pseudo_label"
_NONE = [label for label in UNLABELLED if label is not None]


def hard_pseudo_labels(dataset, max_entropy_bits=None, label_column="label", keep_gold_labels=True):
    """Label rows with the teacher's first choice, and drop those about which the teacher is uncertain.

    The result trains with `DistillationArguments(logit_loss_weight=0, hard_label_weight=1)`; `teacher_logits` and
    `teacher_label` stay for the audit. Labels are numbered as `label_column` names them; where that holds bare numbers
    or is absent, as the teacher names its labels, and bare gold numbers are taken to be in that order.

    Rows that an earlier call labelled (`is_pseudo_label`) count as unlabelled, so that labels follow a new teacher.

    Args:
        dataset (`Dataset`): rows with `teacher_logits`, as `TeacherLabeler.map` writes them, of a task with one label
            a row.
        max_entropy_bits (`float`, *optional*): keep rows whose softmax (at temperature 1) has at most this entropy;
            above 0 and below `log2(number of labels)`, which is that of a teacher that knows nothing. Default: keep
            all. Prior systems took 0.2 to 0.25 for two labels.
        label_column (`str`, *optional*, defaults to `"label"`): the column of gold labels; may be absent. -1, -100 and
            null mean unlabelled.
        keep_gold_labels (`bool`, *optional*, defaults to `True`): rows with a gold label keep it, however uncertain
            the teacher is. Otherwise they are treated like the others.

    Returns:
        `tuple[Dataset, dict]`: the rows, in order, with `label_column` as `ClassLabel` (integers where no one names
        the labels) and `is_pseudo_label`; and the counts `rows_in`, `gold_labels`, `pseudo_labels`, `uncertain`
        (dropped), `rows_out`, `mean_entropy_bits` (of the pseudo-labelled rows; `None` where there are none) and
        `rows_of_label` (a `dict`, gold and pseudo-labels together).

    Raises:
        ValueError: if a column is missing, logits are missing, not finite or of unequal length, there is only one a
            row (a regression), a gold label is not one of the teacher's, the label names do not match, or the
            threshold is out of range or leaves nothing.
        TypeError: if `label_column` holds something else than one whole number a row.

    Reference:
        Lee 2013 (above), section 2.2. Departure: the threshold, as in self-training (Yarowsky 1995).
    """
    names, permutation, num_labels = _label_order(dataset, label_column)
    kept, counts = _confident_rows(dataset, max_entropy_bits, label_column, keep_gold_labels, num_labels)
    features = {name: feature for name, feature in dataset.features.items() if name not in (label_column, _FLAG)}
    label_feature = Value("int64") if names is None else ClassLabel(names=names)
    features = Features({**features, label_column: label_feature, _FLAG: Value("bool")})
    labelled = _map_kept(
        dataset,
        kept,
        _label,
        features,
        label_column=label_column,
        keep_gold_labels=keep_gold_labels,
        num_labels=num_labels,
        permutation=permutation,
    )
    rows_of_label = sum(
        np.bincount(labels.to_numpy(), minlength=num_labels) for _, labels in column_batches(labelled, label_column)
    )
    if np.count_nonzero(rows_of_label) == 1:
        logger.warning(
            "All %d rows have the same label: a student would learn to give it always. Raise max_entropy_bits=%s, or "
            "look whether the teacher has collapsed.",
            len(labelled),
            max_entropy_bits,
        )
    given = range(num_labels) if names is None else names
    return labelled, {**counts, "rows_of_label": dict(zip(map(str, given), rows_of_label.tolist(), strict=True))}


def keep_confident(dataset, max_entropy_bits=None, label_column="label", keep_gold_labels=True):
    """Drop the rows about which the teacher is uncertain, and leave all columns as they are.

    Args:
        dataset (`Dataset`): rows with `teacher_logits`.
        max_entropy_bits (`float`, *optional*), label_column (`str`), keep_gold_labels (`bool`): as in
            `hard_pseudo_labels`.

    Returns:
        `tuple[Dataset, dict]`: the kept rows, in order, and the counts of `hard_pseudo_labels` but `rows_of_label`.

    Raises:
        ValueError, TypeError: as in `hard_pseudo_labels`.
    """
    _, _, num_labels = _label_order(dataset, label_column)
    kept, counts = _confident_rows(dataset, max_entropy_bits, label_column, keep_gold_labels, num_labels)
    return dataset if kept.all() else _map_kept(dataset, kept, _as_they_are, dataset.features), counts


def entropy_bits(logits):
    """Compute the entropy of the softmax of logits: 0 is certainty, `log2(num_labels)` knows nothing.

    Args:
        logits (`np.ndarray` of shape `(n, num_labels)`): finite logits.

    Returns:
        `np.ndarray` of shape `(n,)`, float64, in bits.
    """
    return entr(softmax(np.asarray(logits, np.float64), axis=1)).sum(axis=1) / np.log(2)


def _confident_rows(dataset, max_entropy_bits, label_column, keep_gold_labels, num_labels):
    """Return whether each row is kept, of shape `(num_rows,)`, and the counts."""
    if max_entropy_bits is not None and not 0 < max_entropy_bits < np.log2(num_labels):
        raise ValueError(
            f"max_entropy_bits={max_entropy_bits} with {num_labels} labels: it must be above 0 and below "
            f"{np.log2(num_labels):.4g}, the entropy of a teacher that knows nothing. Outside of that no row or every "
            "row would be kept; to keep every row, leave it out."
        )
    entropies, is_gold = _entropies(dataset, num_labels), _gold_rows(dataset, label_column, num_labels)
    is_gold &= keep_gold_labels
    certain = np.ones(len(dataset), bool) if max_entropy_bits is None else entropies <= max_entropy_bits
    kept = certain | is_gold
    if not kept.any():
        raise ValueError(
            f"max_entropy_bits={max_entropy_bits} leaves none of {len(dataset)} rows: the teacher's most certain "
            f"answer has {entropies.min():.4g} bits, half of its answers have {np.median(entropies):.4g} or more. "
            "Raise the threshold, or train the teacher longer."
        )
    pseudo = kept & ~is_gold
    counts = {
        "rows_in": len(dataset),
        "gold_labels": int(is_gold.sum()),
        "pseudo_labels": int(pseudo.sum()),
        "uncertain": int((~kept).sum()),
        "rows_out": int(kept.sum()),
        "mean_entropy_bits": float(entropies[pseudo].mean(dtype=np.float64)) if pseudo.any() else None,
    }
    return kept, counts


def _label_order(dataset, label_column):
    """Return the label names of the result, the order in which logits are read for them, and the number of labels."""
    if "teacher_logits" not in dataset.column_names or not len(dataset):
        raise ValueError(
            f"dataset has {len(dataset)} rows with the columns {', '.join(dataset.column_names)}; needed are rows "
            "with 'teacher_logits': label them with `TeacherLabeler(teacher, tokenizer).map(dataset)`."
        )
    _, first = next(column_batches(dataset, "teacher_logits", batch_size=1))
    is_list = pa.types.is_list(first.type) or pa.types.is_fixed_size_list(first.type)
    num_labels = (pc.list_value_length(first)[0].as_py() or 0) if is_list else 0
    check_teacher_logits(dataset, num_labels, "dataset")
    if num_labels < 2:
        raise ValueError(
            f"dataset has {num_labels} teacher_logits a row: with one, the teacher regresses a score. A score has "
            "neither an entropy nor a first choice, and every row would get label 0: train on the scores as they are."
        )
    teacher_names = dataset_label_names(dataset, "teacher_label")
    names = dataset_label_names(dataset, label_column)
    for column, given in (("teacher_label", teacher_names), (label_column, names)):
        if given is not None and len(given) != num_labels:
            raise ValueError(
                f"dataset: column {column!r} has the {len(given)} labels {given}, but a row has {num_labels} "
                "teacher_logits. Labels would get wrong names: label the data with the teacher of this task."
            )
    if names is None or teacher_names is None:
        return names or teacher_names, None, num_labels
    permutation = label_permutation(
        teacher_names, names, given="the teacher (column 'teacher_label')", wanted=f"column {label_column!r}"
    )
    return names, permutation, num_labels


def _entropies(dataset, num_labels):
    return np.concatenate(
        [
            entropy_bits(_logits(values, num_labels)).astype(np.float32)
            for _, values in column_batches(dataset, "teacher_logits")
        ]
    )


def _logits(values, num_labels):
    return values.flatten().to_numpy(zero_copy_only=False).reshape(-1, num_labels)


def _gold_rows(dataset, label_column, num_labels):
    """Return whether each row has a gold label, of shape `(num_rows,)`."""
    if label_column not in dataset.column_names:
        return np.zeros(len(dataset), bool)
    gold = []
    for start, values in column_batches(dataset, label_column):
        if not (pa.types.is_integer(values.type) or pa.types.is_null(values.type)):
            raise TypeError(
                f"dataset: label_column={label_column!r} holds {values.type}, but hard pseudo-labels are one whole "
                "number a row. For names, `dataset.class_encode_column(...)` makes them; scores and several labels a "
                "row cannot be pseudo-labelled: train on teacher_logits as they are."
            )
        labels = _integers(values)
        wrong = ((labels < 0) | (labels >= num_labels)) & ~np.isin(labels, _NONE)
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"dataset: row {start + row} has {label_column}={labels[row]}, but the teacher has {num_labels} "
                f"labels, 0 to {num_labels - 1}. Only -1, -100 and null mean unlabelled: correct the row, or label "
                "the data with the teacher of this task."
            )
        gold.append(labels >= 0)
    gold = np.concatenate(gold)
    if _FLAG in dataset.column_names:
        flags = [values.to_numpy(zero_copy_only=False) for _, values in column_batches(dataset, _FLAG)]
        gold &= ~np.concatenate(flags).astype(bool)
    return gold


def _integers(values):
    return pc.fill_null(values.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)


def _map_kept(dataset, kept, function, features, **arguments):
    # `Dataset.select` would leave an indirection by which every later reader goes row by row, at a tenth of the speed.
    mapped = dataset.with_format("arrow").map(
        _kept_rows,
        batched=True,
        batch_size=_ROWS_PER_STEP,
        with_indices=True,
        fn_kwargs={"kept": kept, "function": function, "arguments": arguments},
        features=features,
        desc="Keeping confident rows",
    )
    return mapped.with_format(None)


def _kept_rows(table, rows, kept, function, arguments):
    return function(table.filter(pa.array(kept[rows[0] : rows[0] + len(table)])), **arguments)


def _as_they_are(table):
    return table


def _label(table, label_column, keep_gold_labels, num_labels, permutation):
    logits = _logits(one_array(table["teacher_logits"]), num_labels)
    labels = (logits if permutation is None else logits[:, permutation]).argmax(axis=1)
    is_pseudo = np.ones(len(table), bool)
    if keep_gold_labels and label_column in table.column_names:
        given = _integers(one_array(table[label_column]))
        is_pseudo = given < 0
        if _FLAG in table.column_names:
            is_pseudo |= one_array(table[_FLAG]).to_numpy(zero_copy_only=False).astype(bool)
        labels = np.where(is_pseudo, labels, given)
    table = table.drop_columns([column for column in (label_column, _FLAG) if column in table.column_names])
    return table.append_column(label_column, pa.array(labels)).append_column(_FLAG, pa.array(is_pseudo))
