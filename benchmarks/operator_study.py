"""Which operator of rule augmentation is worth its cost, on SST-2 or another set of single texts.

    python benchmarks/operator_study.py [--student bilstm] [--steps 1500] [--seeds 1 2 3] [--output operators.json]

The same student is distilled, for the same number of steps, from a transfer set of each operator alone (`mask`,
`replace`, `ngram`), of all of them, and of the original texts (`none`). With `--language_model`, one that has read the
training texts (`fine_tune_language_model`), there are two more: `generated`, the originals and as many texts written
by it as `all` has copies; and `both`, half of the copies and half of the written texts, which cost half as much.

Beside accuracy stand the seconds each took: rewriting with the analysis it needs (only `replace` needs tags) or
writing, without the training of the language model, labelling the rows that `none` does not have, and training. A seed
decides initial weights, order and dropout; validation chooses nothing, and is scored once at the end of each run.
Transfer sets and runs are written as they end; a second start goes on with the missing ones.
"""

import argparse
import itertools
import json
import shutil
import tempfile
import time
from pathlib import Path
from unittest import mock

import datasets
import numpy as np
import torch
import transformers
from datasets import concatenate_datasets, load_dataset, load_from_disk
from scipy.stats import binomtest
from student_study import STUDENTS, against
from transformers import AutoConfig, AutoModelForSequenceClassification, PrinterCallback, set_seed

from distil_trainer import (
    DistillationArguments,
    DistillationTrainer,
    RuleAugmenter,
    TeacherLabeler,
    drop_duplicates_and_leaks,
    drop_leaks,
    load_classifier,
    operator_counts,
    word_vectors,
)
from distil_trainer.augmentation.generation import first_token_counts, generate_transfer_set
from distil_trainer.augmentation.language_model import load_language_model
from distil_trainer.report import write_atomically

SHARED = Path(__file__).resolve().parents[2] / "shared"
NEVER = {"mask_probability": 0.0, "replace_probability": 0.0, "ngram_probability": 0.0}
# operator -> what it overrides in the defaults of RuleAugmenter. Alone, every copy gets the n-gram step, of which
# there is one at most: at its default of 0.25, three copies of four would be unchanged, and left out.
OPERATORS = {
    "none": None,
    "mask": {**NEVER, "mask_probability": 0.1},
    "replace": {**NEVER, "replace_probability": 0.1},
    "ngram": {**NEVER, "ngram_probability": 1.0},
    "all": {},
}
WRITTEN = ["generated", "both"]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default=str(SHARED / "models" / "minilm-sst2"))
    parser.add_argument("--analyzer", default=str(SHARED / "models" / "en_ud_sm"))
    parser.add_argument("--data", default=str(SHARED / "data" / "sst2"), help="folder of train and validation.parquet")
    parser.add_argument("--text_column", default="sentence")
    parser.add_argument("--label_column", default="label")
    parser.add_argument("--student", default="bilstm", choices=list(STUDENTS))
    parser.add_argument("--operators", nargs="+", default=list(OPERATORS), choices=[*OPERATORS, *WRITTEN])
    parser.add_argument("--language_model", help="folder or Hub id; generated and both need it")
    parser.add_argument("--temperature", type=float, default=1.0, help="at which it writes")
    parser.add_argument("--train_rows", type=int, help="rewrite so many of the training texts; all by default")
    parser.add_argument("--copies", type=int, default=5, help="rewritten copies tried per text")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--work", default="outputs/operator_study", help="keeps the transfer sets and their logits")
    parser.add_argument("--output", default="outputs/bench/operator_study.json")
    options = parser.parse_args(argv)
    if "none" not in options.operators:
        parser.error("--operators lacks none, which all others are compared with")
    if not options.language_model and set(WRITTEN) & set(options.operators):
        parser.error("generated and both are written by a language model: name one with --language_model")
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    study = Study(options)
    # Seed by seed, so that an early end leaves whole comparisons.
    for seed, operator in itertools.product(options.seeds, options.operators):
        study.run(operator, seed)
    print_table(study.results)
    return study.results


class Study:
    """The data, the teacher, and the results so far."""

    def __init__(self, options):
        self.options = options
        rows = load_dataset(
            "parquet", data_files={name: f"{options.data}/{name}.parquet" for name in ("train", "validation")}
        )
        self.validation = rows["validation"]
        self.train, _ = drop_leaks(rows["train"], self.validation[options.text_column], options.text_column)
        if options.train_rows:
            self.train = self.train.shuffle(seed=13).select(range(options.train_rows))
        self.teacher, self.tokenizer = load_classifier(options.teacher)
        fingerprint = self.labeler(None).fingerprint
        settings = {
            name: getattr(options, name)
            for name in ("student", "copies", "train_rows", "steps", "batch_size", "temperature")
        }
        self.output = Path(options.output)
        self.results = {
            "settings": {**settings, "teacher": fingerprint, "operators": OPERATORS},
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "labels": self.validation[options.label_column][:],
            "transfer_sets": {},
            "runs": {},
        }
        if self.output.exists():
            earlier = json.loads(self.output.read_text())
            if earlier["settings"] != json.loads(json.dumps(self.results["settings"])):
                raise SystemExit(
                    f"{self.output} holds a study of other settings, {earlier['settings']}: name another."
                )
            self.results |= {name: earlier[name] for name in ("transfer_sets", "runs")}
        self.work = Path(options.work) / f"{fingerprint}_{len(self.train)}_rows_{options.copies}_copies"
        self.work.mkdir(parents=True, exist_ok=True)
        self.vectors = None

    def labeler(self, store):
        return TeacherLabeler(self.teacher, self.tokenizer, text_column=self.options.text_column, cache_dir=store)

    def transfer_set(self, operator):
        """Return the transfer set of an operator, with the teacher's logits; made once, and timed."""
        folder, facts_file = self.work / operator, self.work / f"{operator}.json"
        if not facts_file.exists():
            start, transfer, counts = time.perf_counter(), self.train, {}
            with tempfile.TemporaryDirectory() as cache, mock.patch("datasets.config.HF_DATASETS_CACHE", Path(cache)):
                # In a cache of its own nothing that was tagged before is found again.
                if operator in WRITTEN:
                    transfer, counts = self.written(operator, cache)
                elif operator != "none":
                    transfer, counts = self.rewritten(OPERATORS[operator], cache)
                augmentation_seconds = time.perf_counter() - start
                # All start from the logits of the original texts, and pay for what they add.
                store = self.work / f"{operator}_logits"
                shutil.rmtree(store, ignore_errors=True)
                if operator != "none":
                    self.transfer_set("none")
                    shutil.copytree(self.work / "none_logits", store)
                start = time.perf_counter()
                labelled = self.labeler(store).map(transfer)
                labelling_seconds = time.perf_counter() - start
                shutil.rmtree(folder, ignore_errors=True)
                labelled.save_to_disk(folder)
            facts = {
                "rows": len(labelled),
                "operators": operator_counts(labelled) if counts else {"original": len(labelled)},
                "counts": counts,
                "augmentation_seconds": round(augmentation_seconds, 1),
                "labelling_seconds": round(labelling_seconds, 1),
            }
            write_atomically(facts_file, json.dumps(facts))
            print(f"{operator}: {facts}", flush=True)
        self.results["transfer_sets"][operator] = json.loads(facts_file.read_text())
        return load_from_disk(folder)

    def rewritten(self, settings, cache):
        text_column = self.options.text_column
        needs_tags = settings.get("replace_probability", 0.1) > 0
        augmenter = RuleAugmenter.from_corpus(
            self.train[text_column],
            analyzer=self.options.analyzer if needs_tags else None,
            text_column=text_column,
            label_column=self.options.label_column,
            copies=self.options.copies,
            seed=13,
            **settings,
        )
        rows = self.train.map(
            augmenter,
            batched=True,
            with_indices=True,
            remove_columns=self.train.column_names,
            cache_file_name=f"{cache}/rewritten.arrow",
        )
        return drop_duplicates_and_leaks(rows, self.validation[text_column], text_column)

    def written(self, operator, cache):
        """Return the original texts with new ones, as many as `all` has: generated, or half of them rewritten."""
        text_column = self.options.text_column
        rewritten, _ = self.rewritten(OPERATORS["all"], cache)
        copies = rewritten.filter(
            lambda names: [name != "original" for name in names], input_columns="operators", batched=True
        )
        num_copies = len(copies) // 2 if operator == "both" else 0
        model, tokenizer = load_language_model(self.options.language_model)
        generated, counts = generate_transfer_set(
            model,
            tokenizer,
            first_token_counts(self.train[text_column], tokenizer),
            len(copies) - num_copies,
            self.work / "written",
            self.validation[text_column],
            text_column,
            temperature=self.options.temperature,
            seed=13,
        )
        parts = [self.train, copies.shuffle(seed=13).select(range(num_copies)), generated]
        names = [["original"] * len(self.train), parts[1]["operators"][:], generated["operators"][:]]
        rows = concatenate_datasets([part.select_columns([text_column]) for part in parts])
        rows = rows.add_column("operators", [name for part in names for name in part])
        rows, dropped = drop_duplicates_and_leaks(rows, self.validation[text_column], text_column)
        return rows, counts | {"joined": dropped}

    def make_student(self, seed):
        """Make a network with fresh weights, over word vectors of the teacher."""
        model_type, settings, _ = STUDENTS[self.options.student]
        if self.vectors is None:
            size = AutoConfig.for_model(model_type, **settings).embedding_size
            texts = self.train[self.options.text_column][:]
            self.vectors = word_vectors(texts, (self.teacher, self.tokenizer), size=size, model_max_length=128)
        config = AutoConfig.for_model(
            model_type,
            **settings,
            vocab_size=len(self.vectors.tokenizer),
            id2label=self.teacher.config.id2label,
            label2id=self.teacher.config.label2id,
        )
        set_seed(seed)
        student = AutoModelForSequenceClassification.from_config(config)
        student.set_word_vectors(self.vectors.matrix)
        return student

    def run(self, operator, seed):
        """Train and score one student, unless that was done before."""
        key = f"{operator} | {seed}"
        if key in self.results["runs"]:
            return
        transfer, student = self.transfer_set(operator), self.make_student(seed)
        with tempfile.TemporaryDirectory() as folder:
            args = DistillationArguments(
                folder,
                max_steps=self.options.steps,
                per_device_train_batch_size=self.options.batch_size,
                per_device_eval_batch_size=256,
                learning_rate=STUDENTS[self.options.student][2],
                warmup_steps=min(100, self.options.steps // 10),
                length_grouped_batches=True,
                logit_loss="mse",
                text_column=self.options.text_column,
                label_column=self.options.label_column,
                save_strategy="no",
                logging_steps=max(1, self.options.steps // 8),
                seed=seed,
                disable_tqdm=True,
            )
            trainer = DistillationTrainer(
                student,
                args,
                train_dataset=transfer,
                eval_dataset=self.validation,
                processing_class=self.vectors.tokenizer,
            )
            trainer.remove_callback(PrinterCallback)
            start = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - start
            prediction = trainer.predict(self.validation)
        self.results["runs"][key] = {
            "accuracy": prediction.metrics["test_accuracy"],
            "seconds": round(seconds, 1),
            "losses": [round(log["loss"], 4) for log in trainer.state.log_history if "loss" in log],
            "logits": prediction.predictions.round(4).tolist(),
        }
        write_atomically(self.output, json.dumps(self.results))
        print(f"{key}: {prediction.metrics['test_accuracy']:.4f} in {seconds:.0f} s", flush=True)


def print_table(results):
    """Print accuracy with its interval, seconds, and the difference to `none`, for each operator."""
    labels, runs = np.asarray(results["labels"]), {}
    for key, run in results["runs"].items():
        operator, seed = key.split(" | ")
        runs.setdefault(operator, {})[seed] = run
    settings = results["settings"]
    print(
        f"\nvalidation accuracy %, n = {len(labels)}, mean over seeds with the 95 % interval (Wilson) of one model; "
        f"{settings['student']}, {settings['steps']} steps, {settings['copies']} copies tried"
    )
    print(
        f"{'operator':<10}{'rows':>10}{'accuracy':>10}{'interval':>15}{'seconds: rewriting':>20}{'labelling':>11}"
        f"{'training':>10}  each seed"
    )
    for operator, scored in runs.items():
        facts = results["transfer_sets"][operator]
        scores = np.array([run["accuracy"] for run in scored.values()])
        low, high = binomtest(round(scores.mean() * len(labels)), len(labels)).proportion_ci(method="wilson")
        interval = f"[{100 * low:.1f}, {100 * high:.1f}]"
        training = np.mean([run["seconds"] for run in scored.values()])
        print(
            f"{operator:<10}{facts['rows']:>10,}{100 * scores.mean():>10.1f}{interval:>15}"
            f"{facts['augmentation_seconds']:>20.0f}{facts['labelling_seconds']:>11.0f}{training:>10.0f}  "
            + " ".join(f"{100 * score:.1f}" for score in scores)
        )
        both = scored.keys() & runs["none"].keys()
        if operator != "none" and both:
            ours, theirs = ({seed: runs[name][seed] for seed in sorted(both)} for name in (operator, "none"))
            print(f"{'':<10}against none, points: {against(ours, theirs, labels)}")


if __name__ == "__main__":
    main()
