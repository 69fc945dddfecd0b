"""How long one text takes: batch 1, real lengths, median and 95th percentile, tokenization apart from the model."""

import contextlib
import platform
import subprocess
import time
from pathlib import Path

import numpy as np
import torch

_BLOCK = 20


def measure_latency(
    runner, tokenizer, texts, text_pairs=None, *, threads, max_length=128, max_texts=200, warmup=10, seed=0
):
    """Measure one model; see `measure_latencies`.

    Args:
        runner (`Callable`): the model, see `distil_trainer.inference`.
        tokenizer (`PreTrainedTokenizerFast`): its tokenizer.
        texts, text_pairs, threads, max_length, max_texts, warmup, seed: as in `measure_latencies`.

    Returns:
        `dict`: as one value of `measure_latencies`.
    """
    return measure_latencies(
        {"model": (runner, tokenizer)},
        texts,
        text_pairs,
        threads=threads,
        max_length=max_length,
        max_texts=max_texts,
        warmup=warmup,
        seed=seed,
    )["model"]


def measure_latencies(models, texts, text_pairs=None, *, threads, max_length=128, max_texts=200, warmup=10, seed=0):
    """Measure several models on the same texts, in turns, so that a noisy machine hits all alike.

    The models take turns by blocks of 20 texts, in an order drawn anew for each block. One call that is not timed goes
    before each block, so that a model finds its own weights in the caches, as when it serves alone. Every text is
    tokenized and run by itself, without padding.

    Args:
        models (`dict[str, tuple[Callable, PreTrainedTokenizerFast]]`): runner and tokenizer of each model by name.
        texts (`Sequence[str]`): real texts, with the lengths that will be served.
        text_pairs (`Sequence[str]`, *optional*): second sentences, as many as `texts`.
        threads (`int`): threads PyTorch uses while measuring. An ONNX runner fixes its own number when it is made:
            make it with the same.
        max_length (`int`, *optional*, defaults to 128): tokens kept, special tokens included.
        max_texts (`int`, *optional*, defaults to 200): measure on at most this many texts, drawn at random.
        warmup (`int`, *optional*, defaults to 10): calls of each model before the measurement.
        seed (`int`, *optional*, defaults to 0): seed of the drawn texts and of the order of the models.

    Returns:
        `dict[str, dict]`: for each model `batch_size` (1), `n`, `p50_ms`, `p95_ms`, `mean_ms`, `tokenization_p50_ms`,
        `mean_tokens`, `threads`, `warmup`, `cpu` (its name).

    Raises:
        ValueError: if there are no models, texts or threads, or `text_pairs` has another length.
    """
    samples = latency_samples(
        models,
        texts,
        text_pairs,
        threads=threads,
        max_length=max_length,
        max_texts=max_texts,
        warmup=warmup,
        seed=seed,
    )
    return {name: summarize_latency(values, threads, warmup) for name, values in samples.items()}


def latency_samples(models, texts, text_pairs=None, *, threads, max_length=128, max_texts=200, warmup=10, seed=0):
    """Measure as `measure_latencies` does, and return what each text took.

    Args:
        models, texts, text_pairs, threads, max_length, max_texts, warmup, seed: as in `measure_latencies`.

    Returns:
        `dict[str, np.ndarray]`: for each model one row for each text, of the same texts in the same order:
        milliseconds of the model, milliseconds of tokenization, tokens.

    Raises:
        ValueError: as `measure_latencies`.
    """
    if not models or not len(texts) or threads < 1 or max_texts < 1:
        raise ValueError(
            f"len(models)={len(models)}, len(texts)={len(texts)}, threads={threads}, max_texts={max_texts}: each must "
            "be at least 1, or there is nothing to measure."
        )
    if text_pairs is not None and len(text_pairs) != len(texts):
        raise ValueError(f"len(text_pairs)={len(text_pairs)}, len(texts)={len(texts)}: one second sentence per text.")
    texts = list(texts)
    text_pairs = None if text_pairs is None else list(text_pairs)
    generator = np.random.default_rng(seed)
    rows = generator.permutation(len(texts))[:max_texts]
    encode = {
        name: _timed_encoder(tokenizer, texts, text_pairs, max_length) for name, (_, tokenizer) in models.items()
    }
    samples = {name: [] for name in models}
    with torch_threads(threads):
        for name, (runner, _) in models.items():
            for index in range(warmup):
                runner(encode[name](rows[index % len(rows)])[0])
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            for name in generator.permutation(list(models)).tolist():
                runner = models[name][0]
                runner(encode[name](block[0])[0])
                for row in block:
                    inputs, tokenization_ms = encode[name](row)
                    started = time.perf_counter()
                    runner(inputs)
                    model_ms = 1000 * (time.perf_counter() - started)
                    samples[name].append((model_ms, tokenization_ms, inputs["input_ids"].shape[1]))
    return {name: np.array(values) for name, values in samples.items()}


def summarize_latency(samples, threads, warmup):
    """Summarize an array of `latency_samples` as one value of `measure_latencies`."""
    model_ms, tokenization_ms, tokens = samples.T
    return {
        "batch_size": 1,
        "n": len(samples),
        "p50_ms": float(np.median(model_ms)),
        "p95_ms": float(np.quantile(model_ms, 0.95)),
        "mean_ms": float(model_ms.mean()),
        "tokenization_p50_ms": float(np.median(tokenization_ms)),
        "mean_tokens": float(tokens.mean()),
        "threads": threads,
        "warmup": warmup,
        "cpu": cpu_name(),
    }


def dollars_per_100m_texts(milliseconds_per_text, threads, price_per_core_hour):
    """Return what 100 million texts cost where cores are paid for while they work, and stand idle at no cost.

    `milliseconds * 1e8 / 3,600,000 * threads * price`. A core is what clouds rent as a virtual CPU: a processor as the
    operating system counts them. A service that must answer at any moment also pays for the cores that wait: divide by
    the share of time that they work.

    Args:
        milliseconds_per_text (`float`): time of one text, tokenization included: of `measure_latencies` the sum of
            `mean_ms` and the time of tokenization. The mean, not the median, because long texts are paid for too. Of
            a throughput: `1000 / texts_per_second`.
        threads (`int`): cores that are kept busy meanwhile; of several processes, those of all together.
        price_per_core_hour (`float`): dollars for one core for one hour, such as 0.04.

    Returns:
        `float`: dollars; in another currency if the price is.

    Raises:
        ValueError: if a number is not above zero.
    """
    if not (milliseconds_per_text > 0 and threads >= 1 and 0 < price_per_core_hour < float("inf")):
        raise ValueError(
            f"milliseconds_per_text={milliseconds_per_text}, threads={threads}, price_per_core_hour="
            f"{price_per_core_hour}: time and price must be above 0, and threads at least 1, or the cost would be "
            "nothing or less. Leave the price out to have no cost column."
        )
    return milliseconds_per_text * 1e8 / 3_600_000 * threads * price_per_core_hour


@contextlib.contextmanager
def torch_threads(threads):
    """Let PyTorch use this many threads inside the `with` block, and as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cpu_name():
    """Return the processor's name as the operating system gives it, or the architecture where it gives none."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return (
            subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or platform.machine()
        )
    return platform.processor() or platform.machine()


def _timed_encoder(tokenizer, texts, text_pairs, max_length):
    """Return a function from a row number to (inputs of shape `(1, length)`, milliseconds tokenization took)."""

    max_length = min(max_length, tokenizer.model_max_length)

    def encode(row):
        row = int(row)
        started = time.perf_counter()
        pair = None if text_pairs is None else text_pairs[row]
        encoded = tokenizer(texts[row], pair, truncation=True, max_length=max_length)
        inputs = {name: np.asarray([values], dtype=np.int64) for name, values in encoded.items()}
        return inputs, 1000 * (time.perf_counter() - started)

    return encode
