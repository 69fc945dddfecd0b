import random
import unicodedata

import numpy as np
import pyarrow as pa
import pytest

from distil_trainer.augmentation import near_duplicates
from distil_trainer.augmentation.near_duplicates import NearTexts

TEXT = "the plot is thin but the actors make the most of it"


def array(texts):
    return pa.array(texts, pa.large_string())


def similarity(text, evaluation_text, threshold=0.6):
    """The similarity of two texts that are near, else 0."""
    return NearTexts([array([evaluation_text])], threshold).nearest(array([text]))[0][0]


def trigrams(text):
    letters = "".join(character for character in text.lower() if character.isalnum())
    padded = f"\n{letters}\n"
    return letters, {padded[start : start + 3] for start in range(len(letters))}


def shares(texts, evaluation_texts, threshold):
    """What `NearTexts` should say, by comparing all with all: similarities, 0 where two rows are not near."""
    result = np.ones((len(texts), len(evaluation_texts)))
    for row, texts_of_row in enumerate(texts):
        for number, evaluation_texts_of_row in enumerate(evaluation_texts):
            pairs = [(trigrams(a), trigrams(b)) for a, b in zip(texts_of_row, evaluation_texts_of_row, strict=True)]
            sides = []
            for (_, a), (_, b) in pairs:
                share = len(a & b) / max(1, len(a | b))
                sides.append(share if share >= (1.0 if min(len(a), len(b)) < 20 else threshold) else 0.0)
            equal = all(a[0] == b[0] != "" for a, b in pairs)
            enough = sum(len(a) for (_, a), _ in pairs) >= 20 and sum(len(b) for _, (_, b) in pairs) >= 20
            result[row, number] = 1.0 if equal else min(sides) if enough else 0.0
    return result


def sentences(rng, number):
    """Sentences over few short words, so that many are near one another."""
    words = "a an the film plot is was thin good bad very and but actor actress story moving moved dull".split()
    return [" ".join(rng.choices(words, k=rng.randint(1, 14))) for _ in range(number)]


@pytest.mark.parametrize("num_texts", [1, 2])
@pytest.mark.parametrize("threshold", [0.2, 0.45, 0.6, 0.8, 1.0])
def test_the_search_finds_what_comparing_all_with_all_finds(threshold, num_texts):
    rng = random.Random(5)
    evaluation = list(zip(*(sentences(rng, 60) for _ in range(num_texts)), strict=True))
    # Most pairs of random sentences are not near on both sides: some rows take one side over from the evaluation data.
    rows = list(zip(*(sentences(rng, 90) for _ in range(num_texts)), strict=True))
    rows += [(*row[:-1], new[0] + " plot") for row, new in zip(evaluation, rows, strict=False)]
    rows += [(row[0].replace("film", ""), *row[1:]) for row in evaluation]
    expected = shares(rows, evaluation, threshold)
    columns = [array(column) for column in zip(*evaluation, strict=True)]
    found, numbers = NearTexts(columns, threshold).nearest(*(array(column) for column in zip(*rows, strict=True)))
    np.testing.assert_allclose(found, expected.max(axis=1), rtol=1e-12)
    assert 5 < (found > 0).sum() < len(rows)
    near = found > 0
    np.testing.assert_allclose(expected[near, numbers[near]], found[near], rtol=1e-12)
    assert (numbers[~near] == -1).all()


def test_steps_do_not_change_the_result(monkeypatch):
    rng = random.Random(7)
    evaluation = [array(sentences(rng, 40)), array(sentences(rng, 40))]
    rows = [array([f"{text} film" for text in column.to_pylist()] * 2) for column in evaluation]
    expected = NearTexts(evaluation, 0.3).nearest(*rows)
    assert 10 < (expected[0] > 0).sum() < 80
    for name in ("_LETTERS_PER_STEP", "_CANDIDATES_PER_STEP", "_PAIRS_PER_STEP"):
        monkeypatch.setattr(near_duplicates, name, 5)
    found = NearTexts(evaluation, 0.3).nearest(*rows)
    assert (found[0] == expected[0]).all() and (found[1] == expected[1]).all()


@pytest.mark.parametrize(
    "text",
    [
        TEXT.upper(),
        TEXT.replace(" ", "  "),
        TEXT.replace(" ", ""),
        f"« {TEXT} » !!!",
        TEXT.replace("but", "[MASK] but"),
        "".join(chr(ord(character) + 0xFEE0) if character != " " else character for character in TEXT),  # full width
    ],
)
def test_case_space_punctuation_mask_words_and_width_do_not_count(text):
    assert text != TEXT and similarity(text, TEXT) == 1


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("thin", "bad"),
        TEXT.replace("actors", "people"),
        TEXT.replace("the actors", "actors"),
        TEXT.replace("thin ", ""),
        TEXT.replace("thin", "[MASK]"),
        "and " + TEXT,
        TEXT.replace("but the actors", "the actors but"),
    ],
)
def test_a_sentence_with_one_word_changed_dropped_masked_added_or_moved_is_near(text):
    assert 0.6 <= similarity(text, TEXT) < 1


def test_korean_is_near_whatever_its_spaces_and_composition():
    text = "배우들의 연기는 좋았지만 이야기가 너무 지루해서 중간에 나왔다"
    assert similarity(text.replace(" ", ""), text) == 1
    assert similarity(unicodedata.normalize("NFD", text), text) == 1
    assert 0.6 <= similarity(text.replace("중간에", "먼저"), text) < 1
    assert similarity("음악은 좋았지만 배우들이 너무 어색해서 끝까지 볼 수 없었다", text) == 0


def test_short_texts_are_near_only_when_all_their_letters_agree():
    assert similarity("Good film!", "good  film") == 1
    assert similarity("good films", "good film") == 0  # 7 of 9 trigrams
    assert similarity("good film", "good filmx", threshold=0.1) == 0
    assert similarity("ab", "ba", threshold=0.1) == 0


def test_texts_without_letters_are_near_none():
    found, _ = NearTexts([array(["...", "", "😀😀"])]).nearest(array(["...", "", "!!!", "😀", "a"]))
    assert not found.any()


def test_without_evaluation_texts_or_rows_nothing_is_near():
    assert NearTexts([array([])]).nearest(array([TEXT]))[0].tolist() == [0]
    assert [len(result) for result in NearTexts([array([TEXT])]).nearest(array([]))] == [0, 0]


def test_the_most_similar_text_is_named_and_of_equals_the_first():
    other = TEXT.replace("thin", "very very bad")
    index = NearTexts([array(["nothing of the kind", other, TEXT, TEXT.upper()])])
    assert index.nearest(array([TEXT.replace("thin", "bad"), TEXT.replace("most", "best"), TEXT]))[1].tolist() == [
        1,
        2,
        2,
    ]


def test_pairs_are_near_where_each_text_is():
    question = "which of the two houses did the old lady leave behind"
    index = NearTexts([array([question, question]), array([TEXT, "it was sold"])])

    def near(first, second):
        return index.nearest(array([first]), array([second]))[1][0]

    assert near(question.replace("old", "young"), TEXT.replace("thin", "bad")) == 0
    assert near(TEXT, question) == -1
    assert near(question, "she left the one in the north as everybody knows") == -1
    assert near(question.replace("old", "young"), "It was sold.") == 1  # a short side must agree in all letters
    assert near(question, "it was told") == -1
    assert near(question, "...") == -1


def test_a_row_of_a_million_letters_is_read_and_near_none():
    texts = array([TEXT, "".join(random.Random(1).choices("abcdefgh ", k=1_000_000)), "x" * 1_000_000])
    assert NearTexts([array([TEXT])]).nearest(texts)[0].tolist() == [1, 0, 0]


@pytest.mark.parametrize("threshold", [0, -0.5, 1.5, float("nan")])
def test_a_threshold_that_is_no_share_is_refused(threshold):
    with pytest.raises(ValueError, match="near_threshold=.* must be above 0 and at most 1"):
        NearTexts([array([TEXT])], threshold)
