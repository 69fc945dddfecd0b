"""Measure the augmentation of Korean: rows per second beside a loop that tokenizes and joins text by text with Kiwi.

python benchmarks/korean_augmentation.py --train_file train.parquet --output korean_augmentation.json

The loop is what Kiwi's documentation shows. It joins whole texts, so that all spaces become those that Kiwi would set;
ours joins the eojeols that were edited, and leaves all else as it stands. Kiwi itself takes most of the time of both.
"""

import argparse
import json
import os
import random
import tempfile
from pathlib import Path

import datasets
from augmentation import SHARED, Stage, both, ratio
from datasets import load_dataset

from distil_trainer.augmentation.audit import operator_counts
from distil_trainer.augmentation.kiwi import load_kiwi
from distil_trainer.augmentation.rules import RuleAugmenter
from distil_trainer.report import write_atomically

KEPT = ("J", "E", "VX", "NNB", "VC", "X", "SF", "SP", "SS", "SE", "SO", "SW", "SB", "U", "Z")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train_file", default=str(SHARED / "data" / "nsmc" / "train.parquet"))
    parser.add_argument("--text_column", default="document")
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--num_proc", type=int, default=2)
    parser.add_argument("--max_train_samples", type=int, default=10_000)
    parser.add_argument("--loop_texts", type=int, default=1000)
    parser.add_argument("--output", default=None, help="Write the figures to this JSON file.")
    args = parser.parse_args(argv)
    if not Path(args.train_file).exists():
        parser.error(f"--train_file {args.train_file} does not exist: give the path of a parquet file")

    with tempfile.TemporaryDirectory() as cache:
        datasets.config.HF_DATASETS_CACHE = Path(cache)  # nothing analyzed before is found again
        report = measure(args)
    report["load_average"] = os.getloadavg()
    print_table(report)
    if args.output:
        write_atomically(args.output, json.dumps(report, indent=2) + "\n")
    return report


def measure(args):
    train = load_dataset("parquet", data_files=args.train_file, split="train").select_columns([args.text_column])
    train = train.shuffle(seed=0).select(range(min(args.max_train_samples, len(train)))).flatten_indices()
    few = train.select(range(min(args.loop_texts, len(train))))
    with Stage("load Kiwi") as load:
        load_kiwi().tokenize("첫 문장은 느리다")
    stages = [load.figures(0)]
    sides = {}
    for name, rows_in, num_proc in ((f"{args.num_proc} processes", train, args.num_proc), ("one process", few, 1)):
        with Stage(f"{name}: analyze") as analyze:
            augmenter = RuleAugmenter.from_corpus(
                rows_in[args.text_column],
                "kiwi",
                text_column=args.text_column,
                copies=args.copies,
                seed=13,
                num_proc=num_proc,
            )
        with Stage(f"{name}: sample and write") as sample:
            rows = rows_in.map(
                augmenter,
                batched=True,
                with_indices=True,
                remove_columns=rows_in.column_names,
                num_proc=num_proc if num_proc > 1 else None,
            )
        sides[name] = three(name, len(rows), analyze, sample)
    loop = in_a_loop(list(few[args.text_column]), args.copies)
    for side in (*sides.values(), loop):
        stages += side
    names = ("analyze", "sample", "both")
    return {
        "texts": len(train),
        "loop_texts": len(few),
        "copies": args.copies,
        "num_proc": args.num_proc,
        "stages": stages,
        "ratio_to_loop": {
            side: {name: ratio(*pair) for name, pair in zip(names, zip(figures, loop, strict=True), strict=True)}
            for side, figures in sides.items()
        },
        "operators": operator_counts(rows),
    }


def three(name, rows, analyze, sample):
    figures = [analyze.figures(rows), sample.figures(rows)]
    return [*figures, both(f"{name}: both", figures)]


def in_a_loop(texts, copies):
    """The same rules written as loops over texts and morphemes."""
    draw, kiwi = random.Random(13), load_kiwi()
    with Stage("loop over texts: analyze") as analyze:
        analyses = [kiwi.tokenize(text) for text in texts]
    with Stage("loop over texts: sample and write") as sample:
        pool = {}
        for tokens in analyses:
            for token in tokens:
                if not token.tag.startswith(KEPT):
                    pool.setdefault(token.tag, set()).add(token.form)
        pool = {tag: sorted(forms) for tag, forms in pool.items()}
        rows = sum(
            len({text, *(rewrite(tokens, pool, draw, kiwi) for _ in range(copies))})
            for text, tokens in zip(texts, analyses, strict=True)
        )
    return three("loop over texts", rows, analyze, sample)


def rewrite(tokens, pool, draw, kiwi):
    words, limit = [(token.form, token.tag) for token in tokens], len(tokens) // 2
    hits = [(position, u) for position in range(len(words)) if (u := draw.random()) < 0.2]
    hits = draw.sample(hits, min(limit, len(hits)))
    for position, u in hits:
        old, tag = words[position]
        if u < 0.1:
            words[position] = ("[MASK]", "NNP")
        elif len(pool.get(tag, ())) > 1:
            while (form := draw.choice(pool[tag])) == old:
                pass
            words[position] = (form, tag)
    longest = min(5, limit - len(hits))
    if draw.random() < 0.25 and longest >= 1:
        size = draw.randint(1, longest)
        start = draw.randint(0, len(words) - size)
        words[start : start + size] = [("[MASK]", "NNP")] * size
    return kiwi.join(words)


def print_table(report):
    print(f"{report['texts']} texts, {report['loop_texts']} in the loop and in one process, copies={report['copies']}")
    print(f"| {'stage':<33} | {'rows out':>9} | {'rows/s':>9} | {'seconds':>8} | {'peak MB (PSS)':>13} |")
    print(f"|{'-' * 35}|{'-' * 10}:|{'-' * 10}:|{'-' * 9}:|{'-' * 14}:|")
    for stage in report["stages"]:
        print(
            f"| {stage['stage']:<33} | {stage['rows']:>9} | {stage['rows_per_second']:>9.0f} "
            f"| {stage['seconds']:>8.1f} | {stage['peak_memory_mb']:>13.0f} |"
        )
    for side, ratios in report["ratio_to_loop"].items():
        ratios = ", ".join(f"{stage} {value:.1f}" for stage, value in ratios.items())
        print(f"times the rows/s of the loop over texts, {side}: {ratios}")
    print(f"operators: {report['operators']}")


if __name__ == "__main__":
    main()
