"""Pushing to the Hub, by the real clients, against a loopback server that speaks the Hub's API."""

import json
import os
import re
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from hub_server import HubServer, hub_fixture  # noqa: F401
from transformers import BertForSequenceClassification

from distil_trainer.hub import check_can_push, push_model_folder

CARD = """---
base_model: me/teacher
tags: [distillation]
---
# A student
"""
DATASET_CARD = """---
configs:
- config_name: default
  data_files:
  - split: validation
    path: data/validation-*
---
"""
SCRATCH = [
    "checkpoint-3/model.safetensors",
    "checkpoint-3/config.json",
    "runs/events.out.tfevents.1",
    "labels/shard-00000.parquet",
    "teacher/model.safetensors",
    "train.csv",
    "train.py",
    "train.log",
    "training_args.bin",
    "trainer_state.json",
    "model.safetensors.tmp",
    "model.tmp-17.safetensors",
    "onnx/model.onnx.tmp",
    "onnx/.cache/x.json",
    "onnx/__pycache__/x.pyc",
    ".git/config",
    ".env.json",
]

PUSH = """
import json
from distil_trainer.hub import check_can_push, push_model_folder
secret = check_can_push("me/secret", private=True)
first = push_model_folder("model", "student", commit_message="First")
second = push_model_folder("model", "me/student")
push_model_folder("model", secret, private=True)
print(json.dumps([secret, first, second]))
"""

USE = """
import json
import numpy as np
import torch
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

model = AutoModelForSequenceClassification.from_pretrained("me/student", dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained("me/student")
with torch.inference_mode():
    logits = model(**tokenizer(["a good film", "not good"], padding=True, return_tensors="pt")).logits
np.save("logits.npy", logits.numpy())

sst2 = load_dataset("stanfordnlp/sst2", split="validation")
sst2 = sst2.add_column("teacher_logits", [[0.5, -0.25]] * len(sst2))
sst2.push_to_hub("me/labelled", private=True)
again = load_dataset("me/labelled", split="validation")
print(json.dumps([sst2.to_list() == again.to_list(), sst2.features == again.features, again.features["label"].names]))

arguments = TrainingArguments("out", hub_model_id="me/trained", report_to=[], use_cpu=True)
trainer = Trainer(model, arguments, processing_class=tokenizer)
trainer.push_to_hub(blocking=True)
"""


@pytest.fixture(scope="module")
def hub_with_model(tmp_path_factory, _families, tokenizer):
    """A server to which one process has pushed a model folder, and that folder; for tests that only look."""
    workplace = tmp_path_factory.mktemp("hub")
    folder = _model_folder(workplace / "model", _families["bert"], tokenizer)
    settings = json.loads((folder / "config.json").read_text()) | {"auto_map": {"AutoModel": "net.Net"}}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "net.py").write_text("from .layers import size")
    (folder / "layers.py").write_text("size = 8")
    for path in SCRATCH:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("{}")
    with HubServer() as server:
        result = server.run(PUSH, workplace)
        assert result.returncode == 0, result.stderr
        yield server, folder, json.loads(result.stdout)


@pytest.fixture(scope="module")
def used_hub(hub_with_model, tmp_path_factory):
    """The same server after a second process has loaded the model by its id and pushed a data set and a model."""
    server, folder, _ = hub_with_model
    workplace = tmp_path_factory.mktemp("user")
    (workplace / "sst2" / "data").mkdir(parents=True)
    (workplace / "sst2" / "README.md").write_text(DATASET_CARD)
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
    rows = Dataset.from_dict({"sentence": ["good", "not good", "fine"], "label": [1, 0, 1]}, features=features)
    rows.to_parquet(workplace / "sst2" / "data" / "validation-00000-of-00001.parquet")
    server.add_repo("dataset", "stanfordnlp/sst2", workplace / "sst2")
    result = server.run(USE, workplace)
    assert result.returncode == 0, result.stderr
    return server, folder, workplace, json.loads(result.stdout)


def test_every_file_of_the_model_arrives_byte_for_byte_and_no_other(hub_with_model):
    server, folder, _ = hub_with_model
    pushed = server.files("model", "me/student")
    pushed.pop(".gitattributes")
    kept = [path for path in _files(folder) if path not in SCRATCH]
    assert pushed == {path: (folder / path).read_bytes() for path in kept}
    assert {"net.py", "layers.py"} <= set(pushed)
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "report.json", "plot[1].png"} <= set(
        pushed
    )
    assert {"onnx/model.onnx", "onnx/int8/model_quantized.onnx"} <= set(pushed)
    uploads = [line for line in server.requests if line.startswith("PUT /lfs/")]
    assert len(uploads) == 4  # the weights, the picture and the two graphs, once each: by content, over all the pushes


def test_a_push_returns_the_address_of_its_commit_and_a_second_push_of_the_same_files_changes_nothing(hub_with_model):
    server, _, (_, first, second) = hub_with_model
    assert first.startswith(f"{server.url}/me/student/commit/")
    assert second == first
    assert server.requests.count("POST /api/models/me/student/commit/main") == 1


def test_private_reaches_the_repository(hub_with_model):
    server, _, (secret, *_) = hub_with_model
    assert secret == "me/secret"
    assert server.is_private("model", "me/secret")
    assert not server.is_private("model", "me/student")
    assert server.files("model", "me/secret") == server.files("model", "me/student")


def test_a_pushed_model_loaded_by_its_id_gives_the_same_logits(used_hub, tokenizer):
    _, folder, workplace, _ = used_hub
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        expected = model(**tokenizer(["a good film", "not good"], padding=True, return_tensors="pt")).logits
    np.testing.assert_array_equal(np.load(workplace / "logits.npy"), expected.numpy())


def test_a_pushed_data_set_loads_by_its_id_with_the_same_rows_and_features(used_hub):
    server, _, _, results = used_hub
    assert results == [True, True, ["negative", "positive"]]
    assert server.is_private("dataset", "me/labelled")
    assert any(path.endswith(".parquet") for path in server.files("dataset", "me/labelled"))


def test_the_trainer_pushes_its_model_to_the_server(used_hub):
    server, folder, workplace, _ = used_hub
    pushed = server.files("model", "me/trained")
    assert pushed["model.safetensors"] == (workplace / "out" / "model.safetensors").read_bytes()
    assert pushed["config.json"] and pushed["tokenizer.json"] and pushed["README.md"]


def test_the_server_knows_every_address_the_clients_ask_for(used_hub):
    assert used_hub[0].unknown == []


@pytest.mark.parametrize(
    ("environment", "message"),
    [  # a process each: some are left to the slow suite
        pytest.param(
            {"HF_TOKEN": ""},
            r"PermissionError No token for http://127.*'me/x'.*`hf auth login`, set HF_TOKEN",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"HF_TOKEN": "wrong"},
            r"PermissionError http://127.* refused the token \(status 401\)",
            marks=pytest.mark.slow,
        ),
        ({"HF_TOKEN": "dummy-read"}, r"PermissionError The token may not write to 'me/x' .*\(status 403\)"),
        pytest.param(
            {"HF_ENDPOINT": "http://127.0.0.1:1"},
            r"ConnectionError http://127.0.0.1:1 cannot be reached .*HF_ENDPOINT",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"HF_HUB_OFFLINE": "1"},
            r"ConnectionError http://127.* cannot be reached .*HF_HUB_OFFLINE",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["no token", "wrong token", "read token", "no server", "offline"],
)
def test_what_forbids_a_push_is_said_before_the_work(hub, tmp_path, environment, message):
    assert re.match(message, _check(hub, tmp_path, "'me/x'", **environment))
    assert hub.find("model", "me/x") is None


@pytest.mark.slow
def test_an_existing_repository_that_is_public_or_not_ours_is_refused(hub, tmp_path):
    (tmp_path / "empty").mkdir()
    hub.add_repo("model", "me/open", tmp_path / "empty")
    hub.add_repo("model", "you/theirs", tmp_path / "empty")
    calls = ["'me/open', private=True", "'you/theirs'", "'open'"]
    code = "".join(_call_code("check_can_push", arguments) for arguments in calls)
    public, theirs, ours = hub.run(code, tmp_path).stdout.splitlines()
    assert re.match(r"ValueError private=True, but the model repository 'me/open' exists and is public", public)
    assert re.match(r"PermissionError The token may not write to 'you/theirs'", theirs)
    assert ours == "me/open"


@pytest.mark.slow
def test_an_address_that_is_no_hub_is_said(hub, tmp_path):
    printed = _check(hub, tmp_path, "'me/x'", HF_ENDPOINT=f"{hub.url}/elsewhere")
    assert re.match(r"ConnectionError .*/elsewhere answered with status 404", printed)


@pytest.mark.slow
def test_a_push_that_fails_commits_nothing_and_the_next_one_sends_no_large_file_again(hub, tmp_path):
    (tmp_path / "model").mkdir()
    for name in ("config.json", "README.md", "model.safetensors"):
        (tmp_path / "model" / name).write_text("{}")
    code = _call_code("push_model_folder", "'model', 'me/x'")
    hub.broken.add("/api/models/me/x/commit/main")
    assert re.match(
        r"ConnectionError http.* answered with status 500, so 'me/x' cannot", hub.run(code, tmp_path).stdout
    )
    assert list(hub.files("model", "me/x")) == [".gitattributes"]
    hub.broken.clear()
    assert hub.run(code, tmp_path).stdout.startswith(f"{hub.url}/me/x/commit/")
    assert len([line for line in hub.requests if line.startswith("PUT ")]) == 1


@pytest.mark.parametrize("repo_id", ["me/my/model", "me/two words", ""])
def test_an_illegal_id_is_refused(repo_id):
    with pytest.raises(ValueError, match=r"repo_id=.* is not the id of a repository"):
        check_can_push(repo_id)


def test_an_unfinished_folder_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"has no README.md, so it is not a finished model folder"):
        push_model_folder(tmp_path, "me/x")
    with pytest.raises(FileNotFoundError, match=r"has no config.json and no README.md"):
        push_model_folder(tmp_path / "absent", "me/x")


def test_the_server_serves_ranges_and_says_what_is_missing(hub, tmp_path):
    (tmp_path / "weights.bin").write_bytes(bytes(range(256)))
    hub.add_repo("model", "me/open", tmp_path)
    hub.add_repo("model", "me/hidden", tmp_path, private=True)
    assert _get(f"{hub.url}/me/open/resolve/main/weights.bin", Range="bytes=3-5")[::2] == (206, b"\x03\x04\x05")
    assert _get(f"{hub.url}/me/open/resolve/main/weights.bin", Range="bytes=250-")[2] == bytes(range(250, 256))
    for path, code in [
        ("/me/open/resolve/main/absent", "EntryNotFound"),
        ("/me/open/resolve/other/weights.bin", "RevisionNotFound"),
        ("/me/absent/resolve/main/weights.bin", "RepoNotFound"),
        ("/me/hidden/resolve/main/weights.bin", "RepoNotFound"),
    ]:
        status, headers, _ = _get(hub.url + path)
        assert (status in (401, 404), headers["X-Error-Code"]) == (True, code)


def _model_folder(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    (folder / "report.json").write_text('{"accuracy": 0.9}')
    (folder / "plot[1].png").write_bytes(b"\x89PNG" + os.urandom(100))
    (folder / "onnx" / "int8").mkdir(parents=True)
    (folder / "onnx" / "config.json").write_text("{}")
    (folder / "onnx" / "model.onnx").write_bytes(os.urandom(11 * 2**20))
    (folder / "onnx" / "int8" / "model_quantized.onnx").write_bytes(os.urandom(1000))
    return folder


def _files(folder):
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]


def _call_code(function, arguments):
    """Return a program that prints what a call returns, or the type and message of its error."""
    return f"""
from distil_trainer.hub import {function}
try:
    print({function}({arguments}))
except Exception as error:
    print(type(error).__name__, error)
"""


def _check(server, tmp_path, arguments, **environment):
    result = server.run(_call_code("check_can_push", arguments), tmp_path, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def _get(url, **headers):
    """Return status, headers and content, also of an error."""
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()
