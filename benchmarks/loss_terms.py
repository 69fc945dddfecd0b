"""What each distillation term adds to a step on logits alone, in time and in memory, and what cached logits save.

    python benchmarks/loss_terms.py [--teacher MODEL] [--train_file ROWS.parquet] [--output terms.json]

Every arm is `DistillationTrainer.train` with one term beside the logit loss, and an online teacher but for the last.
Student, rows, batches, dropout and optimizer are the same; each arm is a process of its own, and they do one step each
in turn, so that a busy machine slows all. About 1.3 GB of memory for each of the 10 processes.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
from datasets import List, Value, load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed
from turns import alternate, compare, train_in_turns

from distil_trainer.arguments import DistillationArguments
from distil_trainer.students.layer_selection import student_from_teacher
from distil_trainer.trainer import DistillationTrainer

SHARED = Path(__file__).resolve().parents[2] / "shared"
BATCH_SIZE = 32
WARM_UP = 5
LOGITS, CACHED = "logits", "logits, cached"
LAYER_PAIRS = [(2, 1), (4, 2), (6, 3)]  # of the teacher and of the student
TERMS = {
    LOGITS: {},
    "decoupled instead of kl": {"logit_loss": "decoupled"},
    "+ hidden_states mse": {"hidden_loss_weight": 1.0},
    "+ attentions kl": {"attention_loss_weight": 1.0, "attention_loss": "kl"},
    "+ relations kl": {"relation_loss_weight": 1.0},
    "+ cls_states pkd": {
        "matches": [
            {"what": "cls_states", "loss": "pkd", "teacher_layer": teacher_layer, "student_layer": student_layer}
            for teacher_layer, student_layer in LAYER_PAIRS
        ]
    },
    **{
        f"+ pooled_states {loss}": {"matches": [{"what": "pooled_states", "loss": loss}]}
        for loss in ("similarity_preserving", "rkd_distance", "rkd_angle")
    },
    CACHED: {},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--teacher",
        default=str(SHARED / "models" / "minilm-sst2"),
        help="folder or Hub id of a 6-layer classifier with a tokenizer",
    )
    parser.add_argument(
        "--train_file",
        default=str(SHARED / "data" / "sst2" / "train.parquet"),
        help="parquet file with columns sentence and label",
    )
    parser.add_argument("--steps", type=int, default=40, help="measured steps of each term")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", help="JSON file for the figures")
    options = parser.parse_args()
    arms = {name: (train, options, name) for name in TERMS}
    measured = alternate(arms, WARM_UP + options.steps, options.threads)
    check_terms_act({name: measurement.losses[0] for name, measurement in measured.items()})
    report = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "threads": options.threads,
        "batch_size": BATCH_SIZE,
        "steps": options.steps,
        "terms": summarize(measured),
    }
    print_table(report)
    if options.output:
        Path(options.output).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def train(turn, options, name):
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    set_seed(0)
    teacher = AutoModelForSequenceClassification.from_pretrained(options.teacher, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(options.teacher)
    student = student_from_teacher(teacher, num_layers=3)
    rows = load_dataset("parquet", data_files=options.train_file, split="train").shuffle(seed=0)
    num_rows = BATCH_SIZE * (WARM_UP + options.steps + 2)
    if len(rows) < num_rows:
        sys.exit(f"{options.train_file} has {len(rows)} rows; {options.steps} steps of {BATCH_SIZE} need {num_rows}.")
    rows = rows.select(range(num_rows))
    if name == CACHED:
        teacher, rows = None, add_logits(rows, student)
    with tempfile.TemporaryDirectory() as folder:
        args = DistillationArguments(
            folder, per_device_train_batch_size=BATCH_SIZE, save_strategy="no", use_cpu=True, **TERMS[name]
        )
        trainer = DistillationTrainer(student, args, train_dataset=rows, processing_class=tokenizer, teacher=teacher)
        train_in_turns(trainer, turn)


def add_logits(rows, student):
    """Add random logits: a step costs the same whatever their values."""
    logits = np.random.default_rng(1).normal(size=(len(rows), student.config.num_labels)).astype(np.float32)
    rows = rows.add_column("teacher_logits", list(logits))
    rows = rows.cast_column("teacher_logits", List(Value("float32"), length=logits.shape[1]))
    return rows.add_column("teacher_label", rows["label"][:]).cast_column("teacher_label", rows.features["label"])


def check_terms_act(first_losses):
    """Stop if a term added nothing to the loss; decoupled is not tried, which for two labels equals kl."""
    idle = [name for name in first_losses if name.startswith("+") and first_losses[name] == first_losses[LOGITS]]
    if idle:
        sys.exit(f"{', '.join(idle)}: the loss is that of logits alone, so the term did not act.")


def summarize(measured):
    times = {name: measurement.seconds[WARM_UP:] for name, measurement in measured.items()}
    return {
        name: {
            "ms_a_step": round(1000 * statistics.median(times[name]), 1),
            "steps_per_s": round(1 / statistics.median(times[name]), 3),
            **compare(times[name], times[LOGITS]),
            "peak_mb": measurement.peak_mb,
            "first_loss": measurement.losses[0],
        }
        for name, measurement in measured.items()
    }


def print_table(report):
    print(f"{'term':<40}{'ms a step':>10}{'steps/s':>9}{'x logits':>10}{'quartiles':>18}{'peak MB':>9}")
    for name, term in report["terms"].items():
        low, high = term["quartiles"]
        print(
            f"{name:<40}{term['ms_a_step']:>10}{term['steps_per_s']:>9}{term['ratio']:>10}"
            f"{f'{low} to {high}':>18}{term['peak_mb']:>9}"
        )
    speed = 1 / report["terms"][CACHED]["ratio"]
    print(
        f"Cached logits give {speed:.2f} times the steps/s of an online teacher. Medians of {report['steps']} rounds."
    )


if __name__ == "__main__":
    main()
