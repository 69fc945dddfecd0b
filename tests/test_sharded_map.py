"""map_shards: the rows of `Dataset.map`, whoever makes which shard, and whatever interrupts."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value, concatenate_datasets, load_dataset
from fsspec.implementations.local import LocalFileSystem

from distil_trainer import sharded_map
from distil_trainer.augmentation import RuleAugmenter
from distil_trainer.labeling import TeacherLabeler
from distil_trainer.processes import check_shared, is_gone, process_mark
from distil_trainer.sharded_map import map_shards
from distil_trainer.shared_folder import SharedFolder


@pytest.fixture
def augmenter(reviews):
    return RuleAugmenter.from_corpus(reviews["sentence"], copies=3, replace_probability=0.0, seed=5)


@pytest.fixture
def augmentation(reviews, augmenter):
    """The rows of one `Dataset.map`, and the arguments that ask `map_shards` for the same."""
    arguments = dict(with_indices=True, remove_columns=reviews.column_names)
    return reviews.map(augmenter, batched=True, **arguments), arguments


@pytest.fixture
def parquet_files(reviews, tmp_path):
    (tmp_path / "input").mkdir()
    for number, (start, stop) in enumerate([(0, 20), (20, 20), (20, 21), (21, 48)]):
        reviews.select(range(start, stop)).to_parquet(tmp_path / "input" / f"part-{number}.parquet")
    return tmp_path / "input"


class Upper:
    """Counts the rows that it gets."""

    def __init__(self):
        self.rows = 0

    def __getstate__(self):  # what it counted is no part of what it does
        return {}

    def __call__(self, batch):
        self.rows += len(batch["sentence"])
        return {"upper": [text.upper() for text in batch["sentence"]]}


def loaded(files):
    return load_dataset("parquet", data_files=files, split="train")


@pytest.mark.parametrize("rows_per_shard", [7, 48, 1000])
def test_the_rows_are_those_of_one_map_for_any_shard_size(reviews, augmenter, augmentation, rows_per_shard, tmp_path):
    expected, arguments = augmentation
    files = map_shards(reviews, augmenter, tmp_path / "out", rows_per_shard=rows_per_shard, batch_size=5, **arguments)
    assert len(files) == -(-48 // rows_per_shard)
    assert loaded(files).features == expected.features
    assert loaded(files)[:] == expected[:]


def test_parquet_files_are_shards_whose_rows_are_numbered_through(parquet_files, augmenter, augmentation, tmp_path):
    expected, arguments = augmentation
    files = map_shards(f"{parquet_files}/*.parquet", augmenter, tmp_path / "out", **arguments)
    assert len(files) == 3  # one has no rows
    assert loaded(files)[:] == expected[:]
    listed = [str(path) for path in sorted(parquet_files.iterdir())]
    assert map_shards(listed, augmenter, tmp_path / "out", **arguments) == files


def test_a_labeler_writes_float32_lists_of_fixed_length_and_label_names(parquet_files, teacher, tokenizer, tmp_path):
    labeler = TeacherLabeler(teacher, tokenizer, dtype="float32")
    files = map_shards(f"{parquet_files}/*", labeler, tmp_path / "out", features=labeler.features)
    features = loaded(files).features
    assert features["teacher_logits"] == List(Value("float32"), length=2)
    assert features["teacher_label"] == ClassLabel(names=["negative", "positive"])
    assert features["label"] == ClassLabel(names=["negative", "positive"])


def test_finished_shards_are_not_made_again(reviews, tmp_path):
    function = Upper()
    files = map_shards(reviews, function, tmp_path / "out", rows_per_shard=10)
    assert function.rows == 48
    times = {file: os.stat(file).st_mtime_ns for file in files}
    Path(files[2]).unlink()
    assert map_shards(reviews, function, tmp_path / "out", rows_per_shard=10) == files
    assert function.rows == 58
    assert [file for file in files if os.stat(file).st_mtime_ns != times[file]] == [files[2]]
    assert loaded(files)["upper"][:] == [text.upper() for text in reviews["sentence"]]


@pytest.mark.parametrize("url", ["memory://bucket/{}", "file://{}"])
def test_urls_of_fsspec_are_written_and_read(reviews, augmenter, augmentation, tmp_path, url):
    url, (expected, arguments) = url.format(tmp_path / "out"), augmentation
    files = map_shards(reviews, augmenter, url, rows_per_shard=20, **arguments)
    again = map_shards(files, Upper(), tmp_path / "upper")
    assert loaded(again)["sentence"][:] == expected["sentence"][:]
    assert not [path for path in tmp_path.rglob("*.tmp")]


def test_one_process_of_several_makes_its_own_and_then_what_the_dead_left(reviews, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    function = Upper()
    files = map_shards(reviews, function, tmp_path / "out", rows_per_shard=5)
    assert function.rows == 48
    by_age = [files.index(file) for file in sorted(files, key=lambda file: os.stat(file).st_mtime_ns)]
    assert by_age[:4] == [1, 4, 7, 6]  # the first of others would be the next one of a process that is alive
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert map_shards(reviews, function, tmp_path / "out", rows_per_shard=5) == files
    assert function.rows == 48


def test_the_last_shards_of_others_are_waited_for(reviews, tmp_path, monkeypatch):
    files = map_shards(reviews, Upper(), tmp_path / "out", rows_per_shard=24)
    late = Path(files[0]).rename(tmp_path / "late")
    Path(f"{files[0]}.elsewhere_1_aa.claim").touch()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(time, "sleep", lambda seconds: late.rename(files[0]))
    function = Upper()
    assert map_shards(reviews, function, tmp_path / "out", rows_per_shard=24) == files
    assert function.rows == 0
    assert sorted(tmp_path.glob("out/*")) == [Path(file) for file in files]


# Claims.


class Waited(Exception):
    """Instead of a second of waiting."""


@pytest.fixture
def shards(tmp_path, monkeypatch):
    """Functions that start a process's turns over some shards, and that finish a shard."""

    def wait(seconds):
        raise Waited

    monkeypatch.setattr(time, "sleep", wait)
    folder, names = SharedFolder(tmp_path), [f"shard-{number}.parquet" for number in range(12)]
    return (
        lambda rank=0, num_processes=1: sharded_map._turns(folder, names, rank, num_processes),
        lambda number: (tmp_path / names[number]).touch(),
    )


def test_two_runs_of_one_call_share_the_shards(shards, tmp_path):
    start, finish = shards
    runs, made = [start(), start()], []
    for _ in range(6):
        made += [next(run)[0] for run in runs]
        finish(made[-2])
        finish(made[-1])
    assert sorted(made) == list(range(12))
    assert [list(run) for run in runs] == [[], []]
    assert not list(tmp_path.glob("*.claim"))


def test_idle_processes_take_different_shards_or_wait(shards):
    start, finish = shards
    for number in range(12):
        if number not in (3, 11):  # of rank 3 of 8
            finish(number)
    ranks, taken = [start(rank, 8) for rank in range(8)], []
    for rank in ranks:
        try:
            taken.append(next(rank)[0])
        except Waited:
            continue
    assert sorted(taken) == [3, 11]


def test_a_claim_of_a_process_that_ended_is_void_at_once(reviews, tmp_path, monkeypatch):
    def die(batch):
        raise KeyboardInterrupt

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(SharedFolder, "remove", lambda self, name: None)
        map_shards(reviews, die, tmp_path / "out")
    (claim,) = (tmp_path / "out").iterdir()
    function = Upper()
    (name,) = map_shards(reviews, function, tmp_path / "another")
    claim.rename(tmp_path / "out" / f"{Path(name).name}.{sharded_map._mark(claim.name)}.claim")
    monkeypatch.setattr("psutil.pid_exists", lambda pid: False)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waited for the dead"))
    (name,) = map_shards(reviews, function, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == [Path(name)]


def test_a_claim_from_elsewhere_is_void_after_a_time(reviews, tmp_path, monkeypatch):
    (file,) = map_shards(reviews, Upper(), tmp_path / "out")
    Path(file).rename(f"{file}.elsewhere_1_aa.claim")
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + 30.0))
    function = Upper()
    assert map_shards(reviews, function, tmp_path / "out") == [file]
    assert (function.rows, clock[0]) == (48, 60.0)
    assert list((tmp_path / "out").iterdir()) == [Path(file)]


def test_of_two_claims_at_the_same_moment_one_holds(reviews, tmp_path, monkeypatch):
    (file,) = map_shards(reviews, Upper(), tmp_path / "out")
    late = Path(file).rename(tmp_path / "late")
    touch = SharedFolder.touch

    def both_touch(self, name):
        Path(f"{file}.!_1_aa.claim").touch()
        touch(self, name)

    monkeypatch.setattr(SharedFolder, "touch", both_touch)
    monkeypatch.setattr(time, "sleep", lambda seconds: late.rename(file))
    function = Upper()
    assert map_shards(reviews, function, tmp_path / "out") == [file]
    assert function.rows == 0


def test_a_mark_tells_of_this_machine_who_is_gone(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "node-1.a_cluster")
    mark = process_mark()
    assert not is_gone(mark)
    assert sharded_map._mark(f"shard-00000-of-00001-ab.parquet.{mark}.claim") == mark
    monkeypatch.setattr("psutil.pid_exists", lambda pid: pid != os.getpid())
    assert is_gone(mark)
    assert not is_gone(f"other{mark}") and not is_gone("anything")


def test_scratch_folders_of_the_dead_are_removed(reviews, tmp_path, monkeypatch):
    cache = tmp_path / "datasets_cache" / "distil_trainer"
    mark = process_mark()
    for name in (f"shard-{mark}.ab", "shard-elsewhere_1_aa.ab"):
        (cache / name).mkdir(parents=True)
    map_shards(reviews, Upper(), tmp_path / "out")
    assert len(list(cache.iterdir())) == 2
    monkeypatch.setattr("psutil.pid_exists", lambda pid: False)
    map_shards(reviews, Upper(), tmp_path / "out")
    assert [path.name for path in cache.iterdir()] == ["shard-elsewhere_1_aa.ab"]


# Shards that differ.


class Long(Upper):
    def __call__(self, batch):
        self.rows += len(batch["sentence"])
        return {"sentence": [text for text in batch["sentence"] if len(text) > 2]}


def test_shards_without_rows_are_left_out_and_not_made_again(tmp_path):
    rows, function = Dataset.from_dict({"sentence": ["a", "b", "longer", "texts", "c"]}), Long()
    files = map_shards(rows, function, tmp_path / "out", rows_per_shard=2)
    assert len(files) == 1
    assert loaded(files)["sentence"][:] == ["longer", "texts"]
    assert map_shards(rows, function, tmp_path / "out", rows_per_shard=2) == files
    assert function.rows == 5


def test_shards_whose_derived_columns_differ_are_refused(tmp_path):
    rows = Dataset.from_dict({"sentence": ["x", "x", "3", "4"]})

    def score(batch):
        return {"score": [None if text == "x" else text for text in batch["sentence"]]}

    with pytest.raises(ValueError, match="shard-00001.*'score': Value.'string'.*shard-00000.*'null'.*Give features="):
        map_shards(rows, score, tmp_path / "out", rows_per_shard=2)
    with pytest.raises(ValueError, match="out/shard-00001.*'score': Value.'string'.*out/shard-00000.*'null'.*Give"):
        map_shards(rows, score, tmp_path / "out", rows_per_shard=2)  # finished, by processes of one shard each
    features = Features({"sentence": Value("string"), "score": Value("string")})
    files = map_shards(rows, score, tmp_path / "other", rows_per_shard=2, features=lambda shard: features)
    assert loaded(files)["score"][:] == [None, None, "3", "4"]


def test_a_corrected_label_is_another_input(tmp_path):
    def write(labels):
        rows = {"sentence": ["aaa", "bbb", "ccc", "zzz"], "label": labels}
        Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")

    write([0, 1, 0, 1])
    map_shards(str(tmp_path / "a.parquet"), Upper(), tmp_path / "out")
    os.utime(tmp_path / "a.parquet", ns=(0, 0))
    write([0, 0, 1, 1])
    with pytest.raises(ValueError, match="of another function, other settings or another input"):
        map_shards(str(tmp_path / "a.parquet"), Upper(), tmp_path / "out")


def test_the_checksum_of_an_object_store_says_whether_it_is_the_same_input(reviews, tmp_path, monkeypatch):
    memory = fsspec.filesystem("memory")
    information, checksum = type(memory).info, ["x"]
    monkeypatch.setattr(type(memory), "info", lambda *given: {**information(*given), "ETag": checksum[0]})
    (file,) = map_shards(reviews, Upper(), "memory://checksums/input")
    first = sharded_map._files(file)[1]
    memory.pipe_file(file, memory.cat_file(file))  # written again, the same
    assert sharded_map._files(file)[1] == first
    checksum[0] = "y"
    assert sharded_map._files(file)[1] != first


def test_a_shard_that_came_meanwhile_is_not_written_again(reviews, tmp_path, monkeypatch):
    (file,) = map_shards(reviews, Upper(), tmp_path / "out")
    late = Path(file).rename(tmp_path / "late")
    before = os.stat(late).st_mtime_ns
    to_parquet = Dataset.to_parquet

    def slow(self, path):
        late.rename(file)
        return to_parquet(self, path)

    monkeypatch.setattr(Dataset, "to_parquet", slow)
    assert map_shards(reviews, Upper(), tmp_path / "out") == [file]
    assert os.stat(file).st_mtime_ns == before


def test_a_full_disk_leaves_nothing_half_written_and_the_next_start_goes_on(reviews, tmp_path, monkeypatch):
    function, put_file = Upper(), LocalFileSystem.put_file

    def fill_up(self, source, target):
        if len(list((tmp_path / "out").glob("*.parquet"))) < 2:
            return put_file(self, source, target)
        Path(target).write_bytes(Path(source).read_bytes()[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(LocalFileSystem, "put_file", fill_up)
        with pytest.raises(OSError, match=r"out' could not be written \(.*No space.* start again") as caught:
            map_shards(reviews, function, tmp_path / "out", rows_per_shard=10)
    assert caught.value.errno == errno.ENOSPC
    assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".parquet"] * 2
    files = map_shards(reviews, function, tmp_path / "out", rows_per_shard=10)
    assert function.rows == 48 + 10
    assert loaded(files)["sentence"][:] == reviews["sentence"][:]


def test_a_folder_that_turned_read_only_is_said_so(reviews, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="could not be written .*Read-only file system.*mend the permissions"):
        SharedFolder(tmp_path).put(__file__, "name")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(LocalFileSystem, "makedirs", refuse)
    with pytest.raises(OSError, match="could not be created .*Read-only file system"):
        map_shards(reviews, Upper(), tmp_path / "out")


def test_a_function_that_fails_says_in_which_shard(reviews, augmenter, augmentation, tmp_path, caplog):
    _, arguments = augmentation
    broken = concatenate_datasets([reviews, reviews.select([0]).map(lambda row: {"sentence": " "})])
    with pytest.raises(ValueError, match="row 48: the text ' ' is empty"):
        map_shards(broken, augmenter, tmp_path / "out", rows_per_shard=20, **arguments)
    assert "Shard 2 of 3, which begins at row 40, failed" in caplog.text
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize("change", ["function", "input", "columns", "shard size"])
def test_the_shards_of_another_call_are_refused(reviews, tmp_path, change):
    map_shards(reviews, Upper(), tmp_path / "out", rows_per_shard=30)
    function = str.upper if change == "function" else Upper()
    source = reviews.select(range(40)) if change == "input" else reviews
    columns = ["label"] if change == "columns" else None
    with pytest.raises(ValueError, match="holds 2 parquet files of another function, other settings or another inp"):
        map_shards(
            source,
            function,
            tmp_path / "out",
            rows_per_shard=20 if change == "shard size" else 30,
            remove_columns=columns,
        )


def test_the_input_folder_is_refused_as_output(parquet_files):
    with pytest.raises(ValueError, match="holds 4 parquet files of another"):
        map_shards(f"{parquet_files}/*", Upper(), parquet_files)


def test_other_runs_that_write_at_the_same_time_are_found_at_the_next_shard(reviews, tmp_path):
    class Disturbed(Upper):
        def __call__(self, batch):
            (tmp_path / "out" / "shard-of-another.parquet").touch()
            return super().__call__(batch)

    function = Disturbed()
    with pytest.raises(ValueError, match='such as shard-of-another.parquet.*TeacherLabeler with dtype="auto"'):
        map_shards(reviews, function, tmp_path / "out", rows_per_shard=10)
    assert function.rows == 10


def test_other_sources_are_refused(reviews, parquet_files, tmp_path):
    with pytest.raises(TypeError, match="source is a IterableDataset"):
        map_shards(reviews.to_iterable_dataset(), Upper(), tmp_path / "out")
    with pytest.raises(ValueError, match="source names '.*/none-.*', where there is no file"):
        map_shards([f"{parquet_files}/none-*"], Upper(), tmp_path / "out")
    with pytest.raises(ValueError, match="source has no rows"):
        map_shards(reviews.select([]), Upper(), tmp_path / "out")
    with pytest.raises(ValueError, match="source has no rows"):
        map_shards(f"{parquet_files}/part-1.parquet", Upper(), tmp_path / "out")
    with pytest.raises(ValueError, match="source is an empty list"):
        map_shards([], Upper(), tmp_path / "out")
    with pytest.raises(ValueError, match=r"source names '.*input', which is a folder.*input/\*.parquet'"):
        map_shards(str(parquet_files), Upper(), tmp_path / "out")
    with pytest.raises(ValueError, match="source names file://.*part-0.parquet twice"):
        map_shards([f"{parquet_files}/part-0.parquet", f"{parquet_files}/*.parquet"], Upper(), tmp_path / "out")
    (parquet_files / "texts.jsonl").write_text('{"sentence": "a film"}\n')
    with pytest.raises(ValueError, match="texts.jsonl is no parquet file, or was cut off"):
        map_shards(f"{parquet_files}/texts.jsonl", Upper(), tmp_path / "out")
    (parquet_files / "texts.jsonl").unlink()
    reviews.rename_column("label", "gold").to_parquet(parquet_files / "part-4.parquet")
    with pytest.raises(ValueError, match="part-4.parquet has the columns .*'gold'.*but .*part-0.parquet has"):
        map_shards(f"{parquet_files}/*", Upper(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_label_names_in_another_order_are_other_columns(reviews, parquet_files, tmp_path):
    names = ClassLabel(names=["positive", "negative"])
    other = reviews.cast_column("label", Value("int64")).cast_column("label", names)
    other.to_parquet(parquet_files / "part-4.parquet")
    with pytest.raises(ValueError, match="part-4.parquet has the columns .*'positive', 'negative'.*but .*part-0.parq"):
        map_shards(f"{parquet_files}/*", Upper(), tmp_path / "out")


def test_brackets_in_a_path_are_no_pattern(reviews, tmp_path):
    reviews.to_parquet(tmp_path / "in[1]" / "a.parquet")
    for number, source in enumerate(("in[1]/a.parquet", "in[1]/*.parquet")):
        assert len(map_shards(str(tmp_path / source), Upper(), tmp_path / f"out{number}")) == 1
    with pytest.raises(ValueError, match=r"output_url='.*\[1\]' has one of the characters"):
        map_shards(reviews, Upper(), tmp_path / "out[1]")


def test_a_file_system_that_moves_nothing_onto_a_name_keeps_the_first_file(tmp_path, monkeypatch):
    folder, memory = SharedFolder("memory://moves"), fsspec.filesystem("memory")
    folder._puts_whole_objects, move = False, memory.mv

    def move_to_new_names(source, target):
        if memory.exists(target) or not memory.exists(source):
            raise OSError("Failure")
        move(source, target)

    monkeypatch.setattr(memory, "mv", move_to_new_names)
    (tmp_path / "content").write_text("content")
    for _ in range(2):
        folder.put(tmp_path / "content", "name")
        assert memory.ls("/moves", detail=False) == ["/moves/name"]
    monkeypatch.setattr(memory, "mv", lambda source, target: move_to_new_names("none", target))
    with pytest.raises(OSError, match="could not be written .Failure"):
        folder.put(tmp_path / "content", "other")
    assert memory.ls("/moves", detail=False) == ["/moves/name"]


def test_a_function_without_a_hash_is_refused(reviews, tmp_path):
    class NoHash(Upper):
        def __getstate__(self):
            raise RuntimeError("this cannot be pickled")

    with pytest.raises(TypeError, match="cannot be hashed .this cannot be pickled"):
        map_shards(reviews, NoHash(), tmp_path / "out")


@pytest.mark.parametrize("number", ["rows_per_shard", "batch_size"])
def test_numbers_below_one_are_refused(reviews, tmp_path, number):
    with pytest.raises(ValueError, match=f"{number}=0.* must be at least 1"):
        map_shards(reviews, Upper(), tmp_path / "out", **{number: 0})


def test_a_rank_outside_of_the_world_is_refused(reviews, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(ValueError, match="RANK=2 and WORLD_SIZE=1 in the environment"):
        map_shards(reviews, Upper(), tmp_path / "out")


def test_a_folder_that_others_do_not_see_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(SharedFolder, "has", lambda self, name: False)
    with pytest.raises(OSError, match="cache_dir='.*' is not one folder for all: process 0 sees the files of 0 of 1"):
        check_shared(SharedFolder(tmp_path), "cache_dir")
    assert list(tmp_path.iterdir()) == []


# Several processes.

SCRIPT = """
import json, os, sys, time
from pathlib import Path
from datasets import load_from_disk
from distil_trainer.augmentation import RuleAugmenter
from distil_trainer.sharded_map import map_shards

folder, pause = Path(sys.argv[1]), float(sys.argv[2])
reviews = load_from_disk(folder / "reviews")
augmenter = RuleAugmenter.from_corpus(reviews["sentence"], copies=3, replace_probability=0.0, seed=5)
rows = []

class Slow:
    def __getstate__(self):
        return {"augmenter": augmenter}

    def __call__(self, batch, indices):
        time.sleep(pause)
        rows.extend(indices)
        return augmenter(batch, indices)

arguments = dict(with_indices=True, remove_columns=reviews.column_names, rows_per_shard=4)
files = map_shards(reviews, Slow(), folder / "out", **arguments)
facts = {"world": os.environ["WORLD_SIZE"], "rows": len(rows), "files": files}
(folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(facts))
"""


@pytest.fixture
def start(reviews, tmp_path):
    """A function that starts the script under torchrun, in a process group of its own."""
    reviews.save_to_disk(tmp_path / "reviews")
    (tmp_path / "map.py").write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "home")}
    running = []

    def start_processes(number, pause):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(number)]
        command = [*launcher, str(tmp_path / "map.py"), str(tmp_path), str(pause)]
        running.append(subprocess.Popen(command, env=environment, start_new_session=True))
        return running[-1]

    yield start_processes
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_two_processes_share_the_shards(start, augmentation, tmp_path):
    assert start(2, 0.3).wait(timeout=120) == 0
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert [rank["world"] for rank in ranks] == ["2", "2"]
    assert ranks[0]["files"] == ranks[1]["files"]
    assert 48 <= ranks[0]["rows"] + ranks[1]["rows"] <= 48 + 2 * 4  # the last shards may be made twice
    assert min(rank["rows"] for rank in ranks) >= 16
    assert loaded(ranks[0]["files"])[:] == augmentation[0][:]


@pytest.mark.slow
def test_a_killed_process_and_two_runs_at_once_leave_the_same_rows(start, augmentation, tmp_path):
    killed = start(2, 0.3)
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "out").glob("*.parquet"))) < 3:
        assert time.monotonic() < deadline and killed.poll() is None
        time.sleep(0.02)
    (victim, *_) = [int(child) for child in _children(killed.pid)]
    os.kill(victim, signal.SIGKILL)
    assert killed.wait(timeout=120) != 0  # torchrun ends the others
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}
    assert 3 <= len(finished) < 12
    runs = [start(1, 0.3), start(3, 0.3)]  # of the same pause: it is a part of the function, and so of its hash
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    facts = json.loads((tmp_path / "rank0.json").read_text())
    assert loaded(facts["files"])[:] == augmentation[0][:]
    assert len(list((tmp_path / "out").iterdir())) == 12


def _children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
