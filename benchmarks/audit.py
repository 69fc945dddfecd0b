"""Measure the audit of a transfer set: rows per second and peak memory, and the ratio to a loop over rows.

    python benchmarks/audit.py [--rows 3000000] [--output audit.json]

The rows are SST-2 phrases with two random words at the end, written to disk a few at a time, with teacher logits,
parents and operators, and with leaks, near leaks (one word changed) and duplicates planted among them. Each stage runs
in a process of its own, so that its peak memory is its own: the resident set, of which the rows read from the
memory-mapped file are a part that the system may take back. On a busy machine compare rows per CPU second.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from distil_trainer.audit_tables import audit_table
from distil_trainer.augmentation.audit import drop_duplicates_and_leaks
from distil_trainer.report import write_atomically
from distil_trainer.transfer_audit import audit_transfer_set
from distil_trainer.transfer_filter import filter_transfer_set

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "sst2"
ROWS_PER_WRITE = 50_000
PLANTED = {"in evaluation data": 500, "near evaluation data": 500, "duplicates": 2000}
OPERATORS = ("original", "mask", "replace", "mask+replace", "ngram")
LOOP_ROWS = 2000
STAGES = {
    "read the rows": lambda dataset, texts: sum(len(batch["sentence"]) for batch in dataset.iter(20_000)),
    "drop, equal texts only": lambda dataset, texts: drop_duplicates_and_leaks(dataset, texts, near_threshold=None)[1],
    "drop, near texts too": lambda dataset, texts: drop_duplicates_and_leaks(dataset, texts)[1],
    "audit": audit_transfer_set,
    "filter": lambda dataset, texts: filter_transfer_set(dataset, max_entropy_bits=0.9, keep_disagreements=False)[1],
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--data", default=str(DATA), help="folder of train and validation.parquet with `sentence`")
    parser.add_argument("--stage", choices=list(STAGES), help=argparse.SUPPRESS)
    parser.add_argument("--arrow_file", help=argparse.SUPPRESS)
    parser.add_argument("--output", default=None, help="Write the figures to this JSON file.")
    args = parser.parse_args(argv)
    if args.stage:
        print(json.dumps(measure(args)))
        return None
    with tempfile.TemporaryDirectory() as folder:
        arrow_file = f"{folder}/rows.arrow"
        write_rows(arrow_file, args)
        report = {"rows": args.rows, "file_mb": os.path.getsize(arrow_file) / 2**20, "stages": {}}
        for stage in STAGES:
            command = [sys.executable, __file__, "--stage", stage, "--arrow_file", arrow_file, "--data", args.data]
            result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            report["stages"][stage] = json.loads(result.stdout)
        report["loop"] = measure_loop(Dataset.from_file(arrow_file), texts_in(args, "validation"))
    report["load_average"] = os.getloadavg()
    if args.output:
        write_atomically(args.output, json.dumps(report, indent=2) + "\n")
    print_report(report)
    return report


def texts_in(args, split):
    return pq.read_table(f"{args.data}/{split}.parquet", columns=["sentence"])["sentence"].to_pylist()


def write_rows(path, args):
    """Write the rows as an Arrow file, and the planted ones at random places in it."""
    rng = np.random.default_rng(13)
    train, validation = texts_in(args, "train"), texts_in(args, "validation")
    words = np.array(sorted({word for text in train for word in text.split()}))
    long = [text for text in validation if len(text) >= 60]
    near = [change_a_word(text, words, rng) for text in rng.choice(long, PLANTED["near evaluation data"])]
    leaks = [text.upper() for text in rng.choice(validation, PLANTED["in evaluation data"])]
    # The first rows come again later, in capitals.
    places = rng.choice(np.arange(10_000, args.rows), sum(PLANTED.values()), replace=False)
    planted = dict(zip(places.tolist(), [*leaks, *near, *[None] * PLANTED["duplicates"]], strict=True))
    first, copied = [], 0
    logits_type = pa.list_(pa.float32(), 2)
    schema = pa.schema(
        {"sentence": pa.string(), "parent": pa.int64(), "operators": pa.string(), "teacher_logits": logits_type}
    )
    with pa.ipc.new_stream(path, schema) as writer:
        for start in range(0, args.rows, ROWS_PER_WRITE):
            numbers = np.arange(start, min(start + ROWS_PER_WRITE, args.rows))
            ends = words[rng.integers(len(words), size=(len(numbers), 2))]
            texts = [
                f"{train[number % len(train)]} {a} {b}" for number, (a, b) in zip(numbers, ends.tolist(), strict=True)
            ]
            first = first or texts[: PLANTED["duplicates"]]
            for place in sorted(place for place in planted if numbers[0] <= place <= numbers[-1]):
                text = planted[place]
                if text is None:
                    text, copied = first[copied].title(), copied + 1
                texts[place - start] = text
            logits = rng.normal(0, 2, 2 * len(numbers)).astype(np.float32)
            columns = [
                pa.array(texts),
                pa.array(numbers // len(OPERATORS)),
                pa.array(np.array(OPERATORS)[numbers % len(OPERATORS)]),
                pa.FixedSizeListArray.from_arrays(pa.array(logits), 2),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def change_a_word(text, words, rng):
    parts = text.split()
    parts[rng.choice([place for place, word in enumerate(parts) if word.isalpha()])] = str(rng.choice(words))
    return " ".join(parts)


def measure(args):
    """Run one stage in this process."""
    dataset, texts = Dataset.from_file(args.arrow_file), texts_in(args, "validation")
    before = peak_mb()
    start, cpu_start = time.perf_counter(), time.process_time()
    result = STAGES[args.stage](dataset, texts)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "rows_per_second": len(dataset) / seconds,
        "rows_per_cpu_second": len(dataset) / cpu_seconds,
        "mb_before": before,
        "peak_mb": peak_mb(),
        "result": result,
    }


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure_loop(dataset, texts):
    """The same search for near texts as a loop over rows: sets of trigrams, and an index of who has each."""
    evaluation = [trigrams(text) for text in texts]
    having = {}
    for number, own in enumerate(evaluation):
        for trigram in own:
            having.setdefault(trigram, []).append(number)
    rows = dataset.select(range(0, len(dataset), max(1, len(dataset) // LOOP_ROWS)))["sentence"][:LOOP_ROWS]
    start, near = time.process_time(), 0
    for text in rows:
        own = trigrams(text)
        shared = Counter(number for trigram in own for number in having.get(trigram, ()))
        near += any(count >= 0.6 * (len(own) + len(evaluation[number]) - count) for number, count in shared.items())
    cpu_seconds = time.process_time() - start
    return {"rows": len(rows), "rows_per_cpu_second": len(rows) / cpu_seconds, "near": near}


def trigrams(text):
    letters = "\n" + "".join(character for character in text.lower() if character.isalnum()) + "\n"
    return {letters[place : place + 3] for place in range(len(letters) - 2)}


def print_report(report):
    print(f"{report['rows']:,} rows, {report['file_mb']:.0f} MB on disk; load {report['load_average'][0]:.1f}")
    print(
        f"| {'stage':<24} | {'seconds':>8} | {'rows/s':>9} | {'rows/CPU s':>10} | {'MB before':>9} | {'peak MB':>8} |"
    )
    print(f"|{'-' * 26}|{'-' * 9}:|{'-' * 10}:|{'-' * 11}:|{'-' * 10}:|{'-' * 9}:|")
    for name, stage in report["stages"].items():
        print(
            f"| {name:<24} | {stage['seconds']:>8.1f} | {stage['rows_per_second']:>9,.0f} | "
            f"{stage['rows_per_cpu_second']:>10,.0f} | {stage['mb_before']:>9.0f} | {stage['peak_mb']:>8.0f} |"
        )
    drop, loop = report["stages"]["drop, near texts too"], report["loop"]
    print(
        f"near texts: {drop['rows_per_cpu_second'] / loop['rows_per_cpu_second']:.1f} times the rows per CPU second "
        f"of a loop over rows ({loop['rows_per_cpu_second']:,.0f})"
    )
    counts = (drop["result"][key] for key in ("in_evaluation_data", "near_evaluation_data", "duplicates"))
    for (kind, planted), found in zip(PLANTED.items(), counts, strict=True):
        print(f"{kind}: {planted:,} planted, {found:,} found")
    print(audit_table(report["stages"]["audit"]["result"]))


if __name__ == "__main__":
    main()
