"""Saved pruned models open by the stock classes, by strangers, and by our loader, and become ONNX files."""

import copy
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from gated import INPUTS, assert_same, logits_of, shaken
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig

from distil_trainer.export.onnx import export_onnx, onnx_runner
from distil_trainer.export.staging import staged_folder
from distil_trainer.inference import predict_logits, torch_runner
from distil_trainer.loading import load_classifier
from distil_trainer.pruning import prune
from distil_trainer.pruning.gates import layer_sizes
from distil_trainer.students.pruned_encoders import PrunedBertConfig, PrunedBertForSequenceClassification

FAMILIES = ["bert", "roberta", "electra", "distilbert"]
GIVEN = {
    "uniform": {"num_heads": 3, "intermediate_size": 24},
    "twice": {"num_heads": 2, "intermediate_size": 16},
    "uneven": {"keep": 0.7, "seed": 1},
}
TWICE = ["bert", "distilbert"]
PRUNED = [f"{family} {kind}" for family in FAMILIES for kind in GIVEN if kind != "twice" or family in TWICE]
STOCK_CUTS_HEADS = transformers.__version__.startswith("4.")

# Runs in a process of its own. Our package is installed in this environment, so it is hidden first.
_PROGRAM = """
import importlib.util, json, sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder)]
assert importlib.util.find_spec("distil_trainer") is None
import torch
from transformers import AutoModelForSequenceClassification
folder, names = sys.argv[1], sys.argv[2:]
batch = {name: torch.tensor(values) for name, values in json.load(open(folder + "/batch.json")).items()}
answers = {}
for name in names:
    for trust in (None, True):
        try:
            model = AutoModelForSequenceClassification.from_pretrained(f"{folder}/{name}", trust_remote_code=trust)
        except (ValueError, RuntimeError) as error:
            answers[f"{name} {trust}"] = str(error)
            continue
        assert type(model).__module__.startswith("transformers_modules." if trust else "transformers.models."), name
        with torch.no_grad():
            logits = model.eval()(**batch).logits
            if trust and name.startswith("bert"):
                model.save_pretrained(f"{folder}/{name}_again")
                path = f"{folder}/{name}_again"
                again = AutoModelForSequenceClassification.from_pretrained(path, trust_remote_code=True)
                assert torch.equal(again.eval()(**batch).logits, logits), name
        answers[f"{name} {trust}"] = logits.tolist()
stock = AutoModelForSequenceClassification.from_pretrained(f"{folder}/bert unpruned")
answers["bert unpruned"] = type(stock).__module__
json.dump(answers, open(folder + "/answers.json", "w"))
"""


@pytest.fixture(scope="module")
def saved(_families, tmp_path_factory):
    """A folder with each family pruned in two or three ways, and the models in it by name."""
    folder = tmp_path_factory.mktemp("pruned")
    (folder / "batch.json").write_text(json.dumps({name: values.tolist() for name, values in INPUTS.items()}))
    models = {}
    for family, model in copy.deepcopy(_families).items():
        shaken(model)
        for kind, given in GIVEN.items():
            if kind == "twice" and family not in TWICE:
                continue
            source = models[f"{family} uniform"] if kind == "twice" else model
            models[f"{family} {kind}"] = prune(source, importance="random", **given)
            models[f"{family} {kind}"].save_pretrained(folder / f"{family} {kind}")
        if family == "bert":
            model.save_pretrained(folder / "bert unpruned")
    return folder, models


LIKE_BERT = ("roberta", "electra")
PAIRS_OF_FAMILIES = [("bert", "distilbert"), pytest.param(LIKE_BERT, marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=PAIRS_OF_FAMILIES, ids=" and ".join)
def strangers(request, saved, tmp_path_factory):
    """The pruned models of two families by name, and what a process without our package made of their folders."""
    folder, models = saved
    models = {name: model for name, model in models.items() if name.split()[0] in request.param}
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("HF_")
    }
    environment |= {"HF_HOME": str(elsewhere), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "-c", _PROGRAM, str(folder), *models]
    result = subprocess.run(
        command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return models, json.loads((folder / "answers.json").read_text())


@pytest.mark.slow
def test_a_stranger_who_trusts_the_code_has_the_same_logits(strangers):
    models, answers = strangers
    for name, model in models.items():
        assert_same(torch.tensor(answers[f"{name} True"]), logits_of(model), atol=1e-6)


def test_stock_automodel_of_4_57_opens_uniform_sizes_and_that_of_5_says_it_cannot(strangers):
    models, answers = strangers
    for name in [name for name in models if not name.endswith("uneven")]:
        if STOCK_CUTS_HEADS:
            assert_same(torch.tensor(answers[f"{name} None"]), logits_of(models[name]), atol=1e-6)
        else:
            assert "ignore_mismatched_sizes" in answers[f"{name} None"]


def test_what_a_stranger_does_not_trust_is_not_run(strangers):
    models, answers = strangers
    for name in [name for name in models if name.endswith("uneven")]:
        assert "trust_remote_code=True" in answers[f"{name} None"]
    # Also not where code was trusted in the same process before.
    assert answers["bert unpruned"] == "transformers.models.bert.modeling_bert"


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("name", PRUNED)
def test_our_loader_opens_both_kinds_and_saves_them_with_their_code(saved, tokenizer, tmp_path, name, trust):
    folder, models = saved
    pruned = models[name]
    tokenizer.save_pretrained(folder / name)
    loaded, _ = load_classifier(folder / name, trust_remote_code=trust)
    assert type(loaded) is type(pruned)
    assert type(loaded.config) is type(pruned.config)
    assert layer_sizes(loaded) == layer_sizes(pruned)
    assert_same(logits_of(loaded), logits_of(pruned), atol=1e-6)
    loaded.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == {"encoder_layers.py", "pruned_encoders.py"}


def test_our_loader_gives_a_pruned_model_the_labels_that_it_shall_be_trained_for(saved, tokenizer):
    folder, _ = saved
    tokenizer.save_pretrained(folder / "bert uniform")
    loaded, _ = load_classifier(folder / "bert uniform", label_names=["a", "b", "c"], to_be_trained=True)
    assert loaded.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert loaded.classifier.out_features == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_the_configuration_alone_rebuilds_the_shape_and_automodel_opens_it_where_we_are_imported(saved, family):
    folder, models = saved
    pruned = models[f"{family} uneven"]
    loaded = AutoModelForSequenceClassification.from_pretrained(folder / f"{family} uneven").eval()
    assert_same(logits_of(loaded), logits_of(pruned), atol=1e-6)
    fresh = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(folder / f"{family} uneven"))
    shapes = [{name: weight.shape for name, weight in model.state_dict().items()} for model in (fresh, pruned)]
    assert shapes[0] == shapes[1]


def test_a_configuration_without_heads_or_of_other_layers_is_refused():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    with pytest.raises(ValueError, match="leaves layer 1 none of its 4 heads"):
        PrunedBertForSequenceClassification(BertConfig(pruned_heads={1: [0, 1, 2, 3]}, **sizes))
    with pytest.raises(ValueError, match=r"intermediate_sizes=\[3\] in the configuration names 1 widths for 2 layers"):
        PrunedBertForSequenceClassification(PrunedBertConfig(intermediate_sizes=[3], **sizes))


@pytest.mark.onnx
@pytest.mark.parametrize("kind", ["uniform", "uneven"])
@pytest.mark.parametrize(
    "family", ["bert", "distilbert", *(pytest.param(family, marks=pytest.mark.slow) for family in LIKE_BERT)]
)
def test_pruned_models_of_both_kinds_become_onnx_files(saved, tokenizer, tmp_path, family, kind):
    _, models = saved
    model = models[f"{family} {kind}"]
    if family == "roberta":
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    result = export_onnx(model, tokenizer, tmp_path / "onnx", max_length=32)
    texts = [
        "the film is great",
        "awful",
        "a very moving story with a brilliant actor and a charming scene",
        "not bad",
    ]
    expected = predict_logits(torch_runner(model), tokenizer, texts)
    np.testing.assert_allclose(
        predict_logits(onnx_runner(result["path"]), tokenizer, texts), expected, rtol=0, atol=1e-5
    )
    assert result["engine"] == ("optimum" if kind == "uniform" and STOCK_CUTS_HEADS else "torch.onnx")
    with staged_folder(tmp_path / "onnx") as staging:  # the code in it is no stranger's, so it may be replaced
        (staging / "model.onnx").touch()
