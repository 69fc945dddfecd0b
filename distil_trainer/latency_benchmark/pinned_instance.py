"""One of the processes of `pinned`: it loads a model, and reads texts whenever it is told to."""

import json
import os
import sys
import time
from pathlib import Path

from distil_trainer.latency import latency_samples, torch_threads
from distil_trainer.latency_benchmark.timed_models import open_place
from distil_trainer.latency_benchmark.turns import WARMUP, time_batches


def main():
    """Load what a file of JSON asks for, then read a task a line from standard input, and answer in lines of JSON."""
    # Libraries may write to standard output: that goes where errors go, and the answers have a channel of their own.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    (file,) = sys.argv[1:]
    request = json.loads(Path(file).read_text(encoding="utf-8"))
    texts, pairs = request["texts"], request["pairs"]
    batching = request["max_length"], request["tokens_per_batch"]
    with torch_threads(1):
        model = open_place(request["place"], "", trust_remote_code=request["trust_remote_code"])
        runner = model.runner(1)
        time_batches(runner, model.tokenizer, texts[:1], pairs and pairs[:1], *batching)
        _write(answers, "ready")
        for task in sys.stdin:  # until whoever asks has ended
            if task == "one by one\n":
                samples = latency_samples(
                    {"": (runner, model.tokenizer)},
                    texts,
                    pairs,
                    threads=1,
                    max_length=request["max_length"],
                    max_texts=request["max_texts"],
                    warmup=WARMUP,
                    seed=request["seed"],
                )
                _write(answers, samples[""].tolist())
            else:
                seconds = time_batches(runner, model.tokenizer, texts, pairs, *batching)
                ended = time.perf_counter()  # the processes of a machine have one clock
                _write(answers, [ended - seconds, ended])


def _write(answers, answer):
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
