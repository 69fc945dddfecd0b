"""What a distillation step on cached logits costs beside a plain `Trainer` step, and what equal lengths save.

    python benchmarks/training_step.py [--model MODEL] [--train_file ROWS.parquet] [--output step.json]

Both trainers get the same student, rows, batches and optimizer; their steps alternate, so that a busy machine slows
both. A step is all of it: rows are read and collated, forward, backward, clipping, optimizer.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
from datasets import List, Value, load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed

from distil_trainer.arguments import DistillationArguments
from distil_trainer.trainer import DistillationTrainer

SHARED = Path(__file__).resolve().parents[2] / "shared"
BATCH_SIZE = 64


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model",
        default=str(SHARED / "models" / "minilm-sst2"),
        help="folder or Hub id of a classifier with a tokenizer",
    )
    parser.add_argument(
        "--train_file",
        default=str(SHARED / "data" / "sst2" / "train.parquet"),
        help="parquet file with columns sentence and label",
    )
    parser.add_argument("--num_layers", type=int, default=3, help="layers of the student")
    parser.add_argument("--steps", type=int, default=40, help="measured steps of each trainer")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", help="JSON file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    report = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "threads": options.threads,
        "batch_size": BATCH_SIZE,
        "num_layers": options.num_layers,
        "step": compare_steps(options),
        "batches": compare_orders(options),
        "peak_memory_mb": {kind: peak_memory_mb(kind, options) for kind in ("plain", "distillation")},
    }
    print_tables(report)
    if options.output:
        Path(options.output).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def compare_steps(options):
    """Time alternating steps on the same rows."""
    with tempfile.TemporaryDirectory() as folder:
        steppers = {kind: make_stepper(kind, options, folder) for kind in ("plain", "distillation")}
        times = {kind: [] for kind in steppers}
        for step in range(options.steps + 5):
            # The one that goes second finds warmer caches: take turns.
            for kind in sorted(steppers, reverse=step % 2):
                start = time.perf_counter()
                steppers[kind](step)
                times[kind].append(time.perf_counter() - start)
    times = {kind: values[5:] for kind, values in times.items()}
    ratios = [mine / plain for mine, plain in zip(times["distillation"], times["plain"], strict=True)]
    return {
        **{f"{kind}_ms": round(1000 * statistics.median(values), 2) for kind, values in times.items()},
        "ratio": round(statistics.median(ratios), 4),
        "ratio_quartiles": [round(value, 4) for value in np.quantile(ratios, [0.25, 0.75])],
        "steps": options.steps,
    }


def compare_orders(options):
    """Time steps on batches in random order and on batches of similar length, spread over one epoch."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for grouped in (False, True):
            trainer = make_trainer("distillation", options, folder, length_grouped_batches=grouped)
            trainer.create_optimizer()
            order = np.array(list(trainer._get_train_sampler()))
            num_batches = len(order) // BATCH_SIZE
            batches = order[: num_batches * BATCH_SIZE].reshape(num_batches, BATCH_SIZE)
            lengths = np.array([len(row) for row in trainer.train_dataset["input_ids"]])
            chosen = np.linspace(1, num_batches - 1, options.steps + 3).astype(int)
            times = []
            for number in chosen:
                start = time.perf_counter()
                step_on(trainer, batches[number].tolist())
                times.append(time.perf_counter() - start)
            results["length_grouped" if grouped else "random"] = {
                "rows_per_s": round(BATCH_SIZE * (len(times) - 3) / sum(times[3:]), 1),
                "padding_share": round(
                    float(1 - lengths[batches].sum() / (lengths[batches].max(1) * BATCH_SIZE).sum()), 3
                ),
            }
    results["ratio"] = round(results["length_grouped"]["rows_per_s"] / results["random"]["rows_per_s"], 3)
    return results


def peak_memory_mb(kind, options):
    """Return the peak resident memory of a fresh process that does a few steps of one trainer."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_memory, args=(kind, options, sender))
    process.start()
    peak = receiver.recv()
    process.join()
    return peak


def _measure_memory(kind, options, sender):
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        stepper = make_stepper(kind, options, folder)
        for step in range(10):
            stepper(step)
    sender.send(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def make_stepper(kind, options, folder):
    trainer = make_trainer(kind, options, folder)
    trainer.create_optimizer()
    order = np.random.default_rng(0).permutation(len(trainer.train_dataset))
    return lambda step: step_on(trainer, order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE].tolist())


def make_trainer(kind, options, folder, length_grouped_batches=False):
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    student = AutoModelForSequenceClassification.from_pretrained(
        options.model, num_hidden_layers=options.num_layers, dtype=torch.float32
    )
    rows = load_dataset("parquet", data_files=options.train_file, split="train")
    if kind == "plain":
        rows = rows.map(
            lambda batch: tokenizer(batch["sentence"], truncation=True, max_length=128),
            batched=True,
            remove_columns=["sentence"],
        )
        args = TrainingArguments(folder, per_device_train_batch_size=BATCH_SIZE, report_to="none", use_cpu=True)
        trainer = Trainer(student, args, train_dataset=rows, processing_class=tokenizer)
        trainer.train_dataset = trainer._remove_unused_columns(rows)
        return trainer
    logits = np.random.default_rng(1).normal(size=(len(rows), student.config.num_labels)).astype(np.float32)
    rows = rows.add_column("teacher_logits", list(logits))
    rows = rows.cast_column("teacher_logits", List(Value("float32"), length=logits.shape[1]))
    rows = rows.add_column("teacher_label", rows["label"][:]).cast_column("teacher_label", rows.features["label"])
    args = DistillationArguments(
        folder, per_device_train_batch_size=BATCH_SIZE, length_grouped_batches=length_grouped_batches, use_cpu=True
    )
    return DistillationTrainer(student, args, train_dataset=rows, processing_class=tokenizer)


def step_on(trainer, rows):
    batch = trainer.data_collator(trainer.train_dataset.__getitems__(rows))
    trainer.current_gradient_accumulation_steps = 1
    trainer.training_step(trainer.model, batch)
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
    trainer.optimizer.step()
    trainer.model.zero_grad()


def print_tables(report):
    step, batches, memory = report["step"], report["batches"], report["peak_memory_mb"]
    print(f"{'trainer':<16}{'ms a step':>12}{'peak MB':>10}")
    for kind, name in (("plain", "Trainer"), ("distillation", "Distillation")):
        print(f"{name:<16}{step[f'{kind}_ms']:>12}{memory[kind]:>10}")
    low, high = step["ratio_quartiles"]
    print(f"Distillation / Trainer, median of {step['steps']} pairs: {step['ratio']} (quartiles {low} to {high})\n")
    print(f"{'batches':<16}{'rows/s':>12}{'padding':>10}")
    for name in ("random", "length_grouped"):
        print(f"{name:<16}{batches[name]['rows_per_s']:>12}{batches[name]['padding_share']:>10.1%}")
    print(f"length_grouped / random: {batches['ratio']}")


if __name__ == "__main__":
    main()
