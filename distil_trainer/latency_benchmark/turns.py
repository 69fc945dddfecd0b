"""Models of one number of threads, side by side in one process: they take turns, one text at a time and in batches."""

import contextlib
import logging
import os
import time

import numpy as np

from distil_trainer.inference import predict_logits
from distil_trainer.latency import latency_samples, summarize_latency, torch_threads
from distil_trainer.latency_benchmark.timed_models import PaddedTokenizer

logger = logging.getLogger(__name__)

WARMUP = 10
ROUNDS = 3
_TEXTS_BEFORE_ROUND = 32
# How long threads are watched, which share of that time they may compute and still rest, and how long to wait for it.
_WATCHED_SECONDS, _REST_SHARE, _LONGEST_WAIT_SECONDS = 0.02, 0.1, 3.0


def measure_in_turns(models, texts, pairs, *, threads, cores, pad_to, max_length, max_texts, tokens_per_batch, seed):
    """Measure latency and throughput of all models with one number of threads.

    Args:
        models (`list[TimedModel]`): the models.
        texts, pairs (`list[str]`): the texts; `pairs` may be `None`.
        threads (`int`): threads of each model.
        cores (`int`): cores there are. The tokenizer splits batches among all of them or works alone: it does the
            first where the models use all cores too.
        pad_to, max_length, max_texts, tokens_per_batch, seed: as in `benchmark_latency`.

    Returns:
        `dict[str, dict]`: for each model's name `latency`, `padded` (`None` without `pad_to`) and `throughput`.
    """
    rest = _Rest(threads > 1)
    with torch_threads(threads), tokenizer_parallelism(1 < threads == cores):
        runners = {model.name: rest.between_turns(model.name, model.runner(threads)) for model in models}
        one_by_one = {}
        for index, model in enumerate(models):
            one_by_one[f"{index} real"] = (runners[model.name], model.tokenizer)
            if pad_to is not None:
                one_by_one[f"{index} padded"] = (runners[model.name], PaddedTokenizer(model.tokenizer, pad_to))
        samples = latency_samples(
            one_by_one,
            texts,
            pairs,
            threads=threads,
            max_length=max(max_length, pad_to or 0),
            max_texts=max_texts,
            warmup=WARMUP,
            seed=seed,
        )
        seconds = {model.name: [] for model in models}
        generator = np.random.default_rng(seed)
        for _ in range(ROUNDS):
            for index in generator.permutation(len(models)):
                model = models[index]
                seconds[model.name].append(
                    time_batches(runners[model.name], model.tokenizer, texts, pairs, max_length, tokens_per_batch)
                )
    return {
        model.name: {
            "latency": latency_of(samples[f"{index} real"], threads),
            "padded": None if pad_to is None else latency_of(samples[f"{index} padded"], threads),
            "throughput": throughput_of(len(texts), seconds[model.name]),
        }
        for index, model in enumerate(models)
    }


def time_batches(runner, tokenizer, texts, pairs, max_length, tokens_per_batch):
    """Return the seconds that all texts take in batches; some of them are read before that, and not timed."""
    batching = {"max_length": max_length, "tokens_per_batch": tokens_per_batch}
    first = slice(_TEXTS_BEFORE_ROUND)
    predict_logits(runner, tokenizer, texts[first], pairs and pairs[first], **batching)
    started = time.perf_counter()
    predict_logits(runner, tokenizer, texts, pairs, **batching)
    return time.perf_counter() - started


def latency_of(samples, threads):
    """Summarize an array of `latency_samples`, with the mean of tokenization, which costs are reckoned by."""
    return summarize_latency(samples, threads, WARMUP) | {"tokenization_mean_ms": float(samples[:, 1].mean())}


def throughput_of(num_texts, seconds):
    """Summarize what each round over the texts took."""
    return {
        "texts": num_texts,
        "texts_per_second": num_texts / float(np.median(seconds)),
        "slowest": num_texts / max(seconds),
        "fastest": num_texts / min(seconds),
    }


@contextlib.contextmanager
def tokenizer_parallelism(parallel):
    """Let the tokenizers library split batches among all cores inside the `with` block, or keep to one."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = str(parallel).lower()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


class _Rest:
    """Before a model's first call after another's, wait until the threads of the other sleep.

    Threads of onnxruntime go on looking for work after a call (0.1 to 1.4 s were seen), those of PyTorch for some
    milliseconds, and take cores from whoever comes next. That first call is not timed, so the wait is not either.
    """

    def __init__(self, has_threads):
        self._has_threads = has_threads
        self._last = None

    def between_turns(self, name, runner):
        """Give back the runner, with a wait before its first call after that of another name."""

        def run(inputs):
            if self._last != name:
                self._wait()
                self._last = name
            return runner(inputs)

        return run

    def _wait(self):
        started = time.perf_counter()
        while self._has_threads:
            computed = time.process_time()
            time.sleep(_WATCHED_SECONDS)
            if time.process_time() - computed < _REST_SHARE * _WATCHED_SECONDS:
                return
            if time.perf_counter() - started > _LONGEST_WAIT_SECONDS:
                logger.warning(
                    "Threads of this process still computed %.0f s after a model's turn, so the next was not waited "
                    "for any more. Work of its own that the process does meanwhile makes all times longer: benchmark "
                    "in a process that does nothing else.",
                    _LONGEST_WAIT_SECONDS,
                )
                self._has_threads = False
