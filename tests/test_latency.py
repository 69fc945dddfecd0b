"""What is timed, how often, and on which inputs."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from distil_trainer import torch_runner
from distil_trainer.latency import (
    cpu_name,
    dollars_per_100m_texts,
    measure_latencies,
    measure_latency,
    torch_threads,
)


class _Recorder:
    """A runner that sleeps and remembers what it was given."""

    def __init__(self, seconds=0.0, name=None, calls=None):
        self.seconds, self.name, self.calls, self.inputs, self.threads = seconds, name, calls, [], []

    def __call__(self, inputs):
        self.inputs.append(inputs)
        self.threads.append(torch.get_num_threads())
        if self.calls is not None:
            self.calls.append(self.name)
        time.sleep(self.seconds)
        return np.zeros((1, 2), dtype=np.float32)


def test_every_text_is_run_alone_at_its_real_length(tokenizer):
    runner, texts = _Recorder(), ["film", "a good film", "the plot was never very good"]
    figures = measure_latency(runner, tokenizer, texts, threads=1, warmup=0)
    lengths = [inputs["input_ids"].shape for inputs in runner.inputs[1:]]  # the first call of a block is not timed
    assert sorted(lengths) == [(1, 3), (1, 5), (1, 8)]
    assert figures["batch_size"] == 1 and figures["n"] == 3 and figures["mean_tokens"] == pytest.approx(16 / 3)


def test_texts_are_cut_at_max_length_and_pairs_are_given_together(tokenizer):
    runner = _Recorder()
    measure_latency(runner, tokenizer, ["good film"], ["bad plot"], threads=1, warmup=0)
    measure_latency(runner, tokenizer, ["good film " * 30], threads=1, warmup=0, max_length=16)
    assert runner.inputs[0]["input_ids"].shape == (1, 7) and runner.inputs[0]["token_type_ids"].max() == 1
    assert runner.inputs[-1]["input_ids"].shape == (1, 16)


def test_the_median_is_the_models_time_without_tokenization(tokenizer):
    figures = measure_latency(_Recorder(0.004), tokenizer, ["a good film"] * 15, threads=1, warmup=1)
    assert figures["p50_ms"] >= 4.0
    assert figures["p50_ms"] <= figures["p95_ms"]
    assert figures["tokenization_p50_ms"] < 4.0


def test_percentiles_are_those_of_the_timed_calls(tokenizer, monkeypatch):
    seconds = iter(range(1, 1000))
    clock = iter([])

    def perf_counter():
        nonlocal clock
        value = next(clock, None)
        if value is None:  # each pair of readings lies 1, 2, 3, ... milliseconds apart
            width = next(seconds) / 1000
            clock = iter([width])
            return 0.0
        return value

    monkeypatch.setattr("distil_trainer.latency.time.perf_counter", perf_counter)
    figures = measure_latency(_Recorder(), tokenizer, ["film"] * 3, threads=1, warmup=1)
    # readings: warm-up tokenization 1, block tokenization 2, then (tokenization, model) = (3, 4), (5, 6), (7, 8)
    assert figures["p50_ms"] == pytest.approx(6.0) and figures["mean_ms"] == pytest.approx(6.0)
    assert figures["p95_ms"] == pytest.approx(7.8) and figures["tokenization_p50_ms"] == pytest.approx(5.0)


def test_models_take_turns_by_blocks_on_the_same_texts(tokenizer):
    calls, texts = [], [" ".join(["film"] * (1 + index % 9)) for index in range(100)]
    runners = {name: _Recorder(name=name, calls=calls) for name in ("teacher", "student")}
    figures = measure_latencies(
        {name: (runner, tokenizer) for name, runner in runners.items()}, texts, threads=1, warmup=2, max_texts=60
    )
    blocks = [calls[4:][start : start + 21] for start in range(0, 126, 21)]
    assert len(calls) == 4 + 2 * 3 * 21 and all(len(set(block)) == 1 for block in blocks)
    assert all({blocks[i][0], blocks[i + 1][0]} == {"teacher", "student"} for i in (0, 2, 4))
    assert figures["teacher"]["n"] == figures["student"]["n"] == 60
    shapes = [[i["input_ids"].shape for i in runner.inputs] for runner in runners.values()]
    assert shapes[0] == shapes[1]


def test_the_drawn_texts_depend_on_the_seed(tokenizer):
    texts = [" ".join(["film"] * (1 + index)) for index in range(40)]
    drawn = []
    for seed in (0, 0, 1):
        runner = _Recorder()
        measure_latency(runner, tokenizer, texts, threads=1, warmup=0, max_texts=10, seed=seed)
        drawn.append([inputs["input_ids"].shape[1] for inputs in runner.inputs])
    assert drawn[0] == drawn[1] != drawn[2]


def test_threads_are_set_while_measuring_and_restored_after_an_error(tokenizer):
    before = torch.get_num_threads()
    runner = _Recorder()
    figures = measure_latency(runner, tokenizer, ["film"], threads=before + 1, warmup=1)
    assert set(runner.threads) == {before + 1} and figures["threads"] == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(RuntimeError, match="stop"), torch_threads(before + 1):
        raise RuntimeError("stop")
    assert torch.get_num_threads() == before


def test_a_real_model_is_measured(teacher, tokenizer, reviews):
    figures = measure_latency(torch_runner(teacher), tokenizer, reviews["sentence"], threads=1, max_texts=5)
    assert figures["n"] == 5 and 0 < figures["p50_ms"] < 1000 and figures["cpu"] == cpu_name()


def test_the_processor_has_a_name():
    assert cpu_name().strip()


@pytest.mark.parametrize(("answer", "name"), [("Chip 5", "Chip 5"), ("", "arm64")])
def test_where_there_is_no_cpuinfo_the_system_is_asked_for_the_name(answer, name, monkeypatch):
    monkeypatch.setattr("distil_trainer.latency.Path.exists", lambda path: False)
    monkeypatch.setattr("distil_trainer.latency.platform.machine", lambda: "arm64")
    monkeypatch.setattr("distil_trainer.latency.platform.processor", lambda: answer)
    monkeypatch.setattr(
        "distil_trainer.latency.subprocess.run", lambda *_, **__: SimpleNamespace(stdout=f"{answer}\n")
    )
    for system in ("Darwin", "Windows"):
        monkeypatch.setattr("distil_trainer.latency.platform.system", lambda system=system: system)
        assert cpu_name() == name


@pytest.mark.parametrize("wrong", [{"texts": []}, {"threads": 0}, {"max_texts": 0}])
def test_measuring_nothing_is_refused(wrong, tokenizer):
    arguments = {"texts": ["film"], "threads": 1, **wrong}
    with pytest.raises(ValueError, match="each must be at least 1"):
        measure_latency(_Recorder(), tokenizer, **arguments)


def test_pairs_of_another_number_are_refused(tokenizer):
    with pytest.raises(ValueError, match=r"len\(text_pairs\)=1, len\(texts\)=2"):
        measure_latency(_Recorder(), tokenizer, ["film", "plot"], ["bad"], threads=1)


def test_a_hundred_million_texts_of_36_ms_are_a_thousand_hours():
    assert dollars_per_100m_texts(36, 1, 0.04) == pytest.approx(40)
    assert dollars_per_100m_texts(18, 4, 0.04) == pytest.approx(80)


@pytest.mark.parametrize("wrong", [(0, 1, 0.04), (1, 0, 0.04), (1, 1, 0), (1, 1, -1), (float("nan"), 1, 1)])
def test_a_cost_of_nothing_or_less_is_refused(wrong):
    with pytest.raises(ValueError, match="time and price must be above 0"):
        dollars_per_100m_texts(*wrong)
