"""The one call: a row for every token of the vocabulary, sensible where the source has none."""

import logging
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from vocabulary import WORDS

from distil_trainer.small_tokenizers import train_tokenizer, word_level_tokenizer
from distil_trainer.vectors import WordVectors, check_source, word_vectors

TEXTS = ["the good film", "the film is bad", "good good plot !", "the [MASK] unheard"]
FILE = {"the": [1, 2], "film": [3, 5], "good": [-2, 4], "bad": [0.5, -3], "zebra": [9, 9], "is": [2, 2], "ant": [8, 1]}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("".join(f"{word} {row[0]} {row[1]}\n" for word, row in FILE.items()))
    return path


@pytest.fixture
def source(request, path, teacher, tokenizer):
    return str(path) if request.param == "file" else (teacher, tokenizer)


both_sources = pytest.mark.parametrize("source", ["file", "teacher"], indirect=True)


def row_of(vectors, token):
    return vectors.matrix[vectors.vocabulary.index(token)]


def test_words_of_the_texts_have_the_vectors_of_the_file(path):
    vectors = word_vectors(TEXTS, path)
    assert isinstance(vectors, WordVectors)
    assert vectors.vocabulary[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert vectors.vocabulary[5:] == ["good", "the", "film", "!", "bad", "is", "plot", "unheard"]
    assert vectors.matrix.shape == (13, 2) and vectors.matrix.dtype == np.float32
    for word in ("the", "film", "good", "bad", "is"):
        assert row_of(vectors, word).tolist() == FILE[word]
    assert vectors.coverage == (5 / 8, 10 / 13)
    assert vectors.tokenizer("the zebra")["input_ids"] == [2, 6, 1]


def test_special_rows_say_what_they_stand_for(path):
    vectors = word_vectors(TEXTS, path)
    counts = {"the": 3, "film": 2, "good": 3, "bad": 1, "is": 1}
    neutral = sum(count * np.array(FILE[word]) for word, count in counts.items()) / 10
    np.testing.assert_allclose(row_of(vectors, "[MASK]"), neutral, rtol=1e-6)
    # A tenth of five words is the rarest one, the first in alphabetical order.
    np.testing.assert_allclose(row_of(vectors, "[UNK]"), FILE["bad"])
    for token in ("[PAD]", "[CLS]", "[SEP]"):
        assert not row_of(vectors, token).any()


@both_sources
def test_every_row_is_finite_and_no_two_words_share_one(source):
    vectors = word_vectors(TEXTS, source, size=2)
    assert np.isfinite(vectors.matrix).all()
    words = np.delete(vectors.matrix, [0, 2, 3], axis=0)
    assert len(np.unique(words.round(6), axis=0)) >= len(words) - 1  # [UNK] is the rarest word here


@both_sources
def test_the_same_call_gives_the_same_vectors(source):
    first, second = (word_vectors(TEXTS, source, size=2) for _ in range(2))
    np.testing.assert_array_equal(first.matrix, second.matrix)


def test_a_missing_word_is_drawn_from_the_others_and_by_itself(path, tmp_path):
    missing = [f"missing{number}" for number in range(3000)]
    vectors = word_vectors([*TEXTS, *missing, *missing], path)
    drawn = np.stack([row_of(vectors, word) for word in missing])
    found = np.array([FILE[word] for word in ("the", "film", "good", "bad", "is")])
    np.testing.assert_allclose(drawn.mean(axis=0), found.mean(axis=0), atol=0.15)
    np.testing.assert_allclose(drawn.std(axis=0), found.std(axis=0), rtol=0.05)
    fewer = word_vectors([*TEXTS, *missing[::-1][:10]], path)
    assert row_of(fewer, missing[-1]).tolist() == row_of(vectors, missing[-1]).tolist()


def test_low_coverage_is_told(path, caplog):
    with caplog.at_level(logging.WARNING):
        word_vectors(TEXTS, path)
        assert not caplog.records
        word_vectors([*TEXTS, "quite other words than those of this file are in here"], path)
    assert "Only 41.7 % of the tokens of the texts have a vector" in caplog.text


def test_a_column_of_a_data_set_gives_the_same(path):
    column = Dataset.from_dict({"text": TEXTS})["text"]
    np.testing.assert_array_equal(word_vectors(column, path).matrix, word_vectors(TEXTS, path).matrix)


def test_extra_words_come_from_the_file_in_its_order(path):
    vectors = word_vectors(TEXTS, path, extra_words=1, pairs=True, model_max_length=7)
    assert vectors.vocabulary[13:] == ["zebra"]
    assert row_of(vectors, "zebra").tolist() == FILE["zebra"]
    assert vectors.tokenizer.model_max_length == 7 and "token_type_ids" in vectors.tokenizer("a")
    assert word_vectors(TEXTS, path, extra_words=99).vocabulary[13:] == ["zebra", "ant"]
    assert word_vectors(TEXTS, path, vocab_size=7, lower=False).vocabulary[5:] == ["good", "the"]


def test_extra_words_come_from_the_teachers_vocabulary_in_its_order(teacher, tokenizer):
    vectors = word_vectors(TEXTS, (teacher, tokenizer), size=4, extra_words=3)
    assert vectors.vocabulary[-3:] == [word for word in WORDS if word not in vectors.vocabulary[:-3]][:3]
    assert row_of(vectors, vectors.vocabulary[-1]).any()


def test_a_teachers_vectors_are_weighted_by_frequency(teacher, tokenizer):
    weighted = word_vectors(TEXTS, (teacher, tokenizer), size=4, sif=0.01)
    plain = word_vectors(TEXTS, (teacher, tokenizer), size=4, sif=None)
    counts = Counter(" ".join(TEXTS).split())
    for word in ("the", "good", "film", "plot", "unheard"):
        expected = row_of(plain, word) * 0.01 / (0.01 + counts[word] / 13)
        np.testing.assert_allclose(row_of(weighted, word), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
@both_sources
def test_pieces_are_looked_up_without_their_marks(kind, source):
    tokenizer = train_tokenizer([*TEXTS, "goods badly filmed"] * 9, kind, vocab_size=60)
    vectors = word_vectors([*TEXTS, "goods"], source, tokenizer=tokenizer, size=2)
    assert vectors.tokenizer is tokenizer and len(vectors.vocabulary) == len(tokenizer) == len(vectors.matrix)
    if isinstance(source, str):
        prefix = "" if kind == "wordpiece" else "▁"
        assert row_of(vectors, f"{prefix}film").tolist() == FILE["film"]


def test_a_vocabulary_of_pieces_of_the_teacher_has_a_row_for_each(teacher, tokenizer, tmp_path):
    vectors = word_vectors(WORDS, (teacher, tokenizer), tokenizer=tokenizer, size=8)
    assert vectors.vocabulary[5:] == WORDS and vectors.coverage == (1.0, 1.0)
    vectors.tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("a film") == tokenizer("a film")


# What is refused


@both_sources
def test_texts_without_a_word_of_the_source_are_refused(source):
    with pytest.raises(ValueError, match="No word of the texts is in .*; the commonest ones are 'xyzzy', 'plugh'"):
        word_vectors(["xyzzy xyzzy plugh"], source, size=2)


@both_sources
def test_no_texts_are_refused(source):
    with pytest.raises(ValueError, match="texts hold no words"):
        word_vectors([], source, size=2)
    with pytest.raises(ValueError, match="No word of the texts"):
        word_vectors([], source, size=2, tokenizer=word_level_tokenizer(["good"] * 2 + ["film bad"]))


def test_one_vector_for_all_words_is_refused(path):
    with pytest.raises(ValueError, match=r"The 1 word\(s\) with a vector from the source have all the same"):
        word_vectors(["good xyzzy"], path)


def test_texts_that_can_be_read_only_once_are_refused(path):
    with pytest.raises(TypeError, match="texts is a list_iterator, which can be read only once"):
        word_vectors(iter(TEXTS), path)


@pytest.mark.parametrize("source", [None, 3, ["vectors.txt"], ("a", "b", "c")])
def test_what_is_no_source_is_refused(source):
    for call in (lambda: word_vectors(TEXTS, source), lambda: check_source(source, 2)):
        with pytest.raises(TypeError, match="source is a .*needs the path of a file of word vectors, or"):
            call()


@both_sources
def test_a_source_of_another_width_is_found_out_without_texts(source):
    check_source(source, 2)
    with pytest.raises(ValueError, match="size=65, but the states of this Bert|has vectors of 2 numbers, but size=65"):
        check_source(source, 65)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size=0 must be at least 1"),
        ({"size": 3}, "has vectors of 2 numbers, but size=3"),
        ({"extra_words": -1}, "extra_words=-1 must be at least 0"),
        ({"layers": (0,)}, r"layers=\(0,\) and sif=None with a file"),
        ({"sif": 1e-3}, "sif=0.001 with a file"),
        *(({"tokenizer": "any", **more}, "tokenizer= is given, and so is extra_words, vocab_size") for more in
          ({"extra_words": 1}, {"vocab_size": 9}, {"lower": False}, {"pairs": True}, {"model_max_length": 9})),
    ],
)  # fmt: skip
def test_settings_that_contradict_one_another_are_refused(settings, message, path):
    with pytest.raises(ValueError, match=message):
        word_vectors(TEXTS, path, **settings)


@pytest.mark.parametrize("sif", [0, -1.0, float("nan")])
def test_a_weight_that_is_no_weight_is_refused(sif, teacher, tokenizer):
    with pytest.raises(ValueError, match=f"sif={sif} must be above 0"):
        word_vectors(TEXTS, (teacher, tokenizer), sif=sif)


def test_the_default_width_of_a_teachers_vectors_is_300_or_the_largest_below(teacher, tokenizer):
    assert word_vectors(TEXTS, (teacher, tokenizer)).matrix.shape[1] == 5  # it knows six of the words
    with pytest.raises(ValueError, match=r"size=300, but 6 words.*\(of 8\), with states of 64 numbers.*Give size=5"):
        word_vectors(TEXTS, (teacher, tokenizer), size=300)


def test_a_tokenizer_with_gaps_is_refused(path):
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "good": 1, "film": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    gaps = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    with pytest.raises(ValueError, match="none of number 2"):
        word_vectors(TEXTS, path, tokenizer=gaps)
