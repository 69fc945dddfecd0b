"""What a step of Meta Pseudo Labels costs beside a distillation step with the same online teacher, and its memory.

    python benchmarks/meta_pseudo_labels.py [--teacher MODEL] [--train_file ROWS.parquet] [--output mpl.json]

Every arm is the `train` of its trainer. Student, teacher, unlabelled rows and batches are the same, and a step has as
many labelled rows as unlabelled ones. Each arm is a process of its own, and they do one step each in turn, so that a
busy machine slows all. About 1.5 GB of memory for each of the 5 processes.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import datasets
import torch
import transformers
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed
from turns import alternate, compare, train_in_turns

from distil_trainer import DistillationArguments, DistillationTrainer, student_from_teacher
from distil_trainer.meta_pseudo_labels import MetaPseudoLabelsArguments, MetaPseudoLabelsTrainer

SHARED = Path(__file__).resolve().parents[2] / "shared"
WARM_UP = 3
DISTILLATION = "distillation, online teacher"
WAYS = {
    DISTILLATION: None,
    "meta pseudo labels": {},
    "with gradient dot product": {"feedback": "dot_product"},
    "with soft targets": {"student_targets": "soft"},
    "with consistency": {"consistency_weight": 1.0, "augmented_text_column": "rewritten"},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default=str(SHARED / "models" / "minilm-sst2"), help="folder or Hub id")
    parser.add_argument(
        "--train_file",
        default=str(SHARED / "data" / "sst2" / "train.parquet"),
        help="parquet file with columns sentence and label",
    )
    parser.add_argument("--num_layers", type=int, default=3, help="layers of the student")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20, help="measured steps of each way")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", help="JSON file for the figures")
    options = parser.parse_args()
    arms = {way: (train, options, way) for way in WAYS}
    measured = alternate(arms, WARM_UP + options.steps, options.threads)
    report = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "threads": options.threads,
        "batch_size": options.batch_size,
        "num_layers": options.num_layers,
        "steps": options.steps,
        "ways": summarize(measured),
    }
    print_table(report)
    if options.output:
        Path(options.output).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def train(turn, options, way):
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    set_seed(0)
    teacher = AutoModelForSequenceClassification.from_pretrained(options.teacher, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(options.teacher)
    student = student_from_teacher(teacher, num_layers=options.num_layers)
    # Two more than are measured: the trainers read ahead.
    steps = WARM_UP + options.steps + 2
    rows = load_dataset("parquet", data_files=options.train_file, split="train").shuffle(seed=0)
    labelled = rows.select(range(500))
    rows = rows.select(range(500, 500 + steps * options.batch_size)).remove_columns("label")
    # As long as the text itself, so that the term costs what it would with a rewritten one.
    rows = rows.add_column("rewritten", rows["sentence"][:])
    common = {
        "max_steps": steps,
        "per_device_train_batch_size": options.batch_size,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    given = {"train_dataset": rows, "processing_class": tokenizer, "teacher": teacher}
    with tempfile.TemporaryDirectory() as folder:
        if way == DISTILLATION:
            trainer = DistillationTrainer(student, DistillationArguments(folder, **common), **given)
        else:
            args = MetaPseudoLabelsArguments(folder, labelled_batch_size=options.batch_size, **common, **WAYS[way])
            trainer = MetaPseudoLabelsTrainer(student, args, labelled_dataset=labelled, **given)
        train_in_turns(trainer, turn)


def summarize(measured):
    baseline = measured[DISTILLATION].seconds[WARM_UP:]
    return {
        way: {
            "ms": round(1000 * statistics.median(measurement.seconds[WARM_UP:]), 1),
            **compare(measurement.seconds[WARM_UP:], baseline),
            "peak_mb": measurement.peak_mb,
        }
        for way, measurement in measured.items()
    }


def print_table(report):
    print(f"{'way':<32}{'ms a step':>11}{'x':>7}  {'quartiles':<14}{'peak MB':>9}")
    for way, row in report["ways"].items():
        low, high = row["quartiles"]
        print(f"{way:<32}{row['ms']:>11.1f}{row['ratio']:>7.2f}  {f'{low:.2f} to {high:.2f}':<14}{row['peak_mb']:>9}")
    print(
        f"x: times the distillation step, median of {report['steps']} rounds; batch {report['batch_size']}, student "
        f"of {report['num_layers']} layers, {report['threads']} threads"
    )


if __name__ == "__main__":
    main()
