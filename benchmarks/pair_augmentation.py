"""Measure the augmentation of pairs: rows per second beside single sentences, and beside a loop over pairs.

python benchmarks/pair_augmentation.py --train_file train.parquet --spacy_pipeline en_core_web_sm --output pairs.json

Each text is analyzed once however often it is repeated, so rows are repeated for sampling alone.
"""

import argparse
import json
import os
import random
import tempfile
from collections import Counter
from itertools import chain
from pathlib import Path

import datasets
from augmentation import SHARED, Stage, both, ratio, rewrite, words_by_tag
from datasets import concatenate_datasets, load_dataset

from distil_trainer.augmentation.analyzers import analyze_texts
from distil_trainer.augmentation.audit import operator_counts
from distil_trainer.augmentation.rules import RuleAugmenter
from distil_trainer.report import write_atomically

LOOP_PAIRS = 1000


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train_file", default=str(SHARED / "data" / "mrpc" / "train.parquet"))
    parser.add_argument("--text_column", default="sentence1")
    parser.add_argument("--text_pair_column", default="sentence2")
    parser.add_argument("--spacy_pipeline", default=str(SHARED / "models" / "en_ud_sm"))
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--num_proc", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10, help="How often the file's rows are taken.")
    parser.add_argument("--output", default=None, help="Write the figures to this JSON file.")
    args = parser.parse_args(argv)
    if not Path(args.train_file).exists():
        parser.error(f"--train_file {args.train_file} does not exist: give the path of a parquet file")

    with tempfile.TemporaryDirectory() as cache:
        datasets.config.HF_DATASETS_CACHE = Path(cache)  # nothing tagged before is found again
        report = measure(args)
    report["load_average"] = os.getloadavg()
    print_table(report)
    if args.output:
        write_atomically(args.output, json.dumps(report, indent=2) + "\n")
    return report


def measure(args):
    once = load_dataset("parquet", data_files=args.train_file, split="train")
    first, second = args.text_column, args.text_pair_column
    texts = list(chain(once[first], once[second]))
    train = concatenate_datasets([once] * args.repeats)
    common = {"analyzer": args.spacy_pipeline, "copies": args.copies, "seed": 13}
    with Stage("pairs: analyze") as analyze:
        pairs = RuleAugmenter.from_corpus(
            texts, **common, text_column=first, text_pair_column=second, num_proc=args.num_proc
        )
    single = RuleAugmenter.from_corpus(texts, **common, text_column=first)  # their tags lie in the cache

    def sample(augmenter):
        return train.map(
            augmenter,
            batched=True,
            with_indices=True,
            remove_columns=train.column_names,
            num_proc=args.num_proc if args.num_proc > 1 else None,
        )

    with Stage("pairs: sample") as sample_pairs:
        rows = sample(pairs)
    with Stage("single sentences: sample") as sample_single:
        single_rows = sample(single)
    few = once.select(range(0, len(once), max(1, len(once) // LOOP_PAIRS))).select_columns([first, second])
    few = list(zip(*few[:].values(), strict=True))
    with Stage("loop over pairs: analyze") as loop_analyze:
        analyses = [[analyze_texts([text], args.spacy_pipeline) for text in pair] for pair in few]
    with Stage("loop over pairs: sample") as loop_sample:
        loop_rows = sample_in_a_loop(few, analyses, args.copies)

    # Analysis is counted once, with the rows that the file's pairs alone give.
    full = [analyze.figures(len(rows) // args.repeats), sample_pairs.figures(len(rows))]
    loop = [loop_analyze.figures(loop_rows), loop_sample.figures(loop_rows)]
    single = sample_single.figures(len(single_rows))
    once_sampled = {**full[1], "rows": full[0]["rows"], "seconds": full[1]["seconds"] / args.repeats}
    wholes = [both("pairs: both", [full[0], once_sampled]), both("loop over pairs: both", loop)]
    return {
        "pairs": len(once),
        "repeats": args.repeats,
        "copies": args.copies,
        "num_proc": args.num_proc,
        "stages": [*full, wholes[0], single, *loop, wholes[1]],
        "ratio_to_loop": {
            name: ratio(ours, theirs)
            for name, ours, theirs in zip(
                ("analyze", "sample", "both"), [*full, wholes[0]], [*loop, wholes[1]], strict=True
            )
        },
        # A row of a pair is two texts.
        "ratio_to_single_sentences_per_text": 2 * ratio(full[1], single),
        "rewritten": dict(Counter(rows["rewritten"])),
        "operators": operator_counts(rows),
    }


def sample_in_a_loop(pairs, analyses, copies):
    """The same rules written as loops over pairs, texts and words."""
    draw = random.Random(13)
    pool = words_by_tag(chain.from_iterable(analyses))
    rows = 0
    for pair, (first, second) in zip(pairs, analyses, strict=True):
        seen = {pair}
        for _ in range(copies):
            side = draw.randrange(3)
            seen.add(
                (
                    pair[0] if side == 1 else rewrite(first, pool, draw),
                    pair[1] if side == 0 else rewrite(second, pool, draw),
                )
            )
        rows += len(seen)
    return rows


def print_table(report):
    print(
        f"{report['pairs']} pairs, sampled {report['repeats']} times over, copies={report['copies']}, "
        f"num_proc={report['num_proc']}"
    )
    print(f"| {'stage':<26} | {'rows out':>9} | {'rows/s':>9} | {'seconds':>8} | {'peak MB (PSS)':>13} |")
    print(f"|{'-' * 28}|{'-' * 10}:|{'-' * 10}:|{'-' * 9}:|{'-' * 14}:|")
    for stage in report["stages"]:
        print(
            f"| {stage['stage']:<26} | {stage['rows']:>9} | {stage['rows_per_second']:>9.0f} "
            f"| {stage['seconds']:>8.2f} | {stage['peak_memory_mb']:>13.0f} |"
        )
    ratios = ", ".join(f"{stage} {value:.1f}" for stage, value in report["ratio_to_loop"].items())
    print(f"times the rows/s of the loop over pairs: {ratios}")
    per_text = report["ratio_to_single_sentences_per_text"]
    print(f"times the texts/s of single sentences: sample {per_text:.2f}")
    print(f"rewritten: {report['rewritten']}\noperators: {report['operators']}")


if __name__ == "__main__":
    main()
