"""A recipe that is killed again and again ends with what a run in peace ends with."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import Dataset

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "sst2_electra_to_distilbert.py"
# The run is killed a random moment after each of these appears, so that every stage is hit.
MARKERS = [
    "work/transfer_set",
    "work/student-checkpoints/checkpoint-30",
    "work/student",
    "work/control-checkpoints/checkpoint-60",
    "work/control",
]


def _start(arguments, folder, home):
    environment = {**os.environ, "HF_HOME": str(home), "HF_DATASETS_CACHE": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(RECIPE), *arguments, "--output_dir", str(folder)]
    log = open(folder.with_suffix(".log"), "ab")  # noqa: SIM115
    return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def _kill_after(process, marker, delay_s):
    while not marker.exists():
        assert process.poll() is None, f"the run ended before {marker} appeared"
        time.sleep(0.005)
    time.sleep(delay_s)
    assert process.poll() is None, "the run ended before it was killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _results(folder):
    report = json.loads((folder / "report.json").read_text())
    return {
        "weights": (folder / "model.safetensors").read_bytes(),
        "control": (folder / "work/control/model.safetensors").read_bytes(),
        "onnx": (folder / "onnx/model.onnx").read_bytes(),
        # Which form of int8 is the fastest is a matter of milliseconds.
        "evaluations": [row["evaluation"] for row in report["models"] if row["role"] != "onnx int8"],
        "transfer": report["data"]["transfer"],
        "steps": report["training"]["optimizer_steps"],
    }


@pytest.mark.slow
def test_five_kills_over_all_stages_change_nothing(tmp_path, teacher, tokenizer, reviews):
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    many = Dataset.from_dict({"sentence": list(reviews["sentence"]) * 20, "label": list(reviews["label"]) * 20})
    numbered = many.map(lambda row, index: {"sentence": f"{row['sentence']} {index}"}, with_indices=True)
    numbered.cast_column("label", reviews.features["label"]).to_parquet(tmp_path / "train.parquet")
    reviews.to_parquet(tmp_path / "validation.parquet")
    arguments = [
        *("--teacher_model_name_or_path", str(tmp_path / "teacher"), "--student_layers", "2", "4"),
        *("--train_file", str(tmp_path / "train.parquet"), "--validation_file", str(tmp_path / "validation.parquet")),
        *("--copies", "2", "--max_steps", "150", "--save_steps", "10", "--per_device_train_batch_size", "8"),
        *("--length_grouped_batches", "--latency_texts", "4", "--max_accuracy_drop", "0.9"),
    ]
    assert _start(arguments, tmp_path / "peace", tmp_path / "home").wait(timeout=300) == 0
    shutil.rmtree(tmp_path / "home")  # the killed run finds no logits and no cache of the other
    moments = random.Random(5)
    for marker in MARKERS:
        process = _start(arguments, tmp_path / "killed", tmp_path / "home")
        _kill_after(process, tmp_path / "killed" / marker, delay_s=moments.uniform(0, 0.3))
    assert _start(arguments, tmp_path / "killed", tmp_path / "home").wait(timeout=300) == 0
    assert _results(tmp_path / "killed") == _results(tmp_path / "peace")
