"""One process of one thread on each core, all at the same time: how a machine answers the most texts a second."""

import json
import logging
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import psutil

import distil_trainer
from distil_trainer.latency_benchmark.turns import ROUNDS, latency_of, throughput_of

logger = logging.getLogger(__name__)

_COMMAND = [sys.executable, "-m", "distil_trainer.latency_benchmark.pinned_instance"]


def can_pin():
    """Tell whether a process can be held on one core here: on Linux and Windows yes, on macOS not."""
    return hasattr(psutil.Process, "cpu_affinity")


def measure_pinned(
    place, texts, pairs, *, instances, trust_remote_code, max_length, max_texts, tokens_per_batch, seed
):
    """Start processes, pin each to a core of its own, and let all read the same texts at the same time.

    They are new interpreters, not forks, and need no `if __name__ == "__main__":` in the program that asks.

    Args:
        place (`str`): what each process loads, see `find_place`.
        texts, pairs (`list[str]`): what each process reads; `pairs` may be `None`.
        instances (`int`): processes.
        trust_remote_code, max_length, max_texts, tokens_per_batch, seed: as in `benchmark_latency`.

    Returns:
        `dict`: `latency` of all processes together, and `throughput`: the texts of all of them over the time from the
        first start to the last end. `None`, with a warning, where the memory would not hold all processes.

    Raises:
        RuntimeError: if a process dies.
    """
    request = {
        "place": place,
        "texts": texts,
        "pairs": pairs,
        "trust_remote_code": trust_remote_code,
        "max_length": max_length,
        "max_texts": max_texts,
        "tokens_per_batch": tokens_per_batch,
        "seed": seed,
    }
    cores = psutil.Process().cpu_affinity() if can_pin() else [None] * instances
    with ExitStack() as stack:
        # By way of a file: a pipe would hold up whoever writes until the process is ready to read.
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "request.json"
        file.write_text(json.dumps(request), encoding="utf-8")
        first = _start(stack, core=cores[0], request=file)
        _answers([first], place)
        each, free = psutil.Process(first.pid).memory_info().rss, psutil.virtual_memory().available
        if each * (instances - 1) > free:
            logger.warning(
                "instances=%d: one process that runs %s takes %.1f GB, and %.1f GB are free, so the others would "
                "drive the machine out of memory. Its row is left out: give fewer instances.",
                instances,
                place,
                each / 1e9,
                free / 1e9,
            )
            return None
        others = [_start(stack, core=core, request=file) for core in cores[1:instances]]
        _answers(others, place)
        processes = [first, *others]
        samples = np.concatenate([np.array(each) for each in _ask(processes, "one by one", place)])
        seconds = []
        for _ in range(ROUNDS):
            starts, ends = zip(*_ask(processes, "batches", place), strict=True)
            seconds.append(max(ends) - min(starts))
    return {
        "latency": latency_of(samples, 1),
        "padded": None,
        "throughput": throughput_of(instances * len(texts), seconds),
    }


def _start(stack, *, core, request):
    """Start a process that ends with the stack."""
    paths = [str(Path(distil_trainer.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [*_COMMAND, os.fspath(request)]
    process = stack.enter_context(
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, encoding="utf-8")
    )
    stack.callback(_end, process)  # before the stack waits for it
    if core is not None:
        psutil.Process(process.pid).cpu_affinity([core])  # its threads, which come later, inherit it
    return process


def _end(process):
    process.kill()
    with suppress(BrokenPipeError):  # a task that nobody read
        process.stdin.close()


def _ask(processes, task, place):
    """Give all the same task at once, and return what they answer."""
    for process in processes:
        with suppress(BrokenPipeError):  # it is dead: that it does not answer is the error
            process.stdin.write(f"{task}\n")
            process.stdin.flush()
    return _answers(processes, place)


def _answers(processes, place):
    answers = []
    for number, process in enumerate(processes, 1):
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"Process {number} of {len(processes)} that ran {place} ended with status {process.wait()}. Its last "
                "words stand above; where there are none, the system has often killed it for its memory: give fewer "
                "instances, or instances=0."
            )
        answers.append(json.loads(line))
    return answers
