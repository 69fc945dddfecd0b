"""The runtime without torch: the answers of PyTorch, from one file that needs three libraries."""

import ast
import copy
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from datasets import Dataset
from foreign_tokenizers import byte_level_tokenizer
from transformers import BertConfig, BertForSequenceClassification, RobertaConfig, RobertaForSequenceClassification
from vocabulary import LABELS, WORDS

from distil_trainer import Classifier, onnx_runner, predict_logits, runtime, ship, torch_runner
from distil_trainer.export import ladder
from distil_trainer.students import GloveCnnConfig, GloveCnnForSequenceClassification

_GENERATOR = np.random.default_rng(5)
TEXTS = [" ".join(_GENERATOR.choice(WORDS, length)) for length in (1, 3, 7, 12, 30, 5, 90, 2, 9, 4, 16, 6)]
SECONDS = TEXTS[::-1]
CASES = ["bert", "bert pairs", "bert scores", "roberta", "glove_cnn", "glove_cnn pairs"]
CASES.append(pytest.param("xlnet", marks=pytest.mark.slow))
INT8 = "model_quantized.onnx"


def _model(case, tokenizer, teacher_zoo):
    torch.manual_seed(1)
    labels = dict(id2label=dict(enumerate(LABELS)), label2id={name: i for i, name in enumerate(LABELS)})
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    if case == "xlnet":
        return teacher_zoo("xlnet")
    if case == "roberta":
        tokenizer = byte_level_tokenizer(model_input_names=["input_ids", "attention_mask"])
        config = RobertaConfig(vocab_size=320, pad_token_id=1, max_position_embeddings=80, **sizes, **labels)
        model = RobertaForSequenceClassification(config)
    elif case.startswith("glove_cnn"):
        types = {"type_vocab_size": 2} if case.endswith("pairs") else {}
        config = GloveCnnConfig(
            vocab_size=3000,
            embedding_size=16,
            kernel_sizes=[2, 3],
            num_filters=8,
            classifier_size=8,
            **types,
            **labels,
        )
        model = GloveCnnForSequenceClassification(config)
    else:
        config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=80, **sizes, **labels)
        if case.endswith("scores"):
            config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=80, num_labels=1, **sizes)
        model = BertForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model.eval(), tokenizer


def _ship(case, folder, tokenizer, teacher_zoo=None):
    """Ship a tiny model, float and int8, and return it and its tokenizer."""
    model, tokenizer = _model(case, tokenizer, teacher_zoo)
    pairs = case.endswith("pairs")
    rows = {"sentence": TEXTS, "label": [0.5 * row for row in range(12)] if case.endswith("scores") else [0, 1] * 6}
    rows = Dataset.from_dict(rows | ({"second": SECONDS} if pairs else {}))
    ship(
        model,
        tokenizer,
        folder,
        rows,
        text_pair_column="second" if pairs else None,
        max_length=40,
        max_accuracy_drop=0.99,
        threads=1,
    )
    return model, tokenizer


@pytest.fixture(scope="module")
def shipped(tmp_path_factory, tokenizer):
    """The folder of a tiny BERT, for tests that only read it."""
    folder = tmp_path_factory.mktemp("shipped") / "onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ladder, "optimize_onnx", _refuse)
        model, tokenizer = _ship("bert", folder, tokenizer)
    return folder, model, tokenizer


@pytest.fixture(scope="module")
def shipped_pairs(tmp_path_factory, tokenizer):
    """The folder of a tiny BERT that reads pairs, float alone."""
    folder = tmp_path_factory.mktemp("shipped_pairs") / "onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ladder.Ladder, "climb", lambda *given: None)
        _ship("bert pairs", folder, tokenizer)
    return folder


@pytest.fixture
def classifier(shipped):
    return Classifier.from_pretrained(shipped[0])


def _refuse(folder):
    raise RuntimeError("left out, to be quick")


@pytest.mark.parametrize("case", CASES)
def test_the_runtime_answers_as_pytorch_and_as_onnx_do(case, tmp_path, tokenizer, teacher_zoo, monkeypatch):
    monkeypatch.setattr(ladder, "optimize_onnx", _refuse)
    model, tokenizer = _ship(case, tmp_path / "onnx", tokenizer, teacher_zoo)
    columns = (TEXTS, SECONDS) if case.endswith("pairs") else (TEXTS,)
    side = "left" if case == "xlnet" else "right"
    expected = predict_logits(torch_runner(model), tokenizer, *columns, max_length=40, padding_side=side)
    served = Classifier.from_pretrained(tmp_path / "onnx", file_name="model.onnx", tokens_per_batch=128)
    np.testing.assert_allclose(served.logits(*columns), expected, atol=2e-4 * max(1, np.abs(expected).max()))
    int8 = onnx_runner(tmp_path / "onnx" / INT8, threads=1)
    expected_int8 = predict_logits(int8, tokenizer, *columns, max_length=40, padding_side=side)
    served_int8 = Classifier.from_pretrained(tmp_path / "onnx", file_name=INT8)
    np.testing.assert_allclose(served_int8.logits(*columns), expected_int8, atol=1e-5)
    answers = served(*columns)
    if case.endswith("scores"):
        assert [answer["score"] for answer in answers] == pytest.approx(expected[:, 0].tolist(), rel=1e-3, abs=1e-4)
        with pytest.raises(ValueError, match="gives scores, which have no probabilities"):
            served.probabilities(*columns)
    else:
        assert [answer["label"] for answer in answers] == [LABELS[label] for label in expected.argmax(axis=1)]
        probabilities = torch.softmax(torch.tensor(expected), dim=1).numpy()
        np.testing.assert_allclose(served.probabilities(*columns), probabilities, atol=1e-3)
    alone = served(*(column[2] for column in columns))
    assert alone["label"] == answers[2]["label"] and alone["score"] == pytest.approx(answers[2]["score"], abs=1e-4)


@pytest.mark.onnx
def test_the_runtime_answers_as_optimum_in_a_pipeline_does(shipped):
    optimum = pytest.importorskip("optimum.onnxruntime", exc_type=ImportError)
    from transformers import AutoTokenizer, pipeline

    folder, _, _ = shipped
    for file in ("model.onnx", INT8):
        model = optimum.ORTModelForSequenceClassification.from_pretrained(folder, file_name=file)
        pipe = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder))
        served = Classifier.from_pretrained(folder, file_name=file)
        for text in TEXTS[:4]:
            [expected], answer = pipe(text, truncation=True, max_length=40), served(text)
            assert answer["label"] == expected["label"]
            assert answer["score"] == pytest.approx(expected["score"], abs=1e-3)


def test_the_file_imports_three_libraries_and_the_standard_one():
    names = set()
    for node in ast.walk(ast.parse(Path(runtime.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    assert names - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "tokenizers"}


def _run(folder, lines, *options, blocked=("torch", "transformers", "datasets", "distil_trainer", "optimum", "onnx")):
    """Run the shipped file where importing any of these fails."""
    code = (
        "import runpy, sys\n"
        f"for name in {blocked!r}: sys.modules[name] = None\n"
        f"sys.argv[0] = {str(folder / 'classifier.py')!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-I", "-c", code, *options]
    return subprocess.run(command, input=lines, capture_output=True, cwd=folder.parent)


def test_the_shipped_file_labels_lines_where_torch_and_this_package_are_not(shipped, classifier):
    folder, _, _ = shipped
    texts = [*TEXTS, "", "naïve café 東京 \u2028 line"]
    result = _run(folder, ("\n".join(texts) + "\r\n").encode(), "--scores", "--threads", "2", "--instances", "2")
    assert (result.returncode, result.stderr) == (0, b"")
    expected = [f"{answer['label']}\t{answer['score']:.4f}" for answer in classifier(texts)]
    lines = [line.split("\t") for line in result.stdout.decode().split("\n")[:-1]]
    assert [f"{label}\t{float(score):.4f}" for label, score in lines] == expected
    requirements = (folder / "requirements.txt").read_text().split()
    assert requirements == [
        f"{module.__name__}=={module.__version__}"
        for module in (np, sys.modules["onnxruntime"], sys.modules["tokenizers"])
    ]


class _Input:
    """Standard input of which only so much is there at a time."""

    def __init__(self, *pieces):
        self.buffer = self
        self.pieces = list(pieces)

    def read1(self, size):
        return self.pieces.pop(0) if self.pieces else b""


def _main(monkeypatch, capsys, folder, *pieces, options=()):
    monkeypatch.setattr(sys, "stdin", _Input(*pieces))
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    status = runtime.main(["--folder", str(folder), *options])
    return (status, *capsys.readouterr())


def test_lines_are_answered_as_they_come(shipped, classifier, monkeypatch, capsys):
    answered = []

    class Slow(_Input):
        def read1(self, size):
            answered.append(capsys.readouterr().out.count("\n"))
            return super().read1(size)

    monkeypatch.setattr(sys, "stdin", Slow(b"a good fi", b"lm\na bad plot\ndu", b"ll", b"\n\n", b"great"))
    assert runtime.main(["--folder", str(shipped[0])]) == 0
    assert answered == [0, 0, 2, 0, 2, 0]
    assert capsys.readouterr().out.split("\n")[:-1] == [classifier("great")["label"]]


def test_lines_of_pairs_have_one_tab_and_scores_are_numbers(shipped_pairs, tmp_path, tokenizer, monkeypatch, capsys):
    served = Classifier.from_pretrained(shipped_pairs)
    status, out, error = _main(monkeypatch, capsys, shipped_pairs, b"a film\ta plot\nbad\n")
    assert (status, out) == (1, "") and "Line 2 has 0 tabs, and this model reads pairs" in error
    status, out, _ = _main(monkeypatch, capsys, shipped_pairs, b"a film\ta plot\n")
    assert (status, out) == (0, served("a film", "a plot")["label"] + "\n")
    monkeypatch.setattr(ladder.Ladder, "climb", lambda *given: None)
    _ship("bert scores", tmp_path / "scores", tokenizer)
    status, out, _ = _main(monkeypatch, capsys, tmp_path / "scores", b"a film\n")
    score = Classifier.from_pretrained(tmp_path / "scores")("a film")["score"]
    assert (status, float(out)) == (0, pytest.approx(score, rel=1e-5))


def test_bytes_that_are_no_text_and_a_wrong_folder_end_in_one_line(shipped, tmp_path, monkeypatch, capsys):
    status, out, error = _main(monkeypatch, capsys, shipped[0], b"good\n", b"bad\n\xff\xfe\n")
    assert status == 1 and out.count("\n") == 1 and "Line 3 is not UTF-8" in error and "Traceback" not in error
    status, out, error = _main(monkeypatch, capsys, tmp_path / "nowhere", b"good\n")
    assert (status, out) == (1, "") and "is not a folder" in error


def test_a_reader_that_has_enough_is_not_complained_of(shipped):
    command = f"{sys.executable} {shipped[0] / 'classifier.py'} | head -n 1"
    lines = "\n".join(TEXTS * 8000).encode()
    result = subprocess.run(["bash", "-c", command], input=lines, capture_output=True)
    assert result.stdout.decode().strip() in LABELS and result.stderr == b""


def test_eight_threads_get_the_answers_of_one(shipped, classifier):
    texts = [*TEXTS, "the film " * 500] * 3
    expected = [classifier(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(classifier, texts)) == expected
        both = list(pool.map(lambda _: classifier.logits(texts), range(8)))
    assert all(np.array_equal(each, both[0]) for each in both)
    several = Classifier.from_pretrained(shipped[0], instances=3, tokens_per_batch=64)
    one = Classifier.from_pretrained(shipped[0], tokens_per_batch=64)
    np.testing.assert_array_equal(several.logits(texts), one.logits(texts))


def test_hard_inputs_get_a_right_answer(shipped, classifier, monkeypatch):
    _, model, tokenizer = shipped
    served = Classifier.from_pretrained(shipped[0], file_name="model.onnx")
    texts = ["", "x" * 100_000, "the film " * 12_500, "\x00\n\t", "\U0001f600"]
    expected = predict_logits(torch_runner(model), tokenizer, texts, max_length=40)
    np.testing.assert_allclose(served.logits(texts), expected, atol=1e-4 * max(1, np.abs(expected).max()))
    assert classifier([]) == [] and classifier.logits([]).shape == (0, 2)
    assert classifier(iter(TEXTS[:2])) == classifier(TEXTS[:2])
    monkeypatch.setattr(runtime, "_ROWS_PER_WINDOW", 5)
    np.testing.assert_allclose(
        served.logits(TEXTS), predict_logits(torch_runner(model), tokenizer, TEXTS, max_length=40), atol=2e-3
    )


@pytest.mark.parametrize(("rows", "characters"), [(3, 10**9), (10**9, 300), (2, 300), (10**9, 1)])
def test_long_texts_are_tokenized_a_few_at_a_time(shipped, monkeypatch, rows, characters):
    classifier = Classifier.from_pretrained(shipped[0], file_name="model.onnx")
    texts = ["the film " * 20, "bad", "a good plot " * 50, "dull", "", "great film"] * 2
    expected, windows = classifier.logits(texts), []
    monkeypatch.setattr(runtime, "_ROWS_PER_WINDOW", rows)
    monkeypatch.setattr(runtime, "_CHARACTERS_PER_WINDOW", characters)

    def encode(window, pairs, start, real=classifier._encode):
        windows.append([len(text) for text in window])
        return real(window, pairs, start)

    monkeypatch.setattr(classifier, "_encode", encode)
    np.testing.assert_allclose(classifier.logits(texts), expected, atol=1e-4 * max(1, np.abs(expected).max()))
    assert [size for window in windows for size in window] == [len(text) for text in texts]
    assert all(len(window) <= rows and (sum(window) <= characters or len(window) == 1) for window in windows)
    assert 1 < len(windows) <= len(texts)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((["good", None],), TypeError, "Text 1 is None, a NoneType: a text must be a string"),
        ((3,), TypeError, "'3' is of type int, where a list of texts is needed"),
        (({"text": "good"},), TypeError, "is of type dict, where a list of texts is needed"),
        ((pandas.DataFrame({"text": ["good"]}),), TypeError, "is of type DataFrame, .* of a table, give one column"),
        ((["good"], "bad"), TypeError, "'bad' is of type str, where a list of texts is needed"),
        (([b"good"],), TypeError, "Text 0 is b'good', a bytes"),
        ((["good", ("good", "bad")],), TypeError, r"Text 1 is \('good', 'bad'\), a tuple"),
        (("good \ud83d",), TypeError, "Text 0 has half of a surrogate pair at position 5"),
        ((["good"], ["bad"]), ValueError, "measured on single texts: give no second"),
    ],
)
def test_what_is_no_text_is_refused(classifier, given, error, message):
    with pytest.raises(error, match=message):
        classifier(*given)


def test_pairs_are_wanted_where_the_model_reads_them(shipped_pairs):
    served = Classifier.from_pretrained(shipped_pairs)
    for given, message in (
        (("good",), "measured on pairs of texts: give second texts too"),
        ((["good"], ["bad", "dull"]), "1 texts and 2 second texts"),
    ):
        with pytest.raises(ValueError, match=message):
            served(*given)
    with pytest.raises(TypeError, match="Text 1 is 7"):
        served(["good", "bad"], ["dull", 7])


def _copy(folder, target, **files):
    """Link a folder's files into another, but for those that are given anew (`None` leaves one out)."""
    target.mkdir()
    for path in folder.iterdir():
        key = path.name.replace(".", "_")
        if key not in files:
            os.link(path, target / path.name)
        elif files[key] is not None:
            (target / path.name).write_bytes(files[key])
    return target


def test_one_changed_byte_is_refused(shipped, tmp_path):
    folder, _, _ = shipped
    chosen = json.loads((folder / "report.json").read_text())["chosen"]
    content = bytearray((folder / chosen).read_bytes())
    content[len(content) // 2] ^= 1
    changed = _copy(folder, tmp_path / "changed", **{chosen.replace(".", "_"): bytes(content)})
    with pytest.raises(ValueError, match="this is not the file that was measured"):
        Classifier.from_pretrained(changed)


@pytest.mark.parametrize(
    ("files", "options", "error", "message"),
    [
        ({"tokenizer_json": None}, {}, FileNotFoundError, "has no tokenizer.json"),
        ({"report_json": None}, {}, FileNotFoundError, "has no report.json"),
        ({"report_json": b"{}"}, {}, ValueError, "has no `sha256` and `serving`"),
        ({"report_json": b"<html>"}, {}, ValueError, "report.json is no JSON"),
        ({"tokenizer_json": b"version https://git-lfs"}, {}, ValueError, "tokenizer.json has the sha256 .*Git LFS"),
        ({"model_onnx": None}, {"file_name": "model.onnx"}, FileNotFoundError, "has no model.onnx"),
        ({}, {"file_name": "other.onnx"}, ValueError, "file_name='other.onnx' is not among the measured files"),
        ({}, {"threads": 0}, ValueError, "threads=0 must be at least 1"),
        ({}, {"instances": 0}, ValueError, "instances=0 must be at least 1"),
        ({}, {"tokens_per_batch": 0}, ValueError, "tokens_per_batch=0 must be at least 1"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(shipped, tmp_path, files, options, error, message):
    folder = _copy(shipped[0], tmp_path / "copy", **files)
    with pytest.raises(error, match=message):
        Classifier.from_pretrained(folder, **options)


def _without_tokenizer_hash(folder):
    report = json.loads((folder / "report.json").read_text())
    assert report.pop("tokenizer_sha256")
    return json.dumps(report).encode()


def test_a_file_that_is_no_tokenizer_is_refused_where_the_report_is_older_than_its_hash(shipped, tmp_path):
    files = {"tokenizer_json": b"version https://git-lfs", "report_json": _without_tokenizer_hash(shipped[0])}
    with pytest.raises(ValueError, match="tokenizer.json is no tokenizer that can be"):
        Classifier.from_pretrained(_copy(shipped[0], tmp_path / "copy", **files))


def test_a_graph_with_other_inputs_is_refused(shipped, tmp_path):
    import hashlib

    import onnx

    model = onnx.load(shipped[0] / "model.onnx")
    model.graph.input.append(onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, [1]))
    content = model.SerializeToString()
    report = json.loads((shipped[0] / "report.json").read_text())
    report["sha256"]["model.onnx"] = hashlib.sha256(content).hexdigest()
    folder = _copy(shipped[0], tmp_path / "copy", model_onnx=content, report_json=json.dumps(report).encode())
    with pytest.raises(ValueError, match=r"has the inputs \['pixels'\], which no tokenizer makes"):
        Classifier.from_pretrained(folder, file_name="model.onnx")


def test_a_text_without_tokens_is_refused(shipped, tmp_path):
    content = json.loads((shipped[0] / "tokenizer.json").read_text()) | {"post_processor": None}
    files = {"tokenizer_json": json.dumps(content).encode(), "report_json": _without_tokenizer_hash(shipped[0])}
    served = Classifier.from_pretrained(_copy(shipped[0], tmp_path / "copy", **files))
    assert served("good")["label"] in LABELS
    with pytest.raises(ValueError, match="Text 1 .''. has no tokens"):
        served(["good", ""])


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_graph_gets_the_inputs_that_it_was_judged_by(shipped, classifier, side):
    given, expected = [], []

    def record(inputs, into):
        into.append(inputs)
        return np.zeros((len(inputs["input_ids"]), 2), dtype=np.float32)

    class Session:
        def run(self, names, feed):
            return [record(feed, given)]

    classifier._session = Session()
    classifier._serving = classifier._serving | {
        "padding_side": side,
        "padding": {"input_ids": 5, "token_type_ids": 0},
    }
    classifier._tokens_per_batch = 100
    classifier.logits(TEXTS)
    padded = copy.deepcopy(shipped[2])
    padded.pad_token = padded.convert_ids_to_tokens(5)
    predict_logits(
        lambda inputs: record(inputs, expected), padded, TEXTS, max_length=40, tokens_per_batch=100, padding_side=side
    )
    assert len(given) == len(expected) > 1
    for feed, inputs in zip(given, expected, strict=True):
        assert feed.keys() == inputs.keys()
        assert all(np.array_equal(feed[name], inputs[name]) for name in feed)
