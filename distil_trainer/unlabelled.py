"""Texts without labels, from files, data sets or streams, in the columns of the labelled rows they stand beside."""

import codecs
import logging
import os
import uuid
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from datasets import Dataset, DatasetDict, Features, IterableDataset, Value, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetGenerationError

from distil_trainer.columns import check_column, check_columns_differ
from distil_trainer.data import FORMATS, check_is_file, load_file
from distil_trainer.text import check_texts, is_blank

logger = logging.getLogger(__name__)

_ROWS_PER_STEP = 10_000
_ROWS_PER_STEP_OF_A_STREAM = 1_000  # these pass through Python lists


def load_unlabelled(
    source, text_column="sentence", text_pair_column=None, *, label_column="label", label_feature=None, max_rows=None
):
    """Read texts without labels, so that `mix` or `concatenate_datasets` can put them beside labelled rows.

    Columns other than the texts are left out, gold labels too. Nothing is held in memory but a few thousand rows: the
    result lies in the cache of `datasets`, and reading the same files again costs nothing.

    Args:
        source (`str`, `os.PathLike`, a `list` of them, `Dataset` or `IterableDataset`): `.csv`, `.tsv`, `.jsonl` and
            `.parquet` files as `load_file` reads them, `.txt` files with one text a line (blank lines are dropped,
            and counted in the log), rows, or a stream of rows.
        text_column (`str`, *optional*, defaults to `"sentence"`): the column of texts; a `.txt` file gets it.
        text_pair_column (`str`, *optional*): the column of second texts.
        label_column (`str`, *optional*, defaults to `"label"`): the column that says "no label": -1 where labels are
            whole numbers, null where they are not.
        label_feature (`ClassLabel` or any feature, *optional*, defaults to `Value("int64")`): the type of that column:
            `train.features["label"]` of the labelled rows.
        max_rows (`int`, *optional*): keep this many rows from the start. A stream needs it.

    Returns:
        `Dataset` with the text columns, as strings, and `label_column`.

    Raises:
        TypeError: if `source` is something else, or a text is no string.
        ValueError: if there is no text, a file cannot be read or is not UTF-8 (with its line), a column is missing or
            named twice, a text is missing, blank or not Unicode (with its row), a `.txt` file shall give pairs, or a
            stream has no bound.

    Example:

    ```python
    comments = load_unlabelled(["comments_1.txt", "comments_2.txt"], label_feature=train.features["label"])
    transfer = mix({"labelled": train, "unlabelled": comments}, shares={"labelled": 0.3, "unlabelled": 0.7})
    ```
    """
    text_columns = {"text_column": text_column, "text_pair_column": text_pair_column}
    text_columns = {argument: column for argument, column in text_columns.items() if column is not None}
    check_columns_differ(**text_columns, label_column=label_column)
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows={max_rows} must be at least 1; leave it out to keep every row.")
    features = Features({column: Value("string") for column in text_columns.values()})
    features[label_column] = Value("int64") if label_feature is None else label_feature
    if isinstance(source, IterableDataset):
        texts = _written_stream(source, features, label_column, max_rows)
    elif isinstance(source, Dataset):
        texts = _texts_of(source, "the data set", text_columns, features, label_column)
    else:
        texts = [_texts_of_file(path, text_columns, features, label_column) for path in _paths(source)]
        texts = concatenate_datasets(texts) if texts else []
    if not len(texts):
        raise ValueError(
            f"{_shown(source)} holds no text. A transfer set cannot be made of nothing: give other files."
        )
    return texts if max_rows is None or max_rows >= len(texts) else texts.select(range(max_rows))


def missing_values(num_rows, type):
    """Return an Arrow array that says "there is none" in every row: -1 for signed whole numbers, else null.

    Args:
        num_rows (`int`): its length.
        type (`pyarrow.DataType`): its type.

    Returns:
        `pyarrow.Array`
    """
    if pa.types.is_signed_integer(type):
        return pa.array(np.full(num_rows, -1), type)
    return pa.nulls(num_rows, type)


def _paths(source):
    if isinstance(source, DatasetDict | datasets.IterableDatasetDict):
        raise TypeError(
            f"source holds the splits {', '.join(source)}: give one of them, such as source[{next(iter(source))!r}]. "
            "Evaluation splits must stay out of a transfer set."
        )
    paths = [source] if isinstance(source, str | os.PathLike) else source
    if not isinstance(paths, list | tuple) or not all(isinstance(path, str | os.PathLike) for path in paths):
        raise TypeError(
            f"source is a {type(source).__name__}, but must be a file, a list of files, a `Dataset` or an "
            "`IterableDataset`."
        )
    return [Path(path) for path in paths]


def _shown(source):
    if isinstance(source, Dataset | IterableDataset):
        return f"source (a {type(source).__name__})"
    return f"source={[str(path) for path in _paths(source)]}"


def _texts_of_file(path, text_columns, features, label_column):
    check_is_file(path, (".txt", *FORMATS))
    if path.suffix != ".parquet":
        _check_utf8(path)
    if path.suffix != ".txt":
        rows = load_file(path, text_columns=tuple(text_columns.values()))
        return _texts_of(rows, str(path), text_columns, features, label_column)
    if "text_pair_column" in text_columns:
        raise ValueError(
            f"{str(path)!r} has one text a line, but text_pair_column={text_columns['text_pair_column']!r} asks for "
            "pairs. Second texts would be missing from every row: give a .tsv, .csv, .jsonl or .parquet file with "
            "both columns."
        )
    try:
        # A byte order mark, which Windows programs write first, is no part of the first text.
        lines = load_dataset("text", data_files=str(path), split="train", encoding="utf-8-sig")
    except (DatasetGenerationError, OSError) as error:
        raise ValueError(
            f"{str(path)!r} could not be read as text: {error.__cause__ or error}. Nothing was kept of it."
        ) from error
    lines = lines.rename_columns({"text": text_columns["text_column"]})  # which may be "text"
    texts = _map(lines, _drop_blank, features, label_column)
    logger.info("%s: %d texts, %d blank lines dropped.", path, len(texts), len(lines) - len(texts))
    return texts


def _check_utf8(path):
    decoder, lines = codecs.getincrementaldecoder("utf-8")(), 0
    with path.open("rb") as file:
        while True:
            block = file.read(1 << 20)
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                line = 1 + lines + error.object.count(b"\n", 0, error.start)
                raise ValueError(
                    f"{str(path)!r} is not UTF-8: line {line} holds {error.object[error.start : error.start + 8]!r} "
                    f"({error.reason}). In a wrong encoding every text would be another one: find out which it is, "
                    "and convert the file (`iconv -f <encoding> -t UTF-8`)."
                ) from error
            if not block:
                break
            lines += block.count(b"\n")
    if not path.stat().st_size:
        raise ValueError(f"{str(path)!r} is empty. A transfer set cannot be made of nothing: give another file.")


def _texts_of(dataset, what, text_columns, features, label_column):
    for argument, column in text_columns.items():
        check_column(dataset, column, what, argument)
    dataset = dataset.select_columns(list(text_columns.values()))
    return _map(dataset, _check, features, label_column, what=what)


def _map(dataset, step, features, label_column, **arguments):
    texts = dataset.with_format("arrow").map(
        step,
        batched=True,
        batch_size=_ROWS_PER_STEP,
        with_indices=True,
        features=features,
        fn_kwargs={"features": features, "label_column": label_column, **arguments},
        desc="Reading texts",
    )
    return texts.with_format(None)


def _drop_blank(table, rows, features, label_column):
    return _with_labels(table.filter(pc.invert(is_blank(table.column(0)))), features, label_column)


def _check(table, rows, features, label_column, what):
    for column in table.column_names:
        _check_unicode(table[column], what, column, rows[0])
        check_texts(table[column], source=what, column=column, first_row=rows[0])
    return _with_labels(table, features, label_column)


def _with_labels(table, features, label_column):
    schema = features.arrow_schema
    return table.append_column(label_column, missing_values(len(table), schema.field(label_column).type)).cast(schema)


def _check_unicode(texts, what, column, first_row):
    # Parquet and JSON files, and programs in other languages, may put any bytes into a column of strings.
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid as error:
        row = next(row for row, text in enumerate(texts) if not _is_unicode(text.cast(pa.binary()).as_py()))
        raise ValueError(_not_unicode(what, first_row + row, column)) from error


def _is_unicode(value):
    try:
        value.decode() if isinstance(value, bytes) else value.encode()
    except UnicodeError:
        return False
    return True


def _not_unicode(what, row, column):
    return (
        f"{what}: row {row} has a text in {column!r} that UTF-8 cannot hold: a lone surrogate (half of an emoji that "
        "was cut in two), or bytes of another encoding. No tokenizer could read it: mend the text "
        '(`text.encode("utf-8", "replace").decode()`), or remove the row.'
    )


def _written_stream(stream, features, label_column, max_rows):
    """Write a stream's rows through to a file of the cache, and open that."""
    if max_rows is None:
        raise ValueError(
            "max_rows=None with an `IterableDataset`: no one can say how long a stream is, and an endless one would "
            "fill the disk. Say how many rows to keep, such as max_rows=1_000_000."
        )
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "distil_trainer"
    folder.mkdir(parents=True, exist_ok=True)
    temporary, digest = folder / f"stream-{uuid.uuid4().hex}.tmp", xxhash.xxh3_128(repr(features).encode())
    try:
        with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_stream(file, features.arrow_schema) as writer:
            for table in _stream_tables(stream.take(max_rows), features, label_column):
                for piece in table.to_batches():
                    digest.update(piece.serialize())
                    writer.write_batch(piece)
        # Named by its content, so that the same rows streamed twice are one file, and one fingerprint.
        path = folder / f"texts-{digest.hexdigest()}.arrow"
        if not path.exists():
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return Dataset.from_file(str(path))


def _stream_tables(stream, features, label_column):
    what, row = "the stream", 0
    columns = [column for column in features if column != label_column]
    for batch in stream.with_format(None).iter(_ROWS_PER_STEP_OF_A_STREAM):
        for column in columns:
            if column not in batch:
                raise ValueError(
                    f"{what} has no column {column!r}; its columns are {', '.join(batch)}. Name the right one with "
                    "text_column= or text_pair_column=."
                )
        table = pa.table({column: _strings(batch[column], what, row, column) for column in columns})
        yield _check(table, [row], features, label_column, what)
        row += len(table)


def _strings(values, what, first_row, column):
    for row, value in enumerate(values):
        if not (value is None or isinstance(value, str)):
            raise TypeError(
                f"{what}: row {first_row + row} has {column}={value!r}, but texts must be strings: name another "
                "column, or turn its values into texts."
            )
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError as error:
        row = next(row for row, value in enumerate(values) if value is not None and not _is_unicode(value))
        raise ValueError(_not_unicode(what, first_row + row, column)) from error
