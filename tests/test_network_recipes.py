"""The recipes with networks over word vectors run from their first line to a folder that a stranger can load."""

import json

import pytest
import torch
from recipe_files import RECIPES, load_recipe
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distil_trainer import ModelArguments
from distil_trainer.small_tokenizers import word_level_tokenizer
from distil_trainer.stages import make_student
from distil_trainer.students import EmbeddingBagConfig, EmbeddingBagForSequenceClassification

SMALL = {
    "bilstm": "{lstm_size: 64, classifier_size: 16, embedding_size: 16}",
    "densenet_cnn": "{embedding_size: 16}",
    "densenet_dsa": "{embedding_size: 16}",
    "embedding_bag": "{embedding_size: 16}",
    "glove_cnn": "{num_filters: 32, embedding_size: 16}",
}
# The others have tests of their own: test_glue_recipe.py, test_korean_recipes.py, test_transfer_recipes.py.
NETWORK_RECIPES = sorted(
    path.stem for path in RECIPES.glob("s*_to_*.py") if "NETWORK_DEFAULTS" in path.read_text(encoding="utf-8")
)


@pytest.fixture
def network_arguments(sst2_arguments):
    """Arguments of a recipe with a network, for a tiny teacher and two steps of training."""
    place = sst2_arguments.index("--student_layers")
    return sst2_arguments[:place] + sst2_arguments[place + 3 :]


def run(name, arguments, *words):
    recipe = load_recipe(name)
    if recipe.DEFAULTS.get("text_column", "sentence") != "sentence":
        arguments = [*arguments, "--text_column", "sentence"]
    small = SMALL[recipe.DEFAULTS["student_type"]]
    return recipe.main([*arguments, "--student_config", small, "--teacher_max_steps", "1", *words])


def test_there_are_five_such_recipes():
    assert NETWORK_RECIPES == [
        "snips_bert_to_glove_cnn",
        "sst2_bert_to_bilstm",
        "sst2_electra_to_densenet_cnn",
        "sst2_electra_to_densenet_dsa",
        "sst2_electra_to_glove_cnn",
    ]


@pytest.mark.parametrize("name", NETWORK_RECIPES)
def test_a_recipe_with_a_network_goes_the_whole_road(name, network_arguments, tmp_path, reviews):
    report = run(name, network_arguments)
    out = tmp_path / "out"
    tokenizer = AutoTokenizer.from_pretrained(out)
    student = AutoModelForSequenceClassification.from_pretrained(out).eval()
    texts = reviews["sentence"][:4]
    with torch.no_grad():
        logits = student(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    assert logits.shape == (4, 2) and logits.isfinite().all()
    assert student.config.model_type in report["student"]["base"]
    assert "word vectors distilled from the teacher" in report["student"]["base"]
    assert {row["role"] for row in report["models"]} >= {"teacher", "control", "student", "onnx fp32", "onnx int8"}
    assert (out / f"{student.config.model_type}.py").is_file()
    assert "trust_remote_code=True" in (out / "README.md").read_text()


def test_a_second_start_makes_nothing_again(network_arguments, monkeypatch):
    report = run("sst2_bert_to_bilstm", network_arguments)
    monkeypatch.setattr("distil_trainer.fresh_student.word_vectors", None)
    assert run("sst2_bert_to_bilstm", network_arguments) == report


@pytest.mark.parametrize("kind", ["word", "wordpiece", "bpe", "unigram"])
def test_any_tokenizer_goes_with_any_start_of_the_vectors(kind, network_arguments, tmp_path):
    words = ["--student_tokenizer", kind, "--student_vocab_size", "60", "--word_vectors", "random"]
    report = run("sst2_bert_to_bilstm", network_arguments, *words)
    assert f"({kind})" in report["student"]["base"] and "vectors" not in report["student"]["base"]
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) <= 60


def test_vectors_come_from_a_file_too(network_arguments, tmp_path, reviews):
    words = sorted({word for text in reviews["sentence"] for word in text.split()})
    lines = [f"{word} {' '.join(str((row + column) % 7) for column in range(16))}" for row, word in enumerate(words)]
    (tmp_path / "vectors.txt").write_text("\n".join(lines) + "\n")
    report = run("sst2_electra_to_glove_cnn", network_arguments, "--word_vectors", str(tmp_path / "vectors.txt"))
    assert "word vectors from vectors.txt" in report["student"]["base"]


def test_pairs_go_to_a_network_that_reads_both_texts(network_arguments, tmp_path, reviews):
    texts = reviews["sentence"]
    for split in ("train", "validation"):
        rows = [
            {
                "first": texts[index],
                "second": texts[index + 24] if split == "train" else "the film",
                "label": ["negative", "positive"][index % 2],
            }
            for index in range(24 if split == "train" else 6)
        ]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = [word.replace(".parquet", ".jsonl") for word in network_arguments]
    columns = ["--text_column", "first", "--text_pair_column", "second", "--copies", "0"]
    report = run("sst2_bert_to_bilstm", [*arguments, *columns])
    assert report["task"]["text_pair"]
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config.type_vocab_size == 2


def test_a_small_bert_with_fresh_weights_is_a_student_too(network_arguments, tmp_path):
    shape = "{hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}"
    words = ["--student_type", "bert", "--student_config", shape, "--word_vectors", "random"]
    load_recipe("sst2_bert_to_bilstm").main([*network_arguments, *words])
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config.model_type == "bert"
    assert "trust_remote_code" not in (tmp_path / "out" / "README.md").read_text()


def test_teacher_and_student_take_a_convolutional_head(sst2_arguments, tmp_path):
    words = ["--train_teacher", "--teacher_max_steps", "1", "--teacher_head", "cnn"]
    teacher_path = sst2_arguments[sst2_arguments.index("--teacher_model_name_or_path") + 1]
    place = sst2_arguments.index("--student_layers")
    arguments = sst2_arguments[:place] + sst2_arguments[place + 3 :]
    student = ["--student_model_name_or_path", teacher_path, "--student_head", "cnn"]
    report = load_recipe("sst2_electra_to_distilbert").main([*arguments, *words, *student])
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config.model_type == "transformer_cnn"
    assert (tmp_path / "out" / "transformer_cnn.py").is_file()
    assert report["student"]["needs_remote_code"]


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--student_type", "lstm"], ValueError, "student_type='lstm' is no model type.*bilstm"),
        (
            ["--student_config", "{lstm_sise: 8}"],
            ValueError,
            r"\['lstm_sise'\], which are no settings of bilstm.*lstm_size",
        ),
        (["--student_config", "{vocab_size: 8}"], ValueError, "contradict the tokenizer"),
        (["--student_config", "[1, 2]"], ValueError, "must be a mapping"),
        (["--student_config", "{a: [}"], ValueError, "student_config='{a: \\[}' cannot be read"),
        (["--student_tokenizer", "words"], ValueError, "student_tokenizer='words': choose word, wordpiece"),
        (["--student_tokenizer", "absent.model"], FileNotFoundError, "student_tokenizer='absent.model' is not a file"),
        (["--word_vectors", "absent.txt"], FileNotFoundError, "word_vectors='absent.txt' is not a file"),
        (["--student_type", "bert"], ValueError, "only the networks of this package"),
        (["--extra_words", "-1"], ValueError, "extra_words=-1 must be at least 0"),
        (["--student_vocab_size", "5"], ValueError, "vocab_size=5 leaves no room for words"),
        *(
            (["--student_tokenizer", "bpe", "--student_vocab_size", size], ValueError, f"vocab_size={size} must be at")
            for size in ("-5", "0", "3")
        ),
        (
            ["--student_config", "{embedding_size: 65}"],
            ValueError,
            "size=65, but the states of this Bert.* 64 numbers",
        ),
        (
            ["--student_type", "t5", "--word_vectors", "random"],
            ValueError,
            "student_type='t5' is an encoder and a dec",
        ),
        *(
            (
                ["--student_config", f"{{{name}: {value}}}"],
                ValueError,
                rf"\['{name}'\], which are no settings of bilstm",
            )
            for name, value in (
                ("model_type", "bilstm"),
                ("return_dict", "false"),
                ("architectures", "[a]"),
                ("is_encoder_decoder", "true"),
                ("num_labels", "3"),
                ("pad_token_id", "1"),
            )
        ),
        (
            ["--student_config", "{freeze_embeddings: true}", "--word_vectors", "random"],
            ValueError,
            "frozen random vectors say nothing",
        ),
    ],
)
def test_what_makes_no_network_is_refused_before_any_stage(network_arguments, tmp_path, words, error, message):
    with pytest.raises(error, match=message):
        load_recipe("sst2_bert_to_bilstm").main([*network_arguments, *words])
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_tokenizer_or_have_vectors_of_another_width_are_refused_before_any_stage(
    network_arguments, tmp_path
):
    (tmp_path / "junk.model").write_text("this is no SentencePiece file")
    (tmp_path / "narrow.txt").write_text("the 1 2\nfilm 3 4\n")
    for argument, name, message in (
        ("--student_tokenizer", "junk.model", "junk.model' is not a SentencePiece file"),
        ("--word_vectors", "narrow.txt", "has vectors of 2 numbers, but size=300"),
    ):
        with pytest.raises(ValueError, match=message):
            load_recipe("sst2_bert_to_bilstm").main([*network_arguments, argument, str(tmp_path / name)])
    assert not (tmp_path / "out").exists()


def test_settings_of_a_network_without_its_type_are_refused(network_arguments):
    with pytest.raises(ValueError, match="without student_type"):
        load_recipe("sst2_electra_to_distilbert").main([*network_arguments, "--student_config", "{lstm_size: 8}"])


def test_a_type_goes_before_the_checkpoint_that_a_recipe_names(network_arguments):
    words = ["--student_type", "embedding_bag", "--student_config", SMALL["embedding_bag"]]
    report = load_recipe("sst2_electra_to_distilbert").main([*network_arguments, *words])
    assert report["student"]["base"].startswith("fresh weights (embedding_bag)")


@pytest.mark.slow
def test_a_checkpoint_takes_the_place_of_a_recipes_type_that_is_null(network_arguments, tmp_path):
    (tmp_path / "no_type.yaml").write_text("student_type: null\n")
    checkpoint = ["--student_model_name_or_path", str(tmp_path / "teacher"), str(tmp_path / "no_type.yaml")]
    report = load_recipe("sst2_bert_to_bilstm").main([*network_arguments, *checkpoint])
    assert report["student"]["base"] == "teacher" and not report["student"]["needs_remote_code"]


@pytest.mark.parametrize("kind", ["bag", "layers", "layers cnn", "bert"])
def test_what_is_no_class_of_transformers_needs_its_code(kind, teacher, tokenizer, tmp_path):
    if kind == "bag":
        student_tokenizer = word_level_tokenizer(["good film"])
        student = EmbeddingBagForSequenceClassification(
            EmbeddingBagConfig(vocab_size=len(student_tokenizer), embedding_size=4, classifier_size=4)
        )
        student.save_pretrained(tmp_path)
        student_tokenizer.save_pretrained(tmp_path)
    else:
        teacher.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
    models = ModelArguments(
        student_model_name_or_path=str(tmp_path),
        student_layers=[1] if "layers" in kind else None,
        student_head="cnn" if "cnn" in kind else "own",
    )
    _, _, facts = make_student(models, teacher, tokenizer, ["negative", "positive"], seed=0)
    assert facts["needs_remote_code"] == (kind in ("bag", "layers cnn"))
