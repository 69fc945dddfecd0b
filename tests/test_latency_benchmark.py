"""What is timed under which name, in which order, with how many threads, and what is refused before that."""

import copy
import json
import os
import sys

import numpy as np
import psutil
import pytest
import torch
from vocabulary import WORDS

from distil_trainer import benchmark_latency, export_onnx, latency_table, onnx_runner, plot_latency
from distil_trainer.export.serving import serving_facts
from distil_trainer.latency_benchmark import __main__ as command
from distil_trainer.latency_benchmark import benchmark, pinned, timed_models, turns
from distil_trainer.latency_benchmark.timed_models import find_place, open_models
from distil_trainer.latency_benchmark.timed_tokenizers import PaddedTokenizer, ServedTokenizer

_GENERATOR = np.random.default_rng(3)
TEXTS = [" ".join(_GENERATOR.choice(WORDS, length)) for length in (1, 3, 7, 12, 30, 5, 90, 2, 9, 4)]
CORES = benchmark.usable_cores()


@pytest.fixture(scope="module")
def folders(tmp_path_factory, _families, tokenizer):
    """A tiny BERT as a folder for PyTorch and as one that `ship` would write, for tests that only read them."""
    root, model = tmp_path_factory.mktemp("models"), copy.deepcopy(_families["bert"]).eval()
    model.save_pretrained(root / "student")
    tokenizer.save_pretrained(root / "student")
    export_onnx(model, tokenizer, root / "student" / "onnx", max_length=64)
    serving = serving_facts(tokenizer, model.config, max_length=64, text_pair=False)
    report = json.dumps({"chosen": "model.onnx", "serving": serving})
    (root / "student" / "onnx" / "report.json").write_text(report)
    return root / "student", root / "student" / "onnx"


def _benchmark(models, texts=TEXTS, *given, **options):
    return benchmark_latency(models, texts, *given, **{"threads": 1, "instances": 0, "max_texts": 5} | options)


def test_each_model_is_timed_one_by_one_padded_and_in_batches(folders, teacher, tokenizer):
    folder, shipped = folders
    models = {"folder": folder, "shipped": shipped, "memory": (teacher, tokenizer)}
    result = _benchmark(models, pad_to=72, price_per_core_hour=0.04, throughput_texts=8)
    assert [row["name"] for row in result["rows"]] == [
        "folder (PyTorch), 1 thread",
        "shipped, 1 thread",
        "memory (PyTorch), 1 thread",
    ]
    assert [row["path"] for row in result["rows"]] == [str(folder), str(shipped / "model.onnx"), None]
    for row in result["rows"]:
        assert row["latency"]["n"] == 5 and row["latency"]["mean_tokens"] < 64 == tokenizer.model_max_length
        assert row["padded"]["n"] == 5 and row["padded"]["mean_tokens"] == 72
        throughput, dollars = row["throughput"], row["dollars_per_100m_texts"]
        assert throughput["texts"] == 8 and throughput["slowest"] <= throughput["texts_per_second"]
        assert throughput["texts_per_second"] <= throughput["fastest"]
        milliseconds = row["latency"]["mean_ms"] + row["latency"]["tokenization_mean_ms"]
        assert row["texts_per_second_one_by_one"] == pytest.approx(1000 / milliseconds)
        assert dollars["one_by_one"] == pytest.approx(milliseconds * 1e8 / 3.6e6 * 0.04)
        assert dollars["in_batches"] == pytest.approx(1e8 / throughput["texts_per_second"] / 3600 * 0.04)
    assert len({row["latency"]["mean_tokens"] for row in result["rows"]}) == 1  # the same texts
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_without_a_length_or_a_price_nothing_is_padded_or_reckoned(folders):
    (row,) = _benchmark([folders[1]])["rows"]
    assert row["padded"] is None and row["dollars_per_100m_texts"] is None


@pytest.mark.skipif(CORES < 2, reason="one core")
def test_each_number_of_threads_has_sessions_of_its_own(folders, monkeypatch):
    made, seen = [], []

    def runner(path, threads):
        run = onnx_runner(path, threads)
        made.append(threads)

        def recorded(inputs):
            seen.append((threads, torch.get_num_threads(), os.environ["TOKENIZERS_PARALLELISM"]))
            return run(inputs)

        return recorded

    monkeypatch.setattr(timed_models, "onnx_runner", runner)
    monkeypatch.setattr(benchmark, "check_reads", lambda *given, **options: None)
    monkeypatch.setattr(benchmark, "usable_cores", lambda: 2)
    before = torch.get_num_threads(), os.environ["TOKENIZERS_PARALLELISM"]
    result = _benchmark([folders[1]], threads=(2, 1, 2))
    assert [row["threads"] for row in result["rows"]] == made == [2, 1]
    assert set(seen) == {(2, 2, "true"), (1, 1, "false")}
    assert (torch.get_num_threads(), os.environ["TOKENIZERS_PARALLELISM"]) == before
    monkeypatch.delenv("TOKENIZERS_PARALLELISM")
    with turns.tokenizer_parallelism(False):
        assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
    assert "TOKENIZERS_PARALLELISM" not in os.environ


class _Clock:
    """Time in which the threads of this process compute half of the first so many seconds, and then sleep."""

    def __init__(self, busy_seconds):
        self.now, self.busy_seconds = 0.0, busy_seconds

    def sleep(self, seconds):
        self.now += seconds

    def perf_counter(self):
        return self.now

    def process_time(self):
        return min(self.now, self.busy_seconds) / 2


def test_a_turn_waits_until_the_threads_of_the_last_one_rest(monkeypatch, caplog):
    clock = _Clock(0.5)
    monkeypatch.setattr(turns, "time", clock)
    rest = turns._Rest(True)
    first, second = (rest.between_turns(name, lambda inputs: inputs) for name in ("first", "second"))
    assert first(1) == 1 and 0.5 <= clock.now < 0.55
    began = clock.now
    assert first(2) == 2 and clock.now == began  # its own threads are no other's
    assert second(3) == 3 and clock.now == pytest.approx(began + 0.02)
    clock.busy_seconds, began = float("inf"), clock.now
    first(4)
    assert 3 < clock.now - began < 3.1
    assert [record.message[:31] for record in caplog.records] == ["Threads of this process still c"]
    began = clock.now
    second(5)
    assert clock.now == began  # no more of that
    turns._Rest(False).between_turns("first", lambda inputs: inputs)(6)
    assert clock.now == began


def test_the_shipped_tokenizer_reads_as_that_of_transformers(folders, tokenizer):
    _, shipped = folders
    serving = json.loads((shipped / "report.json").read_text())["serving"]
    served = ServedTokenizer(shipped / "tokenizer.json", serving)
    for pairs in (None, TEXTS[::-1]):
        for max_length in (64, 16, 64):
            expected = tokenizer(TEXTS, pairs, truncation=True, max_length=max_length)
            assert served(TEXTS, pairs, truncation=True, max_length=max_length) == dict(expected)
    assert served(TEXTS[6], None, truncation=True, max_length=16) == dict(
        tokenizer(TEXTS[6], None, truncation=True, max_length=16)
    )
    assert (served.pad_token_id, served.padding_side, served.model_max_length) == (0, "right", 64)


def test_padded_texts_all_have_one_length(tokenizer):
    padded = PaddedTokenizer(tokenizer, 72)
    assert padded("good film", None, truncation=True, max_length=9) == {
        "input_ids": [*tokenizer("good film")["input_ids"], *[0] * 68],
        "token_type_ids": [0] * 72,
        "attention_mask": [1] * 4 + [0] * 68,
    }
    cut = padded("good film " * 60, None, truncation=True, max_length=9)
    assert len(cut["input_ids"]) == 72 and sum(cut["attention_mask"]) == 64
    assert (
        len(PaddedTokenizer(tokenizer, 16)("good film " * 60, None, truncation=True, max_length=9)["input_ids"]) == 16
    )


def test_a_path_stands_for_a_file_or_for_a_model_of_pytorch(folders, tmp_path):
    folder, shipped = folders
    assert find_place(shipped) == find_place(shipped / "model.onnx") == str(shipped / "model.onnx")
    assert find_place(folder) == str(folder)
    assert find_place("someone/model") == "someone/model"  # on the Hub
    (tmp_path / "model.onnx").touch()
    assert find_place(tmp_path) == str(tmp_path / "model.onnx")
    (tmp_path / "report.json").write_text("[]")
    (tmp_path / "model.safetensors").touch()
    assert find_place(tmp_path) == str(tmp_path)


def test_names_are_as_long_as_it_takes_to_tell_all_apart(folders, monkeypatch, tmp_path):
    folder, shipped = folders
    names = [model.name for model in open_models([folder, shipped])]
    assert names == ["student", "student/onnx/model.onnx"]
    places = [tmp_path / run / "student" / "onnx" / "model.onnx" for run in ("a", "b")]
    for place in places:
        place.parent.mkdir(parents=True)
        place.touch()
    monkeypatch.setattr(timed_models, "_open", lambda name, given, trusted: name)
    assert open_models(places) == ["a/student/onnx/model.onnx", "b/student/onnx/model.onnx"]
    with pytest.raises(ValueError, match=r"models has .*model\.onnx twice"):
        open_models([shipped, shipped / "model.onnx"])


@pytest.mark.parametrize(
    ("files", "path", "message"),
    [
        ([], "model.onnx", "is not a file: give the path of an ONNX file"),
        (["notes.txt"], "", "holds neither an ONNX file nor weights"),
        (["a.onnx", "b.onnx"], "", "holds a.onnx, b.onnx and no report.json that says which"),
        (["report.json"], "", "says that model.onnx was chosen, and it is not there"),
        (["model.onnx"], "", "has no tokenizer beside it"),
    ],
)
def test_a_folder_without_a_model_is_refused(files, path, message, tmp_path):
    for file in files:
        (tmp_path / file).write_text('{"chosen": "model.onnx"}' if file == "report.json" else "")
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        open_models([tmp_path / path])


def test_models_without_a_name_or_a_place_on_the_cpu_are_refused(folders, teacher, tokenizer):
    with pytest.raises(TypeError, match="give a list of paths"):
        open_models(str(folders[0]))
    with pytest.raises(TypeError, match="holds a tuple, which has no name"):
        open_models([(teacher, tokenizer)])
    with pytest.raises(TypeError, match=r"models\['student'\] is a BertForSequenceClassification"):
        open_models({"student": teacher})
    with pytest.raises(ValueError, match="lies on meta"):
        open_models({"student": (copy.deepcopy(teacher).to("meta"), tokenizer)})
    with pytest.raises(ValueError, match="models is empty"):
        open_models([])
    with pytest.raises(OSError, match="there is no such folder"):
        open_models(["./nowhere/at/all"])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"texts": []}, ValueError, "texts is empty"),
        ({"texts": ["good", " "]}, ValueError, r"texts\[1\]=' ' is empty"),
        ({"texts": ["good", None]}, TypeError, r"texts\[1\]=None is a NoneType"),
        ({"texts": "good"}, TypeError, "must be lists of texts"),
        ({"text_pairs": ["good"]}, ValueError, r"len\(text_pairs\)=1, len\(texts\)=10"),
        ({"text_pairs": [""] * 10}, ValueError, r"text_pairs\[\d\]='' is empty"),
        ({"threads": 0}, ValueError, "each number of threads must be from 1 to"),
        ({"threads": []}, ValueError, "each number of threads must be from 1 to"),
        ({"threads": [1, CORES + 1]}, ValueError, "More would wait for one another"),
        ({"instances": CORES + 1}, ValueError, "and instances from 0 to"),
        ({"max_texts": 0}, ValueError, "max_texts=0 must be at least 1"),
        ({"throughput_texts": 0}, ValueError, "throughput_texts=0 must be at least 1"),
        ({"tokens_per_batch": 0}, ValueError, "tokens_per_batch=0 must be at least 1"),
        ({"max_length": 7}, ValueError, "max_length=7 must be at least 8"),
        ({"pad_to": 7}, ValueError, "pad_to=7 must be at least 8"),
        ({"price_per_core_hour": 0}, ValueError, "price_per_core_hour=0: time and price must be above 0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_loaded(given, error, message, monkeypatch):
    monkeypatch.setattr(benchmark, "open_models", lambda *given, **options: pytest.fail("loaded"))
    with pytest.raises(error, match=message):
        _benchmark(["out"], **given)


def test_a_model_that_cannot_read_so_many_tokens_is_refused_before_anything_is_timed(folders, teacher, tokenizer):
    for models in ([folders[0]], [folders[1]]):
        with pytest.raises(ValueError, match="pad_to=128: .* cannot read a text of up to so many tokens"):
            _benchmark(models, pad_to=128)
    longer = copy.deepcopy(tokenizer)
    longer.model_max_length = 512
    with pytest.raises(ValueError, match="max_length=128: long cannot read"):
        _benchmark({"long": (teacher, longer)}, ["good film " * 90], max_length=128)
    longer.pad_token = None
    with pytest.raises(ValueError, match="no padding token"):
        _benchmark({"long": (teacher, longer)})


def test_a_model_that_was_shipped_for_single_texts_is_given_no_pairs(folders):
    with pytest.raises(ValueError, match="was shipped for single texts, and text_pairs is given"):
        _benchmark([folders[1]], TEXTS, TEXTS)
    (row,) = _benchmark([folders[0]], ["good film"] * 3, ["bad plot"] * 3)["rows"]
    assert row["latency"]["mean_tokens"] == 7


_STUB = """
import json, os, sys
request = json.load(open(sys.argv[1]))
core = psutil.Process().cpu_affinity() if (psutil := __import__("psutil")) else None
print(json.dumps("ready"), flush=True)
for number, task in enumerate(sys.stdin):
    if request["place"] == "dies" and number == 1:
        sys.exit(3)
    start = 10.0 + min(core)
    print(json.dumps([[2.0, 0.5, 4.0]] * 3 if task == "one by one\\n" else [start, start + 2.0]), flush=True)
"""


def _pinned(place, monkeypatch, instances=CORES):
    monkeypatch.setattr(pinned, "_COMMAND", [sys.executable, "-c", _STUB])
    return pinned.measure_pinned(
        place,
        TEXTS,
        None,
        instances=instances,
        trust_remote_code=False,
        max_length=64,
        max_texts=3,
        tokens_per_batch=64,
        seed=0,
    )


@pytest.mark.skipif(not pinned.can_pin(), reason="no pinning here")
def test_processes_have_a_core_each_and_the_time_is_from_the_first_start_to_the_last_end(monkeypatch):
    measured = _pinned("model", monkeypatch)
    assert measured["latency"]["n"] == 3 * CORES and measured["latency"]["p50_ms"] == 2.0
    cores = psutil.Process().cpu_affinity()[:CORES]
    seconds = max(cores) - min(cores) + 2.0
    assert measured["throughput"]["texts"] == 10 * CORES
    assert measured["throughput"]["texts_per_second"] == pytest.approx(10 * CORES / seconds)


def test_a_process_that_dies_is_an_error_and_leaves_no_other_behind(monkeypatch):
    before = psutil.Process().children()
    with pytest.raises(RuntimeError, match="Process 1 of .* that ran dies ended with status 3"):
        _pinned("dies", monkeypatch)
    assert psutil.Process().children() == before


def test_processes_that_the_memory_would_not_hold_are_left_out(monkeypatch, caplog, folders):
    class Memory:
        available = 1

    monkeypatch.setattr(pinned.psutil, "virtual_memory", Memory)
    monkeypatch.setattr(benchmark, "usable_cores", lambda: 2)
    assert _pinned("model", monkeypatch, instances=2) is None
    assert "the others would drive the machine out of memory" in caplog.text
    monkeypatch.setattr(benchmark, "measure_in_turns", lambda models, *given, **options: {models[0].name: _FIGURES})
    assert len(_benchmark([folders[1]], instances=2)["rows"]) == 1


_LATENCY = {"p50_ms": 2.0, "p95_ms": 3.0, "mean_ms": 2.5, "tokenization_p50_ms": 0.25, "tokenization_mean_ms": 0.5}
_LATENCY |= {"n": 3, "mean_tokens": 9.0}
_FIGURES = {
    "latency": _LATENCY,
    "padded": None,
    "throughput": {"texts": 10, "texts_per_second": 400.0, "slowest": 200.0, "fastest": 500.0},
}


def _figures(monkeypatch, models, **options):
    """Benchmark by made-up figures."""
    padded = {"padded": {"p50_ms": 1234.0}} if "pad_to" in options else {}
    monkeypatch.setattr(
        benchmark, "measure_in_turns", lambda models, *_, **__: {each.name: _FIGURES | padded for each in models}
    )
    monkeypatch.setattr(benchmark, "measure_pinned", lambda *_, **__: _FIGURES)
    monkeypatch.setattr(benchmark, "check_reads", lambda *_, **__: None)
    monkeypatch.setattr(benchmark, "usable_cores", lambda: 2)
    monkeypatch.setattr(benchmark, "cpu_name", lambda: "Chip 5")
    monkeypatch.setattr(benchmark, "_busy_cores", lambda: 0.8)
    return benchmark_latency(models, TEXTS, **options)


_TABLE = """\
                       one text, ms              tokenization  padded to 64     texts  $ for 100 million
model, run with              median   p95  mean        median        median  a second         one by one  in batches
────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
student (PyTorch)
  1 thread                     2.00  3.00  2.50         0.250         1,234       400               3.33        2.78
  2 threads                    2.00  3.00  2.50         0.250         1,234       400               6.67        5.56
  2 processes, pinned          2.00  3.00  2.50         0.250             –       400               3.33        5.56
student/onnx/model.onnx
  1 thread                     2.00  3.00  2.50         0.250         1,234       400               3.33        2.78
  2 threads                    2.00  3.00  2.50         0.250         1,234       400               6.67        5.56
  2 processes, pinned          2.00  3.00  2.50         0.250             –       400               3.33        5.56
────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
Chip 5, 2 cores. One text: 3 texts of real length (9 tokens on average), the model alone; tokenization comes on top.
"""


def test_the_table_has_a_line_for_each_way_and_says_how_it_was_measured(folders, monkeypatch):
    monkeypatch.setattr(benchmark, "can_pin", lambda: True)
    table = latency_table(_figures(monkeypatch, folders, pad_to=64, price_per_core_hour=0.04))
    assert table.startswith(_TABLE), table
    words = " ".join(table.split())
    for sentence in (
        "Padded: the same texts, each padded to 64 tokens.",
        "Texts a second: 10 texts in batches of similar length, at most 2048 tokens each",
        "of which the fastest was up to 2.50 times as fast as the slowest.",
        "each on a core of its own.",
        "Dollars: at 0.04 for a core for an hour, tokenization included, cores paid for while they work.",
        "Other work kept 0.8 of 2 cores busy when this began: on a quiet machine the times are shorter.",
    ):
        assert sentence in words
    plain = latency_table(_figures(monkeypatch, [folders[1]], instances=0))
    assert not any(word in plain for word in ("padded", "Padded", "$", "Dollars", "Processes"))


def test_where_nothing_can_be_pinned_the_row_says_so(folders, monkeypatch):
    monkeypatch.delattr(psutil.Process, "cpu_affinity")
    result = _figures(monkeypatch, [folders[1]])
    assert [row["texts_per_second_one_by_one"] for row in result["rows"]] == pytest.approx(
        [1000 / 3, 1000 / 3, 2000 / 3]
    )
    assert [row["way"] for row in result["rows"]] == ["1 thread", "2 threads", "2 processes, not pinned"]
    assert "this system pins none" in " ".join(latency_table(result).split())
    assert _pinned("model", monkeypatch, instances=2)["throughput"]["texts"] == 20


def test_models_in_memory_have_no_processes(teacher, tokenizer, monkeypatch):
    result = _figures(monkeypatch, {"student": (teacher, tokenizer)})
    assert [row["way"] for row in result["rows"]] == ["1 thread", "2 threads"]


def test_the_plot_is_a_picture_and_says_what_it_needs(folders, tmp_path, monkeypatch):
    result = _figures(monkeypatch, folders, pad_to=64)
    assert plot_latency(result, tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="Plots need matplotlib"):
        plot_latency(result, tmp_path / "plot.png")


@pytest.mark.slow  # a process that imports torch
def test_a_real_process_reads_all_texts(folders):
    result = _benchmark([folders[1]], instances=1, max_texts=4)
    way = "1 process, pinned" if pinned.can_pin() else "1 process, not pinned"
    assert [row["way"] for row in result["rows"]] == ["1 thread", way]
    first, second = result["rows"]
    assert second["latency"]["n"] == 4 and second["latency"]["mean_tokens"] == first["latency"]["mean_tokens"]
    assert second["throughput"]["texts"] == 10 and 0 < second["latency"]["p50_ms"] < 1000


def _command(folders, tmp_path, *words, texts="good film\r\nbad plot\n"):
    (tmp_path / "texts.txt").write_bytes(texts if isinstance(texts, bytes) else texts.encode())
    return command.main([str(folders[1]), "--texts", str(tmp_path / "texts.txt"), *words])


def test_the_command_writes_table_json_and_plot(folders, tmp_path, capsys):
    output, plot = tmp_path / "new" / "latency.json", tmp_path / "latency.png"
    words = ["--threads", "1", "--instances", "0", "--output", str(output), "--plot", str(plot)]
    assert _command(folders, tmp_path, *words) == 0
    result = json.loads(output.read_text())
    assert capsys.readouterr().out == latency_table(result) + "\n"
    assert result["texts"] == 2 and result["rows"][0]["latency"]["mean_tokens"] == 4
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_command_reads_the_same_lines_of_both_files_and_no_more(tmp_path, folders, monkeypatch):
    given = []
    monkeypatch.setattr(command, "benchmark_latency", lambda *values, **options: given.append(values) or {})
    monkeypatch.setattr(command, "latency_table", lambda result: "")
    (tmp_path / "pairs.txt").write_text("".join(f"second {row}\n" for row in range(50)))
    words = ["--text_pairs", str(tmp_path / "pairs.txt"), "--throughput_texts", "7"]
    assert _command(folders, tmp_path, *words, texts="".join(f"first\u2028{row}\n" for row in range(50))) == 0
    ((_, texts, pairs),) = given
    assert len(texts) == 7 and [text[6:] for text in texts] == [pair[7:] for pair in pairs]


@pytest.mark.parametrize(
    ("texts", "words", "message"),
    [
        ("", [], "is empty: give real texts"),
        ("good\n\nbad\n", [], "line 2 is empty"),
        (b"good\n\xff\n", [], "not UTF-8 after line"),
        ("good\n", ["--text_pairs", "PAIRS"], "has 1 lines, PAIRS has 2"),
        ("good\n", ["--text_pairs", "nowhere.txt"], "No such file"),
        ("good\n", ["--output", "."], ". is a folder: give the name of a file"),
        ("good\n", ["--price_per_core_hour", "-1"], "time and price must be above 0"),
    ],
)
def test_an_error_of_the_command_is_said_without_a_traceback(texts, words, message, folders, tmp_path, capsys):
    (tmp_path / "pairs.txt").write_text("a\nb\n")
    words = [word.replace("PAIRS", str(tmp_path / "pairs.txt")) for word in words]
    assert _command(folders, tmp_path, *words, texts=texts) == 1
    out, error = capsys.readouterr()
    assert out == "" and message.replace("PAIRS", str(tmp_path / "pairs.txt")) in error
    assert error.startswith("latency_benchmark: ") and "Traceback" not in error


def test_the_command_says_the_cause_of_an_error(folders, tmp_path, capsys):
    words = ["--instances", "0", "--threads", "1", "--pad_to", "128"]
    assert _command(folders, tmp_path, *words) == 1
    assert "cannot read a text of up to so many tokens" in (error := capsys.readouterr().err)
    assert "The cause: [ONNXRuntimeError]" in error
