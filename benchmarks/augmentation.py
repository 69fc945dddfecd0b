"""Measure augmentation: rows per second of tagging and sampling, peak memory, and the ratio to a loop over sentences.

python benchmarks/augmentation.py --train_file train.parquet --spacy_pipeline en_core_web_sm --output augmentation.json
"""

import argparse
import json
import os
import random
import tempfile
import threading
import time
from pathlib import Path

import datasets
import psutil
from datasets import Dataset, load_dataset

from distil_trainer.augmentation.analyzers import analyze_texts
from distil_trainer.augmentation.audit import drop_duplicates_and_leaks, operator_counts
from distil_trainer.augmentation.rules import RuleAugmenter
from distil_trainer.report import write_atomically

SHARED = Path(__file__).resolve().parents[2] / "shared"
LOOP_TEXTS = 2000


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train_file", default=str(SHARED / "data" / "sst2" / "train.parquet"))
    parser.add_argument("--validation_file", default=str(SHARED / "data" / "sst2" / "validation.parquet"))
    parser.add_argument("--text_column", default="sentence")
    parser.add_argument("--spacy_pipeline", default=str(SHARED / "models" / "en_ud_sm"))
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--num_proc", type=int, default=2)
    parser.add_argument("--max_train_samples", type=int, default=None)
    parser.add_argument("--output", default=None, help="Write the figures to this JSON file.")
    args = parser.parse_args(argv)
    for option in ("train_file", "validation_file"):
        if not Path(getattr(args, option)).exists():
            parser.error(f"--{option} {getattr(args, option)} does not exist: give the path of a parquet file")

    with tempfile.TemporaryDirectory() as cache:
        datasets.config.HF_DATASETS_CACHE = Path(cache)  # nothing tagged before is found again
        report = measure(args)
    report["load_average"] = os.getloadavg()
    print_table(report)
    if args.output:
        write_atomically(args.output, json.dumps(report, indent=2) + "\n")
    return report


def measure(args):
    files = {"train": args.train_file, "validation": args.validation_file}
    data = load_dataset("parquet", data_files=files)
    train = data["train"]
    if args.max_train_samples is not None:
        train = train.select(range(min(args.max_train_samples, len(train))))
    texts = list(train[args.text_column])
    common = {"analyzer": args.spacy_pipeline, "copies": args.copies, "seed": 13}
    columns = {"text_column": args.text_column}

    with Stage("analyze") as analyze:
        augmenter = RuleAugmenter.from_corpus(texts, **common, **columns, num_proc=args.num_proc)
    with Stage("sample") as sample:
        rows = train.map(
            augmenter,
            batched=True,
            with_indices=True,
            remove_columns=train.column_names,
            num_proc=args.num_proc if args.num_proc > 1 else None,
        )
    with Stage("drop duplicates and leaks") as audit:
        kept, counts = drop_duplicates_and_leaks(rows, data["validation"][args.text_column], **columns)
    few = texts[:: max(1, len(texts) // LOOP_TEXTS)][:LOOP_TEXTS]
    with Stage("loop over sentences: analyze") as loop_analyze:
        analyses = [analyze_texts([text], args.spacy_pipeline) for text in few]
    with Stage("loop over sentences: sample") as loop_sample:
        loop_rows = sample_in_a_loop(few, analyses, args.copies)
    with Stage("one process: analyze") as one_analyze:
        one = RuleAugmenter.from_corpus(few, **common)
    with Stage("one process: sample") as one_sample:
        one_rows = len(Dataset.from_dict({"sentence": few}).map(one, batched=True, with_indices=True))

    full = [stage.figures(len(rows)) for stage in (analyze, sample)]
    loop = [stage.figures(loop_rows) for stage in (loop_analyze, loop_sample)]
    single = [stage.figures(one_rows) for stage in (one_analyze, one_sample)]
    for stages, name in (
        (full, "analyze + sample"),
        (loop, "loop over sentences: both"),
        (single, "one process: both"),
    ):
        stages.append(both(name, stages))
    names = ("analyze", "sample", "both")
    return {
        "texts": len(texts),
        "copies": args.copies,
        "num_proc": args.num_proc,
        "stages": [*full, audit.figures(len(rows)), *loop, *single],
        "ratio_to_loop": {name: ratio(ours, theirs) for name, ours, theirs in zip(names, full, loop, strict=True)},
        "ratio_to_loop_one_process": {
            name: ratio(ours, theirs) for name, ours, theirs in zip(names, single, loop, strict=True)
        },
        "counts": counts,
        "operators": operator_counts(rows),
        "operators_kept": operator_counts(kept),
    }


def both(name, stages):
    rows, seconds = stages[0]["rows"], sum(stage["seconds"] for stage in stages)
    peak = max(stage["peak_memory_mb"] for stage in stages)
    return {"stage": name, "rows": rows, "seconds": seconds, "rows_per_second": rows / seconds, "peak_memory_mb": peak}


def ratio(ours, theirs):
    return ours["rows_per_second"] / theirs["rows_per_second"]


def sample_in_a_loop(texts, analyses, copies):
    """The same rules written as loops over sentences and words."""
    draw = random.Random(13)
    pool = words_by_tag(analyses)
    rows = 0
    for text, analysis in zip(texts, analyses, strict=True):
        rows += len({text, *(rewrite(analysis, pool, draw) for _ in range(copies))})
    return rows


def words_by_tag(analyses):
    pool = {}
    for analysis in analyses:
        for word, tag in zip(analysis["words"][0], analysis["tags"][0], strict=True):
            pool.setdefault(tag, set()).add(word)
    return {tag: sorted(words) for tag, words in pool.items()}


def rewrite(analysis, pool, draw):
    """Rewrite one text, word by word."""
    words, tags, gaps = (analysis[name][0] for name in ("words", "tags", "gaps"))
    new_words, limit = list(words), len(words) // 2
    hits = [(position, u) for position in range(len(words)) if (u := draw.random()) < 0.2]
    hits = draw.sample(hits, min(limit, len(hits)))
    for position, u in hits:
        if u < 0.1:
            new_words[position] = "[MASK]"
        elif len(pool[tags[position]]) > 1:
            while (word := draw.choice(pool[tags[position]])) == words[position]:
                pass
            new_words[position] = word
    longest = min(5, limit - len(hits))
    if draw.random() < 0.25 and longest >= 1:
        size = draw.randint(1, longest)
        start = draw.randint(0, len(words) - size)
        new_words[start : start + size] = ["[MASK]"] * size
    return "".join(gap + word for gap, word in zip(gaps, new_words, strict=False)) + gaps[-1]


class Stage:
    """Time a block, and watch the memory of the process and its children: the sum of their PSS."""

    def __init__(self, name):
        self.name = name
        self.peak_memory_mb = 0.0

    def __enter__(self):
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *error):
        self.seconds = time.perf_counter() - self._start
        self._done.set()
        self._watcher.join()

    def figures(self, rows):
        return {
            "stage": self.name,
            "rows": rows,
            "seconds": self.seconds,
            "rows_per_second": rows / self.seconds,
            "peak_memory_mb": self.peak_memory_mb,
        }

    def _watch(self):
        root = psutil.Process()
        while True:
            total = 0
            for process in (root, *root.children(recursive=True)):
                try:
                    total += process.memory_full_info().pss
                except psutil.NoSuchProcess:
                    continue
            self.peak_memory_mb = max(self.peak_memory_mb, total / 2**20)
            if self._done.wait(0.2):
                return


def print_table(report):
    print(f"{report['texts']} texts, copies={report['copies']}, num_proc={report['num_proc']}")
    print(
        f"| {'stage':<28} | {'rows out':>9} | {'rows/s':>9} | {'seconds':>8} | {'peak MB (PSS, all processes)':>28} |"
    )
    print(f"|{'-' * 30}|{'-' * 10}:|{'-' * 10}:|{'-' * 9}:|{'-' * 29}:|")
    for stage in report["stages"]:
        print(
            f"| {stage['stage']:<28} | {stage['rows']:>9} | {stage['rows_per_second']:>9.0f} "
            f"| {stage['seconds']:>8.1f} | {stage['peak_memory_mb']:>28.0f} |"
        )
    for key, name in (
        ("ratio_to_loop", f"{report['num_proc']} processes"),
        ("ratio_to_loop_one_process", "one process"),
    ):
        ratios = ", ".join(f"{stage} {value:.1f}" for stage, value in report[key].items())
        print(f"times the rows/s of the loop over sentences, {name}: {ratios}")
    print(f"dropped: {report['counts']}\noperators: {report['operators']}")


if __name__ == "__main__":
    main()
