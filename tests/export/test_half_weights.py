"""Weights in 16 bits: the same answers from half the size, where the size is limited, or words why not."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from student_zoo import make_student, toy_rows

from distil_trainer import Classifier
from distil_trainer.export import ladder
from distil_trainer.export.gate import ship
from distil_trainer.export.half_weights import halve_weights
from distil_trainer.export.onnx import export_onnx, onnx_runner
from distil_trainer.inference import predict_logits

TEXTS, _ = toy_rows(40, seed=3)


@pytest.fixture(scope="module")
def _exported_once(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("half") / "onnx"
    export_onnx(make_student("transformer_cnn"), tokenizer, folder, max_length=64)
    return folder


@pytest.fixture
def exported(_exported_once, tmp_path):
    """A folder of its own with an encoder and convolutions as float ONNX."""
    folder = tmp_path / "onnx"
    folder.mkdir()
    for path in _exported_once.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_the_file_has_half_the_size_and_the_same_logits(exported, tokenizer):
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    result = halve_weights(exported)
    after = {path.name: path.read_bytes() for path in exported.iterdir()}
    assert set(after) - set(before) == {"model_fp16.onnx"} and all(after[name] == before[name] for name in before)
    assert result["size_bytes"] == len(after["model_fp16.onnx"]) < 0.6 * result["float_size_bytes"]
    logits = [
        predict_logits(onnx_runner(exported / name), tokenizer, TEXTS) for name in ("model.onnx", "model_fp16.onnx")
    ]
    assert 0 < np.abs(logits[0] - logits[1]).max() < 2e-3 * np.abs(logits[0]).max()
    graph, full = (onnx.load(exported / name).graph for name in ("model_fp16.onnx", "model.onnx"))
    assert [*graph.input, *graph.output] == [*full.input, *full.output]
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    large = [each for each in full.initializer if each.data_type == TensorProto.FLOAT and np.prod(each.dims) >= 1024]
    assert len(large) == result["tensors"] > 10
    assert all(types[f"{each.name}_fp16"] == TensorProto.FLOAT16 for each in large)
    assert types["model.classifier.5.bias"] == TensorProto.FLOAT


def test_a_weight_that_float16_cannot_hold_is_refused_by_the_name_of_its_node(exported):
    model = onnx.load(exported / "model.onnx")
    (table,) = (each for each in model.graph.initializer if each.name.endswith("word_embeddings.weight"))
    weights = numpy_helper.to_array(table).copy()
    weights[7, 7] = -70_000
    table.CopyFrom(numpy_helper.from_array(weights, table.name))
    onnx.save(model, exported / "model.onnx")
    with pytest.raises(RuntimeError, match=r"of /model/\S+/word_embeddings/Gather reach 7e\+04, and float16 ends"):
        halve_weights(exported)
    assert not (exported / "model_fp16.onnx").exists()


def test_a_graph_of_small_tensors_and_a_folder_without_one_are_refused(exported, monkeypatch):
    monkeypatch.setattr("distil_trainer.export.half_weights._FEWEST_NUMBERS", 10**9)
    with pytest.raises(RuntimeError, match="With 0 tensors in float16 the file has .* this graph is hardly weights"):
        halve_weights(exported)
    (exported / "model.onnx").unlink()
    with pytest.raises(FileNotFoundError, match="write it with export_onnx first"):
        halve_weights(exported)


def test_it_ships_where_float_is_too_large_and_int8_not_good_enough(tokenizer, reviews, tmp_path, monkeypatch):
    def refuse(folder, **given):
        raise RuntimeError("no integers today")

    monkeypatch.setattr(ladder, "quantize_dynamic", refuse)
    student = make_student("embedding_bag")
    options = dict(max_length=64, max_size_mb=0.75 * 4e-6 * student.num_parameters())
    report = ship(student, tokenizer, tmp_path / "onnx", reviews, **options)
    assert (report["chosen"], report["chosen_rung"]) == ("model_fp16.onnx", "fp16")
    assert set(report["sha256"]) == {"model.onnx", "model_fp16.onnx"} and report["quantization"] is None
    logits = predict_logits(onnx_runner(tmp_path / "onnx" / "model_fp16.onnx"), tokenizer, reviews["sentence"])
    served = Classifier.from_pretrained(tmp_path / "onnx").logits(reviews["sentence"])
    np.testing.assert_allclose(served, logits, atol=1e-5)
    ship(student, tokenizer, tmp_path / "onnx", reviews, max_length=64)  # over the folder of an export

    real = ladder.onnx_runner

    def runner(path, threads):
        run = real(path, threads)
        return (lambda inputs: run(inputs) + 0.1) if path.name == "model_fp16.onnx" else run

    monkeypatch.setattr(ladder, "onnx_runner", runner)
    with pytest.raises(RuntimeError, match="fp16 .* its logits are not those of model.onnx: it is another function"):
        ship(student, tokenizer, tmp_path / "other", reviews, **options)
