"""Static int8 files: integer where it counts, calibrated on texts, independent of the batch."""

import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from student_zoo import toy_rows, train_student

from distil_trainer.export import static_quantization
from distil_trainer.export.onnx import export_onnx, onnx_runner
from distil_trainer.export.quantization import WEIGHT_SETTINGS
from distil_trainer.export.static_quantization import choose_calibration_rows, quantize_static
from distil_trainer.inference import predict_logits

TEXTS, _ = toy_rows(64, seed=3)
OTHER_TEXTS, _ = toy_rows(200, seed=4)


@pytest.fixture(scope="module")
def exported_cnn(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cnn") / "onnx"
    export_onnx(train_student("glove_cnn", tokenizer), tokenizer, folder, max_length=64)
    return folder


@pytest.fixture
def exported(exported_cnn, tmp_path):
    """A trained convolutional student, exported; a folder of its own for each test."""
    folder = tmp_path / "onnx"
    folder.mkdir()
    for path in exported_cnn.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_convolutions_products_and_table_become_integers_and_nothing_else_is_written(exported, tokenizer, monkeypatch):
    monkeypatch.chdir(exported.parent)
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    result = quantize_static("onnx", tokenizer, TEXTS, max_length=64)
    after = {path.name: path.read_bytes() for path in exported.iterdir()}
    assert [path.name for path in exported.parent.iterdir()] == ["onnx"]
    assert set(after) - set(before) == {"model_quantized.onnx"}
    assert all(after[name] == content for name, content in before.items())
    assert result["nodes"] == {"QLinearConv": 3, "QGemm": 2, "Gather": 1}
    assert result["size_bytes"] == len(after["model_quantized.onnx"]) < result["float_size_bytes"] / 3
    assert (result["engine"], result["activation_type"], result["per_channel"]) == ("onnxruntime", "QUInt8", True)
    assert result["calibration"]["rows"] == 64
    stored = {tensor.name: tensor for tensor in onnx.load(result["path"]).graph.initializer}
    large = [tensor for tensor in stored.values() if np.prod(tensor.dims) > 500]
    assert {tensor.data_type for tensor in large} <= {TensorProto.INT8, TensorProto.UINT8}
    # One scale for each of the 32 filters.
    scales = [tensor for name, tensor in stored.items() if "convolutions" in name and name.endswith("weight_scale")]
    assert [list(tensor.dims) for tensor in scales] == [[32], [32], [32]]


def test_logits_stay_close_and_do_not_depend_on_the_batch(exported, tokenizer):
    result = quantize_static(exported, tokenizer, TEXTS, max_length=64)
    run, run_float = onnx_runner(result["path"]), onnx_runner(exported / "model.onnx")
    expected = predict_logits(run_float, tokenizer, OTHER_TEXTS)
    batched = predict_logits(run, tokenizer, OTHER_TEXTS)
    alone = predict_logits(run, tokenizer, OTHER_TEXTS, tokens_per_batch=1)
    np.testing.assert_allclose(batched, alone, rtol=0, atol=1e-5)
    assert np.abs(batched - expected).mean() < 0.05
    assert np.array_equal(batched.argmax(1), expected.argmax(1))
    difference = predict_logits(run, tokenizer, TEXTS) - predict_logits(run_float, tokenizer, TEXTS)
    assert result["calibration"]["mean_abs_logit_difference"] == pytest.approx(np.abs(difference).mean(), abs=1e-6)


@pytest.mark.parametrize("cpu", list(WEIGHT_SETTINGS))
def test_each_kind_of_cpu_gets_its_form_of_weights(exported, tokenizer, monkeypatch, cpu):
    monkeypatch.setattr(static_quantization, "cpu_configuration", lambda: cpu)
    result = quantize_static(exported, tokenizer, TEXTS, max_length=64)
    signed, reduce_range = WEIGHT_SETTINGS[cpu]
    assert result["cpu_configuration"] == cpu
    assert (result["weight_type"], result["reduce_range"]) == ("QInt8" if signed else "QUInt8", reduce_range)
    assert result["nodes"] == {"QLinearConv": 3, "QGemm": 2, "Gather": 1}
    (kernel, *_) = (
        onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(result["path"]).graph.initializer
        if tensor.name.endswith("convolutions.0.weight_quantized")
    )
    assert kernel.dtype == (np.int8 if signed else np.uint8)
    assert np.abs(kernel.astype(int) - (0 if signed else 128)).max() <= (64 if reduce_range else 128)
    expected = predict_logits(onnx_runner(exported / "model.onnx"), tokenizer, OTHER_TEXTS)
    assert np.abs(predict_logits(onnx_runner(result["path"]), tokenizer, OTHER_TEXTS) - expected).mean() < 0.05


def test_nodes_named_to_stay_in_float_do_in_a_file_that_need_only_be_smaller(exported, tokenizer, monkeypatch):
    whole = quantize_static(exported, tokenizer, TEXTS, max_length=64)
    assert whole["float_nodes"] == []
    nodes = ["/model/student/cnn/convolutions.1/Conv", "/model/classifier/classifier.5/Gemm"]
    monkeypatch.setattr(static_quantization, "_SMALLEST_GAIN", 4.1)
    part = quantize_static(exported, tokenizer, TEXTS, max_length=64, float_nodes=nodes)
    assert part["float_nodes"] == nodes and part["nodes"] == {"QLinearConv": 2, "QGemm": 1, "Gather": 1}
    differences = [each["calibration"]["mean_abs_logit_difference"] for each in (part, whole)]
    assert 0 < differences[0] < differences[1]


def test_pairs_calibrate_a_student_of_pairs(tokenizer, tmp_path):
    export_onnx(train_student("glove_cnn", tokenizer, pairs=True), tokenizer, tmp_path / "onnx", max_length=64)
    result = quantize_static(tmp_path / "onnx", tokenizer, TEXTS, TEXTS[::-1], max_length=64)
    assert result["nodes"] == {"QLinearConv": 3, "QGemm": 2, "Gather": 1}
    labels = [
        predict_logits(onnx_runner(tmp_path / "onnx" / name), tokenizer, OTHER_TEXTS, OTHER_TEXTS[::-1]).argmax(1)
        for name in ("model.onnx", "model_quantized.onnx")
    ]
    assert np.mean(labels[0] == labels[1]) >= 0.99


def test_the_root_logger_is_left_alone(exported, tokenizer, caplog):
    handlers, filters = list(logging.getLogger().handlers), list(logging.getLogger().filters)
    quantize_static(exported, tokenizer, TEXTS, max_length=64)
    assert (logging.getLogger().handlers, logging.getLogger().filters) == (handlers, filters)
    assert not [record for record in caplog.records if record.name == "root"]


def test_of_many_texts_512_are_read_evenly_spaced_and_blank_ones_are_left_out():
    texts, pairs = choose_calibration_rows([str(row) for row in range(5110)])
    assert (len(texts), texts[:3], texts[-1], pairs) == (512, ["0", "10", "20"], "5109", None)
    texts, pairs = choose_calibration_rows(["a", " ", *"bcdefghi"], ["A", "B", *"CDEFGHI", ""])
    assert ("".join(texts), "".join(pairs)) == ("abcdefgh", "ACDEFGHI")


@pytest.mark.parametrize(
    "texts, pairs, error, message",
    [
        ([], None, ValueError, "has 0 rows, of which 0 are to be read and not blank; at least 8"),
        (["good"] * 7, None, ValueError, "has 7 rows, of which 7 are to be read"),
        (["good"] * 7 + [" \n"], None, ValueError, "has 8 rows, of which 7 are to be read and not blank"),
        (["good"] * 8, ["bad"] * 7, ValueError, "calibration_texts has 8 rows, calibration_text_pairs has 7"),
        (["good"] * 9 + [None], None, TypeError, r"calibration_texts\[9\]=None is not a string"),
        (["good"] * 9, ["good"] * 8 + [3], TypeError, r"calibration_text_pairs\[8\]=3 is not a string"),
        ("a good film indeed", None, TypeError, "calibration_texts='a good film indeed' is one string"),
    ],
)
def test_unfit_calibration_texts_are_refused(exported, tokenizer, texts, pairs, error, message):
    with pytest.raises(error, match=message):
        quantize_static(exported, tokenizer, texts, pairs)
    assert not (exported / "model_quantized.onnx").exists()


def test_a_folder_without_a_model_is_refused(tmp_path, tokenizer):
    with pytest.raises(FileNotFoundError, match="write it with export_onnx first"):
        quantize_static(tmp_path, tokenizer, TEXTS)


def test_a_graph_in_which_nothing_becomes_an_integer_is_refused_and_not_written(tmp_path, tokenizer):
    value = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "length"])
    graph = helper.make_graph(
        [helper.make_node("Cast", ["input_ids"], ["logits"], "cast", to=TensorProto.FLOAT)], "g", [value], [output]
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "model.onnx"
    )
    with pytest.raises(RuntimeError, match="Static quantization left no integer nodes"):
        quantize_static(tmp_path, tokenizer, TEXTS)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_file_that_is_not_much_smaller_is_refused_and_an_earlier_one_stays(exported, tokenizer, monkeypatch):
    quantize_static(exported, tokenizer, TEXTS, max_length=64)
    before = (exported / "model_quantized.onnx").read_bytes()
    monkeypatch.setattr(static_quantization, "_SMALLEST_GAIN", 4.1)
    with pytest.raises(RuntimeError, match="a file more than 4.1 times smaller are needed.*Use quantize_dynamic"):
        quantize_static(exported, tokenizer, TEXTS, max_length=64)
    assert (exported / "model_quantized.onnx").read_bytes() == before
    assert not (exported / ".quantized.partial").exists()


def test_float_logits_that_are_not_finite_are_refused(exported, tokenizer):
    model = onnx.load(exported / "model.onnx")
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "model.classifier.5.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([0, np.inf], np.float32), bias.name))
    onnx.save(model, exported / "model.onnx")
    with pytest.raises(RuntimeError, match="The float model gives logits that are not finite on 64 of 64 calibration"):
        quantize_static(exported, tokenizer, TEXTS, max_length=64)
    assert not (exported / "model_quantized.onnx").exists()


def test_int8_logits_that_are_not_finite_are_refused(exported, tokenizer, monkeypatch):
    def runner(path):
        run = onnx_runner(path)
        return (lambda inputs: run(inputs) * np.nan) if path.name == "model_quantized.onnx" else run

    monkeypatch.setattr(static_quantization, "onnx_runner", runner)
    with pytest.raises(RuntimeError, match="The int8 model gives logits that are not finite"):
        quantize_static(exported, tokenizer, TEXTS, max_length=64)
    assert not (exported / "model_quantized.onnx").exists()
