"""What a text classifier keeps of its accuracy when heads, FFN neurons and tokens are cut, and after recovery.

    python benchmarks/pruning_study.py [--importance taylor] [--steps 1000] [--seeds 1 2 3] [--output study.json]

MiniLM on SST-2, 12 heads and 1536 neurons a layer, is cut to 8 and 768: by first-order Taylor importance, measured on
some training sentences, by magnitude, and at random; and to the share of the encoder's FLOPs that these sizes have,
spent where each kind of importance says. Each is scored as it is, and after `--steps` of distillation from the uncut
model (`--steps 0` leaves that out). A seed decides the sentences, the random draws, and the order and dropout of
recovery; magnitude has no seed before recovery. The vocabulary is cut to the training sentences. Validation chooses
nothing, and is scored once for each. Each run is added to the output as it ends; a second start goes on with the
missing ones.
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
from transformers import set_seed

from distil_trainer import (
    DistillationArguments,
    DistillationTrainer,
    TeacherLabeler,
    compare,
    drop_duplicates_and_leaks,
    evaluate_logits,
    load_classifier,
    predict_logits,
    prune,
    prune_vocabulary,
    torch_runner,
)
from distil_trainer.report import write_atomically

SHARED = Path(__file__).resolve().parents[2] / "shared"
IMPORTANCE = ("taylor", "magnitude", "random")
SIZES = {"num_heads": 8, "intermediate_size": 768}
LENGTH = 128


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(SHARED / "models" / "minilm-sst2"))
    parser.add_argument("--data", default=str(SHARED / "data" / "sst2"), help="folder of train and validation.parquet")
    parser.add_argument("--importance", nargs="+", default=list(IMPORTANCE), choices=IMPORTANCE)
    parser.add_argument("--ways", nargs="+", default=["sizes", "keep"], choices=["sizes", "keep"])
    parser.add_argument("--rows", type=int, default=1000, help="training sentences that importance is measured on")
    parser.add_argument("--steps", type=int, default=1000, help="steps of recovery; 0 for none")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--bf16", action="store_true", help="recover in bfloat16: faster where the processor has it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--max_validation_rows", type=int, help="for a try")
    parser.add_argument("--output", default="outputs/bench/pruning_study.json")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    study = Study(options)
    study.run_vocabulary()
    # Seed by seed, so that an early end leaves whole comparisons.
    for seed, importance, way in itertools.product(options.seeds, options.importance, options.ways):
        if options.steps or importance != "magnitude" or seed == options.seeds[0]:
            study.run(importance, way, seed)
    print_tables(study.results)


class Study:
    """The data, the model, and the results so far."""

    def __init__(self, options):
        self.options = options
        rows = load_dataset(
            "parquet", data_files={name: f"{options.data}/{name}.parquet" for name in ("train", "validation")}
        )
        self.validation = rows["validation"]
        if options.max_validation_rows:
            self.validation = self.validation.select(range(options.max_validation_rows))
        self.train, _ = drop_duplicates_and_leaks(rows["train"], rows["validation"]["sentence"], near_threshold=None)
        self.model, self.tokenizer = load_classifier(options.model)
        self.labelled = None
        self.output = Path(options.output)
        fingerprint = TeacherLabeler(self.model, self.tokenizer).fingerprint
        self.results = {
            "settings": {
                "model": fingerprint,
                "sizes": SIZES,
                "keep": self.share_of_sizes(),
                "importance_rows": options.rows,
                "batch_size": options.batch_size,
                "learning_rate": options.learning_rate,
            },
            "rows": {"train": len(self.train), "validation": len(self.validation)},
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "labels": self.validation["label"][:],
            "runs": {},
        }
        if self.output.exists():
            earlier = json.loads(self.output.read_text())
            for name in ("settings", "rows"):
                if earlier[name] != self.results[name]:
                    raise SystemExit(
                        f"{self.output} holds a study of other {name}, {earlier[name]}: name another file."
                    )
            self.results["runs"] = earlier["runs"]
        if "unpruned" not in self.results["runs"]:
            self.note("unpruned", self.model, self.tokenizer)

    def share_of_sizes(self):
        """Return the share of the encoder's FLOPs that the smaller sizes have, for texts of 128 tokens."""
        config, head = self.model.config, self.model.config.hidden_size // self.model.config.num_attention_heads
        of_head = 8 * config.hidden_size * head + 4 * LENGTH * head
        of_neuron = 4 * config.hidden_size
        small, whole = (
            heads * of_head + neurons * of_neuron
            for heads, neurons in (SIZES.values(), (config.num_attention_heads, config.intermediate_size))
        )
        return small / whole

    def run(self, importance, way, seed):
        """Prune, score, and recover and score again, as far as that was not done before."""
        key = f"{importance} | {way} | {seed}"
        recovered_key = f"{key} | {self.options.steps}{' bf16' if self.options.bf16 else ''}"
        done = self.results["runs"].keys()
        if key in done and (recovered_key in done or not self.options.steps):
            return
        start = time.perf_counter()
        pruned = prune(
            self.model,
            self.tokenizer,
            self.train.shuffle(seed=seed).select(range(self.options.rows)),
            importance=importance,
            seed=seed,
            sequence_length=LENGTH,
            **(SIZES if way == "sizes" else {"keep": self.results["settings"]["keep"]}),
        )
        seconds = time.perf_counter() - start
        if key not in done:
            self.note(key, pruned, self.tokenizer, seconds=round(seconds, 1))
        if self.options.steps and recovered_key not in done:
            start = time.perf_counter()
            losses = self.recover(pruned, seed)
            seconds = time.perf_counter() - start
            self.note(recovered_key, pruned, self.tokenizer, seconds=round(seconds), losses=losses)

    def recover(self, pruned, seed):
        """Distil the uncut model into the pruned one, by way of logits that it gives all sentences once."""
        if self.labelled is None:
            self.labelled = TeacherLabeler(self.model, self.tokenizer).map(self.train)
        set_seed(seed)
        with tempfile.TemporaryDirectory() as folder:
            args = DistillationArguments(
                folder,
                max_steps=self.options.steps,
                per_device_train_batch_size=self.options.batch_size,
                learning_rate=self.options.learning_rate,
                warmup_steps=min(100, self.options.steps // 10),
                logit_loss="mse",
                length_grouped_batches=True,
                bf16=self.options.bf16,
                drop_evaluation_rows=False,  # dropped already
                save_strategy="no",
                logging_steps=max(1, self.options.steps // 8),
                seed=seed,
                disable_tqdm=True,
            )
            trainer = DistillationTrainer(pruned, args, train_dataset=self.labelled, processing_class=self.tokenizer)
            trainer.train()
        return [round(log["loss"], 4) for log in trainer.state.log_history if "loss" in log]

    def run_vocabulary(self):
        """Cut the vocabulary to the training sentences, and score that."""
        if "vocabulary" in self.results["runs"]:
            return
        start = time.perf_counter()
        pruned, tokenizer = prune_vocabulary(self.model, self.tokenizer, self.train["sentence"])
        seconds = round(time.perf_counter() - start, 1)
        self.note("vocabulary", pruned, tokenizer, seconds=seconds, tokens=len(tokenizer))

    def note(self, key, model, tokenizer, **figures):
        """Score a model on validation, and write down what is known of it."""
        logits = predict_logits(torch_runner(model), tokenizer, self.validation["sentence"][:])
        encoder = sum(parameter.numel() for parameter in model.base_model.encoder.parameters())
        self.results["runs"][key] = {
            "parameters": model.num_parameters(),
            "encoder_parameters": encoder,
            "size_mb": round(4 * model.num_parameters() / 1e6, 2),
            "logits": logits.round(4).tolist(),
            **figures,
        }
        write_atomically(self.output, json.dumps(self.results))
        accuracy = evaluate_logits(logits, self.results["labels"])["accuracy"]
        print(f"{key}: {accuracy:.4f}", {name: figures[name] for name in figures if name != "losses"}, flush=True)


def print_tables(results):
    """Print accuracies with intervals, the share of the uncut model's, and McNemar's p against it."""
    labels, runs = np.asarray(results["labels"]), results["runs"]
    uncut = np.asarray(runs["unpruned"]["logits"])
    whole = evaluate_logits(uncut, labels)["accuracy"]
    print(
        f"\nSST-2 validation, n = {len(labels)}; to 8 heads and 768 neurons a layer, or to the same "
        f"{results['settings']['keep']:.1%} of the encoder's FLOPs"
    )
    print(f"{'run':<36}{'MB':>7}{'accuracy % [95 %]':>22}{'share':>8}{'lost':>6}{'won':>5}{'p':>10}")
    for key, run in sorted(runs.items(), key=lambda item: _order(item[0])):
        score = evaluate_logits(np.asarray(run["logits"]), labels)
        against = compare(np.asarray(run["logits"]), uncut, labels)
        interval = (
            f"{100 * score['accuracy']:.1f} [{100 * score['accuracy_low']:.1f}, {100 * score['accuracy_high']:.1f}]"
        )
        print(
            f"{key:<36}{run['size_mb']:>7.1f}{interval:>22}{score['accuracy'] / whole:>8.3f}"
            f"{against['only_b_right']:>6}{against['only_a_right']:>5}{against['p_value']:>10.2g}"
        )


def _order(key):
    parts = key.split(" | ")
    return len(parts), *parts


if __name__ == "__main__":
    main()
