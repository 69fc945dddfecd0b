"""How fast a teacher labels: length-sorted batches against fixed padding, unsorted batches, and the machine's peak.

Then the same texts in one process on all cores, and in two processes that share them.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distil_trainer.inference import torch_runner
from distil_trainer.labeling import TeacherLabeler

SHARED = Path(__file__).resolve().parents[2] / "shared"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default=str(SHARED / "models" / "minilm-sst2"))
    parser.add_argument("--train_file", default=str(SHARED / "data" / "sst2" / "train.parquet"))
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--fixed_rows", type=int, default=512, help="rows for the slow baseline")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--output", help="write the figures to this JSON file")
    parser.add_argument("--share_in", help="internal: label as one of several processes, and time it in this folder")
    arguments = parser.parse_args()
    for path in (arguments.teacher, arguments.train_file):
        if not Path(path).exists():
            sys.exit(f"{path} does not exist. Name a teacher with --teacher and its texts with --train_file.")

    disable_progress_bars()
    teacher = AutoModelForSequenceClassification.from_pretrained(arguments.teacher, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(arguments.teacher)
    train = Dataset.from_parquet(arguments.train_file).select_columns(["sentence"])
    sample = train.shuffle(seed=0).select(range(arguments.rows))
    texts = list(dict.fromkeys(sample["sentence"]))
    if arguments.share_in:
        label_a_share(teacher, tokenizer, texts, Path(arguments.share_in))
        return
    float32, bfloat16 = torch_runner(teacher), torch_runner(teacher, torch.bfloat16)
    fixed = dict(padding="max_length", max_length=100)
    dynamic = dict(padding=True, max_length=128)
    arms = {
        "fixed padding, 128 x 100": lambda: padded(float32, tokenizer, texts[: arguments.fixed_rows], fixed),
        "dynamic padding, unsorted, 128 rows": lambda: padded(float32, tokenizer, texts, dynamic),
        "ours, float32": lambda: labelled(teacher, tokenizer, texts, "float32"),
        "fixed padding, 128 x 100, bfloat16": lambda: padded(
            bfloat16, tokenizer, texts[: arguments.fixed_rows], fixed
        ),
        "ours, bfloat16": lambda: labelled(teacher, tokenizer, texts, "bfloat16"),
    }
    seconds = {name: [] for name in arms}
    rows = {name: arguments.fixed_rows if "fixed" in name else len(texts) for name in arms}
    peak = {"float32": 0.0, "bfloat16": 0.0}
    for _ in range(arguments.repetitions):
        for name, run in arms.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
        for name in peak:
            peak[name] = max(peak[name], matrix_product_gflops(getattr(torch, name)))

    lengths = np.array([len(ids) for ids in tokenizer(texts, truncation=True, max_length=128)["input_ids"]])
    gflop_per_row = float(flops(teacher.config, lengths).mean()) / 1e9
    rates = {name: statistics.median(rows[name] / value for value in values) for name, values in seconds.items()}
    table = []
    for name, rate in rates.items():
        dtype = "bfloat16" if "bfloat16" in name else "float32"
        useful = rate * gflop_per_row
        table.append(
            {
                "arm": name,
                "rows_per_s": round(rate, 1),
                "rows_per_s_all": [round(rows[name] / value, 1) for value in seconds[name]],
                "times_fixed_padding": round(rate / rates["fixed padding, 128 x 100"], 2),
                "times_unsorted": round(rate / rates["dynamic padding, unsorted, 128 rows"], 2),
                "useful_gflops": round(useful, 1),
                "share_of_peak": round(useful / peak[dtype], 3),
            }
        )
    shared = {str(number): processes_rows_per_s(number, len(texts), arguments) for number in (1, 2)}
    result = {
        "rows": len(texts),
        "processes_rows_per_s": shared,
        "mean_tokens": round(float(lengths.mean()), 2),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "matrix_product_peak_gflops": {name: round(value, 1) for name, value in peak.items()},
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "table": table,
    }
    print_table(result)
    if arguments.output:
        Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
        Path(arguments.output).write_text(json.dumps(result, indent=2) + "\n")


def padded(runner, tokenizer, texts, options):
    for start in range(0, len(texts), 128):
        runner(dict(tokenizer(texts[start : start + 128], truncation=True, return_tensors="np", **options)))


def labelled(teacher, tokenizer, texts, dtype):
    """The durable form with an empty store: hashing, writing shards and reading them back are in the time."""
    with tempfile.TemporaryDirectory() as folder:
        labeler = TeacherLabeler(teacher, tokenizer, dtype=dtype, cache_dir=folder)
        labeler.map(Dataset.from_dict({"sentence": texts}))


def processes_rows_per_s(number, num_texts, arguments):
    """The whole of `map` in processes that share the cores and one empty store; loading the teacher is left out."""
    rates = []
    for _ in range(arguments.repetitions):
        with tempfile.TemporaryDirectory() as folder:
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={number}"]
            options = ["--teacher", arguments.teacher, "--train_file", arguments.train_file, "--share_in", folder]
            environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // number))}
            command = [*launcher, __file__, *options, "--rows", str(arguments.rows)]
            subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
            seconds = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")]
        assert len(seconds) == number
        rates.append(num_texts / max(seconds))
    return round(statistics.median(rates), 1)


def label_a_share(teacher, tokenizer, texts, folder):
    labeler = TeacherLabeler(teacher, tokenizer, dtype="float32", cache_dir=folder / "store", rows_per_shard=512)
    dataset = Dataset.from_dict({"sentence": texts})
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    start = time.perf_counter()
    labeler.map(dataset)
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(time.perf_counter() - start))


def flops(config, lengths):
    """Multiply-adds counted as two, of the real tokens only: projections, feed-forward, attention products."""
    width, inner = config.hidden_size, config.intermediate_size
    per_token = 2 * (4 * width * width + 2 * width * inner)
    return config.num_hidden_layers * (lengths * per_token + 4 * lengths**2 * width)


def matrix_product_gflops(dtype):
    """The best of a sweep over shapes, so that no arm can exceed it by having a luckier shape."""
    best = 0.0
    for rows, inner, columns in ((2048, 384, 1536), (2048, 1536, 384), (1024, 1024, 1024), (2048, 2048, 2048)):
        a, b = torch.randn(rows, inner, dtype=dtype), torch.randn(columns, inner, dtype=dtype)
        for _ in range(6):
            start = time.perf_counter()
            torch.nn.functional.linear(a, b)
            best = max(best, 2 * rows * inner * columns / (time.perf_counter() - start) / 1e9)
    return best


def print_table(result):
    print(f"{'':36} {'rows/s':>8} {'x fixed':>8} {'x unsorted':>10} {'GFLOP/s':>8} {'of peak':>8}")
    for row in result["table"]:
        print(
            f"{row['arm']:36} {row['rows_per_s']:8.0f} {row['times_fixed_padding']:8.1f} "
            f"{row['times_unsorted']:10.1f} {row['useful_gflops']:8.0f} {row['share_of_peak']:8.0%}"
        )
    one, two = result["processes_rows_per_s"].values()
    print(f"float32, `map` in one process {one:.0f} rows/s, in two processes {two:.0f}: {two / one:.2f} times as many")
    peak = ", ".join(f"{name} {value:.0f}" for name, value in result["matrix_product_peak_gflops"].items())
    print(
        f"{result['rows']} distinct texts, {result['mean_tokens']} tokens on average; medians. "
        f"GFLOP/s count real tokens.\n"
        f"{result['threads']} threads, load average {result['load_average']:.1f}. "
        f"Matrix-product peak in GFLOP/s: {peak}. Peak memory {result['peak_memory_mb']} MB."
    )


if __name__ == "__main__":
    tqdm.monitor_interval = 0
    main()
