"""Gold labels of each task end in a column `labels`, in the student's order and in the form its loss reads."""

import logging

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, LargeList, List, Value

from distil_trainer.label_columns import read_labels
from distil_trainer.labels import dataset_label_names

NAMES = ["anger", "joy", "fear"]
NAN = float("nan")


def _dataset(values, feature=None, column="emotions"):
    columns = {"text": [f"row {index}" for index in range(len(values))], column: values}
    features = None if feature is None else Features({"text": Value("string"), column: feature})
    return Dataset.from_dict(columns, features=features)


def _read(dataset, problem_type, label_names=NAMES, num_labels=3, column="emotions"):
    return read_labels(dataset, column, label_names, num_labels, "the split", problem_type=problem_type)


def _multi_label(values, feature=None, **given):
    dataset, num_labelled = _read(_dataset(values, feature), "multi_label_classification", **given)
    assert dataset.features["labels"] == List(Value("float32"), length=3)
    assert dataset["text"][:] == [f"row {index}" for index in range(len(values))]
    return np.array(dataset["labels"][:]), num_labelled


def _regression(values, feature=None, num_labels=1):
    dataset, num_labelled = _read(_dataset(values, feature), "regression", num_labels=num_labels)
    return np.array(dataset["labels"][:]), num_labelled, dataset.features["labels"]


@pytest.mark.parametrize(
    "feature",
    [None, List(Value("float32"), length=3), List(Value("bool")), LargeList(Value("int8")), List(Value("float64"))],
    ids=["inferred", "fixed_float32", "bool", "large_int8", "float64"],
)
def test_lists_of_zeros_and_ones_become_float32(feature):
    labels, num_labelled = _multi_label([[1, 0, 1], None, [0, 0, 0]], feature)
    np.testing.assert_array_equal(labels, [[1, 0, 1], [NAN] * 3, [0, 0, 0]])
    assert num_labelled == 2


def test_a_list_of_nothing_but_nan_or_null_is_unlabelled():
    labels, num_labelled = _multi_label([[1.0, 0.0, 0.0], [NAN] * 3, [None] * 3])
    np.testing.assert_array_equal(labels, [[1, 0, 0], [NAN] * 3, [NAN] * 3])
    assert num_labelled == 1


def test_what_was_read_once_can_be_read_again():
    once, _ = _read(_dataset([[1, 0, 1], None]), "multi_label_classification")
    twice, num_labelled = _read(once, "multi_label_classification", column="labels")
    np.testing.assert_array_equal(twice["labels"][:], once["labels"][:])
    assert num_labelled == 1


@pytest.mark.parametrize("list_of", [List, LargeList])
def test_lists_of_label_numbers_become_zeros_and_ones(list_of):
    feature = list_of(ClassLabel(names=NAMES))
    labels, num_labelled = _multi_label([[0, 2], [], None, [1]], feature)
    np.testing.assert_array_equal(labels, [[1, 0, 1], [0, 0, 0], [NAN] * 3, [0, 1, 0]])
    assert num_labelled == 3


def test_lists_of_as_many_label_numbers_in_each_row_are_read_alike():
    labels, num_labelled = _multi_label([[0, 2], None, [2, 1]], List(ClassLabel(names=NAMES), length=2))
    np.testing.assert_array_equal(labels, [[1, 0, 1], [NAN] * 3, [0, 1, 1]])
    assert num_labelled == 2


def test_label_numbers_in_another_order_are_put_into_the_students(caplog):
    feature = List(ClassLabel(names=["Fear", "Anger", "Joy"]))
    with caplog.at_level(logging.INFO, logger="distil_trainer"):
        labels, _ = _multi_label([[0], [1, 2]], feature)
    np.testing.assert_array_equal(labels, [[0, 0, 1], [1, 1, 0]])
    assert "are put into the student's order" in caplog.text
    unnamed, _ = _multi_label([[0], [1, 2]], feature, label_names=None)
    np.testing.assert_array_equal(unnamed, [[1, 0, 0], [0, 1, 1]])


def test_lists_of_class_labels_have_names():
    for feature in (List(ClassLabel(names=NAMES)), LargeList(ClassLabel(names=NAMES)), ClassLabel(names=NAMES)):
        values = [0] if isinstance(feature, ClassLabel) else [[0]]
        assert dataset_label_names(_dataset(values, feature), "emotions") == NAMES
    assert dataset_label_names(_dataset([[0]]), "emotions") is None


def test_other_label_names_are_refused():
    with pytest.raises(ValueError, match=r"the split \(column 'emotions'\) names its labels \['a', 'b', 'c'\]"):
        _multi_label([[0]], List(ClassLabel(names=["a", "b", "c"])))


def test_labels_that_are_neither_zero_nor_one_are_refused_with_their_row():
    for wrong in ([1, 0, 2], [0.5, 0.0, 1.0], [1.0, NAN, 0.0], [1, None, 0], [-1, -1, -1]):
        with pytest.raises(ValueError, match=r"the split: row 1 has emotions=.*belong in 'teacher_logits'"):
            _multi_label([None, wrong])


def test_label_lists_of_the_wrong_length_are_refused_with_their_row():
    with pytest.raises(ValueError, match=r"row 2 has emotions=\[1, 0\]. The student has 3 labels, so the list must"):
        _multi_label([[1, 0, 0], None, [1, 0]])


@pytest.mark.parametrize("wrong", [[3], [0, -1], [0, None]])
def test_label_numbers_that_the_student_does_not_have_are_refused_with_their_row(wrong):
    with pytest.raises(ValueError, match=r"row 2 has emotions=\[.*\]. The student has 3 labels, 0 to 2"):
        _multi_label([[], None, wrong], List(ClassLabel(names=[*NAMES, "trust"])), label_names=None)


def test_columns_that_hold_no_lists_of_numbers_are_refused():
    with pytest.raises(TypeError, match=r"holds list<.*string>.*List\(ClassLabel\(names=...\)\)"):
        _multi_label([["joy"]])
    with pytest.raises(TypeError, match="holds int64, but this student needs a list of 3 numbers"):
        _multi_label([1])
    with pytest.raises(ValueError, match="the split has no column 'labels'"):
        _read(_dataset([[1, 0, 0]]), "multi_label_classification", column="labels")


@pytest.mark.parametrize("feature", [None, Value("float64"), Value("float16")], ids=str)
def test_scores_become_float32_and_every_finite_number_is_one(feature):
    labels, num_labelled, kind = _regression([2.5, None, -1.0, NAN, -100.0], feature)
    np.testing.assert_array_equal(labels.astype(float), [2.5, NAN, -1, NAN, -100])
    assert (num_labelled, kind) == (3, Value("float32"))


def test_integers_are_scores_too():
    labels, num_labelled, _ = _regression([4, 0, None])
    np.testing.assert_array_equal(labels.astype(float), [4, 0, NAN])
    assert num_labelled == 2


def test_several_scores_a_row_are_lists():
    labels, num_labelled, kind = _regression([[0.5, 2.0], None, [NAN, NAN]], num_labels=2)
    np.testing.assert_array_equal(labels, [[0.5, 2], [NAN] * 2, [NAN] * 2])
    assert (num_labelled, kind) == (1, List(Value("float32"), length=2))


def test_scores_that_are_not_numbers_or_not_finite_are_refused():
    with pytest.raises(TypeError, match=r"holds string, but a student that regresses one value needs a number a row"):
        _regression(["2.5"])
    with pytest.raises(TypeError, match="holds list<.*> *, but a student that regresses one value"):
        _regression([[2.5]])
    with pytest.raises(ValueError, match="row 1 has emotions=inf. Only finite numbers"):
        _regression([0.0, float("inf")])
    with pytest.raises(ValueError, match="row 1 has emotions=.*All its values must be finite, or none given"):
        _regression([[1.0, 2.0], [1.0, NAN]], num_labels=2)
    with pytest.raises(ValueError, match="row 0 has emotions=.*the list must be as long"):
        _regression([[1.0, 2.0, 3.0]], num_labels=2)


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression"])
def test_a_column_without_any_label_is_all_unlabelled(problem_type):
    dataset, num_labelled = _read(_dataset([None, None]), problem_type)
    assert num_labelled == 0
    assert np.isnan(np.array(dataset["labels"][:])).all()


def test_rows_after_the_first_batches_and_of_a_selection_keep_their_numbers_and_other_columns():
    generator = np.random.default_rng(0)
    values = generator.integers(0, 2, size=(2500, 3)).tolist()
    values[2400] = [0, 1, 7]
    dataset = _dataset(values).add_column("teacher_logits", [[0.0, 1.0]] * 2500)
    dataset = dataset.cast_column("teacher_logits", List(Value("float32"), length=2))
    with pytest.raises(ValueError, match="row 2400 has"):
        _read(dataset, "multi_label_classification")
    with pytest.raises(ValueError, match="row 1 has"):
        _read(dataset.select([5, 2400]), "multi_label_classification")
    order = [index for index in range(2499, -1, -1) if index != 2400]
    labels, num_labelled = _read(dataset.select(order), "multi_label_classification")
    assert labels.column_names == ["text", "labels", "teacher_logits"]
    assert labels[7] == {"text": "row 2492", "labels": values[2492], "teacher_logits": [0.0, 1.0]}
    assert num_labelled == 2499
    assert labels.features["teacher_logits"] == List(Value("float32"), length=2)


def test_a_column_called_labels_gives_way_to_the_one_that_is_named():
    dataset = _dataset([[1, 0, 0]]).add_column("labels", ["old"])
    read, _ = _read(dataset, "multi_label_classification")
    assert read[0] == {"text": "row 0", "labels": [1.0, 0.0, 0.0]}


def test_single_labels_are_renumbered_and_minus_one_minus_100_and_null_stay_unlabelled():
    dataset = _dataset([0, 1, 2, -1, None], ClassLabel(names=["fear", "anger", "joy"]))
    read, num_labelled = read_labels(dataset, "emotions", NAMES, 3, "the split")
    assert (read["labels"][:], num_labelled) == ([2, 0, 1, -100, -100], 3)
    assert read.features["labels"].names == NAMES
    same, num_labelled = read_labels(_dataset([0, -100, 2]), "emotions", NAMES, 3, "the split")
    assert (same["labels"][:], num_labelled) == ([0, -100, 2], 2)


def test_single_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="row 1 has emotions=3, but the student has 3 labels, 0 to 2"):
        read_labels(_dataset([0, 3]), "emotions", NAMES, 3, "the split")
    with pytest.raises(TypeError, match="holds string, but labels must be integers"):
        read_labels(_dataset(["joy"]), "emotions", NAMES, 3, "the split")
