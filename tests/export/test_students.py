"""Students of every architecture as ONNX, opened by strangers, and as int8 that is int8."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from student_zoo import toy_rows, train_student
from transformers import AutoConfig

from distil_trainer.export import quantization
from distil_trainer.export.onnx import export_onnx, onnx_runner
from distil_trainer.export.quantization import quantize_dynamic
from distil_trainer.export.staging import staged_folder
from distil_trainer.export.static_quantization import quantize_static
from distil_trainer.inference import predict_logits, torch_runner
from distil_trainer.small_tokenizers import word_level_tokenizer

ARCHITECTURES = ["bilstm", "densenet_cnn", "densenet_dsa", "embedding_bag", "glove_cnn", "transformer_cnn"]
READ_PAIRS = ["bilstm", "embedding_bag", "glove_cnn", "transformer_cnn"]
STUDENTS = [(name, False) for name in ARCHITECTURES] + [(name, True) for name in READ_PAIRS]
TEXTS, _ = toy_rows(64, seed=3)
OTHER_TEXTS, LABELS = toy_rows(200, seed=4)


@pytest.fixture(scope="module")
def exported_students(tokenizer, tmp_path_factory):
    """A function from an architecture to its trained student, the folder of its export and what `export_onnx` said."""
    made = {}

    def export(architecture, pairs=False):
        if (architecture, pairs) not in made:
            model = train_student(architecture, tokenizer, pairs)
            folder = tmp_path_factory.mktemp(architecture) / "onnx"
            made[architecture, pairs] = model, folder, export_onnx(model, tokenizer, folder, max_length=64)
        return made[architecture, pairs]

    return export


@pytest.mark.parametrize("architecture, pairs", STUDENTS)
def test_the_graph_is_the_student_and_takes_what_it_reads(exported_students, tokenizer, architecture, pairs):
    model, folder, result = exported_students(architecture, pairs)
    assert result["engine"] == "torch.onnx"
    graph = onnx.load(result["path"]).graph
    segments = {"token_type_ids"} if pairs else set()
    assert {node.name for node in graph.input} == {"input_ids", "attention_mask"} | segments
    assert all(axis.dim_param for node in graph.input for axis in node.type.tensor_type.shape.dim)
    seconds = TEXTS[::-1] if pairs else None
    expected = predict_logits(torch_runner(model), tokenizer, TEXTS, seconds)
    for batching in ({}, {"tokens_per_batch": 1}):
        actual = predict_logits(onnx_runner(result["path"]), tokenizer, TEXTS, seconds, **batching)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_folder_holds_the_code_but_no_weights_twice_and_can_be_exported_to_again(
    exported_students, tokenizer, architecture
):
    model, folder, _ = exported_students(architecture)
    names = {path.name for path in folder.iterdir()}
    assert {f"{architecture}.py", "config.json", "model.onnx", "tokenizer.json"} <= names
    assert not any(name.endswith((".safetensors", ".bin")) for name in names)
    assert AutoConfig.from_pretrained(folder).auto_map["AutoConfig"].startswith(f"{architecture}.")
    with staged_folder(folder) as staging:
        for path in folder.iterdir():
            (staging / path.name).write_bytes(path.read_bytes())
    assert {path.name for path in folder.iterdir()} == names


def test_a_script_of_the_user_beside_an_export_is_not_replaced(exported_students, tmp_path):
    _, folder, _ = exported_students("embedding_bag")
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "train.py").write_text("print('mine')")
    with pytest.raises(FileExistsError, match=r"not of an export \(train.py\)"), staged_folder(tmp_path):
        pass
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileExistsError, match=r"not of an export \(embedding_bag.py, "), staged_folder(tmp_path):
        pass


@pytest.mark.parametrize("architecture", ["bilstm", "glove_cnn"])
def test_a_graph_refuses_what_its_network_would_misread(exported_students, tokenizer, architecture):
    _, folder, single = exported_students(architecture)
    _, pair_folder, paired = exported_students(architecture, True)
    with pytest.raises(ValueError, match="this .* reads single texts .type_vocab_size=1. and would read the pair as"):
        predict_logits(onnx_runner(single["path"]), tokenizer, TEXTS, TEXTS)
    with pytest.raises(ValueError, match="compares the two texts of a pair .* no token of the batch is of a second"):
        predict_logits(onnx_runner(paired["path"]), tokenizer, TEXTS)
    with pytest.raises(ValueError, match="A token has the number 2147483647, .* table of 3000.*pairs=True"):
        predict_logits(onnx_runner(single["path"]), word_level_tokenizer(TEXTS), TEXTS, TEXTS)
    with pytest.raises(ValueError, match="reads single texts"):
        quantize_static(folder, tokenizer, TEXTS, TEXTS)
    with pytest.raises(ValueError, match="compares the two texts of a pair"):
        quantize_static(pair_folder, tokenizer, TEXTS)


def test_token_types_of_pairs_are_not_invented(exported_students, tokenizer):
    model, _, exported = exported_students("bilstm", True)
    silent = copy.deepcopy(tokenizer)
    silent.model_input_names = ["input_ids", "attention_mask"]
    for runner in (torch_runner(model), onnx_runner(exported["path"])):
        with pytest.raises(ValueError, match="compares the two texts of a pair"):
            predict_logits(runner, silent, TEXTS, TEXTS[::-1])


def test_a_graph_of_another_padding_token_is_not_made(tokenizer, tmp_path):
    student = train_student("embedding_bag", tokenizer)
    student.config.pad_token_id = 3
    with pytest.raises(ValueError, match="has pad_token_id=3, its tokenizer has 0 "):
        export_onnx(student, tokenizer, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


@pytest.mark.onnx
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_optimum_loads_a_registered_student(exported_students, tokenizer, architecture):
    optimum = pytest.importorskip("optimum.onnxruntime", exc_type=ImportError)
    pytest.importorskip("optimum.exporters.onnx.convert", exc_type=ImportError)
    model, folder, _ = exported_students(architecture)
    loaded = optimum.ORTModelForSequenceClassification.from_pretrained(folder, file_name="model.onnx")
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    expected = predict_logits(torch_runner(model), tokenizer, TEXTS)
    np.testing.assert_allclose(loaded(**inputs).logits.numpy(), expected, rtol=0, atol=1e-4)
    quantize = INT8[architecture][0]
    path = (quantize(folder) if quantize is quantize_dynamic else quantize(folder, tokenizer, TEXTS))["path"]
    quantized = optimum.ORTModelForSequenceClassification.from_pretrained(folder, file_name="model_quantized.onnx")
    expected = onnx_runner(path)({name: values.numpy() for name, values in inputs.items()})
    np.testing.assert_allclose(quantized(**inputs).logits.numpy(), expected, rtol=0, atol=1e-6)


_STRANGER = """
import importlib.util, sys
# An editable installation of this package puts the repository on the path of every process.
sys.path = [path for path in sys.path if path != {root!r}]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder)]
assert importlib.util.find_spec("distil_trainer") is None
import numpy as np
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer
for folder, output in zip(sys.argv[1::2], sys.argv[2::2]):
    model = ORTModelForSequenceClassification.from_pretrained(folder, file_name="model.onnx", trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    np.save(output, model(**tokenizer({texts!r}, padding=True, return_tensors="pt")).logits.numpy())
"""


@pytest.mark.onnx
def test_a_stranger_without_this_package_opens_every_student_with_its_code(exported_students, tokenizer, tmp_path):
    pytest.importorskip("optimum.onnxruntime", exc_type=ImportError)
    pytest.importorskip("optimum.exporters.onnx.convert", exc_type=ImportError)
    code = _STRANGER.format(root=str(Path(__file__).resolve().parents[2]), texts=TEXTS[:8])
    arguments = []
    for architecture in ARCHITECTURES:
        arguments += [str(exported_students(architecture)[1]), str(tmp_path / f"{architecture}.npy")]
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for architecture in ARCHITECTURES:
        expected = predict_logits(torch_runner(exported_students(architecture)[0]), tokenizer, TEXTS[:8])
        np.testing.assert_allclose(np.load(tmp_path / f"{architecture}.npy"), expected, rtol=0, atol=1e-4)


# What becomes integer: all convolutions and products with a weight, the LSTM, and the tables (`Gather` in static int8,
# what `DequantizeLinear` follows in dynamic int8).
INT8 = {
    "bilstm": (quantize_dynamic, {"MatMulInteger": 2, "DynamicQuantizeLSTM": 1, "DequantizeLinear": 1}),
    "densenet_cnn": (quantize_static, {"QLinearConv": 7, "QGemm": 1, "Gather": 1}),
    "densenet_dsa": (quantize_static, {"QLinearConv": 5, "QGemm": 2, "MatMulIntegerToFloat": 1, "Gather": 1}),
    "embedding_bag": (quantize_dynamic, {"MatMulInteger": 2, "DequantizeLinear": 1}),
    "glove_cnn": (quantize_static, {"QLinearConv": 3, "QGemm": 2, "Gather": 1}),
    "transformer_cnn": (quantize_static, {"QLinearConv": 2, "QGemm": 2, "MatMulIntegerToFloat": 12, "Gather": 3}),
}


@pytest.mark.parametrize("architecture, pairs", STUDENTS)
def test_int8_is_int8_small_and_answers_as_float_does(exported_students, tokenizer, architecture, pairs):
    _, folder, _ = exported_students(architecture, pairs)
    quantize, expected_nodes = INT8[architecture]
    seconds, other_seconds = (texts[::-1] if pairs else None for texts in (TEXTS, OTHER_TEXTS))
    if quantize is quantize_static:
        result = quantize_static(folder, tokenizer, TEXTS, seconds, max_length=64)
    else:
        result = quantize_dynamic(folder)
        result["nodes"].pop("DynamicQuantizeLinear")
    assert result["nodes"] == expected_nodes
    assert result["size_bytes"] < 0.4 * result["float_size_bytes"]
    run = onnx_runner(result["path"])
    expected = predict_logits(onnx_runner(folder / "model.onnx"), tokenizer, OTHER_TEXTS, other_seconds).argmax(1)
    gold = np.array(LABELS) & np.array(LABELS[::-1] if pairs else LABELS)
    assert np.mean(expected == gold) > 0.95  # it learned something, so that agreement means something
    for tokens_per_batch in (1, 32 * 16):
        actual = predict_logits(run, tokenizer, OTHER_TEXTS, other_seconds, tokens_per_batch=tokens_per_batch)
        assert np.mean(actual.argmax(1) == expected) >= 0.98
    for length in (1, 64):  # lengths that calibration has not seen, and a row of nothing but padding
        inputs = {name: np.ones((2, length), np.int64) for name in ("input_ids", "attention_mask")}
        inputs["attention_mask"][1] = 0
        if pairs:
            inputs["token_type_ids"] = (np.arange(length) >= length // 2)[None].astype(np.int64).repeat(2, axis=0)
        assert np.isfinite(run(inputs)).all()


@pytest.mark.parametrize("cpu", list(quantization.WEIGHT_SETTINGS))
def test_dynamic_convolutions_have_unsigned_weights_on_any_cpu(exported_students, monkeypatch, cpu):
    _, folder, _ = exported_students("glove_cnn")
    monkeypatch.setattr(quantization, "cpu_configuration", lambda: cpu)
    result = quantize_dynamic(folder)
    assert (result["engine"], result["cpu_configuration"]) == ("onnxruntime", cpu)
    assert (result["weight_type"], result["reduce_range"]) == ("QUInt8", False)
    assert result["nodes"]["ConvInteger"] == 3
    types = {tensor.data_type for tensor in onnx.load(result["path"]).graph.initializer if np.prod(tensor.dims) > 500}
    assert types == {onnx.TensorProto.UINT8}


@pytest.mark.onnx
def test_both_engines_make_the_same_file_of_convolutions(exported_students, tokenizer, monkeypatch):
    pytest.importorskip("optimum.exporters.onnx.convert", exc_type=ImportError)
    _, folder, _ = exported_students("glove_cnn")
    results = [quantize_dynamic(folder)]
    logits = [predict_logits(onnx_runner(results[0]["path"]), tokenizer, TEXTS)]
    monkeypatch.setattr(quantization, "brings_code", lambda folder: False)  # as of a stock model with convolutions
    results.append(quantize_dynamic(folder))
    logits.append(predict_logits(onnx_runner(results[1]["path"]), tokenizer, TEXTS))
    assert [result.pop("engine") for result in results] == ["onnxruntime", "optimum"]
    sizes = [result.pop("size_bytes") for result in results]
    assert abs(sizes[0] - sizes[1]) < 1000
    assert results[0] == results[1]
    np.testing.assert_allclose(logits[0], logits[1], rtol=0, atol=1e-6)
