"""Splits of texts and labels or scores, from the Hub or from files, checked before any work starts."""

import csv
import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from datasets import ClassLabel, Features, Value, load_dataset
from datasets.exceptions import DatasetGenerationError

from distil_trainer.columns import column_batches
from distil_trainer.labels import UNLABELLED, label_permutation, renumber
from distil_trainer.recipe_task import is_score, recipe_task
from distil_trainer.text import check_texts, is_blank

logger = logging.getLogger(__name__)

FORMATS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


@dataclass
class DataArguments:
    """Where the splits come from. A file, where given, takes the place of the Hub data set's split."""

    dataset_name: str | None = field(
        default=None, metadata={"help": "Hub id of a data set, for splits without a file."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the Hub data set."})
    validation_split: str = field(
        default="validation", metadata={"help": "Name of the Hub data set's split that models are validated on."}
    )
    train_file: str | None = field(default=None, metadata={"help": "Training split: .csv, .tsv, .jsonl or .parquet."})
    validation_file: str | None = field(default=None, metadata={"help": "Validation split, in the same formats."})
    test_file: str | None = field(default=None, metadata={"help": "Test split; only scored, once, at the very end."})
    calibration_file: str | None = field(
        default=None,
        metadata={
            "help": "Rows with gold labels that nothing else reads: they decide the temperature by which the ONNX "
            "files' logits are divided, and which texts the student may answer without its teacher."
        },
    )
    calibration_rows: int | None = field(
        default=None, metadata={"help": "In place of that file: set so many random training rows aside."}
    )
    drop_empty_texts: bool = field(
        default=False,
        metadata={"help": "Drop training rows with a missing or empty text, in place of refusing the split."},
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Keep this many random training rows."})
    max_validation_samples: int | None = field(default=None, metadata={"help": "Keep this many validation rows."})

    def __post_init__(self):
        if self.calibration_file is not None and self.calibration_rows is not None:
            raise ValueError(
                f"calibration_file={self.calibration_file!r} and calibration_rows={self.calibration_rows}: the rows "
                "come from the one or the other. Leave one out."
            )
        for name in ("max_train_samples", "max_validation_samples", "calibration_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1; leave it out to keep every row.")


def load_splits(
    arguments, *, text_column="sentence", text_pair_column=None, label_column="label", label_names=None, seed=0
):
    """Load the train, validation, calibration and test splits that `arguments` names, with labels as `ClassLabel`.

    Label names come from the training split, else from `label_names`; the other splits are brought to the same
    names in the same order. A column of decimal numbers in the training split holds scores, for a regression: every
    split then has them as `float32`.

    Args:
        arguments (`DataArguments`): where the splits are, and how many rows to keep.
        text_column (`str`): the column of texts.
        text_pair_column (`str`, *optional*): the column of second texts.
        label_column (`str`): the column of gold labels, as integers or names, or of scores.
        label_names (`list[str]`, *optional*): names for integer labels of a training split that carries none.
        seed (`int`): draws the kept rows.

    Returns:
        `dict[str, Dataset]` with keys `"train"`, `"validation"` and, where they are asked for, `"calibration"` and
        `"test"`.

    Raises:
        TypeError: if the column of texts holds something else.
        ValueError: if a split has no source, cannot be read, is empty, lacks a column, or has an empty text, an
            unknown label, or a score that is NaN or infinite; if labels or scores are all the same, or some splits
            hold the one and some the other; if a row of a split to be scored has neither; if rows for calibration are
            asked for and there are scores, or not so many training rows.
    """
    splits = {}
    text_columns = [column for column in (text_column, text_pair_column) if column is not None]
    for split in ("train", "validation", "calibration", "test"):
        file = getattr(arguments, f"{split}_file")
        if file is not None:
            splits[split] = load_file(file, text_columns=text_columns)
        elif split in ("train", "validation"):
            splits[split] = _load_hub_split(arguments, split)
    train_feature = None
    for split, dataset in splits.items():
        source = getattr(arguments, f"{split}_file") or f"{arguments.dataset_name} ({split})"
        if split == "train" and arguments.drop_empty_texts:
            dataset = _without_empty_texts(dataset, source, text_columns)
        _check(dataset, source, text_column, text_pair_column, label_column)
        feature = dataset.features[label_column]
        _check_same_kind(source, label_column, feature, train_feature)
        if is_score(feature) or is_score(train_feature):
            splits[split] = _with_scores(dataset, source, label_column)
        else:
            train_names = None if train_feature is None else train_feature.names
            splits[split] = _with_label_names(dataset, source, label_column, train_names, label_names)
        train_feature = splits["train"].features[label_column]
        if split == "train" and is_score(feature):
            _warn_of_labels_as_scores(splits[split], source, label_column)
        if split != "train":
            _check_labelled(splits[split], source, label_column)
    for split in ("train", "validation"):
        keep = getattr(arguments, f"max_{split}_samples")
        if keep is not None and keep < len(splits[split]):
            splits[split] = splits[split].shuffle(seed=seed).select(range(keep))
    if arguments.calibration_file or arguments.calibration_rows:
        _check_can_be_calibrated(arguments, splits["train"], train_feature, label_column)
    if arguments.calibration_rows:
        parts = splits["train"].train_test_split(test_size=arguments.calibration_rows, seed=seed)
        splits |= {"train": parts["train"], "calibration": parts["test"]}
        _check_labelled(splits["calibration"], "the training rows set aside for calibration", label_column)
    return splits


def _check_can_be_calibrated(arguments, train, feature, label_column):
    if is_score(feature):
        raise ValueError(
            f"Rows for calibration, and {label_column!r} holds scores: a temperature makes probabilities honest, and "
            "a regression has none. Leave out calibration_file and calibration_rows."
        )
    if arguments.calibration_rows and arguments.calibration_rows >= len(train):
        raise ValueError(
            f"calibration_rows={arguments.calibration_rows} of {len(train)} training rows would leave none to train "
            "on: some hundreds are enough."
        )


def check_is_file(path, formats):
    """Refuse a path that is no file, or whose ending is none of the formats.

    Args:
        path (`Path`): what was given.
        formats (`Iterable[str]`): endings, such as ".csv".

    Raises:
        ValueError: naming the formats.
    """
    if not path.is_file():
        raise ValueError(f"{str(path)!r} is not a file: give the path of a {', '.join(formats)} file.")
    if path.suffix not in formats:
        raise ValueError(
            f"{str(path)!r} ends in {path.suffix!r}: the formats that can be read are {', '.join(formats)}. Unpack or "
            "convert it."
        )


def load_file(path, *, text_columns=("sentence",)):
    """Load one file of rows by its ending. TSV is read with quoting off; "NA" and the like stay text.

    Raises:
        ValueError: if the file is missing, of an unknown kind, or cannot be parsed.
    """
    path = Path(path)
    check_is_file(path, FORMATS)
    options = {}
    if FORMATS[path.suffix] == "csv":
        options = {"keep_default_na": False, "na_filter": False, "converters": dict.fromkeys(text_columns, str)}
        if path.suffix == ".tsv":
            options |= {"sep": "\t", "quoting": csv.QUOTE_NONE}
    try:
        return load_dataset(FORMATS[path.suffix], data_files=str(path), split="train", **options)
    except (DatasetGenerationError, OSError, ValueError) as error:
        raise ValueError(
            f"{str(path)!r} could not be read as {path.suffix[1:]}: {error.__cause__ or error}. Nothing was kept of "
            "it; check that the file is complete and of the kind its name says."
        ) from error


def _load_hub_split(arguments, split):
    if arguments.dataset_name is None:
        raise ValueError(
            f"There is no {split} split: give --{split}_file, or --dataset_name for a data set on the Hub."
        )
    try:
        name = arguments.validation_split if split == "validation" else split
        return load_dataset(arguments.dataset_name, arguments.dataset_config_name, split=name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The {split} split of dataset_name={arguments.dataset_name!r} could not be loaded from the Hub: {error}. "
            f"Without a network, give a local file with --{split}_file."
        ) from error


def _without_empty_texts(dataset, source, text_columns):
    """Drop the rows in which a text is missing or blank; a column that is not there is refused later."""
    columns = [column for column in text_columns if _is_text(dataset.features.get(column))]
    if not columns:
        return dataset
    kept = []
    for batch in dataset.select_columns(columns).with_format("arrow").iter(batch_size=10_000):
        kept.append(~np.any([is_blank(batch[column]).to_numpy() for column in columns], axis=0))
    kept = np.flatnonzero(np.concatenate(kept)) if kept else np.zeros(0, np.int64)
    if len(kept) < len(dataset):
        logger.warning(f"{source}: {len(dataset) - len(kept)} of {len(dataset)} rows with an empty text were dropped.")
        dataset = dataset.select(kept)
    return dataset


def _check(dataset, source, text_column, text_pair_column, label_column):
    texts = {"text_column": text_column, "text_pair_column": text_pair_column}
    texts = {name: column for name, column in texts.items() if column is not None}
    for name, column in {**texts, "label_column": label_column}.items():
        if column not in dataset.column_names:
            raise ValueError(
                f"{source} has no column {name}={column!r}; its columns are {dataset.column_names}. "
                f"Name one with --{name}."
            )
    recipe_task(dataset, label_column)  # refuses lists
    feature = dataset.features[label_column]
    if not (_is_label(feature) or is_score(feature)):
        raise ValueError(
            f"{source}: label_column={label_column!r} holds {feature}, but labels must be integers or names, and "
            "scores decimal numbers. Name another column with --label_column."
        )
    start = 0
    for batch in dataset.select_columns(list(texts.values())).with_format("arrow").iter(batch_size=10_000):
        for column in texts.values():
            check_texts(batch[column], source=source, column=column, first_row=start)
        start += len(batch)


def _is_text(feature):
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def _is_label(feature):
    return isinstance(feature, ClassLabel) or _is_text(feature) or getattr(feature, "dtype", "").startswith("int")


def _check_same_kind(source, label_column, feature, train_feature):
    """Refuse scores beside labels; whole numbers may be scores, where the training split's are."""
    if train_feature is None:
        return
    fits = not is_score(feature)
    if is_score(train_feature):
        fits = is_score(feature) or isinstance(feature, Value) and feature.dtype.startswith("int")
    if not fits:
        raise ValueError(
            f"{source}: label_column={label_column!r} holds {feature}, in the training split {train_feature}: the one "
            "is a score, the other a label. Write scores as decimal numbers (4.0) in both, and labels as integers or "
            "names in both."
        )


def _with_scores(dataset, source, label_column):
    """Bring scores to float32; null where a row has none."""
    lowest, highest = np.inf, -np.inf
    for start, values in column_batches(dataset, label_column):
        given = pc.is_valid(values).to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore"):
            scores = pc.fill_null(values, 0).to_numpy(zero_copy_only=False).astype(np.float32)
        if not np.isfinite(scores).all():
            row = int((~np.isfinite(scores)).argmax())
            raise ValueError(
                f"{source}: row {start + row} has {label_column}={values[row].as_py()}; a score must be a finite "
                "number (of at most 3.4e38). It would turn every weight of a model into NaN. Correct or drop the row; "
                "null says that a training row has no score. Where decimal numbers stand for classes, cast them: "
                f"`dataset.cast_column({label_column!r}, Value('int64'))`."
            )
        if given.any():
            lowest, highest = min(lowest, scores[given].min()), max(highest, scores[given].max())
    if not lowest < highest:
        found = "no row has a score" if lowest > highest else f"every row has the score {lowest:g}"
        raise ValueError(
            f"{source}: {found} in label_column={label_column!r}. A regression needs rows with different scores, to "
            "learn from and to be judged on."
        )
    return dataset.cast_column(label_column, Value("float32"))


def _warn_of_labels_as_scores(dataset, source, label_column):
    if all(
        pc.all(pc.equal(pc.floor(values), values)).as_py() is not False
        for _, values in column_batches(dataset, label_column)
    ):
        logger.warning(
            "%s: label_column=%r holds decimal numbers that are all whole. They are learned as scores, by a "
            "regression; where they are the numbers of classes, write them as integers.",
            source,
            label_column,
        )


def _with_label_names(dataset, source, label_column, wanted_names, default_names):
    """Number the labels by the wanted names, or by its own where none are wanted; -1 where a row has none."""
    feature = dataset.features[label_column]
    if isinstance(feature, ClassLabel):
        if wanted_names is None or feature.names == wanted_names:
            return dataset
        permutation = label_permutation(feature.names, wanted_names, given=source, wanted="the training split")
        names, number_of = wanted_names, dict(enumerate(np.argsort(permutation).tolist()))
    else:
        values = sorted(value for value in dataset.unique(label_column) if value not in UNLABELLED)
        if _is_text(feature):
            names = wanted_names or values
            number_of = {name: number for number, name in enumerate(names) if name.strip()}
        else:
            names = wanted_names or default_names or [str(value) for value in range(max(values, default=-1) + 1)]
            number_of = {number: number for number in range(len(names))}
        unknown = [value for value in values if value not in number_of]
        if unknown:
            raise ValueError(
                f"{source}: label_column={label_column!r} holds {_some(unknown)}, which are none of the labels "
                f"{_some(names)}. A model would be trained or scored on labels it does not have: correct the file, or "
                "drop those rows."
            )
        if len(names) < 2:
            raise ValueError(f"{source}: every row has the label {names}. A classifier needs at least two.")
    return dataset.map(
        _renumber,
        batched=True,
        fn_kwargs={"label_column": label_column, "number_of": number_of},
        features=Features({**dataset.features, label_column: ClassLabel(names=names)}),
        desc="Numbering labels",
    )


def _some(values):
    """Write some values for an error: a column of texts, named as that of labels, has thousands."""
    shown = ", ".join(repr(value)[:60] for value in values[:5])
    return f"[{shown}]" if len(values) <= 5 else f"[{shown}] and {len(values) - 5:,} more"


def _renumber(batch, label_column, number_of):
    return {label_column: renumber(batch[label_column], number_of, unlabelled=-1)}


def _check_labelled(dataset, source, label_column):
    are_scores = is_score(dataset.features[label_column])
    unlabelled = []
    for start, values in column_batches(dataset, label_column):
        absent = pc.is_null(values) if are_scores else pc.less(pc.fill_null(values, -1), 0)
        unlabelled.append(start + np.flatnonzero(absent.to_numpy(zero_copy_only=False)))
    unlabelled = np.concatenate(unlabelled)
    if len(unlabelled):
        raise ValueError(
            f"{source}: {len(unlabelled)} of {len(dataset)} rows have no {'score' if are_scores else 'label'} (the "
            f"first is row {unlabelled[0]}), and a model can be scored on labelled rows only: drop the others from "
            "this split."
        )
