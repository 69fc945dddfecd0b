"""LogitStore: whole shards or none, on a disk and on an object store."""

import errno
import os
import resource
import shutil

import fsspec
import numpy as np
import pytest

from distil_trainer.label_store import LogitStore, text_keys
from distil_trainer.shared_folder import SharedFolder

TEXTS = [f"text {number}" for number in range(50)]


@pytest.fixture
def memory():
    """An object store that lives as long as the test."""
    yield fsspec.filesystem("memory")
    fsspec.filesystem("memory").store.clear()
    fsspec.filesystem("memory").pseudo_dirs[:] = [""]


@pytest.fixture(params=["path", "file://", "memory://"])
def folder(request, tmp_path, memory):
    return {"path": tmp_path / "store", "file://": f"file://{tmp_path}/store", "memory://": "memory://bucket/store"}[
        request.param
    ]


@pytest.fixture
def make_store(folder, tmp_path):
    return lambda num_labels=1: LogitStore(folder, num_labels, copies=tmp_path / "copies")


def fill(store, numbers):
    store.write(text_keys([TEXTS[i] for i in numbers]), np.array(numbers, dtype=np.float32)[:, None])


def test_rows_are_found_over_several_shards_in_any_order(make_store):
    store = make_store()
    for start in range(0, 50, 7):
        fill(store, range(start, min(start + 7, 50)))
    stored = make_store().read()
    order = np.random.default_rng(0).permutation(50)
    positions = stored.find(text_keys([TEXTS[i] for i in order]))
    np.testing.assert_array_equal(stored.take(positions)[:, 0], order)
    assert stored.find(text_keys(["text 50"])).tolist() == [-1]
    assert stored.take(np.empty(0, dtype=np.int64)).shape == (0, 1)


def test_a_text_that_two_writers_stored_is_found_once(make_store):
    fill(make_store(), [0, 1, 2])
    fill(make_store(), [2, 1, 3])
    stored = make_store().read()
    assert stored.take(stored.find(text_keys(TEXTS[:4])))[:, 0].tolist() == [0, 1, 2, 3]


def test_keys_are_looked_up_in_steps(make_store, monkeypatch):
    monkeypatch.setattr("distil_trainer.label_store._KEYS_PER_STEP", 7)
    fill(make_store(), range(0, 50, 2))
    found = make_store().read().find(text_keys(TEXTS)) >= 0
    assert found.tolist() == [True, False] * 25


def test_only_shards_that_came_since_are_new(make_store):
    store, other = make_store(), make_store()
    fill(other, [0, 1])
    assert store.new_keys().tolist() == text_keys(TEXTS[:2]).tolist()
    fill(other, [2])
    assert store.new_keys().tolist() == text_keys(TEXTS[2:3]).tolist()
    assert len(store.new_keys()) == 0
    assert len(store.read()) == 3


def test_shards_of_another_number_of_labels_are_set_aside(make_store):
    fill(make_store(), [0])
    assert len(make_store(num_labels=2).read()) == 0
    assert len(SharedFolder(make_store().folder).names(".corrupt")) == 1


def test_a_reader_survives_a_shard_that_vanishes(make_store, monkeypatch):
    monkeypatch.setattr(SharedFolder, "names", lambda self, suffix: ["gone.npy"])
    assert len(make_store().read()) == 0


def test_pair_keys_tell_where_the_first_text_ends():
    assert text_keys(["ab"], ["c"])[0] != text_keys(["a"], ["bc"])[0]


# On an object store.


def test_a_damaged_object_is_set_aside_and_a_damaged_copy_fetched_again(memory, tmp_path):
    store = LogitStore("memory://bucket/store", 1, copies=tmp_path / "copies")
    fill(store, [0, 1])
    (name,) = store.folder.names(".npy")
    copy = tmp_path / "copies" / name
    copy.write_bytes(copy.read_bytes()[:-5])
    assert len(LogitStore("memory://bucket/store", 1, copies=tmp_path / "copies").read()) == 2
    memory.pipe_file(f"/bucket/store/{name}", b"short")
    shutil.rmtree(tmp_path / "copies")
    again = LogitStore("memory://bucket/store", 1, copies=tmp_path / "copies")
    assert len(again.read()) == 0
    assert [path.rpartition(".")[2] for path in memory.find("/bucket/store")] == ["corrupt"]


def test_an_object_is_fetched_once(memory, tmp_path, monkeypatch):
    fill(LogitStore("memory://bucket/store", 1, copies=tmp_path / "writer"), [0])
    LogitStore("memory://bucket/store", 1, copies=tmp_path / "reader").read()
    monkeypatch.setattr(SharedFolder, "get", lambda *arguments: pytest.fail("fetched again"))
    assert len(LogitStore("memory://bucket/store", 1, copies=tmp_path / "reader").read()) == 1


def test_no_file_is_kept_open(make_store):
    for number in range(20):
        fill(make_store(), [number])
    before = len(os.listdir("/proc/self/fd"))
    stored = make_store().read()
    assert len(stored) == 20
    assert len(os.listdir("/proc/self/fd")) == before


# What cannot be written.


def test_a_full_disk_of_copies_is_named_and_not_the_url(memory, tmp_path, monkeypatch):
    store = LogitStore("memory://bucket/store", 1, copies=tmp_path / "copies")
    monkeypatch.setattr(os, "replace", lambda *arguments: (_ for _ in ()).throw(OSError(errno.ENOSPC, "disk full")))
    with pytest.raises(OSError, match=f"'{tmp_path}/copies' could not be written .*disk full"):
        fill(store, [0])


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    store = LogitStore(tmp_path, 1)
    monkeypatch.setattr(os, "replace", lambda *arguments: (_ for _ in ()).throw(OSError(errno.ENOSPC, "disk full")))
    with pytest.raises(OSError, match="could not be written .*disk full.*what was finished before is kept") as caught:
        fill(store, [0])
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_the_system_cuts_off_leaves_nothing(tmp_path):
    store = LogitStore(tmp_path, 1)
    fill(store, [0])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(OSError, match="could not be written"):
            fill(store, range(50))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]
    assert len(LogitStore(tmp_path, 1).read()) == 1


def test_an_object_that_cannot_be_put_is_said_so(memory, tmp_path, monkeypatch):
    store = LogitStore("memory://bucket/store", 1, copies=tmp_path)
    monkeypatch.setattr(memory, "put_file", lambda *arguments: (_ for _ in ()).throw(PermissionError("denied")))
    with pytest.raises(OSError, match="memory://.*bucket/store' could not be written .denied"):
        fill(store, [0])
    assert memory.find("/bucket") == []
