"""A saved student opens where this package is not installed, and is saved there again."""

import json
import os
import subprocess
import sys

import pytest
import torch
from tiny_students import ARCHITECTURES, make_batch, make_rows, make_student, run

# Runs in a process of its own. Our package is installed in this environment, so it is hidden first.
_PROGRAM = """
import importlib.util, json, sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder)]
assert importlib.util.find_spec("distil_trainer") is None
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
folder, names = sys.argv[1], sys.argv[2:]
batch = {name: torch.tensor(values) for name, values in json.load(open(folder + "/batch.json")).items()}
answers = {}
for name in names:
    for saved in ("classifier", "base"):
        path = f"{folder}/{name}/{saved}"
        student = AutoModelForSequenceClassification.from_pretrained(path, trust_remote_code=True).eval()
        base = AutoModel.from_pretrained(path, trust_remote_code=True).eval()
        assert type(student).__module__.startswith("transformers_modules."), type(student).__module__
        again = f"{folder}/{name}/{saved}_again"
        student.save_pretrained(again)
        student_again = AutoModelForSequenceClassification.from_pretrained(again, trust_remote_code=True).eval()
        AutoTokenizer.from_pretrained(path, trust_remote_code=True)
        with torch.no_grad():
            answers[f"{name}/{saved}"] = {
                "logits": student(**batch).logits.tolist(),
                "logits_again": student_again(**batch).logits.tolist(),
                "pooled": base(**batch).pooler_output.tolist(),
            }
json.dump(answers, open(folder + "/answers.json", "w"))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("remote")
    batch = make_batch(make_rows(pairs=False))
    (folder / "batch.json").write_text(json.dumps({name: values.tolist() for name, values in batch.items()}))
    for name in ARCHITECTURES:
        student = make_student(name)
        student.save_pretrained(folder / name / "classifier")
        student.student.save_pretrained(folder / name / "base")
        tokenizer.save_pretrained(folder / name / "classifier")
        tokenizer.save_pretrained(folder / name / "base")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("HF_")
    }
    environment |= {"HF_HOME": str(elsewhere), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "-c", _PROGRAM, str(folder), *ARCHITECTURES]
    result = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_student_has_the_same_logits_without_our_package(name, folder):
    answers = json.loads((folder / "answers.json").read_text())
    batch = make_batch(make_rows(pairs=False))
    student = make_student(name)
    expected = run(student, batch).logits
    pooled = run(student.student, batch).pooler_output
    answer = answers[f"{name}/classifier"]
    torch.testing.assert_close(torch.tensor(answer["logits"]), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.tensor(answer["logits_again"]), expected, rtol=0, atol=1e-6)
    for saved in ("classifier", "base"):
        torch.testing.assert_close(torch.tensor(answers[f"{name}/{saved}"]["pooled"]), pooled, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_saved_without_our_package_is_the_same_folder(name, folder):
    for saved in ("classifier", "base"):
        files = {path.name for path in (folder / name / saved).iterdir()} - {"tokenizer.json", "tokenizer_config.json"}
        files -= {"special_tokens_map.json"}
        again = {path.name: path for path in (folder / name / f"{saved}_again").iterdir()}
        assert again.keys() == files
        for file, path in again.items():
            if file.endswith(".py"):
                assert path.read_text() == (folder / name / saved / file).read_text()
        auto_maps = [
            json.loads((folder / name / kind / "config.json").read_text())["auto_map"]
            for kind in (saved, f"{saved}_again")
        ]
        assert auto_maps[0] == auto_maps[1]
