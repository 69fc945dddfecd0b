"""What networks over word vectors keep of a teacher on SST-2, with and without the teacher and augmentation.

    python benchmarks/student_study.py [--students bilstm] [--steps 1500] [--seeds 1 2 3] [--output study.json]
    python benchmarks/student_study.py --labels 5000 --teacher pretrained/model [--output few_labels.json]

Each network starts from word vectors distilled from the teacher, and is trained three ways for the same number of
steps: on the teacher's logits of augmented sentences, on its logits of the original sentences, and on the gold labels
of those. That last one still has the teacher's vectors, so a fourth, with random vectors, is the control that has
nothing of the teacher. With `--labels` only so many sentences keep their gold label: the teacher is a pretrained
encoder fine-tuned here on those alone, the controls train on those alone, and the students learn from its logits of
all sentences. A seed decides initial weights, order and dropout; validation chooses nothing, and is scored
once at the end of each run. Each run is added to the output as it ends; a second start goes on with the missing ones.
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
from datasets import load_dataset, load_from_disk
from scipy.stats import t as student_t
from transformers import AutoConfig, AutoModelForSequenceClassification, set_seed

from distil_trainer import (
    DistillationArguments,
    DistillationTrainer,
    RuleAugmenter,
    TeacherLabeler,
    compare,
    dataset_label_names,
    drop_duplicates_and_leaks,
    fine_tune_teacher,
    load_classifier,
    word_vectors,
)
from distil_trainer.report import write_atomically

SHARED = Path(__file__).resolve().parents[2] / "shared"
# name -> (model type, settings that differ from the defaults, learning rate)
STUDENTS = {
    "embedding_bag": ("embedding_bag", {}, 1e-3),
    "glove_cnn": ("glove_cnn", {}, 1e-3),
    "densenet_cnn": ("densenet_cnn", {}, 1e-3),
    "densenet_dsa": ("densenet_dsa", {}, 1e-3),
    "bilstm": ("bilstm", {}, 1e-3),
}
GOLD = {"logit_loss_weight": 0.0, "hard_label_weight": 1.0}
WAYS = ("teacher, augmented", "teacher, originals", "gold labels, teacher's vectors", "gold labels, no teacher")
CONTROLS = WAYS[2:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default=str(SHARED / "models" / "minilm-sst2"))
    parser.add_argument("--labels", type=int, help="gold labels in all; without it every sentence has its own")
    parser.add_argument("--analyzer", default=str(SHARED / "models" / "en_ud_sm"))
    parser.add_argument("--data", default=str(SHARED / "data" / "sst2"), help="folder of train and validation.parquet")
    parser.add_argument("--students", nargs="+", default=list(STUDENTS), choices=list(STUDENTS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--copies", type=int, default=5, help="rewritten copies tried per sentence")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--work", default="outputs/student_study", help="keeps the transfer set and its logits")
    parser.add_argument("--output", default="outputs/bench/student_study.json")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    study = Study(options)
    # Seed by seed, so that an early end leaves whole comparisons.
    for seed, name, way in itertools.product(options.seeds, options.students, options.ways):
        study.run(name, way, seed)
    print_tables(study.results)


class Study:
    """The data, the teacher, and the results so far."""

    def __init__(self, options):
        self.options = options
        rows = load_dataset(
            "parquet", data_files={name: f"{options.data}/{name}.parquet" for name in ("train", "validation")}
        )
        self.validation = rows["validation"]
        train, _ = drop_duplicates_and_leaks(rows["train"], self.validation["sentence"], near_threshold=None)
        # The control learns from as many gold labels as the teacher did.
        self.gold = train.shuffle(seed=13).select(range(options.labels)) if options.labels else train
        self.teacher, self.tokenizer = self.fine_tuned() if options.labels else load_classifier(options.teacher)
        labeler = TeacherLabeler(self.teacher, self.tokenizer)
        self.originals, self.augmented = self.labelled(train, labeler)
        self.vectors = {}
        self.output = Path(options.output)
        self.results = {
            "settings": {"teacher": labeler.fingerprint, "students": STUDENTS, "batch_size": options.batch_size},
            "rows": {
                "gold": len(self.gold),
                "originals": len(self.originals),
                "augmented": len(self.augmented),
                "validation": len(self.validation),
            },
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "labels": self.validation["label"][:],
            "runs": {},
        }
        if self.output.exists():
            earlier = json.loads(self.output.read_text())
            for name in ("settings", "rows"):
                # By way of JSON, in which tuples are lists.
                if earlier[name] != json.loads(json.dumps(self.results[name])):
                    raise SystemExit(
                        f"{self.output} holds a study of other {name}, {earlier[name]}: name another file."
                    )
            self.results["runs"] = earlier["runs"]
        scored = labeler.map(self.validation)
        self.results["teacher_logits"] = np.asarray(scored["teacher_logits"]).round(4).tolist()

    def fine_tuned(self):
        """Return the pretrained encoder fine-tuned on the gold labels, and its tokenizer; made once."""
        folder = Path(self.options.work) / f"teacher_of_{len(self.gold)}_labels"
        if not folder.exists():
            names = dataset_label_names(self.gold, "label")
            teacher, tokenizer = load_classifier(self.options.teacher, label_names=names, to_be_trained=True)
            with tempfile.TemporaryDirectory() as checkpoints:
                args = DistillationArguments(
                    checkpoints,
                    num_train_epochs=4,
                    per_device_train_batch_size=32,
                    per_device_eval_batch_size=256,
                    learning_rate=1e-4,
                    warmup_steps=100,
                    weight_decay=0.01,
                    length_grouped_batches=True,
                    save_strategy="no",
                    seed=1,
                    disable_tqdm=True,
                )
                teacher, _ = fine_tune_teacher(teacher, tokenizer, self.gold, self.validation, args, select_by=None)
            teacher.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return load_classifier(folder)

    def labelled(self, train, labeler):
        """Return the original sentences and the augmented ones, with the teacher's logits; made once."""
        work = Path(self.options.work) / f"{self.options.copies}_copies_{labeler.fingerprint}"
        folders = [work / name for name in ("originals", "augmented")]
        if not all(folder.exists() for folder in folders):
            augmenter = RuleAugmenter.from_corpus(
                train["sentence"], analyzer=self.options.analyzer, copies=self.options.copies, seed=13
            )
            augmented = train.map(augmenter, batched=True, with_indices=True, remove_columns=train.column_names)
            augmented, counts = drop_duplicates_and_leaks(augmented, self.validation["sentence"], near_threshold=None)
            print(f"transfer set: {counts}", flush=True)
            for folder, dataset in zip(folders, (train, augmented), strict=True):
                start = time.perf_counter()
                labeler.map(dataset).save_to_disk(folder)
                print(f"{folder.name}: {len(dataset)} rows in {time.perf_counter() - start:.0f} s", flush=True)
        return [load_from_disk(folder) for folder in folders]

    def vectors_of(self, size):
        """Return the word vectors of a width, distilled once."""
        if size not in self.vectors:
            self.vectors[size] = word_vectors(
                self.originals["sentence"],
                (self.teacher, self.tokenizer),
                size=size,
                model_max_length=128,
            )
        return self.vectors[size]

    def make_student(self, name, way, seed):
        """Make a network with fresh weights, over word vectors of the teacher or random ones."""
        model_type, settings, _ = STUDENTS[name]
        vectors = self.vectors_of(AutoConfig.for_model(model_type, **settings).embedding_size)
        config = AutoConfig.for_model(
            model_type,
            **settings,
            vocab_size=len(vectors.tokenizer),
            id2label=self.teacher.config.id2label,
            label2id=self.teacher.config.label2id,
        )
        set_seed(seed)
        student = AutoModelForSequenceClassification.from_config(config)
        if way != CONTROLS[1]:
            student.set_word_vectors(vectors.matrix)
        return student, vectors.tokenizer

    def run(self, name, way, seed):
        """Train and score one student, unless that was done before."""
        key = f"{name} | {way} | {self.options.steps} | {seed}"
        if key in self.results["runs"]:
            return
        student, tokenizer = self.make_student(name, way, seed)
        with tempfile.TemporaryDirectory() as folder:
            args = DistillationArguments(
                folder,
                max_steps=self.options.steps,
                per_device_train_batch_size=self.options.batch_size,
                per_device_eval_batch_size=256,
                learning_rate=STUDENTS[name][2],
                warmup_steps=100,
                length_grouped_batches=True,
                save_strategy="no",
                logging_steps=max(1, self.options.steps // 8),
                seed=seed,
                disable_tqdm=True,
                **(GOLD if way in CONTROLS else {"logit_loss": "mse"}),
            )
            trainer = DistillationTrainer(
                student,
                args,
                train_dataset={WAYS[0]: self.augmented, WAYS[1]: self.originals}.get(way, self.gold),
                eval_dataset=self.validation,
                processing_class=tokenizer,
            )
            start = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - start
            prediction = trainer.predict(self.validation)
        self.results["runs"][key] = {
            "accuracy": prediction.metrics["test_accuracy"],
            "seconds": round(seconds),
            "parameters": student.num_parameters(),
            "losses": [round(log["loss"], 4) for log in trainer.state.log_history if "loss" in log],
            "logits": prediction.predictions.round(4).tolist(),
        }
        write_atomically(self.output, json.dumps(self.results))
        print(f"{key}: {prediction.metrics['test_accuracy']:.4f} in {seconds:.0f} s", flush=True)


def print_tables(results):
    """Print accuracy, share of the teacher's, and the differences to the controls, for each length of training."""
    labels = np.asarray(results["labels"])
    teacher = 100 * (np.asarray(results["teacher_logits"]).argmax(axis=1) == labels).mean()
    runs = {tuple(key.split(" | ")): run for key, run in results["runs"].items()}
    for steps in sorted({key[2] for key in runs}, key=int):
        seeds = sorted({key[3] for key in runs if key[2] == steps})
        print(
            f"\nSST-2 validation accuracy %, n = {len(labels)}; {steps} steps; seeds {', '.join(seeds)}; "
            f"teacher {teacher:.1f}; {results['rows']['augmented']:,} augmented and "
            f"{results['rows']['originals']:,} original sentences, {results['rows']['gold']:,} gold labels"
        )
        print(f"{'student':<15}{'trained on':<32}{'mean':>6}{'sd':>5}{'share':>7}  each seed")
        for name, way in itertools.product(STUDENTS, WAYS):
            scored = {seed: runs[name, way, steps, seed] for seed in seeds if (name, way, steps, seed) in runs}
            if not scored:
                continue
            scores = np.array([100 * run["accuracy"] for run in scored.values()])
            spread = f"{scores.std(ddof=1):.1f}" if len(scores) > 1 else "-"
            line = f"{name:<15}{way:<32}{scores.mean():>6.1f}{spread:>5}{scores.mean() / teacher:>7.3f}  "
            print(line + " ".join(f"{score:.1f}" for score in scores))
            for control in CONTROLS if way == WAYS[0] else ():
                controls = {seed: runs.get((name, control, steps, seed)) for seed in scored}
                if all(controls.values()):
                    print(f"{'':<15}  against {control}: {against(scored, controls, labels)}")


def against(scored, controls, labels):
    """Say how runs differ from their controls: over seeds (paired t), and row by row within a seed (McNemar)."""
    differences = np.array([100 * (scored[seed]["accuracy"] - controls[seed]["accuracy"]) for seed in scored])
    p_values = [
        compare(np.asarray(scored[seed]["logits"]), np.asarray(controls[seed]["logits"]), labels)["p_value"]
        for seed in scored
    ]
    words = f"{differences.mean():+.1f}"
    if len(differences) > 1:
        half = student_t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / np.sqrt(len(differences))
        words += f" [{differences.mean() - half:+.1f}, {differences.mean() + half:+.1f}]"
    return f"{words}; McNemar p {', '.join(f'{p:.2g}' for p in p_values)}"


if __name__ == "__main__":
    main()
