"""Latency and throughput of several models on one machine, measured in turns, with what they cost."""

import logging
from importlib.metadata import version

import joblib
import numpy as np
import psutil

from distil_trainer.latency import cpu_name, dollars_per_100m_texts
from distil_trainer.latency_benchmark.pinned import can_pin, measure_pinned
from distil_trainer.latency_benchmark.timed_models import check_reads, open_models
from distil_trainer.latency_benchmark.turns import measure_in_turns

logger = logging.getLogger(__name__)

_LEAST_TOKENS = 8
_SECONDS_OF_LOOKING = 0.2


def benchmark_latency(
    models,
    texts,
    text_pairs=None,
    *,
    threads=None,
    instances=None,
    max_length=128,
    pad_to=None,
    max_texts=200,
    throughput_texts=2000,
    tokens_per_batch=2048,
    price_per_core_hour=None,
    trust_remote_code=False,
    seed=0,
):
    """Time models on real texts: one text at a time, padded to a fixed length, in batches, and one process per core.

    For each number of threads all models are loaded side by side and take turns on the same texts, so that a noisy
    machine hits all alike:

    - **one text at a time**: as `measure_latencies`, at real lengths, tokenization apart; with `pad_to` the same texts
      padded to that many tokens, as published figures of BERT and FastFormers are taken;
    - **throughput**: all texts in batches of similar length, tokenization included; the median of 3 rounds.

    Then, model after model, **one process of one thread on each core**, where the system can pin processes (not on
    macOS; the row says so). Each process loads the model itself and reads all the texts, at the same time as the
    others: so their latency is that of a machine under full load, and their throughput that of all together.

    Between turns the next model waits until the threads of the one before sleep: those of onnxruntime go on for up to
    a second after their last text, on cores that the next model needs.

    Args:
        models (`list[str]` or `dict[str, str | tuple[PreTrainedModel, PreTrainedTokenizerFast]]`): what to time. A
            folder that `ship` wrote stands for the file that it chose, a path that ends in `.onnx` for that file; any
            other folder, or a Hub id, is loaded for PyTorch. A dictionary names them, and may hold models in memory,
            for which there are no processes.
        texts (`Sequence[str]`): real texts, with the lengths that will be served.
        text_pairs (`Sequence[str]`, *optional*): second texts, as many as `texts`.
        threads (`int` or `Sequence[int]`, *optional*, defaults to 1 and all cores): numbers of threads.
        instances (`int`, *optional*, defaults to the number of cores): processes of one thread each; 0 for none.
        max_length (`int`, *optional*, defaults to 128): tokens kept, special tokens included; never more than a
            shipped folder or a tokenizer keeps by itself.
        pad_to (`int`, *optional*): tokens of every text of the padded measurement. By default there is none.
        max_texts (`int`, *optional*, defaults to 200): texts for the measurements of one text at a time.
        throughput_texts (`int`, *optional*, defaults to 2000): texts for the throughput, which those are part of. Both
            are drawn at random.
        tokens_per_batch (`int`, *optional*, defaults to 2048): at most this many tokens, padding counted, in a batch.
        price_per_core_hour (`float`, *optional*): what one core costs for one hour; see `dollars_per_100m_texts`.
        trust_remote_code (`bool`, *optional*, defaults to `False`): run the Python files of model folders.
        seed (`int`, *optional*, defaults to 0): seed of the drawn texts and of the order of the models.

    Returns:
        `dict`: facts of the measurement (`cpu`, `cores`, `busy_cores` (cores that other work kept busy just before),
        `versions`, `texts`, `pairs`, `max_length`, `max_texts`, `pad_to`, `tokens_per_batch`, `seed`,
        `price_per_core_hour`) and `rows`. A row is one model run in one way: `name` (unique; made of `model` and
        `way`), `path` (`None` in memory), `engine`, `threads` (of one process), `processes`, `pinned`, `latency` and
        `padded` (each as `measure_latencies` returns it, and `tokenization_mean_ms`; or `None`), `throughput`
        (in batches: `texts`, of all processes, `texts_per_second`, `slowest`, `fastest`),
        `texts_per_second_one_by_one` (tokenization included, of all processes), and `dollars_per_100m_texts`
        (`one_by_one`, `in_batches`; `None` without a price). All of it is JSON.

    Raises:
        TypeError: if models or texts are not lists of what they should be.
        ValueError: if there are no texts, models or threads, a text is empty, `text_pairs` has another length, a
            number is out of its range, there are more threads or instances than cores, or a model cannot read the
            texts or `pad_to` tokens.
        FileNotFoundError, OSError: if a model is not there, or not whole.
        RuntimeError: if a process dies.

    Reference:
        Kim and Awadalla, FastFormers, https://arxiv.org/abs/2010.13382, for the padded measurement and the processes.

    Example:

    ```python
    >>> from distil_trainer import benchmark_latency, latency_table
    >>> result = benchmark_latency(["out/onnx", "outputs/sst2"], validation["sentence"], pad_to=128)
    >>> print(latency_table(result))  # doctest: +SKIP
    ```
    """
    cores = usable_cores()
    threads = [1, cores] if threads is None else [threads] if isinstance(threads, int) else threads
    threads = list(dict.fromkeys(threads))
    instances = cores if instances is None else instances
    _check_cores(threads, instances, cores)
    _check_numbers(max_texts=max_texts, throughput_texts=throughput_texts, tokens_per_batch=tokens_per_batch)
    _check_tokens(max_length=max_length, pad_to=pad_to)
    if price_per_core_hour is not None:
        dollars_per_100m_texts(1.0, 1, price_per_core_hour)  # raises now, not when all is measured
    texts, pairs = _drawn_texts(texts, text_pairs, throughput_texts, seed)
    models = open_models(models, trust_remote_code=trust_remote_code)
    longest = max(range(len(texts)), key=lambda row: len(texts[row]) + (len(pairs[row]) if pairs else 0))
    for model in models:
        check_reads(model, texts[longest], pairs and pairs[longest], max_length=max_length, pad_to=pad_to)
    settings = {"max_length": max_length, "max_texts": max_texts, "tokens_per_batch": tokens_per_batch, "seed": seed}
    result = {
        "format_version": 1,
        "cpu": cpu_name(),
        "cores": cores,
        "busy_cores": _busy_cores(),
        "versions": _versions(models),
        "texts": len(texts),
        "pairs": pairs is not None,
        "pad_to": pad_to,
        **settings,
        "price_per_core_hour": price_per_core_hour,
    }
    rows = {model.name: [] for model in models}
    for count in threads:
        measured = measure_in_turns(models, texts, pairs, threads=count, cores=cores, pad_to=pad_to, **settings)
        for model in models:
            rows[model.name].append(_row(model, measured[model.name], price_per_core_hour, threads=count))
    for model in models if instances else []:
        if model.place is None:
            logger.info("%s is in memory, so no other process can load it: it has no row of processes.", model.name)
            continue
        measured = measure_pinned(
            model.place, texts, pairs, instances=instances, trust_remote_code=trust_remote_code, **settings
        )
        if measured is not None:
            rows[model.name].append(_row(model, measured, price_per_core_hour, processes=instances))
    return result | {"rows": [row for model in models for row in rows[model.name]]}


def usable_cores():
    """Return how many cores this process may use, as the operating system counts them: two threads of one are two."""
    return joblib.cpu_count()  # heeds affinity, and the limits of a container


def _row(model, measured, price, *, threads=1, processes=None):
    pinned, way = False, f"{threads} thread{'s' if threads > 1 else ''}"
    if processes is not None:
        pinned = can_pin()
        way = f"{processes} process{'es' if processes > 1 else ''}, {'pinned' if pinned else 'not pinned'}"
    processes = processes or 1
    one_by_one_ms = measured["latency"]["mean_ms"] + measured["latency"]["tokenization_mean_ms"]
    dollars = None
    if price is not None:
        in_batches_ms = 1000 / measured["throughput"]["texts_per_second"]
        dollars = {
            "one_by_one": dollars_per_100m_texts(one_by_one_ms, threads, price),
            "in_batches": dollars_per_100m_texts(in_batches_ms, threads * processes, price),
        }
    engine = " (PyTorch)" if model.engine == "PyTorch" else ""  # the file's name says it of the others
    return {
        "name": f"{model.name}{engine}, {way}",
        "model": model.name,
        "way": way,
        "path": model.place,
        "engine": model.engine,
        "threads": threads,
        "processes": processes,
        "pinned": pinned,
        **measured,
        "texts_per_second_one_by_one": 1000 * processes / one_by_one_ms,
        "dollars_per_100m_texts": dollars,
    }


def _check_cores(threads, instances, cores):
    if not threads or min(threads) < 1 or max(threads) > cores or not 0 <= instances <= cores:
        raise ValueError(
            f"threads={threads}, instances={instances}: each number of threads must be from 1 to {cores}, the cores "
            f"that this process may use, and instances from 0 to {cores}. More would wait for one another, and the "
            "times would be those of waiting."
        )


def _check_numbers(**numbers):
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name}={number} must be at least 1, or there is nothing to time.")


def _check_tokens(**lengths):
    for name, tokens in lengths.items():
        if tokens is not None and tokens < _LEAST_TOKENS:
            raise ValueError(
                f"{name}={tokens} must be at least {_LEAST_TOKENS}: special tokens would leave no room for texts."
            )


def _drawn_texts(texts, text_pairs, most, seed):
    """Draw the texts that are read, and refuse those that are none."""
    if isinstance(texts, str) or isinstance(text_pairs, str):
        raise TypeError("texts and text_pairs must be lists of texts: a single text would be read letter by letter.")
    if not len(texts):
        raise ValueError("texts is empty: there is nothing to time. Give some hundreds of real ones.")
    if text_pairs is not None and len(text_pairs) != len(texts):
        raise ValueError(f"len(text_pairs)={len(text_pairs)}, len(texts)={len(texts)}: one second text per text.")
    rows = np.random.default_rng(seed).permutation(len(texts))[:most].tolist()
    drawn = []
    for name, column in (("texts", texts), ("text_pairs", text_pairs)):
        drawn.append(None if column is None else [column[row] for row in rows])
        for row, text in zip(rows, drawn[-1] or [], strict=False):
            if not isinstance(text, str):
                raise TypeError(f"{name}[{row}]={text!r} is a {type(text).__name__}: a text must be a string.")
            if not text.strip():
                raise ValueError(
                    f"{name}[{row}]={text!r} is empty: nobody serves such texts, and they would make every model look "
                    "faster. Leave them out."
                )
    return drawn


def _versions(models):
    versions = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
    if any(model.engine == "ONNX Runtime" for model in models):
        import onnxruntime

        versions["onnxruntime"] = onnxruntime.__version__
    return versions


def _busy_cores():
    """Return how many of the cores that this process may use do other work at this moment."""
    shares = np.array(psutil.cpu_percent(interval=_SECONDS_OF_LOOKING, percpu=True)) / 100
    usable = psutil.Process().cpu_affinity() if can_pin() else range(len(shares))
    return round(float(sum(shares[core] for core in usable if core < len(shares))), 1)  # a container may hide some
