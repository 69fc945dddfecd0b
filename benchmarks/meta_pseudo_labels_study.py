"""What Meta Pseudo Labels bring on SST-2 with few labels, beside every simpler use of the same teacher and rows.

    python benchmarks/meta_pseudo_labels_study.py --pretrained MODEL [--labels 500] [--steps 300] [--output mpl.json]

For each seed a teacher is made of a pretrained encoder by fine-tuning it on the labelled sentences, and a student of
some of its layers. All ways start from these two and make the same number of student steps of the same batch size; the
sentences without labels are the rest of the training split. The ways, and what the student learns in each:

- supervised: the labelled sentences alone;
- pseudo-labels: the most probable label by the teacher, which stays as it is;
- distillation: the teacher's probabilities (KL, temperature 2), the teacher stays as it is;
- followed teacher: the logits of a teacher that goes on learning from the labelled sentences, without any feedback.
  This is what prior systems call Meta Pseudo Labels; they halve the teacher's loss, which AdamW does not notice;
- sampled, no feedback: labels drawn from such a teacher;
- meta pseudo labels: the same with feedback, of weight `--feedback_weight`; and with soft targets.

Each way is scored twice: as it is, and after the last phase, the same for all, in which the student learns from the
labelled sentences. Validation chooses nothing and is scored at the end of each run. Each run is added to the output as
it ends; a second start goes on with the missing ones.
"""

import argparse
import copy
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
from transformers import set_seed

from distil_trainer import (
    DistillationArguments,
    DistillationTrainer,
    TeacherLabeler,
    compare,
    dataset_label_names,
    drop_duplicates_and_leaks,
    fine_tune_teacher,
    load_classifier,
    predict_logits,
    student_from_teacher,
    torch_runner,
)
from distil_trainer.meta_pseudo_labels import MetaPseudoLabelsArguments, MetaPseudoLabelsTrainer
from distil_trainer.report import write_atomically

SHARED = Path(__file__).resolve().parents[2] / "shared"
GOLD = {"logit_loss_weight": 0.0, "hard_label_weight": 1.0}
MPL, SOFT = "meta pseudo labels", "meta pseudo labels, soft targets"
CONTROLS = ["supervised", "pseudo-labels", "distillation", "followed teacher", "sampled, no feedback"]
WAYS = [*CONTROLS, MPL, SOFT]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pretrained", required=True, help="folder or Hub id of a pretrained encoder with a tokenizer"
    )
    parser.add_argument("--data", default=str(SHARED / "data" / "sst2"), help="folder of train and validation.parquet")
    parser.add_argument("--labels", type=int, default=500, help="labelled sentences; 0 for all of them")
    parser.add_argument("--num_layers", type=int, default=3, help="layers of the student")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=5e-5, help="of the student")
    parser.add_argument("--teacher_learning_rate", type=float, default=1e-5, help="beside a student, not before")
    parser.add_argument("--feedback_weight", type=float, default=32.0)
    parser.add_argument("--teacher_epochs", type=float, default=6.0)
    parser.add_argument("--fine_tuning_epochs", type=float, default=3.0)
    parser.add_argument("--unlabelled", type=int, help="use only so many sentences without labels")
    parser.add_argument("--validation", type=int, help="score only so many sentences, for a quick look")
    parser.add_argument("--bf16", action="store_true", help="of all ways, with the teachers' fine-tuning in float32")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--work", default="outputs/meta_pseudo_labels_study", help="keeps the fine-tuned teachers")
    parser.add_argument("--output", default="outputs/bench/meta_pseudo_labels_study.json")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    study = Study(options)
    # Seed by seed, so that an early end leaves whole comparisons.
    for seed, way in itertools.product(options.seeds, options.ways):
        study.run(way, seed)
    print_tables(study.results)


class Study:
    """The data, the teachers, and the results so far."""

    def __init__(self, options):
        self.options = options
        rows = load_dataset(
            "parquet", data_files={name: f"{options.data}/{name}.parquet" for name in ("train", "validation")}
        )
        self.validation = rows["validation"].select(range(options.validation or len(rows["validation"])))
        train, _ = drop_duplicates_and_leaks(rows["train"], rows["validation"]["sentence"])
        train = train.shuffle(seed=13)
        num_labelled = options.labels or len(train)
        self.labelled = train.select(range(num_labelled))
        # With all labels nothing is left without one: the same sentences then stand in for unlabelled ones.
        self.unlabelled = train.select(range(num_labelled if options.labels else 0, len(train)))
        self.unlabelled = self.unlabelled.select(range(options.unlabelled or len(self.unlabelled)))
        self.unlabelled = self.unlabelled.select_columns(["sentence"])
        settings = {
            name: value
            for name, value in vars(options).items()
            if name not in ("ways", "seeds", "work", "output", "data", "pretrained")
        }
        self.output = Path(options.output)
        self.results = {
            "settings": {**settings, "pretrained": Path(options.pretrained).resolve().name},
            "rows": {"labelled": len(self.labelled), "unlabelled": len(self.unlabelled)},
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "labels": self.validation["label"][:],
            "teachers": {},
            "runs": {},
        }
        if self.output.exists():
            earlier = json.loads(self.output.read_text())
            for name in ("settings", "rows"):
                if earlier[name] != self.results[name]:
                    raise SystemExit(
                        f"{self.output} holds a study of other {name}, {earlier[name]}: name another file."
                    )
            self.results["teachers"], self.results["runs"] = earlier["teachers"], earlier["runs"]

    def run(self, way, seed):
        """Train and score one student, unless that was done before."""
        key = f"{way} | {seed}"
        if key in self.results["runs"]:
            return
        teacher, tokenizer = self.teacher(seed)
        student = student_from_teacher(teacher, num_layers=self.options.num_layers)
        set_seed(seed)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            trainer = self.trainer(way, student, teacher, tokenizer, folder, seed)
            trainer.train()
        seconds = time.perf_counter() - start
        logits = self.score(student, tokenizer)
        adapted = self.score(teacher, tokenizer)
        # From here on all ways do the same.
        with tempfile.TemporaryDirectory() as folder:
            args = self.arguments(folder, seed, **GOLD)
            args.max_steps, args.num_train_epochs, args.warmup_steps = -1, self.options.fine_tuning_epochs, 0
            self.distil(student, tokenizer, args, self.labelled).train()
        self.results["runs"][key] = {
            "logits": logits.round(4).tolist(),
            "logits_after_fine_tuning": self.score(student, tokenizer).round(4).tolist(),
            "teacher_accuracy": self.accuracy(adapted),
            "seconds": round(seconds),
            "log": [
                {name: round(value, 6) for name, value in log.items()}
                for log in trainer.state.log_history
                if "loss" in log
            ],
        }
        self.write()
        print(f"{key}: {self.accuracy(logits):.4f} in {seconds:.0f} s", flush=True)

    def trainer(self, way, student, teacher, tokenizer, folder, seed):
        """Return the trainer of a way."""
        if way == "supervised":
            return self.distil(student, tokenizer, self.arguments(folder, seed, **GOLD), self.labelled)
        if way == "pseudo-labels":
            rows = TeacherLabeler(teacher, tokenizer).map(self.unlabelled)
            rows = rows.remove_columns("teacher_logits").rename_column("teacher_label", "label")
            return self.distil(student, tokenizer, self.arguments(folder, seed, **GOLD), rows)
        if way == "distillation":
            return self.distil(student, tokenizer, self.arguments(folder, seed), self.unlabelled, teacher)
        given = {
            "followed teacher": {"student_targets": "soft", "logit_loss": "mse", "feedback_weight": 0.0},
            "sampled, no feedback": {"feedback_weight": 0.0},
            MPL: {},
            SOFT: {"student_targets": "soft"},
        }
        args = MetaPseudoLabelsArguments(
            folder,
            **{
                **self.common(seed),
                "teacher_learning_rate": self.options.teacher_learning_rate,
                "labelled_batch_size": self.options.batch_size,
                "feedback_weight": self.options.feedback_weight,
                **given[way],
            },
        )
        return MetaPseudoLabelsTrainer(
            student,
            args,
            train_dataset=self.unlabelled,
            labelled_dataset=self.labelled,
            processing_class=tokenizer,
            teacher=teacher,
        )

    def distil(self, student, tokenizer, args, rows, teacher=None):
        return DistillationTrainer(student, args, train_dataset=rows, processing_class=tokenizer, teacher=teacher)

    def common(self, seed):
        return {
            "max_steps": self.options.steps,
            "per_device_train_batch_size": self.options.batch_size,
            "learning_rate": self.options.learning_rate,
            "warmup_steps": self.options.steps // 10,
            "weight_decay": 0.01,
            "length_grouped_batches": True,
            "bf16": self.options.bf16,
            "save_strategy": "no",
            "logging_steps": max(1, self.options.steps // 20),
            "seed": seed,
            "disable_tqdm": True,
        }

    def arguments(self, folder, seed, **given):
        return DistillationArguments(folder, **self.common(seed), **given)

    def teacher(self, seed):
        """Return the pretrained encoder fine-tuned on the labelled sentences, and its tokenizer; made once a seed."""
        folder = Path(self.options.work) / f"teacher_of_{len(self.labelled)}_labels_{seed}"
        if not folder.exists():
            names = dataset_label_names(self.labelled, "label")
            set_seed(seed)
            teacher, tokenizer = load_classifier(self.options.pretrained, label_names=names, to_be_trained=True)
            with tempfile.TemporaryDirectory() as checkpoints:
                args = DistillationArguments(
                    checkpoints,
                    num_train_epochs=self.options.teacher_epochs if self.options.labels else 2.0,
                    per_device_train_batch_size=32,
                    learning_rate=1e-4,
                    warmup_steps=10,
                    weight_decay=0.01,
                    save_strategy="no",
                    seed=seed,
                    disable_tqdm=True,
                )
                teacher, _ = fine_tune_teacher(
                    teacher, tokenizer, self.labelled, self.validation, args, select_by=None
                )
            partial = folder.with_name(f"{folder.name}.partial")
            teacher.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            partial.rename(folder)
        teacher, tokenizer = load_classifier(folder)
        if str(seed) not in self.results["teachers"]:
            self.results["teachers"][str(seed)] = self.score(teacher, tokenizer).round(4).tolist()
        return teacher, tokenizer

    def score(self, model, tokenizer):
        """Return the logits of the validation sentences; the model is left as it is."""
        return predict_logits(torch_runner(copy.deepcopy(model)), tokenizer, self.validation["sentence"][:])

    def accuracy(self, logits):
        return float((np.asarray(logits).argmax(axis=1) == np.asarray(self.validation["label"])).mean())

    def write(self):
        write_atomically(self.output, json.dumps(self.results))


def print_tables(results):
    """Print accuracy before and after the last phase, and how Meta Pseudo Labels differ from each control."""
    labels = np.asarray(results["labels"])
    runs = {tuple(key.split(" | ")): run for key, run in results["runs"].items()}
    seeds = sorted({seed for _, seed in runs}, key=int)

    def accuracies(scored):
        return np.array([100 * (np.asarray(each).argmax(axis=1) == labels).mean() for each in scored])

    settings, rows = results["settings"], results["rows"]
    teachers = accuracies([results["teachers"][seed] for seed in seeds])
    print(
        f"SST-2 validation accuracy %, n = {len(labels)}; {rows['labelled']:,} labelled and {rows['unlabelled']:,} "
        f"unlabelled sentences; {settings['steps']} student steps of {settings['batch_size']}; seeds "
        f"{', '.join(seeds)}; teacher before {spread(teachers)}"
    )
    for name, title in (("logits", "as trained"), ("logits_after_fine_tuning", "after the last phase")):
        print(f"\n{title:<36}{'mean ± sd':>14}{'teacher after':>16}{'s':>7}  each seed")
        for way in WAYS:
            found = {seed: runs[way, seed] for seed in seeds if (way, seed) in runs}
            if not found:
                continue
            scores = accuracies([run[name] for run in found.values()])
            teacher = np.array([100 * run["teacher_accuracy"] for run in found.values()])
            seconds = np.mean([run["seconds"] for run in found.values()])
            print(
                f"{way:<36}{spread(scores):>14}{spread(teacher):>16}{seconds:>7.0f}  "
                + " ".join(f"{score:.1f}" for score in scores)
            )
        for way, control in itertools.product((MPL, SOFT), CONTROLS):
            both = [seed for seed in seeds if (way, seed) in runs and (control, seed) in runs]
            if both:
                pairs = [(runs[way, seed][name], runs[control, seed][name]) for seed in both]
                print(f"  {way} - {control}: {against(pairs, labels)}")


def spread(values):
    return f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")


def against(pairs, labels):
    """Say how runs differ from their controls: over seeds (paired t), and row by row within a seed (McNemar)."""
    compared = [compare(np.asarray(own), np.asarray(control), labels) for own, control in pairs]
    differences = np.array(
        [
            100 * ((np.asarray(own).argmax(1) == labels).mean() - (np.asarray(control).argmax(1) == labels).mean())
            for own, control in pairs
        ]
    )
    words = f"{differences.mean():+.1f}"
    if len(differences) > 1:
        half = student_t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / np.sqrt(len(differences))
        words += f" [{differences.mean() - half:+.1f}, {differences.mean() + half:+.1f}]"
    p_values = [f"{each['p_value']:.2g}" for each in compared]
    return f"{words}; McNemar p {', '.join(p_values)}"


if __name__ == "__main__":
    main()
