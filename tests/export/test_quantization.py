"""int8 files that are int8."""

import collections
import json
import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from distil_trainer.export import quantization
from distil_trainer.export.onnx import export_onnx, onnx_runner
from distil_trainer.export.quantization import quantize_dynamic
from distil_trainer.inference import predict_logits

TEXTS = ["the film is great", "awful", "a very moving story with a brilliant actor and a charming scene", "not bad"]


@pytest.fixture(params=[pytest.param("optimum", marks=pytest.mark.onnx), "onnxruntime"])
def engine(request, monkeypatch):
    """Both quantizers where Optimum works, onnxruntime's own elsewhere."""
    if request.param == "optimum":
        pytest.importorskip("optimum.exporters.onnx.convert", exc_type=ImportError)
    else:
        monkeypatch.setattr(quantization, "optimum_is_usable", lambda: False)
    return request.param


@pytest.fixture
def exported(teacher, tokenizer, tmp_path):
    export_onnx(teacher, tokenizer, tmp_path / "onnx", max_length=64)
    return tmp_path / "onnx"


def counts_and_types(path):
    graph = onnx.load(path).graph
    counts = collections.Counter(node.op_type for node in graph.node)
    return counts, {tensor.name: tensor.data_type for tensor in graph.initializer}


def test_weights_become_integers_for_every_family(any_family_model, tokenizer, tmp_path, engine, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export_onnx(any_family_model, tokenizer, "onnx", max_length=64)
    before = {path.name: path.read_bytes() for path in (tmp_path / "onnx").iterdir()}
    result = quantize_dynamic("onnx")
    after = {path.name: path.read_bytes() for path in (tmp_path / "onnx").iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]
    assert set(after) - set(before) == {"model_quantized.onnx"}
    assert all(after[name] == content for name, content in before.items())
    assert result["engine"] == engine
    counts, types = counts_and_types(result["path"])
    # Four layers of six products with a weight; the scores stay in float: two products a layer.
    assert counts["MatMulInteger"] >= 4 * 6
    assert counts["MatMul"] == 4 * 2
    assert result["nodes"]["MatMulInteger"] == counts["MatMulInteger"]
    assert result["nodes"]["DynamicQuantizeLinear"] == counts["DynamicQuantizeLinear"] > 0
    weights = TensorProto.INT8 if result["weight_type"] == "QInt8" else TensorProto.UINT8
    assert sum(data_type == weights for data_type in types.values()) >= 4 * 6
    assert (
        result["size_bytes"]
        == (tmp_path / "onnx" / "model_quantized.onnx").stat().st_size
        < result["float_size_bytes"]
    )
    expected = predict_logits(onnx_runner("onnx/model.onnx"), tokenizer, TEXTS)
    assert np.abs(predict_logits(onnx_runner(result["path"]), tokenizer, TEXTS) - expected).max() < 0.05


def test_parts_kept_in_float_stay_in_float(exported, engine):
    whole = quantize_dynamic(exported)
    careful = quantize_dynamic(exported, keep_float=("down_projections",))
    most_careful = quantize_dynamic(exported, keep_float=("down_projections", "embeddings"))
    assert whole["size_bytes"] < careful["size_bytes"] < most_careful["size_bytes"]
    # The second product of the feed-forward block of each of the four layers.
    assert whole["nodes"]["MatMulInteger"] - careful["nodes"]["MatMulInteger"] == 4
    assert careful["nodes"]["DequantizeLinear"] == 3
    assert "DequantizeLinear" not in most_careful["nodes"]
    assert most_careful["keep_float"] == ["down_projections", "embeddings"]


@pytest.mark.onnx
@pytest.mark.parametrize("cpu", list(quantization.WEIGHT_SETTINGS))
def test_both_engines_make_the_same_file_for_each_kind_of_cpu(exported, tokenizer, monkeypatch, cpu):
    pytest.importorskip("optimum.exporters.onnx.convert", exc_type=ImportError)
    monkeypatch.setattr(quantization, "cpu_configuration", lambda: cpu)
    results, logits = [], []
    for usable in (True, False):
        monkeypatch.setattr(quantization, "optimum_is_usable", lambda usable=usable: usable)
        results.append(quantize_dynamic(exported))
        logits.append(predict_logits(onnx_runner(results[-1]["path"]), tokenizer, TEXTS))
    assert [result.pop("engine") for result in results] == ["optimum", "onnxruntime"]
    sizes = [result.pop("size_bytes") for result in results]
    assert abs(sizes[0] - sizes[1]) < 1000
    assert results[0] == results[1]
    assert results[0]["cpu_configuration"] == cpu
    np.testing.assert_allclose(logits[0], logits[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "machine, flags, expected",
    [
        ("x86_64", {"sse2", "avx2"}, "avx2"),
        ("x86_64", {"avx2", "avx512f"}, "avx512"),
        ("x86_64", {"avx2", "avx512f", "avx512_vnni"}, "avx512_vnni"),
        ("x86_64", {"avx2", "avx_vnni"}, "avx512_vnni"),
        ("AMD64", set(), "avx2"),
        ("aarch64", set(), "arm64"),
        ("arm64", set(), "arm64"),
    ],
)
def test_the_configuration_follows_the_cpu(monkeypatch, machine, flags, expected):
    monkeypatch.setattr(quantization.platform, "machine", lambda: machine)
    monkeypatch.setattr(quantization, "_cpu_flags", lambda: flags)
    assert quantization.cpu_configuration() == expected


def test_a_cpu_of_which_nothing_can_be_read_has_no_flags(monkeypatch):
    def unreadable(path):
        raise OSError

    monkeypatch.setattr(quantization.Path, "read_text", unreadable)
    assert quantization._cpu_flags() == set()


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="write it with export_onnx first"):
        quantize_dynamic(tmp_path)


def test_an_unknown_part_is_refused(exported):
    with pytest.raises(ValueError, match=r"keep_float=\('head',\): \['head'\] is not one of"):
        quantize_dynamic(exported, keep_float=("head",))


def test_a_model_with_code_in_another_repository_is_quantized_without_it(exported):
    settings = json.loads((exported / "config.json").read_text())
    text = json.dumps(settings | {"auto_map": {"AutoConfig": "someone/net--net.NetConfig"}})
    (exported / "config.json").write_text(text)
    try:
        assert quantize_dynamic(exported)["engine"] == "onnxruntime"
    finally:
        (exported / "config.json").write_text(json.dumps(settings))


def test_a_graph_in_which_nothing_becomes_an_integer_is_refused_and_not_written(tmp_path, engine):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], "relu")], "g", [value], [output])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "model.onnx"
    )
    with pytest.raises(RuntimeError, match="Quantization left no integer nodes"):
        quantize_dynamic(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_the_root_logger_is_left_alone(exported, monkeypatch, caplog):
    monkeypatch.setattr(quantization, "optimum_is_usable", lambda: False)
    handlers, filters = list(logging.getLogger().handlers), list(logging.getLogger().filters)
    quantize_dynamic(exported)
    assert (logging.getLogger().handlers, logging.getLogger().filters) == (handlers, filters)
    assert not [record for record in caplog.records if record.name == "root"]
