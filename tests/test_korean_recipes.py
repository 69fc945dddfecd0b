"""The recipes of Korean texts run from their first line to a folder that a stranger can load."""

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from recipe_files import load_recipe
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distil_trainer import train_tokenizer
from distil_trainer.students import BilstmConfig, BilstmForSequenceClassification

NOUNS = ["영화", "작품", "배우", "음악", "감독", "결말"]
VERBS = ["좋았다", "아쉬웠다", "지루했다", "재미있었다"]
SMALL = {
    "nsmc_koelectra_to_bilstm": "{lstm_size: 16, embedding_size: 8, classifier_size: 0}",
    "nsmc_koelectra_to_densenet_cnn": "{embedding_size: 16}",
    "korean_hate_speech_koelectra_to_densenet_cnn": "{embedding_size: 16}",
}
LABELS = {"label": ["negative", "positive"], "hate": ["none", "offensive", "hate"], "bias": ["none", "gender"]}


@pytest.fixture
def korean_arguments(teacher, tmp_path):
    """A function from a recipe's columns to its arguments, for a tiny teacher and two steps of training."""

    def arguments(text_column, label_column):
        texts = [f"{noun}{'는' if noun == '영화' else '도'} {verb}" for noun in NOUNS for verb in VERBS]
        tokenizer = train_tokenizer(texts, "wordpiece", vocab_size=80, pairs=True, model_max_length=64)
        teacher.resize_token_embeddings(max(len(tokenizer), teacher.config.vocab_size))
        teacher.save_pretrained(tmp_path / "teacher")
        tokenizer.save_pretrained(tmp_path / "teacher")
        names = LABELS[label_column]
        features = Features({text_column: Value("string"), label_column: ClassLabel(names=names)})
        for split, ending in (("train", " 정말"), ("validation", " 너무")):
            rows = {text_column: [text + ending for text in texts], label_column: [i % len(names) for i in range(24)]}
            Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}.parquet")
        return [
            *("--teacher_model_name_or_path", str(tmp_path / "teacher"), "--teacher_max_steps", "1"),
            *("--train_file", str(tmp_path / "train.parquet")),
            *("--validation_file", str(tmp_path / "validation.parquet")),
            *("--output_dir", str(tmp_path / "out"), "--student_vocab_size", "70"),
            *("--copies", "2", "--max_steps", "2", "--per_device_train_batch_size", "8", "--warmup_steps", "0"),
            *("--latency_texts", "4", "--max_accuracy_drop", "0.9", "--disable_tqdm", "True"),
        ]

    return arguments


@pytest.mark.parametrize(
    ("name", "text_column", "label_column"),
    [
        ("nsmc_koelectra_to_bilstm", "document", "label"),
        pytest.param("nsmc_koelectra_to_densenet_cnn", "document", "label", marks=pytest.mark.slow),
        ("korean_hate_speech_koelectra_to_densenet_cnn", "comments", "hate"),
        pytest.param("korean_hate_speech_koelectra_to_densenet_cnn", "comments", "bias", marks=pytest.mark.slow),
    ],
)
def test_a_korean_recipe_goes_the_whole_road(name, text_column, label_column, korean_arguments, tmp_path):
    recipe = load_recipe(name)
    arguments = korean_arguments(text_column, label_column)
    if recipe.DEFAULTS.get("label_column", "label") != label_column:
        arguments += ["--label_column", label_column]
    report = recipe.main([*arguments, "--student_config", SMALL[name]])
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        logits = student(**tokenizer(["영화가 좋았다", "[MASK]"], padding=True, return_tensors="pt")).logits
    assert logits.shape == (2, len(LABELS[label_column])) and logits.isfinite().all()
    assert report["task"]["language"] == "ko" and report["task"]["labels"] == LABELS[label_column]
    assert report["data"]["transfer"]["settings"]["analyzer"] == "kiwi"
    assert {row["role"] for row in report["models"]} >= {"teacher", "control", "student", "onnx fp32", "onnx int8"}
    assert "language: ko" in (tmp_path / "out" / "README.md").read_text()


def test_morphemes_in_training_texts_alone_are_refused(korean_arguments, tmp_path):
    arguments = [*korean_arguments("document", "label"), "--analyzer", "kiwi:morphemes"]
    with pytest.raises(ValueError, match="the evaluation texts would not.*--analyzer kiwi"):
        load_recipe("nsmc_koelectra_to_bilstm").main([*arguments, "--student_config", "{embedding_size: 16}"])
    assert not (tmp_path / "out").exists()


def test_the_students_of_nsmc_have_the_published_numbers_of_parameters():
    recipe = load_recipe("nsmc_koelectra_to_bilstm")
    assert SMALL["nsmc_koelectra_to_bilstm"] in recipe.__doc__
    small = {"lstm_size": 16, "embedding_size": 8, "classifier_size": 0}
    for settings, expected in ((recipe.DEFAULTS["student_config"], 391_170), (small, 27_394)):
        config = BilstmConfig(**settings, vocab_size=recipe.DEFAULTS["student_vocab_size"], num_labels=2)
        assert BilstmForSequenceClassification(config).num_parameters() == expected
        assert f"{expected:,}" in recipe.__doc__
