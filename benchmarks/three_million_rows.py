"""The road of a large transfer set on one machine: augment, drop duplicates, label; seconds and memory of each stage.

python benchmarks/three_million_rows.py --rows 300000 --output three_million_rows.json

The teacher is a random BERT of 1 layer x 32, so cheap that what is measured is the rest: hashing, finding, writing.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import datasets
import psutil
import torch
from datasets import Dataset, concatenate_datasets
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from distil_trainer import RuleAugmenter, TeacherLabeler, drop_duplicates_and_leaks

SHARED = Path(__file__).resolve().parents[2] / "shared"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=3_000_000, help="least number of augmented rows")
    parser.add_argument("--train_file", default=str(SHARED / "data" / "sst2" / "train.parquet"))
    parser.add_argument("--tokenizer", default=str(SHARED / "models" / "minilm-sst2"))
    parser.add_argument("--copies", type=int, default=60)
    parser.add_argument("--num_proc", type=int, default=2)
    parser.add_argument("--output", help="write the figures to this JSON file")
    arguments = parser.parse_args()
    for path in (arguments.train_file, arguments.tokenizer):
        if not Path(path).exists():
            sys.exit(f"{path} does not exist. Name other texts with --train_file, another tokenizer with --tokenizer.")

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder)  # nothing made before is found again
        report = measure(arguments, folder)
    report |= {"copies": arguments.copies, "num_proc": arguments.num_proc, "load_average": os.getloadavg()[0]}
    print_table(report)
    if arguments.output:
        Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
        Path(arguments.output).write_text(json.dumps(report, indent=2) + "\n")


def measure(arguments, folder):
    stages = []
    texts = Dataset.from_parquet(arguments.train_file).select_columns(["sentence"])
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    teacher = tiny_teacher(len(tokenizer))

    with Stage("analyze", stages) as stage:
        # Texts give about 0.7 rows for each copy: repeated ones and those that no rule changed are left out.
        texts = texts.select(range(min(len(texts), int(arguments.rows / (0.7 * arguments.copies)) + 1)))
        augmenter = RuleAugmenter.from_corpus(texts["sentence"], replace_probability=0.0, copies=arguments.copies)
        stage.rows = len(texts)
    with Stage("augment", stages) as stage:
        parts, num_rows = [], 0
        while num_rows < arguments.rows:  # other draws of the same texts, if once is too few
            offset = len(parts) * len(texts)
            parts.append(
                texts.map(
                    Numbered(augmenter, offset),
                    batched=True,
                    with_indices=True,
                    remove_columns=texts.column_names,
                    num_proc=arguments.num_proc if arguments.num_proc > 1 else None,
                )
            )
            num_rows += len(parts[-1])
        rows = concatenate_datasets(parts)
        stage.rows = len(rows)
    with Stage("drop duplicates", stages) as stage:
        rows, counts = drop_duplicates_and_leaks(rows, [])
        stage.rows = counts["rows_in"]
    labeler = TeacherLabeler(teacher, tokenizer, max_length=32, cache_dir=f"{folder}/store", tokens_per_batch=32_768)
    with Stage("label", stages) as stage:
        labelled = labeler.map(rows)
        stage.rows = len(labelled)
    with Stage("again, shuffled", stages) as stage:  # all is found in the store
        labelled = labeler.map(rows.shuffle(seed=0))
        stage.rows = len(labelled)
    store = sum(path.stat().st_size for path in Path(folder, "store").rglob("*.npy"))
    tables = sum(Path(file["filename"]).stat().st_size for file in labelled.cache_files)
    return {"counts": counts, "stages": stages, "store_bytes_a_row": store / len(rows), "table_bytes": tables}


class Numbered:
    """Augment under other row numbers than those of the data set, for other draws."""

    def __init__(self, augmenter, offset):
        self.augmenter = augmenter
        self.offset = offset

    def __call__(self, batch, indices):
        return self.augmenter(batch, [self.offset + index for index in indices])


def tiny_teacher(vocab_size):
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    return BertForSequenceClassification(BertConfig(vocab_size=vocab_size, num_labels=2, **sizes)).eval()


class Stage:
    """Time a block, and watch the memory of this process and its children.

    What they read from files through the page cache is left out of `private`: the system takes it back when it needs
    memory. `rss` counts it.
    """

    def __init__(self, name, stages):
        self.name, self.rows, self._stages = name, 0, stages
        self.private_mb = self.rss_mb = 0.0

    def __enter__(self):
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *error):
        seconds = time.perf_counter() - self._start
        self._done.set()
        self._watcher.join()
        self._stages.append(
            {
                "stage": self.name,
                "rows": self.rows,
                "seconds": round(seconds, 1),
                "rows_per_s": round(self.rows / seconds),
                "private_mb": round(self.private_mb),
                "rss_mb": round(self.rss_mb),
            }
        )

    def _watch(self):
        root = psutil.Process()
        while True:
            private = rss = 0
            for process in (root, *root.children(recursive=True)):
                try:
                    memory = process.memory_info()
                except psutil.NoSuchProcess:
                    continue
                private += memory.rss - memory.shared
                rss += memory.rss
            self.private_mb = max(self.private_mb, private / 2**20)
            self.rss_mb = max(self.rss_mb, rss / 2**20)
            if self._done.wait(0.1):
                return


def print_table(report):
    print(f"{'stage':24} {'rows':>9} {'seconds':>8} {'rows/s':>9} {'private MB':>11} {'RSS MB':>8}")
    for row in report["stages"]:
        print(
            f"{row['stage']:24} {row['rows']:9} {row['seconds']:8.1f} {row['rows_per_s']:9} {row['private_mb']:11} "
            f"{row['rss_mb']:8}"
        )
    print(
        f"{report['counts']['duplicates']} duplicates dropped; {report['store_bytes_a_row']:.0f} bytes a row in the "
        f"store of logits; peak memory of all processes together; load average {report['load_average']:.1f}"
    )


if __name__ == "__main__":
    main()
