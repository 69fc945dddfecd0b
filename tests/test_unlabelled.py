"""Texts without labels come alike from files, data sets and streams, and what is no text is refused with its place."""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, Sequence, Value, concatenate_datasets

from distil_trainer.unlabelled import load_unlabelled

LABEL = ClassLabel(names=["negative", "positive"])
TEXTS = ["a good film", "NA", "\ttabs and\u2028no line end 🎬", 'he said "bad', "1999"]


def _write(folder, name, texts=TEXTS):
    path = folder / name
    if path.suffix == ".txt":
        path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    else:
        table = Dataset.from_dict({"number": list(range(len(texts))), "sentence": texts, "label": [1] * len(texts)})
        {".csv": table.to_csv, ".jsonl": table.to_json, ".parquet": table.to_parquet}[path.suffix](path)
    return path


def _stream(rows):
    def generate():
        yield from rows

    return IterableDataset.from_generator(generate)


def _in_parquet(folder, *texts):
    """A file of strings that no Python program would write."""
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    array = pa.StringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(b"".join(texts)))
    pq.write_table(pa.table({"sentence": array}), folder / "bytes.parquet")
    return folder / "bytes.parquet"


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.parquet"])
def test_every_format_gives_the_same_texts_without_their_labels(tmp_path, name):
    texts = load_unlabelled(_write(tmp_path, name), label_feature=LABEL)
    assert texts.features == Features({"sentence": Value("string"), "label": LABEL})
    assert texts["sentence"][:] == TEXTS
    assert texts["label"][:] == [-1] * 5


def test_data_sets_and_streams_give_what_files_give(tmp_path):
    rows = [{"number": index, "sentence": text} for index, text in enumerate(TEXTS)]
    from_rows = load_unlabelled(Dataset.from_list(rows), label_feature=LABEL)
    from_stream = load_unlabelled(_stream(rows), label_feature=LABEL, max_rows=100)
    assert from_rows.features == from_stream.features
    assert from_rows[:] == from_stream[:] == {"sentence": TEXTS, "label": [-1] * 5}


def test_the_result_stands_beside_labelled_rows(tmp_path, reviews):
    texts = load_unlabelled(str(_write(tmp_path, "a.txt")), label_feature=reviews.features["label"])
    both = concatenate_datasets([reviews, texts])
    assert (both.features, len(both), both[-1]["label"]) == (reviews.features, 53, -1)


@pytest.mark.parametrize(
    ("feature", "nothing"),
    [(None, -1), (Value("int32"), -1), (Value("float32"), None), (Sequence(Value("float32"), length=3), None)],
)
def test_no_label_is_said_in_the_type_of_the_labels(tmp_path, feature, nothing):
    texts = load_unlabelled(_write(tmp_path, "a.txt"), label_column="gold", label_feature=feature)
    assert texts.features["gold"] == (feature or Value("int64"))
    assert texts["gold"][:] == [nothing] * 5


def test_several_files_of_several_formats_follow_one_another(tmp_path):
    files = [_write(tmp_path, "a.txt", ["one", "two"]), _write(tmp_path, "b.parquet", ["three"])]
    assert load_unlabelled(files)["sentence"][:] == ["one", "two", "three"]
    assert load_unlabelled(files, max_rows=1)["sentence"][:] == ["one"]
    assert len(load_unlabelled(files, max_rows=9)) == 3


def test_blank_lines_of_a_text_file_are_dropped_and_counted(tmp_path, caplog):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\r\n \t\r\n\xc2\xa0\r\ntwo")
    with caplog.at_level(logging.INFO, logger="distil_trainer"):
        assert load_unlabelled(tmp_path / "a.txt", text_column="document")["document"][:] == ["one", "two"]
    assert "2 texts, 3 blank lines dropped" in caplog.text


def test_a_line_of_a_million_characters_is_one_text(tmp_path):
    texts = load_unlabelled(_write(tmp_path, "a.txt", ["x" * 1_000_000, "short"]))["sentence"][:]
    assert [len(text) for text in texts] == [1_000_000, 5]


def test_pairs_come_from_two_columns():
    rows = Dataset.from_dict({"b": ["y"], "a": ["x"], "label": [1]})
    assert load_unlabelled(rows, "a", "b")[0] == {"a": "x", "b": "y", "label": -1}


def test_a_stream_is_read_to_its_bound_only_and_lies_in_one_file():
    asked = []

    def endless():
        while True:
            asked.append(len(asked))
            yield {"sentence": f"text {asked[-1]}"}

    first, second = (load_unlabelled(IterableDataset.from_generator(endless), max_rows=2_500) for _ in range(2))
    assert (len(first), first[2_499]["sentence"]) == (2_500, "text 2499")
    assert len(asked) <= 5_002
    assert first.cache_files != second.cache_files  # the second stream went on at 2500
    again = [load_unlabelled(_stream([{"sentence": "x"}] * 3), max_rows=3) for _ in range(2)]
    assert again[0].cache_files == again[1].cache_files != []
    assert again[0]._fingerprint == again[1]._fingerprint


def test_a_stream_that_breaks_leaves_no_file(tmp_path):
    def breaks():
        yield {"sentence": "one"}
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        load_unlabelled(IterableDataset.from_generator(breaks), max_rows=5)
    assert not list((tmp_path / "datasets_cache" / "distil_trainer").iterdir())


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (None, "absent.txt", "is not a file: give the path of a .txt, .csv"),
        (b"\x1f\x8b", "a.txt.gz", r"ends in '.gz'.*\.txt, \.csv.*Unpack"),
        (b"", "a.txt", "is empty"),
        (b"", "a.jsonl", "is empty"),
        (b" \n\n", "a.txt", "holds no text"),
        (b"sentence\n", "a.csv", "could not be read"),
        (b"one\ntwo\nb\xffd\n", "a.txt", r"not UTF-8: line 3 holds b'\\xffd"),
        (b'{"sentence": "one"}\n{"sentence": "\xff"}\n', "a.jsonl", "not UTF-8: line 2"),
        (b"x" * (1 << 20) + b"\n" + "é".encode()[:1], "a.txt", "not UTF-8: line 2 .*unexpected end of data"),
        ('{"sentence": "one"}\n'.encode("utf-16"), "a.jsonl", "not UTF-8: line 1"),
        (b'{"sentence": "half \\ud83d"}\n', "a.jsonl", "could not be read as jsonl: .*surrogate"),
        (b'{"sentence": "one"}\n{"sentence": null}\n', "a.jsonl", "row 1 has sentence=None"),
        (b"text\none\n", "a.csv", "no column 'sentence'; its columns are text"),
        (b"sentence,b\none,x\n ,y\n", "a.csv", "row 1 has sentence=' '"),
    ],
)
def test_a_file_without_texts_is_refused_with_the_place(tmp_path, content, name, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_unlabelled(tmp_path / name)


def test_a_text_file_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr("distil_trainer.unlabelled.load_dataset", fail)
    with pytest.raises(ValueError, match="could not be read as text: No space left"):
        load_unlabelled(_write(tmp_path, "a.txt"))


def test_texts_that_are_not_unicode_are_refused_with_their_row(tmp_path):
    with pytest.raises(ValueError, match="row 2 has a text in 'sentence' that UTF-8 cannot hold"):
        load_unlabelled(_in_parquet(tmp_path, b"one", b"two", b"\xed\xa0\xbd"))
    rows = [{"sentence": "one"}] * 1_500 + [{"sentence": "half \ud83d"}]
    with pytest.raises(ValueError, match="the stream: row 1500 has a text in 'sentence' that UTF-8 cannot hold"):
        load_unlabelled(_stream(rows).map(lambda row: row), max_rows=2_000)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([{"text": "one"}], ValueError, "the stream has no column 'sentence'; its columns are text"),
        ([{"sentence": "one"}, {"sentence": None}], ValueError, "the stream: row 1 has sentence=None"),
        ([{"sentence": "one"}, {"sentence": " "}], ValueError, "the stream: row 1 has sentence=' '"),
        ([{"sentence": 1}], TypeError, "the stream: row 0 has sentence=1"),
        ([], ValueError, r"source \(a IterableDataset\) holds no text"),
    ],
)
def test_a_stream_without_texts_is_refused_with_the_row(rows, error, message):
    with pytest.raises(error, match=message):
        load_unlabelled(_stream(rows), max_rows=10)


def test_a_stream_without_a_bound_is_refused():
    with pytest.raises(ValueError, match="max_rows=None with an `IterableDataset`"):
        load_unlabelled(_stream([{"sentence": "one"}]))


def test_a_column_of_numbers_is_refused():
    with pytest.raises(TypeError, match="holds int64"):
        load_unlabelled(Dataset.from_dict({"sentence": [1, 2]}))


def test_one_column_for_a_pair_task_is_refused(tmp_path):
    with pytest.raises(ValueError, match="one text a line, but text_pair_column='second'"):
        load_unlabelled(_write(tmp_path, "a.txt"), text_pair_column="second")
    with pytest.raises(ValueError, match="no column 'second'.*Name the right one with text_pair_column="):
        load_unlabelled(_write(tmp_path, "a.csv"), text_pair_column="second")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text_pair_column": "sentence"}, "text_column='sentence' and text_pair_column='sentence'"),
        ({"label_column": "sentence"}, "text_column='sentence' and label_column='sentence'"),
    ],
)
def test_the_same_column_twice_is_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        load_unlabelled(Dataset.from_dict({"sentence": ["one"]}), **columns)


def test_a_bound_below_one_is_refused():
    with pytest.raises(ValueError, match="max_rows=0"):
        load_unlabelled(Dataset.from_dict({"sentence": ["one"]}), max_rows=0)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (DatasetDict({"train": Dataset.from_dict({"sentence": ["one"]})}), r"holds the splits train: .*\['train'\]"),
        (7, "source is a int"),
        ([7], "source is a list"),
    ],
)
def test_anything_else_is_refused(source, message):
    with pytest.raises(TypeError, match=message):
        load_unlabelled(source)


def test_no_file_at_all_is_refused():
    with pytest.raises(ValueError, match=r"source=\[\] holds no text"):
        load_unlabelled([])
