"""A mix has exactly the shares that were asked for, no row twice, one schema, and every row's source."""

from collections import Counter

import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value

from distil_trainer.augmentation import RuleAugmenter, operator_counts
from distil_trainer.mixing import inherit_column, mix
from distil_trainer.unlabelled import load_unlabelled

LABEL = ClassLabel(names=["negative", "positive"])


def _labelled(rows, **columns):
    texts = {"sentence": [f"labelled {row}" for row in range(rows)], "label": [row % 2 for row in range(rows)]}
    features = Features({"sentence": Value("string"), "label": LABEL})
    dataset = Dataset.from_dict(texts, features=features)
    for name, values in columns.items():
        dataset = dataset.add_column(name, values)
    return dataset


def _unlabelled(rows):
    return load_unlabelled(
        Dataset.from_dict({"sentence": [f"text {row}" for row in range(rows)]}), label_feature=LABEL
    )


@pytest.mark.parametrize(
    ("shares", "num_rows", "counts"),
    [
        ({"labelled": 0.3, "unlabelled": 0.7}, 100, (30, 70)),
        ({"unlabelled": 0.7, "labelled": 0.3}, 11, (3, 8)),  # 3.3 and 7.7
        ({"labelled": 0.5, "unlabelled": 0.5}, 1, (1, 0)),
        ({"labelled": 0.1, "unlabelled": 0.9}, None, (30, 270)),  # 0.1 · 300 is 30.000000000000004 in floats
        ({"labelled": 1 / 3, "unlabelled": 2 / 3}, 9, (3, 6)),
        (None, None, (50, 270)),
        (None, 32, (5, 27)),
    ],
)
def test_the_counts_are_the_shares_to_the_row(shares, num_rows, counts):
    mixed = mix({"labelled": _labelled(50), "unlabelled": _unlabelled(270)}, shares, num_rows)
    found = Counter(mixed["source"])
    assert (found["labelled"], found["unlabelled"]) == counts
    assert len(set(mixed["sentence"])) == len(mixed) == sum(counts)


def test_rows_keep_their_labels_and_their_order_and_depend_on_the_seed_alone():
    sources = {"labelled": _labelled(50), "unlabelled": _unlabelled(100)}
    first, again, other = (mix(sources, num_rows=60, seed=seed) for seed in (1, 1, 2))
    assert first[:] == again[:]
    assert first["sentence"][:] != other["sentence"][:]
    numbers = [(row["source"], int(row["sentence"].split()[1])) for row in first]
    assert numbers == sorted(numbers)
    wanted = [number % 2 if source == "labelled" else -1 for source, number in numbers]
    assert first["label"][:] == wanted
    assert first.features["label"] == LABEL
    # What is drawn of one source does not depend on what the others are.
    alone = mix({"labelled": _labelled(50)}, num_rows=20, seed=1)
    assert set(alone["sentence"]) == {row["sentence"] for row in first if row["source"] == "labelled"}


def test_every_row_can_be_drawn():
    drawn = [mix({"a": _labelled(3)}, num_rows=1, seed=seed)[0]["sentence"] for seed in range(20)]
    assert len(set(drawn)) == 3


def test_what_a_source_lacks_is_said_to_be_missing():
    augmented = _labelled(
        2, parent=[7, 7], operators=["original", "mask"], rewritten=["none", "both"], note=["x", "y"]
    )
    plain = _unlabelled(1).add_column("score", [0.5])
    mixed = mix({"augmented": augmented, "plain": plain})
    assert mixed.column_names == ["sentence", "label", "parent", "operators", "rewritten", "note", "score", "source"]
    assert mixed[1] == {
        "sentence": "labelled 1", "label": 1, "parent": 7, "operators": "mask", "rewritten": "both", "note": "y",
        "score": None, "source": "augmented",
    }  # fmt: skip
    assert mixed[2] == {
        "sentence": "text 0", "label": -1, "parent": -1, "operators": "original", "rewritten": "none", "note": None,
        "score": 0.5, "source": "plain",
    }  # fmt: skip
    assert operator_counts(mixed) == {"original": 2, "mask": 1}


def test_bare_numbers_nulls_and_large_strings_take_the_types_of_the_labelled_rows():
    labelled = _labelled(1).add_column("teacher_logits", [[0.5, 1.5]])
    logits = Sequence(Value("float32"), length=2)
    labelled = labelled.cast_column("teacher_logits", logits)
    bare = Dataset.from_dict({"sentence": ["a", "b"], "label": [-1, 1], "teacher_logits": [None, None]})
    mixed = mix({"bare": bare.cast_column("sentence", Value("large_string")), "labelled": labelled})
    assert mixed.features["label"] == LABEL
    assert mixed.features["teacher_logits"] == logits
    assert mixed["label"][:] == [-1, 1, 0]
    assert mixed["teacher_logits"][:] == [None, None, [0.5, 1.5]]


def test_pairs_are_mixed_by_both_columns():
    pair = Dataset.from_dict({"a": ["x"], "b": ["y"]})
    assert mix({"one": pair, "two": pair}, text_column="a", text_pair_column="b")["b"][:] == ["y", "y"]
    with pytest.raises(ValueError, match=r"sources\['two'\] has no column 'b'.*text_pair_column="):
        mix({"one": pair, "two": pair.remove_columns("b")}, text_column="a", text_pair_column="b")


def test_a_mix_of_mixes_keeps_the_first_names():
    first = mix({"labelled": _labelled(2), "unlabelled": _unlabelled(1)})
    assert mix({"texts": first, "generated": _unlabelled(1)})["source"][:] == [
        "labelled", "labelled", "unlabelled", "generated",
    ]  # fmt: skip


def test_copies_inherit_the_source_of_their_parent():
    mixed = mix({"labelled": _labelled(30), "unlabelled": _unlabelled(100)}, num_rows=65)
    augmenter = RuleAugmenter.from_corpus(mixed["sentence"], copies=4, mask_probability=0.5, replace_probability=0)
    augmented = mixed.map(augmenter, batched=True, with_indices=True, remove_columns=mixed.column_names)
    inherited = inherit_column(augmented, mixed)
    assert len(inherited) > 65
    assert inherited["source"][:] == [mixed[parent]["source"] for parent in augmented["parent"]]
    assert inherited.remove_columns("source")[:] == augmented[:]
    assert inherit_column(inherited, mixed)["source"][:] == inherited["source"][:]  # replaced, not repeated
    orphan = Dataset.from_dict({"sentence": ["x"], "parent": [-1]})
    assert inherit_column(orphan, mixed)["source"][:] == [None]


def test_a_parent_that_is_not_there_is_refused():
    mixed = mix({"labelled": _labelled(3)})
    with pytest.raises(ValueError, match="parent=3, but parents has 3 rows"):
        inherit_column(Dataset.from_dict({"sentence": ["x"], "parent": [3]}), mixed)
    with pytest.raises(ValueError, match="no column 'parent'"):
        inherit_column(mixed, mixed)
    with pytest.raises(ValueError, match="parents has no column 'source'"):
        inherit_column(Dataset.from_dict({"parent": [0]}), _labelled(1))


@pytest.mark.parametrize(
    ("shares", "num_rows", "message"),
    [
        (
            {"a": 0.5, "b": 0.5},
            30,
            "asks for 15 rows of 'a', which has 10.*num_rows=20 at most, for which 'a' is used",
        ),
        (None, 41, "num_rows=41 .* allow num_rows=40 at most"),
        (None, 0, "num_rows=0 must be at least 1. .* up to 40"),
        ({"a": 0.5, "c": 0.5}, None, "shares names a, c, sources names a, b"),
        ({"a": 1.0}, None, "shares names a, sources names a, b"),
        ({"a": 0.0, "b": 1.0}, None, r"shares\['a'\]=0.0 must be above 0"),
        ({"a": float("nan"), "b": 1.0}, None, r"shares\['a'\]=nan must be above 0"),
        ({"a": 0.5, "b": 0.6}, None, "make 1.1 together"),
    ],
)
def test_shares_that_cannot_be_had_are_refused(shares, num_rows, message):
    with pytest.raises(ValueError, match=message):
        mix({"a": _labelled(10), "b": _unlabelled(30)}, shares, num_rows)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({}, "sources is empty"),
        ({"a": _labelled(0)}, r"sources\['a'\] has no rows"),
        ({"a": _labelled(1).rename_column("sentence", "text")}, r"sources\['a'\] has no column 'sentence'"),
        ({"a": _labelled(1, source=[3])}, "has a column 'source' of .*int64"),
        (
            {"a": _labelled(1), "b": Dataset.from_dict({"sentence": ["x"], "label": [0.5]})},
            r"Column 'label' is Value\('float64'\) in sources\['b'\] and ClassLabel.* in sources\['a'\]",
        ),
        (
            {"a": _labelled(1), "b": _labelled(1).cast_column("label", ClassLabel(names=["positive", "negative"]))},
            "Column 'label' is ClassLabel",
        ),
    ],
)
def test_sources_that_do_not_fit_are_refused(sources, message):
    with pytest.raises(ValueError, match=message):
        mix(sources)


def test_sources_without_names_are_refused():
    with pytest.raises(TypeError, match="sources is a list, but must be a dictionary"):
        mix([_labelled(1)])


def test_a_stream_is_refused():
    with pytest.raises(TypeError, match="is a IterableDataset"):
        mix({"a": _labelled(1).to_iterable_dataset()})
