"""Pairs of texts: which side is rewritten, by which draws, and the road from pairs to a siamese student."""

import re
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets.fingerprint import Hasher

from distil_trainer import (
    DistillationArguments,
    DistillationTrainer,
    TeacherLabeler,
    drop_duplicates_and_leaks,
    texts_of,
)
from distil_trainer.augmentation import sampling
from distil_trainer.augmentation.rules import RuleAugmenter
from distil_trainer.small_tokenizers import word_level_tokenizer
from distil_trainer.students import BilstmConfig, BilstmForSequenceClassification

FIRST = [
    "the film is great , the plot was poor and the actor is Brilliant",
    "  a dull  script\tis a bad\nstory . ",
    "this movie was fine",
    "great",
    "the scene is good ; the scene is fine ; the scene is bad ; the scene is dull",
]
SECOND = [
    "a great film , but the plot is dull",
    "the script was bad",
    "the movie is\n\n a fine movie",
    "this film is good , this actor was good and this story is good",
    "good",
]
COLUMNS = {"text_column": "first", "text_pair_column": "second"}


@pytest.fixture
def pairs():
    columns = {"first": Value("string"), "second": Value("string"), "label": ClassLabel(names=["no", "yes"])}
    rows = {"first": FIRST * 8, "second": SECOND * 8, "label": [0, 1] * 20}
    return Dataset.from_dict(rows, features=Features(columns))


@pytest.fixture
def make_augmenter(tag_words):
    def make(**settings):
        return RuleAugmenter.from_corpus(chain(FIRST, SECOND), tag_words, **{**COLUMNS, **settings})

    return make


def augment(dataset, augmenter, **options):
    options = {"batched": True, "with_indices": True, "remove_columns": dataset.column_names, **options}
    return dataset.map(augmenter, **{"batch_size": 7, **options})


RULES = [{}, {"ngram_rule": "keep", "ngram_probability": 0.7}, {"lower": True, "pool": "frequency"}]


@pytest.mark.parametrize("settings", RULES)
def test_rewritten_names_the_texts_that_differ_and_the_others_are_the_parents(settings, pairs, make_augmenter):
    rows = augment(pairs, make_augmenter(**settings, seed=1))
    assert sorted(rows.column_names) == ["first", "label", "operators", "parent", "rewritten", "second"]
    seen = Counter()
    for row in rows:
        parent = pairs[row["parent"]]
        texts = [parent[side].lower() if settings.get("lower") else parent[side] for side in ("first", "second")]
        changed = row["first"] != texts[0], row["second"] != texts[1]
        assert row["rewritten"] == {(0, 0): "none", (1, 0): "first", (0, 1): "second", (1, 1): "both"}[changed]
        assert (row["rewritten"] == "none") == (row["operators"] == "original")
        assert row["label"] == (parent["label"] if row["rewritten"] == "none" else -1)
        seen[row["rewritten"]] += 1
    assert set(seen) == {"none", "first", "second", "both"} and seen["none"] == len(pairs)


def test_the_original_comes_first_and_no_pair_repeats_within_a_parent(pairs, make_augmenter):
    rows = augment(pairs, make_augmenter(copies=40, seed=2))
    assert rows["parent"][:] == sorted(rows["parent"])
    families = {}
    for row in rows:
        families.setdefault(row["parent"], []).append(row)
    assert len(families) == len(pairs)
    for parent, family in families.items():
        assert (family[0]["first"], family[0]["second"]) == (pairs[parent]["first"], pairs[parent]["second"])
        assert [row["rewritten"] == "none" for row in family] == [True] + [False] * (len(family) - 1)
        assert len({(row["first"], row["second"]) for row in family}) == len(family) <= 41


def test_first_second_and_both_are_drawn_a_third_each(make_augmenter):
    text = " ".join(f"w{i}" for i in range(20))
    dataset = Dataset.from_dict({"first": [text] * 3000, "second": [text] * 3000})
    settings = {"mask_probability": 0.0, "replace_probability": 0.0, "ngram_probability": 1.0, "copies": 1}
    rows = augment(dataset, make_augmenter(**settings, seed=3), batch_size=1000)
    counts = Counter(rows["rewritten"])
    assert counts.pop("none") == 3000 and set(counts) == {"first", "second", "both"}
    assert all(abs(count - 1000) < 4 * (3000 * 2 / 9) ** 0.5 for count in counts.values())


def test_both_texts_of_a_pair_have_draws_of_their_own(make_augmenter):
    text = " ".join(f"w{i}" for i in range(20))
    dataset = Dataset.from_dict({"first": [text] * 500, "second": [text] * 500})
    settings = {"mask_probability": 0.2, "replace_probability": 0.0, "ngram_probability": 0.0, "copies": 4}
    rows = augment(dataset, make_augmenter(**settings, seed=4), batch_size=1000)
    masks = [
        np.array([[word == "[MASK]" for word in row[side].split()] for row in rows if row["rewritten"] == "both"])
        for side in ("first", "second")
    ]
    n = masks[0].size
    assert n > 10_000
    both, share = (masks[0] & masks[1]).mean(), [side.mean() for side in masks]
    assert both == pytest.approx(share[0] * share[1], abs=4 * (both * (1 - both) / n) ** 0.5)


def test_the_first_text_of_a_pair_has_the_draws_of_a_single_text(pairs, make_augmenter, tag_words):
    single = RuleAugmenter.from_corpus(chain(FIRST, SECOND), tag_words, text_column="first", seed=5)
    alone = {(row["parent"], row["first"]) for row in augment(pairs, single)}
    rows = augment(pairs, make_augmenter(seed=5))
    assert {(row["parent"], row["first"]) for row in rows} <= alone


def test_operators_are_those_of_either_text(make_augmenter):
    rows = augment(
        Dataset.from_dict({"first": ["film " * 12] * 200, "second": ["great " * 12] * 200}),
        make_augmenter(replace_probability=0.3, ngram_probability=0.0, copies=3, seed=6),
    )
    seen = Counter()
    for row in rows:
        words = row["first"].split() + row["second"].split()
        shown = ["mask"] * ("[MASK]" in words) + ["replace"] * bool({*words} - {"[MASK]", "film", "great"})
        assert row["operators"] == ("+".join(shown) or "original")
        seen[row["operators"], row["rewritten"]] += 1
    assert ("mask+replace", "both") in seen and ("mask", "first") in seen and ("replace", "second") in seen


def test_an_operator_that_shows_nowhere_is_not_named(tag_words):
    # The n-gram of the first text masks what is a mask already, or leaves nothing but masks; in the second one, the
    # word replaced leaves no room for an n-gram.
    settings = {"mask_probability": 0.0, "replace_probability": 1.0, "ngram_probability": 1.0, "ngram_lengths": (1, 1)}
    augmenter = RuleAugmenter.from_corpus(["film plot story actor"], tag_words, **COLUMNS, **settings, seed=7)
    dataset = Dataset.from_dict({"first": ["[MASK] [MASK] untagged"] * 50, "second": ["film plot"] * 50})
    rows = augment(dataset, augmenter)
    assert set(zip(rows["rewritten"], rows["operators"], strict=True)) == {("none", "original"), ("second", "replace")}
    assert set(rows["first"]) == {"[MASK] [MASK] untagged"}


def test_white_space_between_words_is_that_of_the_parent(pairs, make_augmenter):
    for row in augment(pairs, make_augmenter(seed=8)):
        for side in ("first", "second"):
            parent = pairs[row["parent"]][side]
            assert re.sub(r"\S+", "_", row[side]) == re.sub(r"\S+", "_", parent)


def test_a_text_of_one_word_stays_and_its_partner_is_rewritten(make_augmenter):
    rows = augment(Dataset.from_dict({"first": ["great"] * 20, "second": [FIRST[0]] * 20}), make_augmenter(seed=9))
    counts = Counter(rows["rewritten"])
    assert counts.keys() == {"none", "second"} and counts["second"] > 200
    assert set(rows["first"]) == {"great"}


def test_rule_keep_leaves_out_copies_with_a_rewritten_text_of_masks_alone(make_augmenter):
    settings = {"ngram_rule": "keep", "ngram_probability": 1.0, "ngram_lengths": (1, 2), "mask_probability": 0.5}
    rows = augment(
        Dataset.from_dict({"first": [FIRST[0]] * 60, "second": ["[MASK]"] * 60}), make_augmenter(**settings)
    )
    assert all(set(text.split()) != {"[MASK]"} for text in rows["first"])
    assert Counter(rows["rewritten"]).keys() == {"none", "first"}  # a text that is not rewritten may be a mask alone


def test_rows_do_not_depend_on_batches_processes_or_parts(pairs, make_augmenter, monkeypatch):
    augmenter = make_augmenter(seed=10)
    expected = augment(pairs, augmenter, batch_size=1000)[:]
    assert augment(pairs, augmenter, batch_size=1)[:] == expected
    assert augment(pairs, augmenter, batch_size=7, num_proc=2)[:] == expected
    for words in (1, 30, 200):
        monkeypatch.setattr(sampling, "_WORDS_AT_ONCE", words)
        rows = augmenter(pairs[:], list(range(len(pairs))))
        assert {name: list(values) for name, values in rows.items()} == expected


def test_more_copies_are_the_same_copies_and_more(pairs, make_augmenter):
    few, many = (augment(pairs, make_augmenter(copies=copies, seed=11)) for copies in (3, 12))
    rows = [{(row["parent"], row["first"], row["second"]) for row in each} for each in (few, many)]
    assert rows[0] < rows[1]


def test_the_column_of_second_texts_is_part_of_the_fingerprint(make_augmenter):
    names = [Hasher.hash(make_augmenter(text_pair_column=column)) for column in ("second", "other", None)]
    assert len(set(names)) == 3


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text_pair_column": "first"}, "text_column='first' and text_pair_column='first' are one column"),
        ({"text_pair_column": "label"}, "text_pair_column='label': a column of that name is written"),
        ({"text_pair_column": "rewritten"}, r"'rewritten'.*\(parent, operators, rewritten and"),
        ({"text_column": "parent"}, "text_column='parent': .*the texts would be lost"),
        ({"label_column": "operators"}, "label_column='operators': .*the labels would be lost"),
    ],
)
def test_columns_of_one_name_are_refused_before_any_analysis(columns, message):
    with pytest.raises(ValueError, match=message):
        RuleAugmenter.from_corpus(FIRST, lambda text: pytest.fail("analyzed"), **{**COLUMNS, **columns})


def test_a_single_text_may_stand_in_a_column_rewritten(tag_words):
    augmenter = RuleAugmenter.from_corpus(FIRST, tag_words, text_column="rewritten")
    assert len(augmenter({"rewritten": FIRST}, range(5))["rewritten"]) > 5


def test_a_missing_column_of_second_texts_is_refused(pairs, make_augmenter):
    with pytest.raises(ValueError, match=r"no column 'second'; it has \['first', 'label'\].*text_pair_column"):
        augment(pairs.remove_columns("second"), make_augmenter())


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [("", ValueError, "'' is empty"), (None, TypeError, "None is a NoneType"), ("a \ud83d", ValueError, "surrogate")],
)
def test_a_bad_second_text_is_refused_with_its_column_and_row(text, error, message, make_augmenter):
    with pytest.raises(error, match=f"column 'second', row 41: .*{message}"):
        make_augmenter()({"first": ["film", "film"], "second": ["film", text]}, [40, 41])


def test_tuples_of_two_texts_are_no_corpus():
    with pytest.raises(TypeError, match="row 0: .* is a tuple, needed is a string"):
        RuleAugmenter.from_corpus(zip(FIRST, SECOND, strict=True), **COLUMNS)


def test_pairs_go_from_augmentation_to_a_siamese_student(make_augmenter, teacher, tokenizer, reviews, tmp_path):
    texts = reviews["sentence"][:]
    train = Dataset.from_dict({"first": texts[:24], "second": texts[24:], "label": [0, 1] * 12})
    validation = Dataset.from_dict({"first": texts[:6], "second": texts[1:7], "label": [0, 1] * 3})
    validation = validation.cast_column("label", ClassLabel(names=["negative", "positive"]))
    train = Dataset.from_list([*train, *validation]).cast(validation.features)  # with six leaks
    transfer = augment(train, make_augmenter(copies=3, seed=12))
    transfer, counts = drop_duplicates_and_leaks(
        transfer, texts_of([validation], *COLUMNS.values()), *COLUMNS.values()
    )
    assert counts["in_evaluation_data"] == 6 and counts["rows_out"] > 60
    transfer = TeacherLabeler(teacher, tokenizer, **COLUMNS, cache_dir=tmp_path / "logits").map(transfer)
    assert {"rewritten", "operators", "teacher_logits"} < set(transfer.column_names)

    words = word_level_tokenizer(chain(train["first"], train["second"]), pairs=True)
    names = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
    config = BilstmConfig(
        vocab_size=len(words), embedding_size=8, lstm_size=6, classifier_size=5, type_vocab_size=2, **names
    )
    arguments = DistillationArguments(
        str(tmp_path), max_steps=3, per_device_train_batch_size=16, learning_rate=1e-2, report_to=[], **COLUMNS
    )
    student = BilstmForSequenceClassification(config)
    trainer = DistillationTrainer(
        student, arguments, train_dataset=transfer, eval_dataset=validation, processing_class=words
    )
    assert np.isfinite(trainer.train().training_loss)
    assert np.isfinite(trainer.evaluate()["eval_loss"])
