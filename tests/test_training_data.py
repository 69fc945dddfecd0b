"""Texts become the tokens of the student, and of a teacher that reads tokens of its own, once and for all."""

import logging

import pytest
from datasets import Dataset, List, Value
from foreign_tokenizers import byte_level_tokenizer, sentence_piece_tokenizer
from tokenizers import normalizers
from transformers import BertConfig

from distil_trainer.training_data import (
    check_dataset,
    check_teacher_logits,
    check_token_numbers,
    token_lengths,
    tokenize,
)

TEXTS = ["the [MASK] film", "tedious, but great", "bad"]


@pytest.fixture
def texts():
    return Dataset.from_dict({"sentence": TEXTS, "second": ["a good plot", "it is", "we"], "label": [0, 1, 0]})


def _tokenize(dataset, tokenizer, **given):
    common = {"text_column": "sentence", "text_pair_column": None, "max_length": 32, "token_types": False}
    return tokenize(dataset, tokenizer, **{**common, "keep_columns": [], "what": "train_dataset", **given})


def test_without_a_teacher_tokenizer_only_the_students_tokens_are_made(texts, tokenizer):
    made = _tokenize(texts, tokenizer, keep_columns=["label"], align_words=True)
    assert made.column_names == ["label", "input_ids"]
    assert made["input_ids"][:] == tokenizer(TEXTS)["input_ids"]
    assert token_lengths(made).tolist() == [5, 6, 3]


def test_each_side_gets_what_its_own_tokenizer_makes_of_the_text(texts, tokenizer):
    teacher = byte_level_tokenizer()
    made = _tokenize(texts, tokenizer, teacher_tokenizer=teacher)
    assert made.column_names == ["input_ids", "teacher_input_ids"]
    assert made["input_ids"][:] == tokenizer(TEXTS)["input_ids"]
    assert made["teacher_input_ids"][:] == teacher(["the <mask> film", *TEXTS[1:]])["input_ids"]
    assert made.features["teacher_input_ids"] == made.features["input_ids"] == List(Value("int32"))


def test_aligned_words_have_the_same_numbers_on_both_sides(texts, tokenizer):
    made = _tokenize(
        texts, tokenizer, text_pair_column="second", teacher_tokenizer=byte_level_tokenizer(), align_words=True
    )
    assert set(made.column_names) == {"input_ids", "word_ids", "teacher_input_ids", "teacher_word_ids"}
    assert made["word_ids"][0] == [-1, 0, 1, 2, -1, 3, 4, 5, -1]
    # "tedious," is one word of two tokens.
    assert made["word_ids"][1] == [-1, 0, 0, 1, 2, -1, 3, 4, -1]
    for row in made:
        assert len(row["word_ids"]) == len(row["input_ids"])
        assert len(row["teacher_word_ids"]) == len(row["teacher_input_ids"])
        assert {*row["teacher_word_ids"]} == {*row["word_ids"]}


def test_token_types_are_kept_for_the_side_that_has_them(texts, tokenizer):
    teacher = sentence_piece_tokenizer(model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    given = {"text_pair_column": "second", "teacher_tokenizer": teacher}
    made = _tokenize(texts, tokenizer, **given, teacher_token_types=True)
    read = [text.replace("[MASK]", "<mask>") for text in TEXTS]
    assert set(made.column_names) == {"input_ids", "teacher_input_ids", "teacher_token_type_ids"}
    assert made["teacher_token_type_ids"][:] == teacher(read, texts["second"][:])["token_type_ids"]
    assert set(_tokenize(texts, tokenizer, **given, token_types=True).column_names) == {
        "input_ids",
        "token_type_ids",
        "teacher_input_ids",
    }
    single = _tokenize(texts, tokenizer, teacher_tokenizer=teacher, token_types=True, teacher_token_types=True)
    assert single.column_names == ["input_ids", "teacher_input_ids"]


def test_each_sides_length_is_bounded_by_its_own_tokenizer(texts, tokenizer, caplog):
    long = Dataset.from_dict({"sentence": ["good " * 100]})
    with caplog.at_level(logging.INFO, logger="distil_trainer"):
        row = _tokenize(long, tokenizer, teacher_tokenizer=byte_level_tokenizer(model_max_length=9), max_length=70)[0]
    assert (len(row["input_ids"]), len(row["teacher_input_ids"])) == (64, 9)
    assert "The teacher's tokenizer reads at most 9 tokens" in caplog.text
    row = _tokenize(long, tokenizer, teacher_tokenizer=byte_level_tokenizer(), max_length=7)[0]
    assert (len(row["input_ids"]), len(row["teacher_input_ids"])) == (7, 7)


def test_a_text_of_special_tokens_only_on_one_side_is_legal(tokenizer):
    # A heart is a character to the student's tokenizer and nothing to the teacher's.
    silent = sentence_piece_tokenizer()
    silent.backend_tokenizer.normalizer = normalizers.Replace("♥", "")
    dataset = Dataset.from_dict({"sentence": ["♥", "good film"]})
    made = _tokenize(dataset, tokenizer, teacher_tokenizer=silent, align_words=True)
    assert made["teacher_word_ids"][0] == [-1]
    assert made["word_ids"][0] == [-1, 0, -1]
    assert max(made["teacher_word_ids"][1]) == 1


def test_rows_with_tokens_are_left_alone_where_they_have_the_teachers_too(texts, tokenizer):
    given = {"teacher_tokenizer": byte_level_tokenizer(), "align_words": True}
    made = _tokenize(texts, tokenizer, **given)
    assert _tokenize(made, tokenizer, **given) is made
    assert _tokenize(made.select_columns("input_ids"), tokenizer).column_names == ["input_ids"]


def test_rows_with_tokens_but_without_the_teachers_are_refused(texts, tokenizer):
    given = {"teacher_tokenizer": byte_level_tokenizer(), "align_words": True}
    made = _tokenize(texts, tokenizer, **given)
    with pytest.raises(
        ValueError, match="train_dataset has input_ids, but no teacher_input_ids and no word_ids and no"
    ):
        _tokenize(made.select_columns("input_ids"), tokenizer, **given)
    with pytest.raises(ValueError, match="but no teacher_word_ids, .*Give texts.*remove_columns"):
        _tokenize(made.remove_columns("teacher_word_ids"), tokenizer, **given)
    plain = made.select_columns(["input_ids", "teacher_input_ids"])
    assert _tokenize(plain, tokenizer, **{**given, "align_words": False}) is plain


def test_what_cannot_be_tokenized_is_refused(texts, tokenizer):
    with pytest.raises(
        ValueError, match="train_dataset has no column 'text'; its columns are sentence, second, label"
    ):
        _tokenize(texts, tokenizer, text_column="text")
    with pytest.raises(ValueError, match="holds texts, and processing_class is None"):
        _tokenize(texts, None)
    with pytest.raises(TypeError, match="column 'label' holds int64"):
        _tokenize(texts, tokenizer, text_pair_column="label")
    with pytest.raises(ValueError, match="row 1 has sentence=''"):
        _tokenize(Dataset.from_dict({"sentence": ["good", ""]}), tokenizer)


def test_no_data_set_and_an_empty_one_are_refused(texts):
    with pytest.raises(TypeError, match="train_dataset is a list"):
        check_dataset([], "train_dataset")
    with pytest.raises(ValueError, match="train_dataset has no rows"):
        check_dataset(texts.select([]), "train_dataset")


@pytest.mark.parametrize(
    "logits, error, message",
    [
        ([0.5, 0.5], TypeError, "teacher_logits holds double"),
        ([[0.5, 1.0], None], ValueError, "row 1 has no teacher_logits"),
        ([[0.5, 1.0], [1.0]], ValueError, "row 1 has 1 teacher_logits, but the student has 2 labels"),
        ([[0.5, float("nan")], [1.0, 2.0]], ValueError, "row 0 has teacher_logits=.*not finite"),
    ],
)
def test_teacher_logits_that_cannot_teach_are_refused(logits, error, message):
    with pytest.raises(error, match=message):
        check_teacher_logits(Dataset.from_dict({"teacher_logits": logits}), 2, "train_dataset")


def test_tokens_and_token_types_without_an_embedding_are_refused():
    rows = Dataset.from_dict({"input_ids": [[1, 2], [3, 9]], "token_type_ids": [[0, 0], [0, 2]]})
    check_token_numbers(rows, "", BertConfig(vocab_size=10, type_vocab_size=3), "the student", "train_dataset")
    with pytest.raises(ValueError, match="train_dataset: input_ids holds the number 9, but the student has .* 9 only"):
        check_token_numbers(rows, "", BertConfig(vocab_size=9), "the student", "train_dataset")
    with pytest.raises(ValueError, match="token_type_ids holds the number 2, but the student .*type_vocab_size="):
        check_token_numbers(rows, "", BertConfig(vocab_size=10), "the student", "train_dataset")
