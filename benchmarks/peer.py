"""The same distillation with an online teacher in our trainer, in TextBrewer and in a plain PyTorch loop.

    pip install --target /tmp/textbrewer --no-deps textbrewer==0.2.1.post1
    python benchmarks/peer.py --textbrewer /tmp/textbrewer [--output peer.json]

Teacher, student, rows, batches, dropout, optimizer (AdamW, clipped to a norm of 1) and loss are the same: soft
cross-entropy at temperature 2 (all that TextBrewer has; KL differs from it by a constant) times the temperature
squared, and the mean squared error of the embeddings' output and of every layer of the student with every second one
of the teacher. Each loop is the library's own, whole, in a process of its own; they do one step each in turn.

TextBrewer means hidden states over all tokens of a batch, we over those of a row and then over rows. The texts of the
first batch are of equal length, where the two are the same: there all losses must agree, or nothing is measured. On
every later batch ours must agree with the plain loop.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, set_seed
from turns import alternate, compare, train_in_turns

from distil_trainer.arguments import DistillationArguments
from distil_trainer.sampler import EpochSampler
from distil_trainer.students.layer_selection import student_from_teacher
from distil_trainer.trainer import DistillationTrainer

SHARED = Path(__file__).resolve().parents[2] / "shared"
BATCH_SIZE = 32
WARM_UP = 5
TEMPERATURE = 2.0
LEARNING_RATE = 5e-5
LAYERS = [(0, 0), (2, 1), (4, 2), (6, 3)]  # of the teacher and of the student
HIDDEN_WEIGHT = 1.0
OURS, TEXTBREWER, PLAIN = "DistillationTrainer", "TextBrewer", "plain PyTorch loop"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--teacher",
        default=str(SHARED / "models" / "minilm-sst2"),
        help="folder or Hub id of a 6-layer classifier with a tokenizer",
    )
    parser.add_argument(
        "--train_file", default=str(SHARED / "data" / "sst2" / "train.parquet"), help="parquet file with a sentence"
    )
    parser.add_argument("--textbrewer", help="folder into which TextBrewer was installed (pip install --target)")
    parser.add_argument("--steps", type=int, default=60, help="measured steps of each loop")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", help="JSON file for the figures")
    options = parser.parse_args()
    if options.textbrewer:
        sys.path.append(options.textbrewer)  # the processes of the arms inherit it
    version, reason = textbrewer_version(options)
    arms = {OURS: train_ours, TEXTBREWER: train_textbrewer, PLAIN: train_plainly}
    if version is None:
        del arms[TEXTBREWER]
    measured = alternate(
        {name: (function, options) for name, function in arms.items()}, WARM_UP + options.steps, options.threads
    )
    check_losses({name: measurement.losses for name, measurement in measured.items()})
    report = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "textbrewer": version},
        "textbrewer_not_measured": reason,
        "threads": options.threads,
        "batch_size": BATCH_SIZE,
        "steps": options.steps,
        **summarize(measured),
    }
    print_table(report)
    if options.output:
        Path(options.output).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def textbrewer_version(options):
    """Return TextBrewer's version and None, or None and why it cannot take part."""
    try:
        from textbrewer import GeneralDistiller, __version__  # noqa: F401
    except ImportError as error:
        given = f"--textbrewer {options.textbrewer}" if options.textbrewer else "no --textbrewer FOLDER was given"
        return None, f"{given}: {error}"
    return __version__, None


def train_ours(turn, options):
    teacher, student, tokenizer, rows = load(options)
    with tempfile.TemporaryDirectory() as folder:
        args = DistillationArguments(
            folder,
            temperature=TEMPERATURE,
            logit_loss="soft_cross_entropy",
            hidden_loss_weight=HIDDEN_WEIGHT,
            layer_map="uniform",
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            optim="adamw_torch",
            max_grad_norm=1.0,
            save_strategy="no",
            use_cpu=True,
        )
        trainer = DistillationTrainer(student, args, train_dataset=rows, processing_class=tokenizer, teacher=teacher)
        train_in_turns(trainer, turn)


def train_textbrewer(turn, options):
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

    class LossReader:
        @staticmethod
        def add_scalar(name, value, step):
            if name == "scalar/total_loss":
                turn.loss = value

    def read_outputs(batch, outputs):
        return {
            "logits": outputs.logits,
            "hidden": outputs.hidden_states,
            "inputs_mask": batch["attention_mask"],
        }

    teacher, student, tokenizer, rows = load(options)
    matches = [
        {
            "layer_T": teacher_layer,
            "layer_S": student_layer,
            "feature": "hidden",
            "loss": "hidden_mse",
            "weight": HIDDEN_WEIGHT / len(LAYERS),
        }
        for teacher_layer, student_layer in LAYERS
    ]
    with tempfile.TemporaryDirectory() as folder:
        distiller = GeneralDistiller(
            TrainingConfig(device="cpu", output_dir=folder, ckpt_steps=len(rows)),
            DistillationConfig(temperature=TEMPERATURE, kd_loss_weight=TEMPERATURE**2, intermediate_matches=matches),
            teacher,
            student,
            read_outputs,
            read_outputs,
        )
        distiller.tb_writer = LossReader  # instead of the one that does nothing
        optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
        with distiller:
            distiller.train(
                optimizer,
                batches_in_turns(turn, tokenizer, rows),
                num_steps=len(rows),
                max_grad_norm=1.0,
                batch_postprocessor=dict,
                output_hidden_states=True,
            )


def train_plainly(turn, options):
    teacher, student, tokenizer, rows = load(options)
    teacher.eval()
    student.train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    for batch in batches_in_turns(turn, tokenizer, rows):
        with torch.no_grad():
            target = teacher(**batch, output_hidden_states=True)
        outputs = student(**batch, output_hidden_states=True)
        mask = batch["attention_mask"].float()
        loss = TEMPERATURE**2 * F.cross_entropy(
            outputs.logits / TEMPERATURE, F.softmax(target.logits / TEMPERATURE, dim=-1)
        )
        for teacher_layer, student_layer in LAYERS:
            difference = outputs.hidden_states[student_layer] - target.hidden_states[teacher_layer]
            per_row = (difference.square().mean(-1) * mask).sum(1) / mask.sum(1)
            loss = loss + HIDDEN_WEIGHT / len(LAYERS) * per_row.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        turn.loss = loss.detach()


def batches_in_turns(turn, tokenizer, rows):
    """Yield the batches that `DistillationTrainer` makes, one a turn."""
    rows = rows.map(
        lambda batch: tokenizer(batch["sentence"], truncation=True, max_length=128, return_token_type_ids=False),
        batched=True,
        remove_columns=rows.column_names,
    )
    loader = DataLoader(
        rows,
        batch_size=BATCH_SIZE,
        sampler=EpochSampler(len(rows), seed=42),  # the default seed of `TrainingArguments`
        collate_fn=DataCollatorWithPadding(tokenizer),
    )
    iterator = iter(loader)
    while True:
        turn.take()
        yield next(iterator)


def load(options):
    """Return teacher, student and tokenizer, and rows of which `EpochSampler` puts 32 of equal length first."""
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    set_seed(0)
    teacher = AutoModelForSequenceClassification.from_pretrained(options.teacher, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(options.teacher)
    student = student_from_teacher(teacher, num_layers=3)
    rows = datasets.load_dataset("parquet", data_files=options.train_file, split="train")
    num_rows = BATCH_SIZE * (WARM_UP + options.steps + 2)
    if len(rows) < num_rows:
        sys.exit(f"{options.train_file} has {len(rows)} rows; {options.steps} steps of {BATCH_SIZE} need {num_rows}.")
    rows = rows.shuffle(seed=0)
    lengths = np.array([len(ids) for ids in tokenizer(rows["sentence"][:])["input_ids"]])
    equal = np.flatnonzero(lengths == int(np.median(lengths)))[:BATCH_SIZE]
    wanted = np.concatenate([equal, np.setdiff1d(np.arange(len(rows)), equal)])[:num_rows]
    order = list(EpochSampler(num_rows, seed=42))
    return teacher, student, tokenizer, rows.select(wanted[np.argsort(order)])


def check_losses(losses):
    """Stop unless all agree on the first step, and ours with the plain loop on every step."""
    for name, values in losses.items():
        for step, (value, expected) in enumerate(zip(values, losses[PLAIN], strict=True)):
            if (step == 0 or name != TEXTBREWER) and not math.isclose(value, expected, rel_tol=1e-4):
                sys.exit(
                    f"Step {step}: the loss of {name} is {value}, that of the {PLAIN} is {expected}. They do not do "
                    "the same work, so their times are not compared."
                )


def summarize(measured):
    times = {name: measurement.seconds[WARM_UP:] for name, measurement in measured.items()}
    ratios = {other: compare(times[OURS], times[other]) for other in times if other != OURS}
    loops = {
        name: {
            "ms_a_step": round(1000 * statistics.median(times[name]), 1),
            "steps_per_s": round(1 / statistics.median(times[name]), 3),
            "peak_mb": measurement.peak_mb,
            "first_loss": measurement.losses[0],
            "last_loss": measurement.losses[-1],
        }
        for name, measurement in measured.items()
    }
    return {"loops": loops, "ours_to": ratios}


def print_table(report):
    print(f"{'loop':<22}{'ms a step':>10}{'steps/s':>9}{'peak MB':>9}{'first loss':>12}{'last loss':>12}")
    for name, loop in report["loops"].items():
        print(
            f"{name:<22}{loop['ms_a_step']:>10}{loop['steps_per_s']:>9}{loop['peak_mb']:>9}"
            f"{loop['first_loss']:>12.6f}{loop['last_loss']:>12.6f}"
        )
    if report["textbrewer_not_measured"]:
        print(f"{TEXTBREWER:<22}not measured: {report['textbrewer_not_measured']}")
    for name, ratio in report["ours_to"].items():
        low, high = ratio["quartiles"]
        print(
            f"{OURS} / {name}, seconds a step, median of {report['steps']} rounds: {ratio['ratio']} "
            f"(quartiles {low} to {high})"
        )


if __name__ == "__main__":
    main()
