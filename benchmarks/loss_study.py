"""What each distillation loss is worth on SST-2: students of several kinds, the same budget, several seeds.

    python benchmarks/loss_study.py [--teacher MODEL] [--output study.json] [--seeds 1 2 3]

Students: three layers of the teacher; a BERT of three fresh layers half as wide; the same with a WordPiece vocabulary
of 4,000 of its own. Each is trained with its losses and, as control, on gold labels alone. All runs see the same rows
for the same number of steps; a seed decides initial weights, order and dropout. Each run is added to the output as it
ends, and a second start goes on with the runs that are missing.
"""

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
from datasets import load_dataset
from scipy.stats import t as student_t
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast, set_seed

from distil_trainer import (
    DistillationArguments,
    DistillationTrainer,
    TeacherLabeler,
    compare,
    load_classifier,
    student_from_teacher,
)
from distil_trainer.report import write_atomically

SHARED = Path(__file__).resolve().parents[2] / "shared"
LAYERS = [2, 4, 6]
# Weights of the terms, chosen once beforehand by their size at the start of training, not by their result.
LOSSES = {
    "gold labels (control)": {"logit_loss_weight": 0.0, "hard_label_weight": 1.0},
    "logits": {},
    "logits + hidden": {"hidden_loss_weight": 1.0},
    "logits + attention": {"attention_loss_weight": 1.0, "attention_loss": "kl"},
    "logits + relations": {"relation_loss_weight": 1.0},
}
# Fresh weights need more steps, and a higher learning rate.
STUDENTS = {
    "3 teacher layers, 384 wide": {
        "losses": [
            "gold labels (control)", "logits", "logits + hidden", "logits + attention", "logits + relations",
        ],
        "steps": 400,
        "learning_rate": 1e-4,
    },
    "3 fresh layers, 192 wide": {
        "losses": ["gold labels (control)", "logits", "logits + relations"],
        "steps": 600,
        "learning_rate": 5e-4,
    },
    "3 fresh layers, 192 wide, own 4,000 words": {
        "losses": ["gold labels (control)", "logits", "logits + hidden"],
        "steps": 600,
        "learning_rate": 5e-4,
    },
}  # fmt: skip
BATCH_SIZE = 32


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default=str(SHARED / "models" / "minilm-sst2"))
    parser.add_argument("--data", default=str(SHARED / "data" / "sst2"), help="folder of train and validation.parquet")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--max_steps", type=int, help="at most this many steps a run, to try the script out")
    parser.add_argument("--output", default="outputs/bench/loss_study.json")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    study = Study(options)
    runs = [(kind, loss) for kind, settings in STUDENTS.items() for loss in settings["losses"]]
    # Seed by seed, so that an early end leaves whole comparisons.
    for seed, (kind, loss) in itertools.product(options.seeds, runs):
        study.run(kind, loss, seed)
    print_tables(study.results)


class Study:
    """The data, the teacher, and the results so far."""

    def __init__(self, options):
        self.options = options
        self.teacher, self.tokenizer = load_classifier(options.teacher)
        rows = load_dataset(
            "parquet", data_files={name: f"{options.data}/{name}.parquet" for name in ("train", "validation")}
        )
        self.train = rows["train"].shuffle(seed=0).select(range(max(map(self.steps_of, STUDENTS)) * BATCH_SIZE))
        self.validation = rows["validation"]
        self.labelled = TeacherLabeler(self.teacher, self.tokenizer).map(self.train)
        self.own_tokenizer = train_wordpiece(self.train["sentence"])
        self.output = Path(options.output)
        self.results = {
            "teacher": options.teacher,
            "validation_rows": len(self.validation),
            "students": STUDENTS,
            "losses": LOSSES,
            "batch_size": BATCH_SIZE,
            "max_steps": options.max_steps,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "labels": self.validation["label"][:],
            "runs": {},
        }
        if self.output.exists():
            earlier = json.loads(self.output.read_text())
            for name in ("students", "losses", "batch_size", "max_steps"):
                if earlier[name] != self.results[name]:
                    raise SystemExit(f"{self.output} holds a study with other {name}: give another --output.")
            self.results["runs"] = earlier["runs"]
        scored = TeacherLabeler(self.teacher, self.tokenizer).map(self.validation)
        self.results["teacher_logits"] = np.asarray(scored["teacher_logits"]).round(4).tolist()

    def steps_of(self, kind):
        """Return the number of steps of each run of a kind of student; a row is seen once."""
        return min(STUDENTS[kind]["steps"], self.options.max_steps or STUDENTS[kind]["steps"])

    def run(self, kind, loss, seed):
        """Train and score one student, unless that was done before."""
        key = f"{kind} | {loss} | {seed}"
        if key in self.results["runs"]:
            return
        set_seed(seed)
        tokenizer = self.own_tokenizer if "own" in kind else self.tokenizer
        student = self.make_student(kind, tokenizer)
        steps = self.steps_of(kind)
        rows = range(steps * BATCH_SIZE)
        with tempfile.TemporaryDirectory() as folder:
            args = DistillationArguments(
                folder,
                max_steps=steps,
                per_device_train_batch_size=BATCH_SIZE,
                learning_rate=STUDENTS[kind]["learning_rate"],
                projection_learning_rate=1e-3,
                warmup_steps=steps // 10,
                weight_decay=0.01,
                length_grouped_batches=True,
                save_strategy="no",
                logging_steps=max(1, steps // 8),
                seed=seed,
                disable_tqdm=True,
                **LOSSES[loss],
            )
            online = args.distils_states
            trainer = DistillationTrainer(
                student,
                args,
                train_dataset=(self.train if online or not args.distils_logits else self.labelled).select(rows),
                eval_dataset=self.validation,
                processing_class=tokenizer,
                teacher=self.teacher if online else None,
                teacher_processing_class=self.tokenizer if online else None,
            )
            start = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - start
            prediction = trainer.predict(self.validation)
        losses = [log for log in trainer.state.log_history if "loss" in log]
        self.results["runs"][key] = {
            "accuracy": prediction.metrics["test_accuracy"],
            "seconds": round(seconds),
            "parameters": student.num_parameters(),
            "first_terms": losses[0],
            "last_terms": losses[-1],
            "logits": prediction.predictions.round(4).tolist(),
        }
        write_atomically(self.output, json.dumps(self.results))
        print(f"{key}: {prediction.metrics['test_accuracy']:.4f} in {seconds:.0f} s", flush=True)

    def make_student(self, kind, tokenizer):
        if "fresh" not in kind:
            return student_from_teacher(self.teacher, layers=LAYERS)
        return BertForSequenceClassification(
            BertConfig(
                vocab_size=len(tokenizer),
                hidden_size=192,
                num_hidden_layers=len(LAYERS),
                num_attention_heads=6,
                intermediate_size=768,
                pad_token_id=tokenizer.pad_token_id,
                id2label=self.teacher.config.id2label,
                label2id=self.teacher.config.label2id,
            )
        )


def train_wordpiece(texts, size=4000):
    """Train a WordPiece tokenizer on texts."""
    trained = BertWordPieceTokenizer(lowercase=True)
    trained.train_from_iterator(texts, vocab_size=size, show_progress=False)
    with tempfile.TemporaryDirectory() as folder:
        (file,) = trained.save_model(folder)
        return BertTokenizerFast(vocab_file=file, do_lower_case=True, model_max_length=512)


def print_tables(results):
    """Print mean and standard deviation of each kind of run, and what can be told apart."""
    labels = np.asarray(results["labels"])
    seeds = sorted({key.split(" | ")[2] for key in results["runs"]})
    teacher = (np.asarray(results["teacher_logits"]).argmax(axis=1) == labels).mean()
    print(
        f"\nSST-2 validation accuracy %, n = {len(labels)}; batches of {results['batch_size']}, every row seen once, "
        f"seeds {', '.join(seeds)}; teacher {100 * teacher:.1f}"
    )
    print(f"\n{'student and losses':<44}{'mean':>7}{'sd':>6}  {'each seed':<21}against logits alone: difference")
    print(f"{'':<80}[95 %, paired t over seeds]; McNemar's p of each seed")
    for kind, settings in STUDENTS.items():
        print(f"{kind}; {settings['steps']} steps, learning rate {settings['learning_rate']}")
        for loss in settings["losses"]:
            runs = [results["runs"].get(f"{kind} | {loss} | {seed}") for seed in seeds]
            runs = [run for run in runs if run]
            if not runs:
                continue
            scores = np.array([100 * run["accuracy"] for run in runs])
            line = f"  {loss:<42}{scores.mean():>7.1f}{scores.std(ddof=1) if len(scores) > 1 else 0:>6.1f}  "
            line += f"{' '.join(f'{score:.1f}' for score in scores):<21}"
            if loss != "logits":
                line += versus_logits(results, kind, loss, seeds, labels)
            print(line)


def versus_logits(results, kind, loss, seeds, labels):
    """Say how a loss differs from logits alone: over seeds (paired t), and row by row within a seed (McNemar)."""
    pairs = [
        (results["runs"].get(f"{kind} | {loss} | {seed}"), results["runs"].get(f"{kind} | logits | {seed}"))
        for seed in seeds
    ]
    pairs = [pair for pair in pairs if all(pair)]
    if len(pairs) < 2:
        return ""
    differences = np.array([100 * (ours["accuracy"] - base["accuracy"]) for ours, base in pairs])
    half = student_t.ppf(0.975, len(pairs) - 1) * differences.std(ddof=1) / np.sqrt(len(pairs))
    p_values = [
        compare(np.asarray(ours["logits"]), np.asarray(base["logits"]), labels)["p_value"] for ours, base in pairs
    ]
    low, high = differences.mean() - half, differences.mean() + half
    verdict = "distinguishable" if low > 0 or high < 0 else "not distinguishable"
    return f"{differences.mean():+.1f} [{low:+.1f}, {high:+.1f}]; {', '.join(f'{p:.2g}' for p in p_values)}: {verdict}"


if __name__ == "__main__":
    main()
