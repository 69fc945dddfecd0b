"""Every family and every student as float and as int8 ONNX, in one table; and whether the gate chose well.

    python benchmarks/export_table.py [--only bert bilstm] [--work folder] [--output export_table.json]
    python benchmarks/export_table.py --steps 30 --max_validation_rows 200 --work /tmp/try --output /tmp/try.json

Each model (see export_models.py) is trained, and shipped by `ship`, with SST-2 validation as evaluation set. The files
that `ship` tried and did not keep are made again (see export_ladder.py). Then each file is set beside PyTorch: the
largest difference of a logit at shapes that neither the exporter nor its check has seen; labels at batch 1 and in
batches of 32 rows as they come, padded to the longest; accuracy, of the worse of the two, with McNemar's test; size;
and milliseconds of one text, all files and PyTorch in turns.

These times are a second measurement: other texts and another order than those that `ship` chose by. So they say
whether its choice is the fastest of the files that pass, within the 95 % interval of the difference of two medians.

Trained models and files lie in `--work`, and the figures of each model are added to the output as soon as they are
there; a second start goes on with what is missing.
"""

import argparse
import json
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
from datasets import Dataset
from export_ladder import FORMS, ladder_files, why_there_is_none
from export_models import MAX_LENGTH, MODELS, TrainedModels

from distil_trainer import (
    TeacherLabeler,
    compare,
    evaluate_logits,
    onnx_runner,
    predict_logits,
    ship,
    torch_runner,
)
from distil_trainer.export.choice import median_difference_interval
from distil_trainer.latency import latency_samples, summarize_latency
from distil_trainer.report import write_atomically

SHARED = Path(__file__).resolve().parents[2] / "shared"
# Batch and length. The exporter saw (2, 16), its check (1, 5), (3, 11) and (4, 128).
UNSEEN_SHAPES = ((1, 3), (5, 37), (7, 90), (32, 61))
BATCH_SIZE = 32
CALIBRATION_TEXTS = 512
TEXTS_TIMED_BY_SHIP = 200
WARMUP = 10


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default=str(SHARED / "models" / "minilm-sst2"))
    parser.add_argument("--data", default=str(SHARED / "data" / "sst2"), help="folder of train and validation.parquet")
    parser.add_argument("--only", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--steps", type=int, help="training steps of each model, for a try")
    parser.add_argument("--max_validation_rows", type=int, help="for a try")
    parser.add_argument("--texts", type=int, default=400, help="texts of the second measurement")
    parser.add_argument("--threads", type=int, default=1, help="threads while timing")
    parser.add_argument("--work", default="outputs/export_table", help="keeps the models and their files")
    parser.add_argument("--output", default="outputs/bench/export_table.json")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    study = Study(options)
    for name in options.only:
        study.run(name)
    print_table(study.results)
    print_choices(study.results)


class Study:
    """The models, the data, and the results so far."""

    def __init__(self, options):
        self.options = options
        self.models = TrainedModels(options.teacher, options.data, options.work, options.steps)
        self.validation = Dataset.from_parquet(f"{options.data}/validation.parquet")
        if options.max_validation_rows:
            self.validation = self.validation.select(range(options.max_validation_rows))
        self.texts, self.labels = self.validation["sentence"][:], self.validation["label"][:]
        self.output = Path(options.output)
        self.results = {
            "settings": {
                "teacher": TeacherLabeler(self.models.teacher, self.models.tokenizer).fingerprint,
                "steps": {name: self.models.steps_of(name) for name in MODELS},
                "validation_rows": len(self.texts),
                "texts": options.texts,
                "threads": options.threads,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            "models": {},
        }
        if self.output.exists():
            earlier = json.loads(self.output.read_text())
            if earlier["settings"] != self.results["settings"]:
                raise SystemExit(
                    f"{self.output} holds a table of other settings, {earlier['settings']}: name another file."
                )
            self.results["models"] = earlier["models"]

    def run(self, name):
        """Train, ship and measure one model, as far as that was not done before."""
        if name in self.results["models"]:
            return
        model, tokenizer = self.models.get(name)
        calibration = self.models.train.shuffle(seed=0).select(range(CALIBRATION_TEXTS))["sentence"][:]
        folder = self.shipped(name, model, tokenizer, calibration)
        report = json.loads((folder / "report.json").read_text())
        files = ladder_files(folder, report, tokenizer, calibration)
        self.results["models"][name] = self.measure(model, tokenizer, report, files)
        write_atomically(self.output, json.dumps(self.results))
        rows = self.results["models"][name]["forms"]
        print(
            f"{name}: {sum('p50_ms' in row for row in rows.values())} files, {report['chosen_rung']} chosen",
            flush=True,
        )

    def shipped(self, name, model, tokenizer, calibration):
        """Return the folder that `ship` wrote, of its first start."""
        threads = self.options.threads
        made_by = f"{len(self.texts)}_rows_{threads}_threads_transformers_{transformers.__version__}"
        folder = self.models.folder(name) / f"shipped_{made_by}"
        if not folder.exists():
            ship(
                model,
                tokenizer,
                folder,
                self.validation,
                max_length=MAX_LENGTH,
                threads=threads,
                calibration_texts=calibration,
            )
        return folder

    def measure(self, model, tokenizer, report, files):
        """Set every file beside PyTorch, and judge the choice of `ship` by the times."""
        threads = self.options.threads
        runners = {"PyTorch": torch_runner(model)} | {form: onnx_runner(path, threads) for form, path in files.items()}
        texts = self.texts_not_timed()
        samples = latency_samples(
            {name: (runner, tokenizer) for name, runner in runners.items()},
            texts,
            threads=threads,
            max_length=MAX_LENGTH,
            max_texts=self.options.texts,
            warmup=WARMUP,
            seed=1,
        )
        times = {name: summarize_latency(values, threads, WARMUP) for name, values in samples.items()}
        expected = self.logits(runners["PyTorch"], tokenizer, BATCH_SIZE)
        unseen = list(unseen_batches(tokenizer, self.models.train["sentence"][:2000]))
        tried = {rung["name"]: rung for rung in report["rungs"]}
        forms = {}
        for form in FORMS:
            if form not in files:
                forms[form] = {"reason": why_there_is_none(form, tried)}
                continue
            rung, size = tried[form], files[form].stat().st_size
            forms[form] = {
                "largest_logit_difference": max(
                    float(np.abs(runners[form](batch) - runners["PyTorch"](batch)).max()) for batch in unseen
                ),
                **self.beside(expected, *(self.logits(runners[form], tokenizer, rows) for rows in (1, BATCH_SIZE))),
                "size_bytes": size,
                "size_share": size / files["fp32"].stat().st_size,
                "remade_in_other_size": size != rung["size_bytes"],
                **{key: times[form][key] for key in ("p50_ms", "p95_ms")},
                "speedup": times["PyTorch"]["p50_ms"] / times[form]["p50_ms"],
                "p50_ms_of_ship": rung["p50_ms"],
                "passed": rung["passed"],
                "reason": rung["reason"],
            }
        return {
            "parameters": model.num_parameters(),
            "pytorch": {**evaluate_logits(expected, self.labels), "p50_ms": times["PyTorch"]["p50_ms"]},
            "latency": {key: times["PyTorch"][key] for key in ("n", "mean_tokens", "threads", "cpu")},
            "export": report["export"],
            "forms": forms,
            "choice": second_choice(report, {name: values[:, 0] for name, values in samples.items()}),
        }

    def texts_not_timed(self):
        """Return the validation texts that `ship` did not time; all of them in a try that has no others."""
        rows = np.random.default_rng(0).permutation(len(self.texts))  # as it draws them
        others = rows[TEXTS_TIMED_BY_SHIP:] if len(rows) > TEXTS_TIMED_BY_SHIP else rows
        return [self.texts[row] for row in others]

    def logits(self, runner, tokenizer, rows):
        """Compute the logits of the validation texts in batches of so many rows, in their order."""
        batches = [self.texts[start : start + rows] for start in range(0, len(self.texts), rows)]
        # The budget of tokens is one that no batch reaches.
        budget = rows * MAX_LENGTH
        return np.concatenate(
            [predict_logits(runner, tokenizer, b, max_length=MAX_LENGTH, tokens_per_batch=budget) for b in batches]
        )

    def beside(self, expected, alone, batched):
        """Compare the logits of a file with PyTorch's."""
        worse = min(alone, batched, key=lambda logits: evaluate_logits(logits, self.labels)["accuracy"])
        against = compare(worse, expected, self.labels)
        return {
            "agreement_batch_1": compare(alone, expected, self.labels)["agreement"],
            f"agreement_batch_{BATCH_SIZE}": compare(batched, expected, self.labels)["agreement"],
            "accuracy": evaluate_logits(worse, self.labels)["accuracy"],
            "accuracy_change": against["accuracy_difference"],
            "won": against["only_a_right"],
            "lost": against["only_b_right"],
            "p_value": against["p_value"],
            "distinguishable": against["distinguishable"],
        }


def unseen_batches(tokenizer, sentences):
    """Yield the inputs of real words at each unseen shape, rows of different lengths, padded."""
    words = " ".join(sentences).split()
    for batch_size, length in UNSEEN_SHAPES:
        ends = [max(1, length * (row + 1) // batch_size) for row in range(batch_size)]
        texts = [" ".join(words[row * length :][:end]) for row, end in enumerate(ends)]
        yield dict(tokenizer(texts, truncation=True, max_length=length, padding=True, return_tensors="np"))


def second_choice(report, milliseconds):
    """Say which file of those that pass is the fastest now, and what the choice of `ship` costs beside it."""
    chosen, passing = report["chosen_rung"], [rung["name"] for rung in report["rungs"] if rung["passed"]]
    medians = {name: float(np.median(milliseconds[name])) for name in passing}
    fastest = min(passing, key=medians.get)
    interval = median_difference_interval(milliseconds[chosen], milliseconds[fastest])
    return {
        "chosen": chosen,
        "fastest": fastest,
        "p50_ms": medians,
        "difference_ms": interval,
        "slower": medians[chosen] / medians[fastest] - 1,
        "is_best": interval[0] <= 0,
    }


def print_table(results):
    """Print a line for each form of each model; `*` stands before the chosen one."""
    settings = results["settings"]
    print(
        f"\nSST-2 validation, n = {settings['validation_rows']}; one text at a time on {settings['threads']} "
        "thread(s), tokenization apart; difference, agreement, accuracy and x beside PyTorch"
    )
    print(
        f"{'':<45}{'largest':>11}{'agreement %':>13}{'accuracy':>10}{'':>7}{'McNemar':>9}{'':>8}{'share':>7}\n"
        f"{'model, form':<45}{'difference':>11}{'at 1':>7}{'at 32':>6}{'%':>10}{'change':>7}{'p':>9}{'MB':>8}"
        f"{'of fp32':>8}{'p50 ms':>8}{'x':>6}"
    )
    for name, model in results["models"].items():
        score, speed = model["pytorch"], model["pytorch"]["p50_ms"]
        interval = f"[{100 * score['accuracy_low']:.1f}, {100 * score['accuracy_high']:.1f}]"
        size = 4 * model["parameters"] / 1e6
        print(f"{name + ', PyTorch ' + interval:<69}{100 * score['accuracy']:>10.1f}", end="")
        print(f"{'':>15}{size:>9.2f}{'':>8}{speed:>8.3f}{1:>6.1f}")
        for form, row in model["forms"].items():
            if "p50_ms" not in row:
                print(f"    {form}: {row['reason']}")
                continue
            mark = "*" if form == model["choice"]["chosen"] else " "
            print(
                f"  {mark} {form:<41}{row['largest_logit_difference']:>11.2g}{100 * row['agreement_batch_1']:>7.1f}"
                f"{100 * row[f'agreement_batch_{BATCH_SIZE}']:>6.1f}{100 * row['accuracy']:>10.1f}"
                f"{100 * row['accuracy_change']:>+7.1f}{row['p_value']:>9.2g}{row['size_bytes'] / 1e6:>8.2f}"
                f"{row['size_share']:>8.3f}{row['p50_ms']:>8.3f}{row['speedup']:>6.1f}"
                + ("" if row["passed"] else "  does not pass")
                + ("  (made again in another size)" if row["remade_in_other_size"] else "")
            )


def print_choices(results):
    """Print for each model whether the choice of `ship` is the best on a second measurement, and what is missing."""
    print("\nThe choice of ship on a second measurement: other texts, another order")
    for name, model in results["models"].items():
        choice = model["choice"]
        if choice["chosen"] == choice["fastest"]:
            words = "the fastest that passes"
        else:
            low, high = choice["difference_ms"]
            words = f"{'as fast as' if choice['is_best'] else 'SLOWER than'} {choice['fastest']}: "
            words += f"{100 * choice['slower']:+.1f} %, [{low:+.4f}, {high:+.4f}] ms"
        print(f"{name:<18}{choice['chosen']:<42}{words}")
    made = {
        (name, form): row for name, model in results["models"].items() for form, row in model["forms"].items()
        if form.startswith("int8") and "p50_ms" in row
    }  # fmt: skip
    without = sorted(set(results["models"]) - {name for name, _ in made})
    print(f"models without any int8 file: {', '.join(without) or 'none'}")
    large = [
        f"{name}, {form} ({row['size_share']:.2f})"
        for (name, form), row in made.items()
        if row["size_share"] > 0.3 and row["size_bytes"] / row["size_share"] > 1e6
    ]
    print(f"int8 files above 0.3 of fp32 where that is over 1 MB: {', '.join(large) or 'none'}")


if __name__ == "__main__":
    main()
