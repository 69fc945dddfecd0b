"""`Dataset.map` for data that outgrow one machine: shard by shard, by any number of processes that come and go."""

import contextlib
import io
import logging
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from datasets import Dataset, Features
from datasets.fingerprint import Hasher
from fsspec.core import url_to_fs
from tqdm.auto import tqdm

from distil_trainer.processes import is_gone, place_among_processes, process_mark
from distil_trainer.shared_folder import SharedFolder

logger = logging.getLogger(__name__)

# Part of every file name: raise it when the same call gives other rows.
_FORMAT = 2
_SECONDS_BETWEEN_LOOKS = 1.0
_LEAST_PATIENCE_S = 60.0
_REQUESTS_AT_ONCE = 16  # an object store is slow to answer one, but answers many at once
# What object stores know of the content of a file, the surest first: a file that is written again with the same
# content keeps the first ones.
_CONTENT_TAGS = ("md5Hash", "crc32c", "ETag", "etag", "blob_id")


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
    started by anything else that sets `RANK` and `WORLD_SIZE`, or in several such runs at once. They exchange nothing
    but files: each claims a shard by an empty file, `*.claim`, before it makes it; process `r` of `w` begins with the
    shards `r, r + w, ...`, then helps with others that nobody claims. A claim is void when its process on this machine
    has ended; when it stands for a minute, or for twice as long as this process took for a shard, one other makes the
    shard too. So each returns when all are there, whoever died or hangs, and at worst some shards are made twice, with
    the same rows. A shard is made in a temporary folder under the cache of `datasets` and then put into its place; a
    start with any number of processes finds those that are there.

    What was made is found again by a hash of the function, the other arguments and the input. Of a function that is
    imported from a module only the name is hashed: when you change its body, give another folder. Of input files, the
    hash takes the end of the file, where parquet keeps sizes and extreme values, and the checksum that the object
    store knows; on other file systems the time of the last change, so copies of the input on several machines need
    the same times (`cp -p`, `rsync -t`).

    Args:
        source (`Dataset`, `str` or `list[str]`): the rows: a data set; or parquet files as paths, URLs or patterns
            with `*`, all with the same columns, in this order. Each file is a shard: some minutes of work.
        function (`Callable`): takes a batch, `dict[str, list]`, and with `with_indices` the row indices; returns
            columns, as in `Dataset.map`. Such as `RuleAugmenter` or `TeacherLabeler`; where the machines differ, one
            with a `dtype` of its own, since `"auto"` may differ with them.
        output_url (`str` or `Path`): a folder of its own that all processes see: a path, or a URL that fsspec knows,
            such as `s3://bucket/folder`.
        with_indices (`bool`, *optional*, defaults to `False`): pass row indices.
        remove_columns (`list[str]`, *optional*): columns of the input to leave out.
        features (`Callable[[Dataset], Features]`, *optional*): gives the features of the output from the input, such
            as `labeler.features`. Default: `datasets` derives them from the rows of each shard.
        batch_size (`int`, *optional*, defaults to 4096): rows in a batch; more than the 1000 of `datasets`, since a
            labeler sorts a batch by length.
        rows_per_shard (`int`, *optional*, defaults to 100000): rows of a `Dataset` in a shard.

    Returns:
        `list[str]`: the files in row order, for `load_dataset("parquet", data_files=files)`. Shards without rows,
        where `function` keeps none, are left out: an empty file `*.empty` stands for each.

    Raises:
        OSError: if the folder cannot be written.
        TypeError: if `source` is something else, or `function` cannot be hashed.
        ValueError: if `source` has no rows, names a folder or names a file twice, its files differ in columns, the
            shards do, the folder holds other parquet files (those of another function or input too), or an argument
            makes no sense.
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
    if any(character in str(folder) for character in "[]*?"):
        raise ValueError(
            f"output_url={str(folder)!r} has one of the characters [ ] * ? in it: `load_dataset` would take the names "
            "of the files for patterns and not find them. Give a folder without them."
        )
    folder.make()
    _remove_scratch_of_the_dead()

    first_derived = None
    options = dict(batched=True, with_indices=with_indices, batch_size=batch_size, remove_columns=remove_columns)
    with (
        tqdm(total=len(shards), desc="Shards", unit=" shards", disable=rank > 0) as bar,
        contextlib.closing(_turns(folder, names, rank, num_processes)) as turns,  # an error takes back the claim
    ):
        for number, finished in turns:
            bar.update(finished - bar.n)
            first_row, open_shard = shards[number]
            try:
                derived = _make_shard(open_shard, first_row, function, features, options, folder, names[number])
            except Exception:
                logger.error("Shard %d of %d, which begins at row %d, failed.", number, len(shards), first_row)
                raise
            if features is None and derived is not None:
                first_derived = first_derived or (names[number], derived)
                _refuse_different_features([first_derived, (names[number], derived)])
        bar.update(len(shards) - bar.n)
    there = set(folder.names(".parquet"))
    files = [folder.file(name) for name in names if name in there]
    if features is None:
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
            _refuse_different_features(zip(files, pool.map(_features_of, files), strict=True))
    return files


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
    files = [file for pattern in ([patterns] if isinstance(patterns, str) else patterns) for file in _found(pattern)]
    if not files:
        raise ValueError("source is an empty list: there is nothing to map. Name parquet files.")
    names = [file_system.unstrip_protocol(path) for file_system, path in files]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"source names {twice} twice: its rows would be in the result twice. Give patterns that do not overlap."
        )
    shards, content, first_row, first = [], [], 0, None
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        facts = pool.map(_facts_of_file, *zip(*files, strict=True))
        for (file_system, path), (num_rows, features, identity) in zip(files, facts, strict=True):
            first = first or features
            difference = _difference(features, first)
            if difference:
                raise ValueError(
                    f"source: {path} has the columns {difference[0]}, but {files[0][1]} has {difference[1]}. The "
                    "mapped files could not be read as one data set: bring them to one form."
                )
            if num_rows:
                shards.append((first_row, _file_opener(file_system, path)))
                content.append(identity)
            first_row += num_rows
    if not shards:
        raise ValueError("source has no rows: there is nothing to map.")
    return shards, content


def _found(pattern):
    file_system, path = url_to_fs(str(pattern))
    file_system.invalidate_cache()  # or a listing that fsspec remembers would tell of a file as it was
    if "*" in path:
        found = file_system.glob(path.replace("[", "[[]"), detail=True)  # only `*` is a sign of patterns
        found = {name: known for name, known in found.items() if known["type"] != "directory"}
    else:
        found = {}
        with contextlib.suppress(FileNotFoundError):
            found[path] = file_system.info(path)
    if not found:
        raise ValueError(f"source names {str(pattern)!r}, where there is no file.")
    if "*" not in path and found[path]["type"] == "directory":
        raise ValueError(
            f"source names {str(pattern)!r}, which is a folder. Which of its files are meant, and in which order, is "
            f"for you to say: give {str(pattern).rstrip('/') + '/*.parquet'!r}."
        )
    return [(file_system, file) for file in sorted(found)]


def _facts_of_file(file_system, path):
    """Return the number of rows, the features, and a hash of what is known of the content."""
    with file_system.open(path, "rb") as file:
        try:
            footer = pq.read_metadata(file)
        except pa.ArrowInvalid as error:
            raise ValueError(
                f"source: {path} is no parquet file, or was cut off ({error}). Give parquet files; "
                "`load_dataset(...).to_parquet(...)` makes them of other formats."
            ) from error
    known = file_system.info(path)
    tag = next((str(known[name]) for name in _CONTENT_TAGS if known.get(name)), None)
    if tag is None:
        # The footer alone is not enough: a label that was corrected may leave all sizes and extreme values the same.
        with contextlib.suppress(NotImplementedError):
            tag = str(file_system.modified(path))
    identity = io.BytesIO()
    footer.write_metadata_file(identity)
    identity.write(f"{path.rpartition('/')[2]} {known.get('size')} {tag}".encode())
    features = Features.from_arrow_schema(footer.schema.to_arrow_schema())
    return footer.num_rows, features, xxhash.xxh3_128_hexdigest(identity.getbuffer())


def _difference(features, others):
    """Return the columns, with their features, that each of two data sets has other than the other one."""
    if list(features.items()) == list(others.items()):
        return None
    columns = [
        {name: feature for name, feature in one.items() if other.get(name) != feature}
        for one, other in ((features, others), (others, features))
    ]
    return columns if any(columns) else [list(features), list(others)]


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


def _refuse_other_files(folder, found, names):
    others = sorted(set(found) - set(names))
    if others:
        raise ValueError(
            f"output_url={str(folder)!r} holds {len(others)} parquet files of another function, other settings or "
            f"another input, such as {others[0]} (this call writes {names[0]}). Read together, the rows of both would "
            "be one data set. Give a folder of its own, or delete them. If it is one call on several machines: a "
            'TeacherLabeler with dtype="auto" may choose another type on each, so name one; and copies of input files '
            "need the same times of change."
        )


def _refuse_different_features(shards):
    """Compare the features of shards, which `datasets` derived from the rows of each alone: (name, features)."""
    first = None
    for shard in shards:
        first = first or shard
        difference = _difference(shard[1], first[1])
        if difference:
            raise ValueError(
                f"The shard {shard[0]} has the columns {difference[0]}, but {first[0]} has {difference[1]}: without "
                "`features` they are derived from the rows of each shard, and one may hold None only, or no "
                "fractions. Read as one data set they would fail. Give features=lambda rows: Features({...}) and "
                "another folder."
            )


def _features_of(file):
    file_system, path = url_to_fs(file)
    with file_system.open(path, "rb") as opened:
        return Features.from_arrow_schema(pq.read_schema(opened))


def _turns(folder, names, rank, num_processes):
    """Yield the number of a shard that this process has claimed and how many are finished, until all are."""
    mark, first_seen, longest_s = process_mark(), {}, 0.0
    while True:
        finished, claims = _look(folder, names)
        missing = [number for number, name in enumerate(names) if name not in finished]
        if not missing:
            _remove(folder, [claim for claims_of_shard in claims.values() for claim in claims_of_shard])
            return
        patience_s, now = max(_LEAST_PATIENCE_S, 2 * longest_s), time.monotonic()

        def holds(claim, patience_s=patience_s, now=now):
            # By this machine's clock since it was seen first: the clocks of others may be wrong.
            return not is_gone(_mark(claim)) and now - first_seen.setdefault(claim, now) < patience_s

        held = {name for name, claims_of_shard in claims.items() if any([holds(claim) for claim in claims_of_shard])}
        free = [number for number in missing if names[number] not in held]
        if not free:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            continue
        own = [number for number in free if number % num_processes == rank]
        number = own[0] if own else free[-1 - rank * len(free) // num_processes]
        claim = f"{names[number]}.{mark}.claim"
        folder.touch(claim)
        try:
            # Another may have claimed it at the same moment: the first in the alphabet has it.
            finished, claims_now = _look(folder, names)
            rivals = [rival for rival in claims_now.get(names[number], []) if rival < claim and holds(rival)]
            if rivals or names[number] in finished:
                continue
            _remove(folder, claims.get(names[number], []))  # those of the dead
            start = time.monotonic()
            yield number, len(finished)
            longest_s = max(longest_s, time.monotonic() - start)
        finally:
            _remove(folder, [claim])


def _look(folder, names):
    """Return the names of the finished shards, and the claims to each of the others."""
    found, claims = folder.names((".parquet", ".empty", ".claim")), {}
    _refuse_other_files(folder, [name for name in found if name.endswith(".parquet")], names)
    for claim in found:
        if claim.endswith(".claim"):
            claims.setdefault(claim.partition(".parquet.")[0] + ".parquet", []).append(claim)
    finished = {name.replace(".empty", ".parquet") for name in found if not name.endswith(".claim")}
    return finished & set(names), {name: claims[name] for name in claims.keys() & set(names)}


def _mark(claim):
    return claim.removesuffix(".claim").partition(".parquet.")[2]


def _remove(folder, claims):
    for claim in claims:
        with contextlib.suppress(OSError):  # another process did; or none can, and it becomes void with time
            folder.remove(claim)


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
        if not len(mapped):  # `load_dataset` fails on a parquet file without rows
            folder.touch(f"{name.removesuffix('.parquet')}.empty")
            return None
        mapped.to_parquet(str(scratch / name))
        # One that a slower process made meanwhile stays: its time of change is known to who reads it as input.
        if not folder.has(name):
            folder.put(scratch / name, name)
        return mapped.features


@contextlib.contextmanager
def _scratch_folder():
    cache = _scratch_root()
    cache.mkdir(parents=True, exist_ok=True)
    prefix = f"shard-{process_mark()}."
    with tempfile.TemporaryDirectory(prefix=prefix, dir=cache, ignore_cleanup_errors=True) as scratch:
        yield Path(scratch)


def _remove_scratch_of_the_dead():
    for scratch in _scratch_root().glob("shard-*"):
        if is_gone(scratch.name.removeprefix("shard-").rpartition(".")[0]):
            shutil.rmtree(scratch, ignore_errors=True)


def _scratch_root():
    return Path(datasets.config.HF_DATASETS_CACHE) / "distil_trainer"


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
