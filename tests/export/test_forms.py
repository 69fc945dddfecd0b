"""The forms of a graph between float and int8: fused nodes, and int8 but for the nodes that it harms most."""

import json
import logging
import shutil

import numpy as np
import onnx
import pytest
import torch
from datasets import Dataset
from student_zoo import make_student, toy_rows

from distil_trainer.export import ladder, optimization, quantization, static_quantization
from distil_trainer.export.gate import ship
from distil_trainer.export.ladder import MIXED_RUNGS
from distil_trainer.export.onnx import export_onnx, onnx_runner
from distil_trainer.export.optimization import optimize_onnx
from distil_trainer.export.quantization import quantize_dynamic
from distil_trainer.export.sensitivity import most_harmful, node_harms
from distil_trainer.export.serving import add_runtime, serving_facts
from distil_trainer.export.static_quantization import quantize_static
from distil_trainer.inference import predict_logits, torch_runner

TEXTS, _ = toy_rows(40, seed=3)


@pytest.fixture(scope="module")
def _exported_once(_families, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    export_onnx(_families["bert"].eval(), tokenizer, folder, max_length=64)
    return folder


@pytest.fixture
def exported(_exported_once, tmp_path):
    """A folder of its own with the tiny BERT as float ONNX."""
    return shutil.copytree(_exported_once, tmp_path / "onnx")


def logits_of(path, tokenizer):
    return predict_logits(onnx_runner(path, threads=1), tokenizer, TEXTS)


@pytest.mark.parametrize("through_optimum", [True, False])
def test_an_encoder_is_fused_and_gives_the_same_logits(exported, tokenizer, monkeypatch, through_optimum):
    monkeypatch.setattr(
        optimization, "optimum_is_usable", lambda usable=optimization.optimum_is_usable: through_optimum and usable()
    )
    before = (exported / "model.onnx").read_bytes()
    result = optimize_onnx(exported)
    # The attention of transformers 5 has another form, which onnxruntime 1.31 does not know.
    assert result["fused"]["SkipLayerNormalization"] == 8 and result["nodes"] < 0.6 * result["nodes_before"]
    assert result["size_bytes"] == (exported / "model_optimized.onnx").stat().st_size
    assert (exported / "model.onnx").read_bytes() == before
    assert {path.name for path in exported.glob("*.onnx")} == {"model.onnx", "model_optimized.onnx"}
    expected = logits_of(exported / "model.onnx", tokenizer)
    np.testing.assert_allclose(logits_of(exported / "model_optimized.onnx", tokenizer), expected, atol=1e-5)


def test_a_network_of_ours_is_optimized_by_onnxruntime_itself(tokenizer, tmp_path):
    export_onnx(make_student("bilstm"), tokenizer, tmp_path / "onnx", max_length=64)
    result = optimize_onnx(tmp_path / "onnx")
    assert result["engine"] == "onnxruntime" and result["nodes"] < result["nodes_before"]
    files = [tmp_path / "onnx" / name for name in ("model.onnx", "model_optimized.onnx")]
    np.testing.assert_allclose(*(logits_of(file, tokenizer) for file in files), atol=1e-5)


def test_a_graph_that_cannot_be_optimized_is_refused(exported, tmp_path):
    shutil.copy(exported / "model.onnx", tmp_path / "once.onnx")
    optimize_onnx(exported)
    (exported / "config.json").write_text("{}")  # an architecture that nothing is known of
    optimize_onnx(exported)
    (exported / "model_optimized.onnx").replace(exported / "model.onnx")
    with pytest.raises(RuntimeError, match="there is nothing to fuse in this graph"):
        optimize_onnx(exported)
    assert not (exported / "model_optimized.onnx").exists()
    with pytest.raises(FileNotFoundError, match="has no model.onnx"):
        optimize_onnx(tmp_path / "nowhere")


def test_the_harm_of_a_node_is_what_int8_of_it_alone_does(exported, tokenizer, monkeypatch):
    quantize_dynamic(exported)
    source, quantized = exported / "model.onnx", exported / "model_quantized.onnx"
    harms = node_harms(source, quantized, tokenizer, TEXTS, max_length=64)
    kinds = {node.name: node.op_type for node in onnx.load(source).graph.node}
    assert {kinds[name] for name in harms} == {"MatMul", "Gemm", "Gather"}
    assert len(harms) == 4 * 6 + 2 + 3  # of each layer; pooler and classifier; tables of words, positions, types
    expected = logits_of(source, tokenizer)
    # The tiny file grows: a node has more bytes than its 8-bit weights save.
    monkeypatch.setattr(quantization, "_verify", lambda source, quantized: {})
    words = next(name for name in harms if name.endswith("/word_embeddings/Gather"))
    for name in (max(harms, key=harms.get), words):
        quantize_dynamic(exported, float_nodes=set(harms) - {name})
        alone = np.abs(logits_of(quantized, tokenizer) - expected).mean()
        assert harms[name] == pytest.approx(alone, rel=0.05) and alone > 0


@pytest.mark.parametrize("architecture", ["bilstm", "glove_cnn"])
def test_recurrences_and_convolutions_are_measured_too(architecture, tokenizer, tmp_path):
    export_onnx(make_student(architecture), tokenizer, tmp_path / "onnx", max_length=64)
    quantize_dynamic(tmp_path / "onnx")
    files = [tmp_path / "onnx" / name for name in ("model.onnx", "model_quantized.onnx")]
    harms = node_harms(*files, tokenizer, TEXTS, max_length=64)
    kinds = {node.name: node.op_type for node in onnx.load(files[0]).graph.node}
    assert {"bilstm": "LSTM", "glove_cnn": "Conv"}[architecture] in {kinds[name] for name in harms}
    assert all(harm > 0 for harm in harms.values())


# In the first a ReLU goes when the convolution before it becomes integer; in the second several nodes read one tensor.
@pytest.mark.parametrize("architecture, number", [("densenet_cnn", 9), ("transformer_cnn", 19)])
def test_the_harm_of_static_int8_is_that_of_a_file_with_the_node_alone(
    architecture, number, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr(static_quantization, "_verify", lambda *given: {})
    folder = tmp_path / "onnx"
    export_onnx(make_student(architecture), tokenizer, folder, max_length=64)
    source, quantized = folder / "model.onnx", folder / "model_quantized.onnx"
    quantize_static(folder, tokenizer, TEXTS, max_length=64)
    harms = node_harms(source, quantized, tokenizer, TEXTS, max_length=64)
    assert len(harms) == number
    kinds = {node.name: node.op_type for node in onnx.load(source).graph.node}
    worst = {kind: max((name for name in harms if kinds[name] == kind), key=harms.get) for kind in ("Conv", "Gather")}
    for name in worst.values():
        quantize_static(folder, tokenizer, TEXTS, max_length=64, float_nodes=set(harms) - {name})
        alone = np.abs(logits_of(quantized, tokenizer) - logits_of(source, tokenizer)).mean()
        assert harms[name] == pytest.approx(alone, rel=0.02) and alone > 0


def test_the_most_harmful_nodes_are_the_fewest_that_make_up_the_share():
    harms = {"a": 1.0, "b": 6.0, "c": 3.0}
    assert most_harmful(harms, 0.5) == ["b"]
    assert most_harmful(harms, 0.6) == ["b"]
    assert most_harmful(harms, 0.7) == ["b", "c"]
    assert most_harmful(harms, 0.95) == ["b", "c", "a"]


def test_nodes_named_to_stay_in_float_do(exported):
    whole = quantize_dynamic(exported)
    names = [node.name for node in onnx.load(exported / "model.onnx").graph.node]
    nodes = [name for name in names if name.endswith(("/layer.0/output/dense/MatMul", "/classifier/Gemm"))]
    part = quantize_dynamic(exported, float_nodes=nodes)
    assert part["float_nodes"] == nodes and whole["float_nodes"] == []
    assert part["nodes"]["MatMulInteger"] == whole["nodes"]["MatMulInteger"] - 2


def test_where_int8_loses_accuracy_the_measured_nodes_stay_in_float(teacher, tokenizer, tmp_path, monkeypatch):
    logits = predict_logits(torch_runner(teacher), tokenizer, TEXTS)
    with torch.no_grad():
        teacher.classifier.bias[1] -= float(np.median(logits[:, 1] - logits[:, 0]))
    labels = predict_logits(torch_runner(teacher), tokenizer, TEXTS).argmax(axis=1)
    rows = Dataset.from_dict({"sentence": TEXTS, "label": labels.tolist()})
    monkeypatch.setattr(quantization, "_verify", lambda source, quantized: {})
    real_quantize, real_runner, settings = ladder.quantize_dynamic, ladder.onnx_runner, []

    def quantize(folder, **given):
        settings.append(given)
        return real_quantize(folder, **given)

    def runner(path, threads):
        run, good = real_runner(path, threads), len(settings) == 3
        return (lambda inputs: -run(inputs)) if path.name == "model_quantized.onnx" and not good else run

    monkeypatch.setattr(ladder, "quantize_dynamic", quantize)
    monkeypatch.setattr(ladder, "onnx_runner", runner)
    options = dict(max_length=64, max_accuracy_drop=0.3, calibration_texts=TEXTS)
    report = ship(teacher, tokenizer, tmp_path / "onnx", rows, **options)
    assert report["chosen_rung"] == "int8 dynamic, 80 % of the harm in float"
    assert [rung["name"] for rung in report["rungs"][3:]] == ["int8 dynamic", *MIXED_RUNGS]
    half, most = (given["float_nodes"] for given in settings[1:])
    assert most[: len(half)] == half and len(half) < len(most)
    assert report["quantization"]["float_nodes"] == most


def test_a_tokenizer_that_the_runtime_reads_otherwise_is_left_to_transformers(exported, teacher, tokenizer, caplog):
    facts = serving_facts(tokenizer, teacher.config, max_length=64, text_pair=False)
    assert facts["padding"] == {"input_ids": 0, "token_type_ids": 0} and facts["labels"] == ["negative", "positive"]
    file = exported / "tokenizer.json"
    changed = json.loads(file.read_text())
    changed["normalizer"] = None  # the other one lower-cases
    file.write_text(json.dumps(changed))
    with caplog.at_level(logging.WARNING, logger="distil_trainer"):
        assert not add_runtime(exported, tokenizer, facts, ["good", "Good"], None)
        file.unlink()
        assert not add_runtime(exported, tokenizer, facts, ["good"], None)
    assert "its tokenizer.json reads 'Good' as" in caplog.text and "has no tokenizer.json" in caplog.text
    assert not (exported / "classifier.py").exists()
