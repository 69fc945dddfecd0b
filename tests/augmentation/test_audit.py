import random

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from distil_trainer.augmentation import audit
from distil_trainer.augmentation.audit import drop_duplicates_and_leaks, drop_leaks, operator_counts, texts_of

ROWS = ["A good film", "a dull plot", "a  good\tfilm ", "a fine plot", "a dull plot", "A FINE plot", "good"]


@pytest.fixture
def rows():
    operators = ["original", "mask", "replace", "mask", "mask", "original", "ngram"]
    return Dataset.from_dict({"sentence": ROWS, "number": list(range(7)), "operators": operators})


def test_evaluation_texts_go_first_then_later_duplicates_and_the_order_stays(rows):
    kept, counts = drop_duplicates_and_leaks(rows, ["a  fine PLOT", "not there"])
    assert kept["number"][:] == [0, 1, 6]
    assert counts == {"rows_in": 7, "in_evaluation_data": 2, "near_evaluation_data": 0, "duplicates": 2, "rows_out": 3}
    assert kept["sentence"][:] == ["A good film", "a dull plot", "good"]


def test_steps_and_streams_do_not_change_the_result(rows, monkeypatch):
    texts = ["not there", "a fine plot", "nor this"]
    expected, expected_counts = drop_duplicates_and_leaks(rows, texts)
    monkeypatch.setattr(audit, "_ROWS_PER_STEP", 2)
    kept, counts = drop_duplicates_and_leaks(rows, (text for text in texts))
    assert kept[:] == expected[:] and counts == expected_counts


def test_rows_that_were_selected_before_are_compared_in_their_new_order(rows):
    kept, _ = drop_duplicates_and_leaks(rows.select([4, 3, 1, 0]), [])
    assert kept["number"][:] == [4, 3, 0]


def test_other_columns_and_their_features_stay():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    dataset = Dataset.from_dict({"text": ["x", "x", "y"], "label": [0, 1, -1]}, features=features)
    kept, _ = drop_duplicates_and_leaks(dataset, [], text_column="text")
    assert kept.features == features
    assert kept[:] == {"text": ["x", "y"], "label": [0, -1]}


def test_a_data_set_without_anything_to_drop_is_returned_as_it_is():
    dataset = Dataset.from_dict({"sentence": ["x", "y"]})
    kept, counts = drop_duplicates_and_leaks(dataset, ["z"])
    assert kept is dataset
    assert counts == {"rows_in": 2, "in_evaluation_data": 0, "near_evaluation_data": 0, "duplicates": 0, "rows_out": 2}


def test_operators_are_counted_most_frequent_first(rows):
    counts = operator_counts(rows)
    assert counts == {"mask": 3, "original": 2, "replace": 1, "ngram": 1}
    assert list(counts)[:2] == ["mask", "original"]


def test_a_missing_text_column_is_refused_with_the_columns_there(rows):
    with pytest.raises(ValueError, match=r"text_column='text'.*\['sentence', 'number', 'operators'\]"):
        drop_duplicates_and_leaks(rows, [], text_column="text")


def test_one_string_as_evaluation_texts_is_refused(rows):
    with pytest.raises(TypeError, match="would be read as single letters"):
        drop_duplicates_and_leaks(rows, "a fine plot")


def test_a_missing_text_is_refused():
    with pytest.raises(ValueError, match="1 texts are missing"):
        drop_duplicates_and_leaks(Dataset.from_dict({"sentence": ["x", None]}), [])


def test_counting_needs_the_column_of_operators():
    with pytest.raises(ValueError, match=r"no column 'operators'; it has \['sentence'\]"):
        operator_counts(Dataset.from_dict({"sentence": ["x"]}))


def test_leaks_alone_are_dropped_and_repeated_texts_stay():
    dataset = Dataset.from_dict({"sentence": ["a film", "b", "A  Film", "b", "c"]})
    kept, dropped = drop_leaks(dataset, ["a film"])
    assert list(kept["sentence"]) == ["b", "b", "c"] and dropped == 2
    assert drop_leaks(dataset, ["nothing of it"]) == (dataset, 0)


PAIRS = {
    "question": ["who left", "Who  Left", "who left", "who", "a b", "a"],
    "sentence": ["i did", "I did", "we did", "left i did", "c", "b c"],
}


def test_pairs_are_equal_where_both_texts_are():
    dataset = Dataset.from_dict(PAIRS)
    columns = {"text_column": "question", "text_pair_column": "sentence"}
    kept, counts = drop_duplicates_and_leaks(dataset, [("WHO left", "we  did"), ("we did", "who left")], **columns)
    assert kept["sentence"][:] == ["i did", "left i did", "c", "b c"]
    assert counts == {"rows_in": 6, "in_evaluation_data": 1, "near_evaluation_data": 0, "duplicates": 1, "rows_out": 4}
    kept, dropped = drop_leaks(dataset, zip(["who left"], ["i did"], strict=True), **columns)
    assert dropped == 2 and kept["sentence"][:] == ["we did", "left i did", "c", "b c"]


def test_pairs_are_compared_in_steps_too(monkeypatch):
    dataset, pairs = Dataset.from_dict(PAIRS), [("no", "no"), ("a", "b c"), ("who", "left i did")]
    columns = {"text_column": "question", "text_pair_column": "sentence"}
    expected = drop_duplicates_and_leaks(dataset, pairs, **columns)
    monkeypatch.setattr(audit, "_ROWS_PER_STEP", 2)
    kept, counts = drop_duplicates_and_leaks(dataset, pairs, **columns)
    assert counts == expected[1] and counts["in_evaluation_data"] == 2
    assert kept[:] == expected[0][:]


def test_columns_of_another_string_type_have_the_same_keys():
    features = Features({"question": Value("string"), "sentence": Value("large_string")})
    dataset = Dataset.from_dict(PAIRS, features=features)
    assert drop_leaks(dataset, [("a", "b c")], "question", "sentence")[1] == 1


def test_pairs_need_pairs_and_texts_need_texts():
    dataset = Dataset.from_dict(PAIRS)
    with pytest.raises(TypeError, match="holds 'who left', but text_pair_column is given"):
        drop_leaks(dataset, ["who left"], "question", "sentence")
    with pytest.raises(TypeError, match=r"holds \('who', 'left'\), but text_pair_column is None"):
        drop_leaks(dataset, [("who", "left")], "question")


def test_a_missing_column_of_second_texts_is_refused():
    with pytest.raises(ValueError, match=r"text_pair_column='answer' is not in the data set.*question"):
        drop_leaks(Dataset.from_dict(PAIRS), [], "question", "answer")


def test_a_missing_evaluation_text_is_refused():
    with pytest.raises(ValueError, match="1 texts are missing"):
        drop_leaks(Dataset.from_dict({"sentence": ["x"]}), ["y", None])


def test_the_texts_of_several_data_sets_are_read_one_after_the_other(monkeypatch):
    monkeypatch.setattr(audit, "_ROWS_PER_STEP", 2)
    first, second = Dataset.from_dict({"sentence": ["a", "b", "c"]}), Dataset.from_dict({"sentence": ["d"]})
    assert list(texts_of([first, second])) == ["a", "b", "c", "d"]
    dataset = Dataset.from_dict(PAIRS)
    pairs = list(texts_of([dataset], "question", "sentence"))
    assert pairs == list(zip(PAIRS["question"], PAIRS["sentence"], strict=True))
    assert drop_leaks(dataset, pairs[2:], "question", "sentence")[0]["sentence"][:] == ["i did", "I did"]


def test_texts_of_a_missing_column_are_refused():
    with pytest.raises(ValueError, match="text_column='text' is not in the data set"):
        list(texts_of([Dataset.from_dict(PAIRS)], "text"))


def test_planted_leaks_near_leaks_and_duplicates_are_all_found_and_nothing_else(monkeypatch):
    monkeypatch.setattr(audit, "_ROWS_PER_STEP", 150)
    rng = random.Random(3)
    words = ["".join(rng.choices("abcdefghijklmnoprstuvwy", k=rng.randint(2, 9))) for _ in range(3000)]
    texts = [" ".join(rng.choices(words, k=rng.randint(9, 25))) for _ in range(900)]
    evaluation, texts = texts[:200], texts[200:]

    def edited(text, new_words):
        place = rng.randrange(len(text.split()))
        return " ".join([*text.split()[:place], *new_words, *text.split()[place + 1 :]])

    planted = {  # number of an evaluation text -> what it becomes
        "in_evaluation_data": {number: evaluation[number] for number in range(0, 40)},
        "near_evaluation_data": {
            **{number: evaluation[number].upper() + "!" for number in range(40, 60)},
            **{number: evaluation[number].replace(" ", "").capitalize() for number in range(60, 80)},
            **{number: evaluation[number].replace(" ", ", ", 3) for number in range(80, 100)},
            **{number: edited(evaluation[number], [rng.choice(words)]) for number in range(100, 140)},
            **{number: edited(evaluation[number], []) for number in range(140, 180)},
            **{number: edited(evaluation[number], ["[MASK]"]) for number in range(180, 200)},
        },
        "duplicates": {number: texts[number].title().replace(" ", "\t") for number in range(100)},
    }
    rows = [("kept", text) for text in texts]
    for kind, plants in planted.items():
        rows += [(kind, text) for text in plants.values()]
    rows = rows[:100] + rng.sample(rows[100:], len(rows) - 100)  # the first hundred stay before their duplicates
    dataset = Dataset.from_dict({"kind": [kind for kind, _ in rows], "sentence": [text for _, text in rows]})
    kept, counts = drop_duplicates_and_leaks(dataset, evaluation)
    assert set(kept["kind"]) == {"kept"} and len(kept) == 700
    assert counts == {
        "rows_in": 1000,
        "in_evaluation_data": 40,
        "near_evaluation_data": 160,
        "duplicates": 100,
        "rows_out": 700,
    }
    found = audit.find_duplicates_and_leaks(dataset, evaluation, near_threshold=0.6, num_examples=1000)
    assert [example["row"] for example in found.examples] == [
        row for row, (kind, _) in enumerate(rows) if kind == "near_evaluation_data"
    ]
    source = {text: evaluation[number] for number, text in planted["near_evaluation_data"].items()}
    assert all(source[example["text"]] == example["evaluation_text"] for example in found.examples)


def test_near_rows_stay_where_they_are_not_asked_for():
    text = "the plot is thin but the actors make the most of it"
    dataset = Dataset.from_dict({"sentence": [text.replace("thin", "bad"), text, "a b"]})
    kept, counts = drop_duplicates_and_leaks(dataset, [text], near_threshold=None)
    assert len(kept) == 2 and counts["near_evaluation_data"] == 0
    assert drop_leaks(dataset, [text])[1] == 1
    assert drop_duplicates_and_leaks(dataset, [text])[1]["near_evaluation_data"] == 1
    assert drop_duplicates_and_leaks(dataset, [text], near_threshold=0.95)[1]["near_evaluation_data"] == 0


@pytest.mark.parametrize("column", [None, "second"])
def test_rows_in_place_of_evaluation_texts_are_refused(column):
    data = Dataset.from_dict({"sentence": ["x"], "second": ["y"]})
    evaluation = data.select_columns(["sentence"] if column is None else ["sentence", "second"])
    for given in (evaluation, evaluation.to_list(), evaluation.to_iterable_dataset(), {"validation": evaluation}):
        with pytest.raises(TypeError, match="its column names would be compared .*" + (column and "texts_of" or "")):
            drop_duplicates_and_leaks(data, given, text_pair_column=column)
    with pytest.raises(TypeError, match=r"datasets is one Dataset.*texts_of\(\[validation\]"):
        drop_leaks(data, texts_of(evaluation))


def test_the_same_column_twice_is_refused():
    with pytest.raises(ValueError, match="text_column='sentence' and text_pair_column='sentence' name the same"):
        drop_leaks(Dataset.from_dict({"sentence": ["x"]}), [], text_pair_column="sentence")


def test_a_lone_surrogate_in_evaluation_texts_is_refused():
    with pytest.raises(ValueError, match="lone surrogate, half a character"):
        drop_duplicates_and_leaks(Dataset.from_dict({"sentence": ["x"]}), ["y", "\ud800"])


def test_a_threshold_out_of_range_is_refused():
    with pytest.raises(ValueError, match="near_threshold=2 must be above 0"):
        drop_duplicates_and_leaks(Dataset.from_dict({"sentence": ["x"]}), ["y"], near_threshold=2)
