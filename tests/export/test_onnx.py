"""ONNX files that equal their PyTorch model, by either road, or do not appear."""

import builtins
import copy
import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from distil_trainer.export import onnx as onnx_export
from distil_trainer.export.onnx import export_onnx, onnx_runner
from distil_trainer.export.staging import brings_code, code_files, staged_file, staged_folder
from distil_trainer.inference import predict_logits, torch_runner

TEXTS = ["the film is great", "awful", "a very moving story with a brilliant actor and a charming scene", "not bad"]


@pytest.fixture(params=[pytest.param("optimum", marks=pytest.mark.onnx), "torch.onnx"])
def road(request, monkeypatch):
    """Both roads where Optimum works, the direct one elsewhere."""
    if request.param == "optimum":
        pytest.importorskip("optimum.exporters.onnx.convert", exc_type=ImportError)
    else:
        monkeypatch.setattr(onnx_export, "optimum_is_usable", lambda: False)
    return request.param


def test_the_file_has_the_models_logits_for_every_family_by_either_road(any_family_model, tokenizer, tmp_path, road):
    if any_family_model.config.model_type == "roberta":
        tokenizer = without_segments(tokenizer)
    result = export_onnx(any_family_model, tokenizer, tmp_path / "onnx", max_length=64)
    assert result["engine"] == road
    assert result["size_bytes"] == (tmp_path / "onnx" / "model.onnx").stat().st_size
    assert result["parity"]["max_abs_difference"] < 1e-5
    assert [4, 64] in result["parity"]["shapes"]
    for pairs in (None, list(reversed(TEXTS))):
        expected = predict_logits(torch_runner(any_family_model), tokenizer, TEXTS, pairs)
        actual = predict_logits(onnx_runner(result["path"]), tokenizer, TEXTS, pairs)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def without_segments(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer


@pytest.mark.parametrize("any_family_model", ["roberta"], indirect=True)
def test_segments_that_optimum_would_drop_are_kept_by_the_direct_road(any_family_model, tokenizer, tmp_path):
    result = export_onnx(any_family_model, tokenizer, tmp_path / "onnx", max_length=64)
    assert result["engine"] == "torch.onnx"
    pairs = list(reversed(TEXTS))
    expected = predict_logits(torch_runner(any_family_model), tokenizer, TEXTS, pairs)
    actual = predict_logits(onnx_runner(result["path"]), tokenizer, TEXTS, pairs)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def test_the_graph_takes_any_batch_and_length_and_names_its_axes(teacher, tokenizer, tmp_path, road):
    path = export_onnx(teacher, tokenizer, tmp_path / "onnx", max_length=64)["path"]
    for node in onnx.load(path).graph.input:
        assert all(axis.dim_param for axis in node.type.tensor_type.shape.dim), node.name


def test_the_folder_holds_model_configuration_and_tokenizer_and_nothing_else_is_written(
    teacher, tokenizer, tmp_path, road, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    export_onnx(teacher, tokenizer, "onnx", max_length=64)
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]
    assert {"model.onnx", "config.json", "tokenizer.json"} <= {path.name for path in (tmp_path / "onnx").iterdir()}
    config = json.loads((tmp_path / "onnx" / "config.json").read_text())
    assert config["id2label"] == {"0": "negative", "1": "positive"}
    assert AutoTokenizer.from_pretrained(tmp_path / "onnx")(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]


def test_the_model_is_left_as_it_was_even_in_training_mode_and_bfloat16(teacher, tokenizer, tmp_path, road):
    teacher.to(torch.bfloat16).train()
    config, weights = teacher.config.to_dict(), copy.deepcopy(teacher.state_dict())
    result = export_onnx(teacher, tokenizer, tmp_path / "onnx", max_length=64)
    assert teacher.training and all(module.training for module in teacher.modules())
    assert teacher.dtype == torch.bfloat16
    assert teacher.config.to_dict() == config
    assert all(torch.equal(weights[name], weight) for name, weight in teacher.state_dict().items())
    expected = predict_logits(torch_runner(copy.deepcopy(teacher).float()), tokenizer, TEXTS)
    np.testing.assert_allclose(predict_logits(onnx_runner(result["path"]), tokenizer, TEXTS), expected, atol=1e-5)


def test_a_model_just_trained_in_mixed_precision_is_exported(teacher, tokenizer, reviews, tmp_path, road):
    rows = reviews.map(lambda row: tokenizer(row["sentence"]), remove_columns="sentence")
    arguments = TrainingArguments(
        str(tmp_path / "run"), bf16=True, use_cpu=True, max_steps=2, report_to="none", disable_tqdm=True
    )
    trainer = Trainer(teacher, arguments, train_dataset=rows, data_collator=DataCollatorWithPadding(tokenizer))
    trainer.train()
    assert "forward" in trainer.model.__dict__  # the wrapper that would be in the way
    result = export_onnx(trainer.model, tokenizer, tmp_path / "onnx", max_length=64)
    assert result["engine"] == road
    assert "forward" in trainer.model.__dict__


def test_a_file_that_differs_from_pytorch_is_refused_and_not_written(teacher, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "optimum_is_usable", lambda: False)
    export_directly = onnx_export._export_directly

    def export_another_model(model, names, path):
        other = copy.deepcopy(model)
        with torch.no_grad():
            other.classifier.bias += 0.001
        export_directly(other, names, path)

    monkeypatch.setattr(onnx_export, "_export_directly", export_another_model)
    with pytest.raises(RuntimeError, match="differ from PyTorch's by up to 0.001"):
        export_onnx(teacher, tokenizer, tmp_path / "onnx", max_length=64)
    assert list(tmp_path.iterdir()) == []


def test_a_length_that_the_exporter_froze_is_found(teacher, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "optimum_is_usable", lambda: False)

    class FirstTokens(torch.nn.Module):
        def __init__(self, model, names):
            super().__init__()
            self.model, self.names = model, names

        def forward(self, *inputs):
            logits = self.model(**dict(zip(self.names, inputs, strict=True))).logits
            return logits + (0.1 if inputs[0].shape[1] == 16 else 0.0)

    monkeypatch.setattr(onnx_export, "_Logits", FirstTokens)
    with pytest.raises(RuntimeError, match="The ONNX file is not the model"):
        export_onnx(teacher, tokenizer, tmp_path / "onnx", max_length=64)


def test_a_length_beyond_the_model_is_refused(any_family_model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "optimum_is_usable", lambda: False)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = 10**6  # a tokenizer that does not say what its model can read
    with pytest.raises(ValueError, match="max_length=128: the PyTorch model itself cannot read 128 tokens"):
        export_onnx(any_family_model, tokenizer, tmp_path / "onnx", max_length=128)


def test_an_architecture_that_optimum_does_not_know_goes_the_direct_road(teacher, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher.config, "model_type", "homemade")
    assert export_onnx(teacher, tokenizer, tmp_path / "onnx", max_length=64)["engine"] == "torch.onnx"


def test_a_runner_of_a_graph_with_segments_reads_missing_ones_as_zeros(teacher, tokenizer, tmp_path):
    run = onnx_runner(export_onnx(teacher, tokenizer, tmp_path / "onnx", max_length=64)["path"], threads=1)
    inputs = {name: np.asarray(values) for name, values in tokenizer(TEXTS, padding=True).items()}
    expected = run(inputs | {"unknown": inputs["input_ids"]})
    del inputs["token_type_ids"]
    np.testing.assert_array_equal(run(inputs), expected)


def test_a_runner_wants_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="Give the .onnx file itself"):
        onnx_runner(tmp_path)


def test_without_onnxruntime_the_extra_is_named(teacher, tokenizer, tmp_path, monkeypatch):
    real_import = builtins.__import__

    def no_onnxruntime(name, *rest):
        if name == "onnxruntime":
            raise ImportError(name)
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_onnxruntime)
    with pytest.raises(ImportError, match=r'pip install "distil_trainer\[onnx\]"'):
        export_onnx(teacher, tokenizer, tmp_path / "onnx")


@pytest.mark.slow
def test_importing_the_export_modules_imports_neither_onnxruntime_nor_optimum():
    code = "import sys, distil_trainer.export.gate; print({'onnx', 'onnxruntime', 'optimum'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_an_earlier_export_is_replaced_whole(tmp_path):
    folder = tmp_path / "onnx"
    for content, extra in (("old", "model_quantized.onnx"), ("new", "report.json")):
        with staged_folder(folder) as staging:
            (staging / "model.onnx").write_text(content)
            (staging / extra).write_text("")
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "report.json"}
    assert (folder / "model.onnx").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]


def test_a_failed_or_killed_export_leaves_the_earlier_one(tmp_path):
    folder = tmp_path / "onnx"
    with staged_folder(folder) as staging:
        (staging / "model.onnx").write_text("old")
    with pytest.raises(KeyError), staged_folder(folder) as staging:
        (staging / "model.onnx").write_text("half")
        raise KeyError
    (tmp_path / ".onnx.partial").mkdir()  # as a killed run leaves it
    (tmp_path / ".onnx.partial" / "model.onnx").write_text("half")
    assert (folder / "model.onnx").read_text() == "old"
    with staged_folder(folder) as staging:
        assert list(staging.iterdir()) == []
        (staging / "model.onnx").write_text("new")
    assert (folder / "model.onnx").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]


def test_what_a_killed_quantization_leaves_does_not_stop_the_next_export(tmp_path):
    folder = tmp_path / "onnx"
    with staged_folder(folder) as staging:
        (staging / "model.onnx").write_text("old")
    (folder / ".quantized.partial").mkdir()  # as a killed run leaves it
    (folder / ".quantized.partial" / "model_quantized.onnx").write_text("half")
    with staged_file(folder / "model_quantized.onnx") as path:
        assert list(path.parent.iterdir()) == []
        path.write_text("whole")
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "model_quantized.onnx"}
    (folder / ".quantized.partial").mkdir()
    (folder / "__pycache__").mkdir()  # as it is left by who imported classifier.py
    with staged_folder(folder) as staging:
        (staging / "model.onnx").write_text("new")
    assert {path.name for path in folder.iterdir()} == {"model.onnx"}


def test_a_failed_file_leaves_the_earlier_one(tmp_path):
    (tmp_path / "model_quantized.onnx").write_text("old")
    with pytest.raises(KeyError), staged_file(tmp_path / "model_quantized.onnx") as path:
        path.write_text("half")
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["model_quantized.onnx"]
    assert (tmp_path / "model_quantized.onnx").read_text() == "old"


def test_a_folder_with_other_files_is_not_replaced(tmp_path):
    (tmp_path / "model.safetensors").write_text("weights")
    with pytest.raises(FileExistsError, match=r"not of an export \(model.safetensors\)"), staged_folder(tmp_path):
        pass
    with pytest.raises(FileExistsError, match="is a file"), staged_folder(tmp_path / "model.safetensors"):
        pass
    assert (tmp_path / "model.safetensors").read_text() == "weights"


def test_code_is_found_wherever_a_configuration_refers_to_it_in_the_folder(tmp_path):
    assert code_files(tmp_path) == set() and not brings_code(tmp_path)
    for name, text in {"net": "from .layers import x", "layers": "x = 1", "cutter": "y = 1", "train": "z = 1"}.items():
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "net.Net", "AutoConfig": "gone.C"}}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["cutter.Slow", None]}}))
    assert code_files(tmp_path) == {"net.py", "layers.py", "cutter.py"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": [None, "cutter.Fast"]}))  # the old form
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "someone/net--net.Net"}}))
    assert code_files(tmp_path) == {"cutter.py"}
    assert brings_code(tmp_path)
    (tmp_path / "config.json").write_text("no JSON")
    assert not brings_code(tmp_path)


def test_the_tokenizer_is_saved_under_a_name_that_both_majors_know(teacher, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "saved")
    export_onnx(teacher, AutoTokenizer.from_pretrained(tmp_path / "saved"), tmp_path / "onnx", max_length=64)
    settings = json.loads((tmp_path / "onnx" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"


@pytest.mark.onnx
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_optimum_loads_the_exported_folder(teacher, tokenizer, tmp_path):
    optimum = pytest.importorskip("optimum.onnxruntime", exc_type=ImportError)
    pytest.importorskip("optimum.exporters.onnx.convert", exc_type=ImportError)
    export_onnx(teacher, tokenizer, tmp_path / "onnx", max_length=64)
    loaded = optimum.ORTModelForSequenceClassification.from_pretrained(tmp_path / "onnx")
    with torch.no_grad():
        inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
        torch.testing.assert_close(loaded(**inputs).logits, teacher(**inputs).logits, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_real_teacher_is_exported_exactly(minilm_folder, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(minilm_folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder)
    assert export_onnx(model, tokenizer, tmp_path / "onnx")["parity"]["max_abs_difference"] < 2e-5
