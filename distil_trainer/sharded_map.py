"""`Dataset.map` for data that outgrow one machine: shard by shard, by any number of processes that come and go."""

import contextlib
import logging
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import pyarrow.parquet as pq
from datasets import Dataset
from datasets.fingerprint import Hasher
from fsspec.core import url_to_fs
from tqdm.auto import tqdm

from distil_trainer.processes import place_among_processes
from distil_trainer.shared_folder import SharedFolder

logger = logging.getLogger(__name__)

# Part of every file name: raise it when the same call gives other rows.
_FORMAT = 1
_SECONDS_BETWEEN_LOOKS = 1.0
_LEAST_PATIENCE_S = 60.0


def map_shards(
    source,
    function,
    output_url,
    *,
    with_indices=False,
    remove_columns=None,
    features=None,
    batch_size=4096,
    rows_per_shard=100_000,
):
    """Map a batched callable over a data set or parquet files, into one parquet file for each shard.

    The rows are those of `Dataset.map(function, batched=True, ...)` over all of the input: row indices count through
    all shards. Call it with the same arguments in every process of `torchrun` or `accelerate launch`, or in processes
    started by anything else that sets `RANK` and `WORLD_SIZE`. They exchange nothing but the files: process `r` of `w`
    makes the shards `r, r + w, ...`, then some that others have not come to. When the last missing shards do not come
    within a minute, or twice the time that this process took for a shard, it makes them too. So each returns when all
    are there, whoever died. A shard is made in a temporary folder under the cache of `datasets` and then put into
    its place; a start with any number of processes finds those that are there. At worst a shard is made twice, with
    the same rows.

    Args:
        source (`Dataset`, `str` or `list[str]`): the rows: a data set; or parquet files as paths, URLs or patterns
            with `*`, all with the same columns, in this order. Each file is a shard: some minutes of work.
        function (`Callable`): takes a batch, `dict[str, list]`, and with `with_indices` the row indices; returns
            columns, as in `Dataset.map`. Such as `RuleAugmenter` or `TeacherLabeler`.
        output_url (`str` or `Path`): a folder of its own that all processes see: a path, or a URL that fsspec knows,
            such as `s3://bucket/folder`.
        with_indices (`bool`, *optional*, defaults to `False`): pass row indices.
        remove_columns (`list[str]`, *optional*): columns of the input to leave out.
        features (`Callable[[Dataset], Features]`, *optional*): gives the features of the output from the input, such
            as `labeler.features`. Default: `datasets` derives them.
        batch_size (`int`, *optional*, defaults to 4096): rows in a batch; more than the 1000 of `datasets`, since a
            labeler sorts a batch by length.
        rows_per_shard (`int`, *optional*, defaults to 100000): rows of a `Dataset` in a shard.

    Returns:
        `list[str]`: the files in row order, for `load_dataset("parquet", data_files=files)`.

    Raises:
        OSError: if the folder cannot be written.
        TypeError: if `source` is something else, or `function` cannot be hashed.
        ValueError: if `source` has no rows or its files differ in columns, the folder holds other parquet files (those
            of another function or input too), or a number makes no sense.
    """
    rank, num_processes = place_among_processes()
    if rows_per_shard < 1 or batch_size < 1:
        raise ValueError(f"rows_per_shard={rows_per_shard} and batch_size={batch_size} must be at least 1.")
    if isinstance(source, Dataset):
        shards, content = _slices(source, rows_per_shard)
    elif isinstance(source, str | list):
        shards, content = _files(source)
    else:
        raise TypeError(
            f"source is a {type(source).__name__}; needed is a datasets.Dataset, or parquet files as a list of paths "
            "or URLs."
        )
    fingerprint = _hash([_FORMAT, content, function, with_indices, remove_columns, features], function)
    names = [f"shard-{number:05d}-of-{len(shards):05d}-{fingerprint}.parquet" for number in range(len(shards))]
    folder = SharedFolder(output_url)
    folder.make()
    _refuse_other_files(folder, names)

    options = dict(batched=True, with_indices=with_indices, batch_size=batch_size, remove_columns=remove_columns)
    with tqdm(total=len(shards), desc="Shards", unit=" shards", disable=rank > 0) as bar:
        for number, finished in _turns(folder, names, rank, num_processes):
            bar.update(finished - bar.n)
            first_row, open_shard = shards[number]
            try:
                _make_shard(open_shard, first_row, function, features, options, folder, names[number])
            except Exception:
                logger.error("Shard %d of %d, which begins at row %d, failed.", number, len(shards), first_row)
                raise
        bar.update(len(shards) - bar.n)
    _refuse_other_files(folder, names)
    return [folder.file(name) for name in names]


def _slices(dataset, rows_per_shard):
    """Return (first row, function that opens it) of each slice of a data set, and what identifies the data set."""
    if not len(dataset):
        raise ValueError("source has no rows: there is nothing to map.")
    starts = range(0, len(dataset), rows_per_shard)

    def opener(start):
        return lambda scratch: dataset.select(range(start, min(start + rows_per_shard, len(dataset))))

    # The fingerprint of `datasets` is the same in every process that makes the data set by the same steps.
    return [(start, opener(start)) for start in starts], [dataset._fingerprint, rows_per_shard]


def _files(patterns):
    """Return (first row, function that opens it) of each file, and what identifies all of them."""
    files = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        file_system, path = url_to_fs(str(pattern))
        found = sorted(file_system.glob(path))
        if not found:
            raise ValueError(f"source names {str(pattern)!r}, where there is no file.")
        files += [(file_system, file) for file in found]
    with ThreadPoolExecutor(16) as pool:  # footers of an object store are slow to come, but many come at once
        footers = list(pool.map(_footer, *zip(*files, strict=True)))
    schemas = [footer.schema.to_arrow_schema() for footer in footers]
    other = next((i for i, schema in enumerate(schemas) if not schema.equals(schemas[0])), None)
    if other is not None:
        raise ValueError(
            f"source: {files[other][1]} has the columns {_columns(schemas[other])}, but {files[0][1]} has "
            f"{_columns(schemas[0])}. The mapped files could not be read as one data set: bring them to one form."
        )
    shards, content, first_row = [], [], 0
    for (file_system, path), footer in zip(files, footers, strict=True):
        if footer.num_rows:
            shards.append((first_row, _file_opener(file_system, path)))
            # Sizes and extreme values of all columns stand in the footer: another content has another one.
            content.append([path.rpartition("/")[2], str(footer.to_dict())])
        first_row += footer.num_rows
    if not shards:
        raise ValueError("source has no rows: there is nothing to map.")
    return shards, content


def _footer(file_system, path):
    with file_system.open(path, "rb") as file:
        return pq.read_metadata(file)


def _columns(schema):
    return {field.name: str(field.type) for field in schema}


def _file_opener(file_system, path):
    def open_file(scratch):
        local = scratch / "input.parquet"
        file_system.get_file(path, str(local))
        return Dataset.from_parquet(str(local), cache_dir=str(scratch))

    return open_file


def _hash(parts, function):
    try:
        return Hasher.hash(parts)
    except Exception as error:
        raise TypeError(
            f"function={function!r} cannot be hashed ({error}). Without a hash, shards that another function made "
            "would be taken for finished. Give a function or an object that can be pickled."
        ) from error


def _refuse_other_files(folder, names):
    others = sorted(set(folder.names(".parquet")) - set(names))
    if others:
        raise ValueError(
            f"output_url={str(folder)!r} holds {len(others)} parquet files of another function, other settings or "
            f"another input, such as {others[0]} (this call writes {names[0]}). Read together, the rows of both would "
            "be one data set. Give a folder of its own, or delete them."
        )


def _turns(folder, names, rank, num_processes):
    """Yield the number of the shard to make next and how many are finished, until all are."""
    longest_s, changed, before = 0.0, time.monotonic(), None
    while True:
        finished = set(folder.names(".parquet"))
        missing = [number for number, name in enumerate(names) if name not in finished]
        if not missing:
            return
        if missing != before:
            before, changed = missing, time.monotonic()
        own = [number for number in missing if number % num_processes == rank]
        # Not the one that its process makes now, as far as one can tell: the first of those that it has left.
        behind = sorted(set(missing) & {number + num_processes for number in missing})
        if not own and not behind and time.monotonic() - changed < max(_LEAST_PATIENCE_S, 2 * longest_s):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            continue
        choice = behind or missing
        start = time.monotonic()
        yield own[0] if own else choice[-1 - rank * len(choice) // num_processes], len(names) - len(missing)
        longest_s = max(longest_s, time.monotonic() - start)


def _make_shard(open_shard, first_row, function, features, options, folder, name):
    with _without_bars(), _scratch_folder() as scratch:
        rows = open_shard(scratch)

        def numbered(batch, indices):
            return function(batch, [first_row + index for index in indices])

        mapped = rows.map(
            numbered if options["with_indices"] else function,
            **options,
            features=features(rows) if features else None,
            new_fingerprint=Hasher.hash(name),
            cache_file_name=str(scratch / "mapped.arrow"),
            load_from_cache_file=False,
        )
        mapped.to_parquet(str(scratch / name))
        folder.put(scratch / name, name)


@contextlib.contextmanager
def _scratch_folder():
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "distil_trainer"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="shard-", dir=cache, ignore_cleanup_errors=True) as scratch:
        yield Path(scratch)


@contextlib.contextmanager
def _without_bars():
    """Leave out the three bars that `datasets` would show for each shard."""
    shown = not datasets.are_progress_bars_disabled()
    if shown:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
