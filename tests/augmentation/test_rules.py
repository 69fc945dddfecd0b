import hashlib
import json
import logging
import pickle
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets.fingerprint import Hasher

from distil_trainer.augmentation import rules, sampling
from distil_trainer.augmentation.rules import RuleAugmenter
from distil_trainer.augmentation.splitmix import mix

SENTENCES = [
    "the film is great , the plot was poor and the actor is Brilliant",
    "  a dull  script\tis a bad story . ",
    "this movie was fine",
    "good film",
    "great",
    "the scene is good ; the scene is fine ; the scene is bad ; the scene is dull",
]
NO_EDITS = {"mask_probability": 0.0, "replace_probability": 0.0, "ngram_probability": 0.0}


@pytest.fixture
def dataset():
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
    labels = [1, 0, 1, 1, 1, 0]
    return Dataset.from_dict({"sentence": SENTENCES * 8, "label": labels * 8}, features=features)


def augment(dataset, augmenter, **options):
    return dataset.map(
        augmenter,
        batched=True,
        with_indices=True,
        remove_columns=dataset.column_names,
        **{"batch_size": 10, **options},
    )


def split(text):
    return re.findall(r"\[MASK\]|\w+|[^\w\s]", text)


def changes(original, text):
    """Positions of masked words, and of words replaced."""
    pairs = list(zip(split(original), split(text), strict=True))
    masked = [i for i, (old, new) in enumerate(pairs) if new == "[MASK]" != old]
    replaced = [i for i, (old, new) in enumerate(pairs) if new not in ("[MASK]", old)]
    return masked, replaced


def test_the_original_comes_first_unchanged_and_no_row_repeats_within_a_parent(dataset, tag_words):
    augmenter = RuleAugmenter.from_corpus(dataset["sentence"], tag_words, seed=1)
    rows = augment(dataset, augmenter)
    assert rows["parent"][:] == sorted(rows["parent"])
    for parent in range(len(dataset)):
        family = [row for row in rows if row["parent"] == parent]
        assert family[0]["sentence"] == dataset[parent]["sentence"]
        assert [row["operators"] == "original" for row in family] == [True] + [False] * (len(family) - 1)
        assert len({row["sentence"] for row in family}) == len(family) <= 21


def test_text_between_words_is_that_of_the_parent(dataset, tag_words):
    augmenter = RuleAugmenter.from_corpus(dataset["sentence"], tag_words, seed=1)
    for row in augment(dataset, augmenter):
        parent = dataset[row["parent"]]["sentence"]
        assert re.sub(r"\S+", "_", row["sentence"]) == re.sub(r"\S+", "_", parent)


def test_operators_say_what_shows_in_the_text(dataset, tag_words):
    augmenter = RuleAugmenter.from_corpus(dataset["sentence"], tag_words, ngram_probability=0.0, seed=2)
    seen = Counter()
    for row in augment(dataset, augmenter):
        masked, replaced = changes(dataset[row["parent"]]["sentence"], row["sentence"])
        names = ["mask"] * bool(masked) + ["replace"] * bool(replaced)
        assert row["operators"] == ("+".join(names) or "original")
        seen[row["operators"]] += 1
    assert set(seen) == {"original", "mask", "replace", "mask+replace"}


def test_a_word_that_an_ngram_masks_does_not_count_as_replaced(tag_words):
    settings = {"mask_probability": 0.0, "replace_probability": 0.3, "ngram_probability": 1.0, "ngram_lengths": (1, 2)}
    augmenter = RuleAugmenter.from_corpus(SENTENCES, tag_words, **settings, seed=2)
    text = "film great film great"
    seen = Counter()
    for row in augment(Dataset.from_dict({"sentence": [text] * 50}), augmenter):
        masked, replaced = changes(text, row["sentence"])
        names = ["replace"] * bool(replaced) + ["ngram"] * bool(masked)
        assert row["operators"] == ("+".join(names) or "original")
        seen[row["operators"]] += 1
    assert set(seen) == {"original", "replace", "replace+ngram", "ngram"}


def test_masked_and_replaced_words_have_the_given_shares(tag_words):
    text = " ".join(["film"] * 20 + ["plot"] * 20)
    dataset = Dataset.from_dict({"sentence": [text] * 400})
    settings = {"mask_probability": 0.1, "replace_probability": 0.2, "ngram_probability": 0.0, "copies": 1}
    augmenter = RuleAugmenter.from_corpus([text], tag_words, **settings, seed=3)
    found = [changes(text, row["sentence"]) for row in augment(dataset, augmenter)]
    words = 400 * 40  # nearly no text of 40 words is left unchanged or has 20 hits
    assert sum(len(masked) for masked, _ in found) / words == pytest.approx(0.1, abs=4 * (0.09 / words) ** 0.5)
    assert sum(len(replaced) for _, replaced in found) / words == pytest.approx(0.2, abs=4 * (0.16 / words) ** 0.5)
    places = np.bincount([place for masked, replaced in found for place in masked + replaced], minlength=40)
    assert places.min() > 120 - 4 * 120**0.5 and places.max() < 120 + 4 * 120**0.5


def test_a_word_is_replaced_by_another_of_its_tag_and_never_by_itself(dataset, tag_words):
    settings = {**NO_EDITS, "replace_probability": 1.0}
    augmenter = RuleAugmenter.from_corpus(dataset["sentence"], tag_words, **settings, seed=4)
    tag_of = {word: tag for word, tag, _, _ in tag_words(" ".join(SENTENCES))}
    replaced_words = set()
    for row in augment(dataset, augmenter):
        old_words, new_words = split(dataset[row["parent"]]["sentence"]), split(row["sentence"])
        for place in changes(" ".join(old_words), " ".join(new_words))[1]:
            assert tag_of[new_words[place]] == tag_of[old_words[place]] != ""
            replaced_words.add(old_words[place])
    assert replaced_words == {word for word, tag in tag_of.items() if tag}


@pytest.mark.parametrize(("pool", "expected"), [("types", 0.5), ("frequency", 0.8)])
def test_the_pool_is_drawn_by_type_or_by_frequency(pool, expected, tag_words):
    corpus = ["film plot"] * 1 + ["plot"] * 7 + ["plot actor", "actor", "film and and and"] + ["film"] * 5
    assert Counter(" ".join(corpus).split()) == {"film": 7, "plot": 9, "actor": 2, "and": 3}
    corpus.remove("plot")  # 8 times plot, 2 times actor
    dataset = Dataset.from_dict({"sentence": ["film and and and"] * 2000})
    settings = {**NO_EDITS, "replace_probability": 1.0, "copies": 1, "pool": pool}
    augmenter = RuleAugmenter.from_corpus(corpus, tag_words, **settings, seed=5)
    drawn = Counter(
        row["sentence"].split()[0] for row in augment(dataset, augmenter) if row["operators"] != "original"
    )
    assert set(drawn) == {"plot", "actor"} and drawn.total() == 2000
    assert drawn["plot"] / 2000 == pytest.approx(expected, abs=4 * (0.25 / 2000) ** 0.5)


@pytest.mark.parametrize("length", range(1, 10))
def test_at_most_half_of_the_words_are_edited(length, tag_words):
    text = " ".join((["film", "great", "the", "is"] * 3)[:length])
    dataset = Dataset.from_dict({"sentence": [text] * 60})
    settings = {"mask_probability": 0.4, "replace_probability": 0.4, "ngram_probability": 0.5, "copies": 10}
    augmenter = RuleAugmenter.from_corpus([*SENTENCES, text], tag_words, **settings, seed=6)
    edits = [sum(map(len, changes(text, row["sentence"]))) for row in augment(dataset, augmenter)]
    assert max(edits) == length // 2
    assert (len(edits) == 60) == (length == 1)


def test_when_too_many_words_are_hit_the_edited_ones_are_a_random_choice(tag_words):
    text = "film film film film"
    settings = {**NO_EDITS, "mask_probability": 1.0, "copies": 1}
    augmenter = RuleAugmenter.from_corpus([text], tag_words, **settings, seed=7)
    rows = augment(Dataset.from_dict({"sentence": [text] * 600}), augmenter)
    found = Counter(tuple(changes(text, row["sentence"])[0]) for row in rows if row["operators"] == "mask")
    assert len(found) == 6 and found.total() == 600
    assert all(abs(count - 100) < 4 * 83**0.5 for count in found.values())


@pytest.mark.parametrize("ngram_rule", ["mask", "keep"])
def test_the_ngram_starts_anywhere_with_equal_chance_the_last_place_too(ngram_rule):
    words = [f"w{i}" for i in range(8)]
    text = " ".join(words)
    settings = {**NO_EDITS, "ngram_probability": 1.0, "ngram_lengths": (3, 3), "ngram_rule": ngram_rule, "copies": 1}
    augmenter = RuleAugmenter.from_corpus([text], **settings, seed=8)
    rows = augment(Dataset.from_dict({"sentence": [text] * 1200}), augmenter)
    hits = Counter(row["sentence"] for row in rows if row["operators"] == "ngram")
    masked = {" ".join(words[:i] + ["[MASK]"] * 3 + words[i + 3 :]) for i in range(6)}
    windows = {" ".join(words[i : i + 3]) for i in range(6)}
    assert set(hits) == (masked if ngram_rule == "mask" else windows)
    assert all(abs(count - 200) < 4 * 167**0.5 for count in hits.values())


def test_ngram_lengths_are_uniform_over_those_that_fit():
    text = " ".join(f"w{i}" for i in range(7))  # 7 // 2 = 3 words may be masked
    settings = {**NO_EDITS, "ngram_probability": 1.0, "ngram_lengths": (1, 5), "copies": 1}
    rows = augment(
        Dataset.from_dict({"sentence": [text] * 900}), RuleAugmenter.from_corpus([text], **settings, seed=9)
    )
    sizes = Counter(row["sentence"].count("[MASK]") for row in rows if row["operators"] == "ngram")
    assert set(sizes) == {1, 2, 3}
    assert all(abs(count - 300) < 4 * 200**0.5 for count in sizes.values())


def test_an_ngram_step_happens_with_its_probability():
    text = " ".join(f"w{i}" for i in range(20))
    settings = {**NO_EDITS, "ngram_probability": 0.25, "copies": 1}
    rows = augment(
        Dataset.from_dict({"sentence": [text] * 2000}), RuleAugmenter.from_corpus([text], **settings, seed=10)
    )
    share = (len(rows) - 2000) / 2000
    assert share == pytest.approx(0.25, abs=4 * (0.1875 / 2000) ** 0.5)


def test_rule_keep_leaves_part_of_the_edited_text_and_never_masks_alone(dataset, tag_words):
    settings = {"ngram_probability": 1.0, "ngram_rule": "keep", "mask_probability": 0.5, "ngram_lengths": (1, 3)}
    augmenter = RuleAugmenter.from_corpus(dataset["sentence"], tag_words, **settings, seed=11)
    seen = set()
    for row in augment(dataset, augmenter):
        words, parent = split(row["sentence"]), split(dataset[row["parent"]]["sentence"])
        if row["operators"] != "original":
            assert "ngram" in row["operators"].split("+")
            assert len(words) <= min(3, len(parent) - 1)
            assert row["sentence"] == row["sentence"].strip()
            assert set(words) != {"[MASK]"}
            assert ("mask" in row["operators"].split("+")) == ("[MASK]" in words)
            seen.add(row["operators"])
    assert {"ngram", "mask+ngram", "replace+ngram"} <= seen


def test_rows_do_not_depend_on_batch_size_or_processes(dataset, tag_words):
    augmenter = RuleAugmenter.from_corpus(dataset["sentence"], tag_words, seed=12)
    expected = augment(dataset, augmenter, batch_size=1000)[:]
    assert augment(dataset, augmenter, batch_size=1)[:] == expected
    assert augment(dataset, augmenter, batch_size=7, num_proc=2)[:] == expected
    streamed = dataset.to_iterable_dataset().map(
        augmenter, batched=True, with_indices=True, batch_size=5, remove_columns=dataset.column_names
    )
    assert list(streamed) == [
        dict(zip(expected, values, strict=True)) for values in zip(*expected.values(), strict=True)
    ]


@pytest.mark.parametrize(
    ("settings", "num_rows", "digest"),
    [
        ({"seed": 1}, 243, "0bf2cf17302a3baa"),
        ({"seed": 2, "ngram_rule": "keep", "ngram_probability": 0.8}, 249, "b22c2a0980138144"),
        ({"seed": 3, "pool": "frequency", "lower": True}, 237, "cce04fa68dba756f"),
        ({"seed": 4, "keep_label": True, "mask_probability": 0.3, "copies": 7}, 115, "1f601c5cc129fc56"),
    ],
)
@pytest.mark.parametrize("words_at_once", [500_000, 40])
def test_rows_are_those_of_version_1(settings, num_rows, digest, words_at_once, tag_words, monkeypatch):
    # Recorded before pairs were added. Whoever changes these rows raises _RULES_VERSION, and records them anew.
    monkeypatch.setattr(sampling, "_WORDS_AT_ONCE", words_at_once)
    texts = [*SENTENCES * 3, "a new film , unseen"]
    augmenter = RuleAugmenter.from_corpus(SENTENCES, tag_words, **settings)
    columns = augmenter({"sentence": texts, "label": list(range(len(texts)))}, range(100, 100 + len(texts)))
    assert rules._RULES_VERSION == 1 and len(columns["parent"]) == num_rows
    columns["parent"] = columns["parent"].tolist()
    assert hashlib.sha256(json.dumps(columns, sort_keys=True).encode()).hexdigest()[:16] == digest


def test_rows_depend_on_seed_and_row_index(dataset, tag_words):
    def rewritten(seed, rows):
        augmenter = RuleAugmenter.from_corpus(dataset["sentence"], tag_words, seed=seed)
        return augmenter({"sentence": [SENTENCES[0]] * len(rows)}, rows)["sentence"]

    texts = [rewritten(seed, [row]) for seed, row in ((0, 5), (1, 5), (0, 6), (-1, 5), (2**64 + 1, 5))]
    assert texts[4] == texts[1]  # seeds count modulo 2**64
    assert len({tuple(text) for text in texts}) == 4
    assert rewritten(0, [6, 5]) == texts[2] + texts[0]


def test_random_numbers_are_those_of_splitmix64():
    states = np.array([1234567], np.uint64) + np.uint64(0x9E3779B97F4A7C15) * np.arange(3, dtype=np.uint64)
    assert mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_texts_outside_the_corpus_are_analyzed_when_they_come(tag_words):
    settings = {**NO_EDITS, "mask_probability": 0.3, "seed": 13}
    whole = RuleAugmenter.from_corpus(SENTENCES, tag_words, **settings)
    half = RuleAugmenter.from_corpus(SENTENCES[:2], tag_words, **settings)
    batch, rows = {"sentence": SENTENCES[::-1]}, list(range(len(SENTENCES)))
    expected, got = whole(batch, rows), half(batch, rows)
    assert got["sentence"] == expected["sentence"] and got["operators"] == expected["operators"]


def test_a_word_outside_the_corpus_is_replaced_by_one_inside_if_its_tag_is_there(tag_words):
    settings = {**NO_EDITS, "replace_probability": 1.0, "copies": 30}
    augmenter = RuleAugmenter.from_corpus(["film plot"], tag_words, **settings, seed=14)
    rows = augmenter({"sentence": ["script is great"]}, [0])["sentence"]
    assert sorted(rows[1:]) == ["film is great", "plot is great"]


def test_a_word_alone_with_its_tag_is_left_as_it_is(tag_words):
    settings = {**NO_EDITS, "replace_probability": 1.0}
    augmenter = RuleAugmenter.from_corpus(["film is", "film was"], tag_words, **settings, seed=15)
    assert augmenter({"sentence": ["film is"]}, [0])["sentence"] == ["film is", "film was"]


def test_a_mask_word_in_the_text_stays_and_is_no_edit(tag_words):
    settings = {**NO_EDITS, "mask_probability": 1.0, "copies": 40}
    augmenter = RuleAugmenter.from_corpus(["The [MASK] film"], tag_words, **settings, lower=True, seed=16)
    rows = augmenter({"sentence": ["The [MASK] film"]}, [0])
    assert sorted(rows["sentence"]) == sorted(["the [MASK] film", "[MASK] [MASK] film", "the [MASK] [MASK]"])


def test_a_mask_word_in_the_text_does_not_use_up_an_edit(tag_words):
    settings = {**NO_EDITS, "mask_probability": 1.0, "copies": 1}
    augmenter = RuleAugmenter.from_corpus(["[MASK] film plot"], tag_words, **settings, seed=16)
    rows = augment(Dataset.from_dict({"sentence": ["[MASK] film plot"] * 100}), augmenter)
    assert Counter(rows["operators"]) == {"original": 100, "mask": 100}


def test_lower_lowers_originals_gaps_and_pool_after_tagging():
    def tag_by_case(text):
        return [
            (m.group(), "NAME" if m.group()[0].isupper() else "word", *m.span()) for m in re.finditer(r"\w+", text)
        ]

    def analyzer(text):
        return [(word, tag, start, end - start) for word, tag, start, end in tag_by_case(text) if word != "X"]

    texts = ["Anna X saw Rome", "Bob X met Oslo"]
    settings = {**NO_EDITS, "replace_probability": 0.5}
    augmenter = RuleAugmenter.from_corpus(texts, analyzer, **settings, lower=True, seed=17)
    rows = augmenter({"sentence": texts}, [0, 1])["sentence"]
    assert rows[0] == "anna x saw rome"
    names, verbs = {"anna", "rome", "bob", "oslo"}, {"saw", "met"}
    assert all(words[0] in names and words[1] == "x" and words[2] in verbs for words in map(str.split, rows))


def test_copies_are_unlabelled_unless_the_label_is_kept(dataset, tag_words):
    for keep_label in (False, True):
        augmenter = RuleAugmenter.from_corpus(dataset["sentence"], tag_words, keep_label=keep_label, seed=18)
        rows = augment(dataset, augmenter)
        assert rows.features["label"] == dataset.features["label"]
        for row in rows:
            gold = dataset[row["parent"]]["label"]
            assert row["label"] == (gold if keep_label or row["operators"] == "original" else -1)


@pytest.mark.parametrize("values", [[0.5, 2.0], ["no", "yes"]])
def test_copies_with_labels_that_are_no_integers_have_a_null(values, tag_words):
    dataset = Dataset.from_dict({"sentence": SENTENCES[:2], "label": values})
    rows = augment(dataset, RuleAugmenter.from_corpus(SENTENCES, tag_words, seed=19))
    assert rows.features["label"] == dataset.features["label"]
    assert {row["label"] for row in rows if row["operators"] != "original"} == {None}
    assert [row["label"] for row in rows if row["operators"] == "original"] == values


def test_a_data_set_without_labels_gets_none(tag_words):
    dataset = Dataset.from_dict({"text": SENTENCES, "id": list(range(6))})
    rows = augment(dataset, RuleAugmenter.from_corpus(SENTENCES, tag_words, text_column="text"))
    assert rows.column_names == ["text", "parent", "operators"]
    assert rows.features["parent"] == Value("int64") and rows.features["operators"] == Value("string")


def test_the_fingerprint_follows_corpus_and_settings_and_survives_a_process(tag_words):
    def fingerprint(texts=SENTENCES, **settings):
        return Hasher.hash(RuleAugmenter.from_corpus(texts, tag_words, **settings))

    first = RuleAugmenter.from_corpus(SENTENCES, tag_words, seed=20)
    assert Hasher.hash(pickle.loads(pickle.dumps(first))) == Hasher.hash(first) == fingerprint(seed=20)
    others = [fingerprint(), fingerprint(SENTENCES[1:], seed=20), fingerprint(seed=20, pool="frequency")]
    others += [fingerprint(seed=20, copies=19), fingerprint(seed=20, lower=True)]
    assert len({Hasher.hash(first), *others}) == 6


def test_a_second_map_is_served_from_the_cache(dataset, tag_words, tmp_path, monkeypatch):
    dataset.save_to_disk(tmp_path / "data")
    stored = Dataset.load_from_disk(tmp_path / "data")
    expected = augment(stored, RuleAugmenter.from_corpus(stored["sentence"], tag_words))
    again = RuleAugmenter.from_corpus(stored["sentence"], tag_words)
    monkeypatch.setattr(RuleAugmenter, "__call__", lambda *arguments: pytest.fail("augmented again"))
    assert augment(stored, again)[:] == expected[:]


def test_a_new_version_of_the_rules_is_not_served_from_the_cache(tag_words, monkeypatch):
    augmenter = RuleAugmenter.from_corpus(SENTENCES, tag_words)
    before = Hasher.hash(augmenter)
    monkeypatch.setattr(rules, "_RULES_VERSION", rules._RULES_VERSION + 1)
    assert Hasher.hash(augmenter) != before


def test_a_pipeline_works_in_worker_processes_on_texts_outside_the_corpus(dataset, pipeline_folder):
    augmenter = RuleAugmenter.from_corpus(SENTENCES[:3], pipeline_folder, seed=21)
    expected = augment(dataset, augmenter)
    assert augment(dataset, augmenter, num_proc=2, batch_size=4)[:] == expected[:]
    assert any("replace" in operators for operators in expected["operators"])


def test_missing_tags_give_one_warning_that_says_what_is_lost(caplog):
    with caplog.at_level(logging.WARNING, logger="distil_trainer"):
        augmenter = RuleAugmenter.from_corpus(SENTENCES, seed=22)
        rows = augment(Dataset.from_dict({"sentence": SENTENCES}), augmenter, batch_size=2)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert re.search(r"no word is replaced.*replace_probability=0.1 has no effect.*en_core_web_sm", caplog.text)
    assert not any("replace" in operators for operators in rows["operators"])
    caplog.clear()
    RuleAugmenter.from_corpus(SENTENCES, replace_probability=0.0)
    assert not caplog.records


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"copies": 0}, "copies=0: needed is at least 1"),
        ({"mask_probability": 1.5}, "mask_probability=1.5 is not a probability"),
        ({"replace_probability": -0.1}, "replace_probability=-0.1 is not a probability"),
        ({"ngram_probability": float("nan")}, "ngram_probability=nan is not a probability"),
        ({"mask_probability": 0.6, "replace_probability": 0.6}, "sum to more than 1"),
        ({"ngram_lengths": (0, 3)}, r"ngram_lengths=\(0, 3\)"),
        ({"ngram_lengths": (4, 3)}, "1 <= shortest <= longest"),
        ({"ngram_lengths": (1, 2, 3)}, "the shortest and the longest"),
        ({"ngram_rule": "drop"}, "ngram_rule='drop' is unknown: give 'mask' or 'keep'"),
        ({"pool": "uniform"}, "pool='uniform' is unknown: give 'types' or 'frequency'"),
    ],
)
def test_settings_out_of_range_are_refused_before_any_analysis(settings, message):
    with pytest.raises(ValueError, match=message):
        RuleAugmenter.from_corpus(SENTENCES, lambda text: pytest.fail("analyzed"), **settings)


def test_a_corpus_that_is_empty_or_one_string_is_refused():
    with pytest.raises(ValueError, match="texts has no rows"):
        RuleAugmenter.from_corpus([])
    with pytest.raises(TypeError, match="a corpus of single letters"):
        RuleAugmenter.from_corpus("a great film")


def test_an_analyzer_of_another_type_is_refused():
    with pytest.raises(TypeError, match="analyzer=7 is a int"):
        RuleAugmenter.from_corpus(SENTENCES, 7)


@pytest.mark.parametrize(
    ("text", "error", "message"), [("  ", ValueError, "is empty"), (None, TypeError, "None is a NoneType")]
)
def test_empty_and_missing_texts_are_refused_with_their_row(text, error, message):
    with pytest.raises(error, match=rf"texts, row 1: .*{message}.*dataset\.filter"):
        RuleAugmenter.from_corpus(["a film", text])
    augmenter = RuleAugmenter.from_corpus(["a film"], replace_probability=0.0)
    with pytest.raises(error, match=rf"column 'sentence', row 41: .*{message}.*dataset\.filter"):
        augmenter({"sentence": ["a film", text]}, [40, 41])


def test_a_lone_surrogate_is_refused_with_its_row_and_the_repair_that_is_named_works():
    text = "fine film \ud83d"
    with pytest.raises(ValueError, match=r"texts, row 1: .*'\\ud83d' at character 10.*surrogate.*utf-16"):
        RuleAugmenter.from_corpus(["a film", text])
    augmenter = RuleAugmenter.from_corpus(["a film"], replace_probability=0.0)
    with pytest.raises(ValueError, match="column 'sentence', row 7: .*surrogate"):
        augmenter({"sentence": [text]}, [7])
    repaired = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert augmenter({"sentence": [repaired]}, [7])["sentence"][0] == "fine film \ufffd"


@pytest.mark.parametrize(
    "text",
    [
        "one\ttwo\n\nthree  four\r\nfive\u00a0six\u2028seven",
        "영화 film 非常 good очень 🎬 !!!",
        "😀 😀 👍🏽 👨‍👩‍👧 🇰🇷 😀",
        "e\u0301 a\u0308 \u202bשלום\u202c عالم",
    ],
)
def test_tabs_line_ends_emoji_and_mixed_scripts_stay_as_they_are(text):
    augmenter = RuleAugmenter.from_corpus([text], replace_probability=0.0, copies=8)
    texts = augmenter({"sentence": [text]}, [0])["sentence"]
    words = text.split()
    assert texts[0] == text and len(texts) > 3
    for copy in texts[1:]:
        assert re.sub(r"\S+", "_", copy) == re.sub(r"\S+", "_", text)
        assert all(new in (old, "[MASK]") for old, new in zip(words, copy.split(), strict=True))


def test_a_text_of_a_single_emoji_has_no_copies():
    augmenter = RuleAugmenter.from_corpus(["😀"], replace_probability=0.0)
    assert augmenter({"sentence": ["😀"]}, [0])["sentence"] == ["😀"]


def test_a_text_of_a_million_characters_is_rewritten_in_parts(monkeypatch):
    parts = []
    sample = sampling._sample
    monkeypatch.setattr(sampling, "_sample", lambda *given: parts.append(len(given[2])) or sample(*given))
    text = "good film , " * 83_334
    rows = RuleAugmenter.from_corpus([text, "a film"], copies=4)({"sentence": ["a film", text]}, [0, 1])
    assert len(text) > 1_000_000 and rows["sentence"].count(text) == 1
    assert rows["parent"].tolist()[-5:] == [1] * 5 and max(parts) < 10 == sum(parts)  # 2 texts, each with 4 copies
    assert rows["sentence"][-1].count("[MASK]") == pytest.approx(25_000, rel=0.03)


def test_missing_columns_are_refused_with_those_there(dataset):
    augmenter = RuleAugmenter.from_corpus(["a film"], text_column="text", replace_probability=0.0)
    with pytest.raises(ValueError, match=r"no column 'text'; it has \['label', 'sentence'\].*text_column"):
        augment(dataset, augmenter)
    augmenter = RuleAugmenter.from_corpus(["a film"], label_column="gold", keep_label=True, replace_probability=0.0)
    with pytest.raises(ValueError, match=r"no column 'gold'.*label_column, or set keep_label=False"):
        augment(dataset, augmenter)


def test_a_map_without_indices_is_refused_with_the_right_call(dataset):
    augmenter = RuleAugmenter.from_corpus(["a film"], replace_probability=0.0)
    with pytest.raises(TypeError, match="with_indices=True"):
        dataset.map(augmenter, batched=True)


def test_augmentation_does_not_import_torch():
    code = "import sys; from distil_trainer.augmentation import audit, rules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
