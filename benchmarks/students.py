"""How fast networks over word vectors train and answer, beside the teacher: rows/s, and milliseconds of one text.

Latency is of one text at a time on one thread, all models in turns. The networks have fresh weights, which changes no
time; static int8 is calibrated on training sentences. Training is one step of a batch at a time in turns: the teacher
fine-tuned on gold labels, the students distilled from cached logits.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from transformers import AutoConfig, AutoModelForSequenceClassification, Trainer, TrainingArguments
from turns import alternate, compare, train_in_turns

from distil_trainer import (
    DistillationArguments,
    DistillationTrainer,
    export_onnx,
    load_classifier,
    measure_latencies,
    onnx_runner,
    quantize_dynamic,
    quantize_static,
    torch_runner,
    word_level_tokenizer,
)
from distil_trainer.students import StudentClassifier  # noqa: F401  registers the networks

SHARED = Path(__file__).resolve().parents[2] / "shared"
STUDENTS = ["embedding_bag", "glove_cnn", "densenet_cnn", "densenet_dsa", "bilstm"]
MAX_LENGTH = 128


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default=str(SHARED / "models" / "minilm-sst2"))
    parser.add_argument("--data", default=str(SHARED / "data" / "sst2"), help="folder of train and validation.parquet")
    parser.add_argument("--texts", type=int, default=200, help="validation sentences that are timed")
    parser.add_argument("--steps", type=int, default=12, help="training steps of each model")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--output", help="write the figures to this JSON file")
    options = parser.parse_args()
    for path in (options.teacher, options.data):
        if not Path(path).exists():
            sys.exit(f"{path} does not exist. Name a teacher with --teacher and the folder of its texts with --data.")
    disable_progress_bars()
    train = Dataset.from_parquet(f"{options.data}/train.parquet")
    validation = Dataset.from_parquet(f"{options.data}/validation.parquet")
    results = {"options": vars(options), "threads_of_latency": 1, "torch": torch.__version__}
    results["latency"] = latencies(options, train, validation["sentence"][:])
    print_latencies(results["latency"])
    results["training"] = throughputs(options, train)
    print_throughputs(results["training"])
    if options.output:
        Path(options.output).write_text(json.dumps(results, indent=2) + "\n")


def latencies(options, train, texts):
    """Time the teacher and every student as PyTorch, float ONNX and int8 ONNX, in turns."""
    teacher, teacher_tokenizer = load_classifier(options.teacher)
    tokenizer = word_level_tokenizer(train["sentence"])
    calibration = train.shuffle(seed=0)["sentence"][:512]
    models, sizes = {}, {}
    with tempfile.TemporaryDirectory() as work:

        def add(name, runner, tokenizer, size_bytes):
            models[name], sizes[name] = (runner, tokenizer), size_bytes

        def add_onnx(name, model, tokenizer, quantize):
            folder = Path(work) / name
            exported = export_onnx(model, tokenizer, folder, max_length=MAX_LENGTH)
            add(f"{name}, ONNX", onnx_runner(folder / "model.onnx", 1), tokenizer, exported["size_bytes"])
            quantized = quantize(folder)
            add(f"{name}, int8", onnx_runner(quantized["path"], 1), tokenizer, quantized["size_bytes"])

        runner = torch_runner(teacher)
        size_bytes = sum(4 * parameter.numel() for parameter in teacher.parameters())
        add("teacher, PyTorch", runner, teacher_tokenizer, size_bytes)
        add(f"teacher, PyTorch, padded to {MAX_LENGTH}", padded(runner), teacher_tokenizer, size_bytes)
        add_onnx("teacher", teacher, teacher_tokenizer, quantize_dynamic)
        for name in STUDENTS:
            student = make_student(name, len(tokenizer)).eval()
            size_bytes = sum(4 * parameter.numel() for parameter in student.parameters())
            add(f"{name}, PyTorch", torch_runner(student), tokenizer, size_bytes)
            static = name not in ("bilstm", "embedding_bag")
            add_onnx(
                name,
                student,
                tokenizer,
                (lambda folder: quantize_static(folder, tokenizer, calibration)) if static else quantize_dynamic,
            )
        measured = measure_latencies(models, texts, threads=1, max_length=MAX_LENGTH, max_texts=options.texts)
    teacher_ms = measured["teacher, PyTorch"]["p50_ms"]
    return {
        name: {**figures, "size_bytes": sizes[name], "speedup": teacher_ms / figures["p50_ms"]}
        for name, figures in measured.items()
    }


def padded(runner):
    """Pad each text to the longest that may come, as servers with fixed shapes do."""

    def run(inputs):
        width = MAX_LENGTH - inputs["input_ids"].shape[1]
        return runner({name: np.pad(array, ((0, 0), (0, width))) for name, array in inputs.items()})

    return run


def make_student(name, vocab_size):
    student = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(name, vocab_size=vocab_size))
    with torch.no_grad():  # the exporter would share one zero bias among convolutions, of which some then stay float
        for parameter in student.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    return student


def throughputs(options, train):
    """Count the rows a second that each model trains on, steps in turns."""
    arms = {"teacher": (train_teacher, options)} | {name: (train_student, options, name) for name in STUDENTS}
    measured = alternate(arms, options.steps, threads=torch.get_num_threads())
    figures = {}
    for name, measurement in measured.items():
        # The first steps find cold caches.
        seconds, teacher_seconds = measurement.seconds[2:], measured["teacher"].seconds[2:]
        figures[name] = {
            "rows_per_s": round(options.batch_size * len(seconds) / sum(seconds), 1),
            "peak_mb": measurement.peak_mb,
            **compare(teacher_seconds, seconds),
        }
    return figures


def sample(options):
    rows = Dataset.from_parquet(f"{options.data}/train.parquet").shuffle(seed=0)
    return rows.select(range(options.batch_size * (options.steps + 4)))


def training_settings(options):
    return dict(
        max_steps=options.steps + 4,
        per_device_train_batch_size=options.batch_size,
        save_strategy="no",
        dataloader_pin_memory=False,
        report_to=[],
        disable_tqdm=True,
        seed=0,
    )


def train_teacher(turn, options):
    teacher, tokenizer = load_classifier(options.teacher)
    rows = sample(options).map(lambda batch: tokenizer(batch["sentence"], truncation=True), batched=True)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(folder, **training_settings(options))
        train_in_turns(Trainer(teacher, arguments, train_dataset=rows, processing_class=tokenizer), turn)


def train_student(turn, options, name):
    rows = sample(options)
    tokenizer = word_level_tokenizer(rows["sentence"])
    logits = np.random.default_rng(0).normal(size=(len(rows), 2)).tolist()
    rows = rows.add_column("teacher_logits", logits)
    with tempfile.TemporaryDirectory() as folder:
        arguments = DistillationArguments(folder, logit_loss="mse", **training_settings(options))
        # As many word vectors as all of the training sentences need.
        student = make_student(name, 15_000)
        train_in_turns(DistillationTrainer(student, arguments, train_dataset=rows, processing_class=tokenizer), turn)


def print_latencies(figures):
    print(f"\n{'one text, one thread':<36}{'p50 ms':>9}{'p95 ms':>9}{'MB':>8}{'x teacher':>11}")
    for name, row in figures.items():
        cells = f"{row['p50_ms']:>9.3f}{row['p95_ms']:>9.3f}{row['size_bytes'] / 1e6:>8.2f}{row['speedup']:>11.1f}"
        print(f"{name:<36}{cells}")
    row = figures["teacher, PyTorch"]
    print(f"{row['n']} texts, {row['mean_tokens']:.1f} tokens of the teacher on average; {row['cpu']}")


def print_throughputs(figures):
    print(f"\n{'training':<20}{'rows/s':>9}{'x teacher':>11}  {'quartiles':<18}{'peak MB':>8}")
    for name, row in figures.items():
        quartiles = " to ".join(f"{value:.1f}" for value in row["quartiles"])
        print(f"{name:<20}{row['rows_per_s']:>9.0f}{row['ratio']:>11.1f}  {quartiles:<18}{row['peak_mb']:>8}")


if __name__ == "__main__":
    main()
