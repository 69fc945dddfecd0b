"""TeacherLabeler: the right logits, each computed once, whatever happens in between."""

import errno
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, List, Value, concatenate_datasets, load_dataset
from datasets.fingerprint import Hasher

from distil_trainer.label_store import LogitStore, text_keys
from distil_trainer.labeled_dataset import labeled_dataset_card, push_labeled_dataset, save_labeled_dataset
from distil_trainer.labeling import TeacherLabeler, _wait_for
from distil_trainer.processes import process_device
from distil_trainer.teacher_key import resolve_dtype, teacher_key


@pytest.fixture
def make_labeler(teacher, tokenizer, tmp_path):
    def make(**changes):
        arguments = dict(dtype="float32", cache_dir=tmp_path / "store", rows_per_shard=8)
        return TeacherLabeler(**{**dict(teacher=teacher, tokenizer=tokenizer), **arguments, **changes})

    return make


@pytest.fixture
def teacher_rows(teacher):
    """How many rows went through the teacher, one number for each forward."""
    rows = []
    teacher.register_forward_pre_hook(
        lambda module, arguments, inputs: rows.append(len(inputs["input_ids"])), with_kwargs=True
    )
    return rows


def one_by_one(teacher, tokenizer, sentences, pairs=None):
    with torch.no_grad():
        rows = zip(sentences, pairs or [None] * len(sentences), strict=True)
        return torch.cat([teacher(**tokenizer(text, pair, return_tensors="pt")).logits for text, pair in rows]).numpy()


def logits_of(dataset):
    return np.asarray(dataset.with_format("numpy")["teacher_logits"][:])


def test_logits_equal_the_teacher_run_on_one_text_at_a_time(make_labeler, reviews, teacher, tokenizer):
    teacher.train()
    labelled = make_labeler().map(reviews)
    expected = one_by_one(teacher.eval(), tokenizer, reviews["sentence"])
    np.testing.assert_allclose(logits_of(labelled), expected, atol=1e-6)
    assert labelled["teacher_label"][:] == expected.argmax(1).tolist()
    assert labelled.remove_columns(["teacher_logits", "teacher_label"])[:] == reviews[:]


def test_columns_are_fixed_length_float32_and_carry_the_label_names(make_labeler, reviews):
    features = make_labeler().map(reviews).features
    assert features["teacher_logits"] == List(Value("float32"), length=2)
    assert features["teacher_label"] == ClassLabel(names=["negative", "positive"])
    assert features == make_labeler().features(reviews)
    assert features["label"] == reviews.features["label"]


def test_the_callable_gives_the_same_columns_as_the_durable_form(make_labeler, reviews):
    labeler = make_labeler()
    called = reviews.map(labeler, batched=True, batch_size=10, features=labeler.features(reviews))
    durable = labeler.map(reviews)
    assert called.features == durable.features
    np.testing.assert_allclose(logits_of(called), logits_of(durable), atol=1e-6)
    assert reviews.map(labeler, batched=True).features["teacher_logits"].feature == Value("float32")


def test_pairs_are_read_together_and_in_order(make_labeler, teacher, tokenizer):
    first, second = ["good film", "good film", "bad plot"], ["a bad plot", "fun", "good film"]
    dataset = Dataset.from_dict({"a": first, "b": second})
    labelled = make_labeler(text_column="a", text_pair_column="b").map(dataset)
    np.testing.assert_allclose(logits_of(labelled), one_by_one(teacher, tokenizer, first, second), atol=1e-6)
    swapped = make_labeler(text_column="b", text_pair_column="a").map(dataset)
    np.testing.assert_allclose(logits_of(swapped), one_by_one(teacher, tokenizer, second, first), atol=1e-6)


def test_the_neutral_mask_word_reaches_the_teacher_as_its_own_mask_token(make_labeler, teacher, tokenizer):
    tokenizer_ids = tokenizer("a [MASK] film")["input_ids"]
    assert tokenizer.mask_token_id in tokenizer_ids
    labelled = make_labeler().map(Dataset.from_dict({"sentence": ["a [MASK] film"]}))
    np.testing.assert_allclose(logits_of(labelled), one_by_one(teacher, tokenizer, ["a [MASK] film"]), atol=1e-6)


def test_each_distinct_text_is_computed_once_and_never_again(make_labeler, reviews, teacher_rows, tmp_path):
    repeated = concatenate_datasets([reviews, reviews.shuffle(seed=1)])
    distinct = len(set(reviews["sentence"]))
    first = make_labeler().map(repeated)
    assert sum(teacher_rows) == distinct
    teacher_rows.clear()
    for path in (tmp_path / "datasets_cache").rglob("*.arrow"):
        path.unlink()
    again = make_labeler().map(repeated)
    shuffled = make_labeler().map(repeated.shuffle(seed=2))
    assert teacher_rows == []
    np.testing.assert_array_equal(logits_of(again), logits_of(first))
    rows = {text: logits for text, logits in zip(first["sentence"], logits_of(first), strict=True)}
    np.testing.assert_array_equal(logits_of(shuffled), [rows[text] for text in shuffled["sentence"]])


def test_new_rows_cost_only_themselves(make_labeler, reviews, teacher_rows):
    make_labeler().map(reviews)
    teacher_rows.clear()
    new = Dataset.from_dict({"sentence": ["good good good", "bad bad"], "label": [1, 0]}, features=reviews.features)
    labelled = make_labeler().map(concatenate_datasets([new, reviews]))
    assert sum(teacher_rows) == 2
    assert labelled["sentence"][:2] == new["sentence"][:]


def test_a_row_order_of_its_own_and_a_format_are_kept(make_labeler, reviews):
    shuffled = reviews.shuffle(seed=3).select(range(20)).with_format("numpy")
    labelled = make_labeler().map(shuffled)
    assert labelled["sentence"][:].tolist() == shuffled["sentence"][:].tolist()
    assert labelled.format["type"] == "numpy"


def test_the_result_is_memory_mapped_even_for_a_data_set_in_memory(make_labeler, reviews):
    assert not reviews.cache_files
    assert make_labeler().map(reviews).cache_files


def test_batches_of_arrays_as_ray_data_gives_them_are_labelled_alike(make_labeler, reviews):
    labeler = make_labeler()
    expected = labeler(reviews[:20])
    given = labeler({"sentence": np.array(reviews[:20]["sentence"], dtype=object), "row": np.arange(20)})
    np.testing.assert_array_equal(given["teacher_logits"], expected["teacher_logits"])
    with pytest.raises(TypeError, match="holds nan in row 1 of the batch"):
        labeler({"sentence": np.array(["good", np.nan], dtype=object)})


def test_processes_with_rank_and_world_size_only_label_without_joining_a_group(make_labeler, reviews, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("accelerate.PartialState.__init__", lambda *given, **options: pytest.fail("joined a group"))
    assert make_labeler()(reviews[:3])["teacher_logits"].shape == (3, 2)


@pytest.mark.parametrize(
    ("environment", "device"),
    [
        ({}, "cuda"),
        ({"RANK": "5", "WORLD_SIZE": "8"}, "cuda:1"),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "3"}, "cuda:3"),
        ({"RANK": "5", "WORLD_SIZE": "8", "ACCELERATE_USE_CPU": "true"}, "cpu"),
    ],
)
def test_processes_take_the_accelerators_of_a_machine_in_turn(monkeypatch, environment, device):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 4)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert process_device() == torch.device(device)


def test_a_store_under_a_url_serves_every_machine(make_labeler, reviews, teacher_rows, tmp_path, monkeypatch):
    expected = logits_of(make_labeler().map(reviews))
    computed = sum(teacher_rows)
    first = make_labeler(cache_dir="memory://logits/").map(reviews)
    assert sum(teacher_rows) == 2 * computed
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "another machine"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "its cache")
    second = make_labeler(cache_dir="memory://logits").map(reviews)
    assert sum(teacher_rows) == 2 * computed
    np.testing.assert_array_equal(logits_of(first), expected)
    np.testing.assert_array_equal(logits_of(second), expected)


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(make_labeler, reviews, teacher_rows, monkeypatch):
    def refuse(self, path, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as read_only:
        read_only.setattr("fsspec.implementations.local.LocalFileSystem.touch", refuse)
        with pytest.raises(OSError, match="could not be written .*Read-only file system"):
            make_labeler().map(reviews)
    assert teacher_rows == []
    labelled = make_labeler().map(reviews)
    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.touch", refuse)
    assert logits_of(make_labeler().map(reviews)).shape == logits_of(labelled).shape  # all is found: nothing to write


def test_the_texts_of_other_processes_are_waited_for(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("distil_trainer.labeling._SECONDS_BETWEEN_WARNINGS", 0.0)
    store, other = LogitStore(tmp_path, 1), LogitStore(tmp_path, 1)
    shards = [text_keys(["a", "b"]), text_keys(["c"])]
    monkeypatch.setattr(time, "sleep", lambda seconds: other.write(keys := shards.pop(), np.zeros((len(keys), 1))))
    _wait_for(text_keys(["a", "b", "c"]), store)
    assert shards == []
    assert "Still waiting for the logits of 3 texts that other processes compute" in caplog.text
    _wait_for(text_keys([]), store)


def test_relabelling_replaces_the_columns(make_labeler, reviews, teacher):
    first = make_labeler().map(reviews)
    with torch.no_grad():
        teacher.classifier.bias += torch.tensor([0.0, 5.0])
    second = make_labeler().map(first)
    assert second.column_names == first.column_names
    np.testing.assert_allclose(logits_of(second) - logits_of(first), np.tile([0.0, 5.0], (48, 1)), atol=1e-5)
    assert second.info.description.count("- fingerprint:") == 1


def test_a_crash_in_the_middle_keeps_every_finished_shard(make_labeler, reviews, teacher, teacher_rows, tmp_path):
    straight = logits_of(make_labeler(cache_dir=tmp_path / "other").map(reviews))
    distinct = sum(teacher_rows)
    teacher_rows.clear()

    def break_down(module, arguments, inputs):
        if sum(teacher_rows) > 30:
            raise RuntimeError("the power went")

    handle = teacher.register_forward_pre_hook(break_down, with_kwargs=True)
    with pytest.raises(RuntimeError, match="the power went"):
        make_labeler().map(reviews)
    handle.remove()
    teacher_rows.clear()
    resumed = make_labeler().map(reviews)
    assert sum(teacher_rows) == distinct - 24  # three shards of 8 were whole
    np.testing.assert_array_equal(logits_of(resumed), straight)


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty", "not an array"])
def test_a_damaged_shard_is_set_aside_and_computed_again(make_labeler, reviews, teacher_rows, caplog, damage):
    labeler = make_labeler()
    expected = logits_of(labeler.map(reviews))
    shard = sorted((Path(labeler.cache_dir) / labeler.fingerprint).glob("*.npy"))[0]
    content = shard.read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    replacements = {"truncated": content[:-7], "one bit": flipped, "empty": b"", "not an array": b"x" * 500}
    shard.write_bytes(replacements[damage])
    teacher_rows.clear()
    # Another column makes it another data set, so that nothing is read from the datasets cache.
    again = make_labeler().map(reviews.add_column("extra", list(range(48))))
    assert sum(teacher_rows) == len(np.frombuffer(content, dtype=np.uint8)[128:]) // 24
    assert "set aside" in caplog.text
    assert shard.with_suffix(".corrupt").exists()
    np.testing.assert_allclose(logits_of(again), expected, atol=1e-6)


def test_the_key_changes_with_all_that_changes_logits_and_with_nothing_else(teacher, tokenizer, tmp_path):
    arguments = dict(max_length=16, dtype=torch.float32, pairs=False)
    key = teacher_key(teacher, tokenizer, **arguments)
    tokenizer("a film", truncation=True, max_length=5, padding="max_length")
    teacher.save_pretrained(tmp_path)
    reloaded = type(teacher).from_pretrained(tmp_path, dtype=torch.float32)
    assert teacher_key(reloaded, tokenizer, **arguments) == key
    for change in (dict(max_length=17), dict(dtype=torch.bfloat16), dict(pairs=True)):
        assert teacher_key(teacher, tokenizer, **{**arguments, **change}) != key
    teacher.config.id2label = {0: "positive", 1: "negative"}
    assert teacher_key(teacher, tokenizer, **arguments) != key
    teacher.config.id2label = {0: "negative", 1: "positive"}
    assert teacher_key(teacher, tokenizer, **arguments) == key
    with torch.no_grad():
        teacher.classifier.bias[0] += 1e-3
    assert teacher_key(teacher, tokenizer, **arguments) != key


def test_hashing_the_callable_reads_the_key_and_sending_it_takes_the_teacher(make_labeler, reviews):
    labeler = make_labeler()
    assert Hasher.hash(labeler) == Hasher.hash(make_labeler())
    assert Hasher.hash(labeler) != Hasher.hash(make_labeler(max_length=9))
    assert Hasher.hash(labeler) != Hasher.hash(make_labeler(text_column="text"))
    sent = pickle.loads(pickle.dumps(labeler))
    batch = reviews[:5]
    np.testing.assert_array_equal(sent(batch)["teacher_logits"], labeler(batch)["teacher_logits"])


def test_texts_longer_than_the_tokenizer_allows_are_cut(make_labeler):
    labeler = make_labeler(max_length=500)
    assert labeler.max_length == 64
    labeler.map(Dataset.from_dict({"sentence": ["good " * 300]}))


def test_auto_dtype_keeps_the_type_of_a_teacher_that_is_not_float32():
    cpu = torch.device("cpu")
    assert resolve_dtype("auto", torch.float16, cpu) == torch.float16
    assert resolve_dtype("bfloat16", torch.float32, cpu) == torch.bfloat16
    assert resolve_dtype(torch.float32, torch.float32, cpu) == torch.float32
    assert resolve_dtype("auto", torch.float32, torch.device("meta")) == torch.float32


def test_bfloat16_logits_are_close_and_kept_apart_from_float32(make_labeler, reviews, teacher_rows):
    exact = logits_of(make_labeler().map(reviews))
    teacher_rows.clear()
    rounded = logits_of(make_labeler(dtype="bfloat16").map(reviews))
    assert sum(teacher_rows) == len(set(reviews["sentence"]))
    assert 0 < np.abs(rounded - exact).max() < 0.02


def test_the_default_store_lies_outside_the_datasets_cache(make_labeler, reviews, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    make_labeler(cache_dir=None).map(reviews)
    assert list((tmp_path / "home" / "distil_trainer" / "teacher_logits").rglob("*.npy"))


# What is refused.


def test_a_slow_tokenizer_is_refused(teacher):
    class SlowTokenizer:
        is_fast = False

    with pytest.raises(TypeError, match="tokenizer=SlowTokenizer is a slow one"):
        TeacherLabeler(teacher, SlowTokenizer())


@pytest.mark.parametrize("name", ["max_length", "tokens_per_batch", "rows_per_shard"])
def test_sizes_below_one_are_refused(make_labeler, name):
    with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
        make_labeler(**{name: 0})


def test_an_unknown_dtype_is_refused(make_labeler):
    with pytest.raises(ValueError, match="dtype='int8' must be 'auto' or one of"):
        make_labeler(dtype="int8")


def test_more_precision_than_the_weights_have_is_refused(make_labeler, teacher):
    teacher.half()
    with pytest.raises(ValueError, match="dtype='float32', but the teacher's weights are torch.float16"):
        make_labeler()


def test_a_missing_text_column_names_the_columns_that_are_there(make_labeler, reviews):
    with pytest.raises(ValueError, match=r"text_column='text' is not in the data set. Its columns are \['sentence'"):
        make_labeler(text_column="text").map(reviews)
    with pytest.raises(ValueError, match="text_pair_column='second' is not in the data set"):
        make_labeler(text_pair_column="second")(reviews[:2])


@pytest.mark.parametrize("text", ["", "  \t", None])
def test_an_empty_text_is_refused_with_its_row(make_labeler, teacher_rows, text):
    dataset = Dataset.from_dict({"sentence": ["good", "bad", text, "fine"]})
    with pytest.raises(ValueError, match="row 2 has sentence=.*a missing or empty text"):
        make_labeler().map(dataset)
    assert teacher_rows == []


def test_a_text_that_is_no_string_is_refused(make_labeler):
    dataset = Dataset.from_dict({"sentence": [1, 2]})
    with pytest.raises(TypeError, match="column 'sentence' holds int64, but texts must be strings"):
        make_labeler().map(dataset)
    with pytest.raises(TypeError, match="holds 2 in row 1 of the batch"):
        make_labeler()({"sentence": ["good", 2]})
    with pytest.raises(ValueError, match="row 1 has sentence=''"):
        make_labeler()({"sentence": ["good", ""]})


def test_nan_logits_are_refused_with_row_and_text_and_not_stored(make_labeler, reviews, teacher):
    with torch.no_grad():
        teacher.classifier.bias[0] = float("nan")
    labeler = make_labeler()
    with pytest.raises(ValueError, match=r"gave logits \[nan, .* for row 0 \('"):
        labeler.map(reviews)
    assert not list(Path(labeler.cache_dir).rglob("*.npy"))
    with pytest.raises(ValueError, match="for row 0"):
        labeler(reviews[:3])


def test_other_than_a_data_set_with_rows_is_refused(make_labeler, reviews):
    with pytest.raises(TypeError, match="dataset is a DatasetDict"):
        make_labeler().map(DatasetDict({"train": reviews}))
    with pytest.raises(ValueError, match="dataset has no rows"):
        make_labeler().map(reviews.select([]))


def test_shards_that_other_processes_wrote_elsewhere_are_missed(make_labeler, reviews, monkeypatch):
    monkeypatch.setattr(LogitStore, "write", lambda self, keys, logits: None)
    with pytest.raises(OSError, match="lacks the logits of 48 of 48 rows"):
        make_labeler().map(reviews)


# The labelled data set as a product.


def test_a_saved_data_set_loads_back_whole_and_names_its_teacher(make_labeler, reviews, tmp_path):
    labelled = make_labeler(teacher_name="me/electra-sst2").map(reviews)
    folder = save_labeled_dataset(labelled.select(range(40)), tmp_path / "saved")
    save_labeled_dataset(labelled.select(range(40)), folder)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "train.parquet"]
    loaded = load_dataset(str(folder), split="train")
    assert loaded.features == labelled.features
    np.testing.assert_array_equal(logits_of(loaded), logits_of(labelled)[:40])
    card = (folder / "README.md").read_text()
    for fact in ("40 rows", "teacher: me/electra-sst2", "negative, positive", "float32", make_labeler().fingerprint):
        assert fact in card


def test_a_card_calls_a_local_teacher_by_its_folder_and_a_hub_teacher_by_its_revision(make_labeler, teacher, tmp_path):
    folder = tmp_path / "my-teacher"
    teacher.save_pretrained(folder)
    assert make_labeler(teacher=type(teacher).from_pretrained(folder)).teacher_name == "my-teacher"
    assert make_labeler().teacher_name == "an unnamed bert classifier"
    teacher.config._name_or_path, teacher.config._commit_hash = "me/electra", "abc123"
    assert make_labeler().teacher_name == "me/electra at revision abc123"


def test_an_unlabelled_data_set_has_no_card(reviews):
    with pytest.raises(ValueError, match="does not say which teacher labelled it"):
        labeled_dataset_card(reviews)


def test_pushing_sends_the_card_before_the_data(make_labeler, reviews, monkeypatch):
    calls = []

    class Api:
        def __init__(self, token):
            calls.append(("token", token))

        def create_repo(self, repo_id, repo_type, private, exist_ok):
            calls.append(("create", repo_id, repo_type, private, exist_ok))

        def upload_file(self, path_or_fileobj, path_in_repo, repo_id, repo_type):
            calls.append((path_in_repo, b"Texts with teacher logits" in path_or_fileobj))

    monkeypatch.setattr("distil_trainer.labeled_dataset.HfApi", Api)
    monkeypatch.setattr(Dataset, "push_to_hub", lambda self, *args, **kwargs: calls.append(("data", args, kwargs)))
    push_labeled_dataset(make_labeler().map(reviews), "me/set", private=True, token="secret")
    assert calls == [
        ("token", "secret"),
        ("create", "me/set", "dataset", True, True),
        ("README.md", True),
        ("data", ("me/set",), {"private": True, "token": "secret"}),
    ]


# Several processes.

SCRIPT = """
import json, os, sys, time
from pathlib import Path
import numpy as np
import torch
from datasets import load_from_disk
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast
from distil_trainer.labeling import TeacherLabeler, _wait_for

folder, store, pause = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
teacher = AutoModelForSequenceClassification.from_pretrained(folder / "teacher", dtype=torch.float32)
tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "teacher")
rows = []

def count(module, arguments, inputs):
    rows.append(len(inputs["input_ids"]))
    time.sleep(pause)

teacher.register_forward_pre_hook(count, with_kwargs=True)
labeler = TeacherLabeler(teacher, tokenizer, dtype="float32", cache_dir=store, rows_per_shard=8)
print("ready", flush=True)
labelled = labeler.map(load_from_disk(folder / "reviews"))
rank = os.environ.get("RANK", "0")
world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
logits = np.asarray(labelled.with_format("numpy")["teacher_logits"][:])
facts = {"world": world, "rows": sum(rows), "logits": logits.tolist(), "key": labeler.fingerprint}
Path(store, f"rank{rank}.json").write_text(json.dumps(facts))
"""


@pytest.fixture
def script(teacher, tokenizer, reviews, tmp_path):
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    reviews.save_to_disk(tmp_path / "reviews")
    (tmp_path / "store").mkdir()
    (tmp_path / "label.py").write_text(SCRIPT)
    return [str(tmp_path / "label.py"), str(tmp_path), str(tmp_path / "store")]


@pytest.fixture
def environment(tmp_path):
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "home"), "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.slow
def test_two_processes_share_the_work_and_return_the_same(script, environment, make_labeler, reviews, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = subprocess.Popen([*launcher, *script, "0"], env=environment, start_new_session=True)
    try:
        assert process.wait(timeout=120) == 0
    finally:
        if process.poll() is None:  # the workers too, or they would wait for each other for ever
            os.killpg(process.pid, signal.SIGKILL)
    ranks = [json.loads((tmp_path / "store" / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert [rank["world"] for rank in ranks] == [2, 2]
    distinct = len(set(reviews["sentence"]))
    assert sum(rank["rows"] for rank in ranks) == distinct
    assert min(rank["rows"] for rank in ranks) >= distinct // 4
    assert ranks[0]["logits"] == ranks[1]["logits"]
    labeler = make_labeler(cache_dir=tmp_path / "alone")
    assert ranks[0]["key"] == labeler.fingerprint
    np.testing.assert_allclose(ranks[0]["logits"], logits_of(labeler.map(reviews)), atol=1e-6)


@pytest.mark.slow
def test_processes_that_see_different_folders_are_refused_before_any_work(script, environment, tmp_path):
    text = Path(script[0]).read_text().replace("sys.argv[2], float", 'sys.argv[2] + os.environ["RANK"], float')
    Path(script[0]).write_text(text)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = subprocess.run([*launcher, *script, "60"], env=environment, capture_output=True, text=True, timeout=120)
    assert process.returncode != 0
    assert re.search("is not one folder for all: process . sees the files of 1 of 2 processes", process.stderr)
    assert not list(tmp_path.rglob("*.npy"))


WORKERS = """
import sys
import torch
from datasets import load_from_disk
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast
from distil_trainer.labeling import TeacherLabeler

torch.set_num_threads(2)
folder = sys.argv[1]
teacher = AutoModelForSequenceClassification.from_pretrained(folder + "/teacher", dtype=torch.float32)
labeler = TeacherLabeler(teacher, PreTrainedTokenizerFast.from_pretrained(folder + "/teacher"), dtype="float32")
reviews = load_from_disk(folder + "/reviews")
labeler({"sentence": ["good " * 60] * 400})  # starts the threads that a forked process does not have
assert len(reviews.map(labeler, batched=True, batch_size=12, num_proc=2, features=labeler.features(reviews))) == 48
"""


@pytest.mark.slow
def test_forked_workers_of_map_do_not_wait_for_threads_of_their_parent(script, environment, tmp_path):
    command = [sys.executable, "-c", WORKERS, str(tmp_path)]
    assert subprocess.run(command, env={**environment, "OMP_NUM_THREADS": "2"}, timeout=120).returncode == 0


@pytest.mark.slow
def test_kill_9_loses_at_most_one_shard(script, environment, reviews, tmp_path):
    process = subprocess.Popen([sys.executable, *script, "0.3"], env=environment)
    store = tmp_path / "store"
    deadline = time.monotonic() + 120
    while len(list(store.rglob("*.npy"))) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = 8 * len(list(store.rglob("*.npy")))
    subprocess.run([sys.executable, *script, "0"], env=environment, check=True, timeout=300)
    facts = json.loads((store / "rank0.json").read_text())
    assert facts["rows"] == len(set(reviews["sentence"])) - kept
    assert len(facts["logits"]) == 48


@pytest.mark.slow
def test_two_runs_at_once_do_not_harm_each_other(script, environment, make_labeler, reviews, tmp_path):
    runs = [subprocess.Popen([sys.executable, *script, "0.05"], env=environment) for _ in range(2)]
    assert [run.wait(timeout=300) for run in runs] == [0, 0]
    assert not list((tmp_path / "store").rglob("*.corrupt"))
    facts = json.loads((tmp_path / "store" / "rank0.json").read_text())
    np.testing.assert_allclose(
        facts["logits"], logits_of(make_labeler(cache_dir=tmp_path / "alone").map(reviews)), atol=1e-6
    )


@pytest.mark.slow
def test_the_real_teacher_keeps_its_accuracy_in_bfloat16(minilm_folder, sst2_folder, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    teacher = AutoModelForSequenceClassification.from_pretrained(minilm_folder, dtype=torch.float32)
    validation = Dataset.from_parquet(str(sst2_folder / "validation.parquet"), cache_dir=str(tmp_path / "cache"))
    logits = {
        dtype: logits_of(
            TeacherLabeler(
                teacher, AutoTokenizer.from_pretrained(minilm_folder), dtype=dtype, cache_dir=tmp_path / "store"
            ).map(validation)
        )
        for dtype in ("float32", "bfloat16")
    }
    accuracy = (logits["float32"].argmax(1) == np.array(validation["label"])).mean()
    assert accuracy == pytest.approx(0.8807, abs=1e-4)
    assert np.abs(logits["bfloat16"] - logits["float32"]).max() < 0.1
    assert (logits["bfloat16"].argmax(1) == logits["float32"].argmax(1)).mean() > 0.995


def test_one_column_for_both_texts_is_refused(teacher, tokenizer):
    with pytest.raises(
        ValueError, match="text_column='sentence' and text_pair_column='sentence' name the same column"
    ):
        TeacherLabeler(teacher, tokenizer, text_pair_column="sentence")
