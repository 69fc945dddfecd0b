"""Labels are matched by name or not at all."""

import pytest

from distil_trainer.labels import dataset_label_names, label_permutation, model_label_names


def _permutation(given, wanted):
    return label_permutation(given, wanted, given="the teacher", wanted="the student")


def test_equal_orders_need_no_permutation():
    assert _permutation(["NEGATIVE", "positive"], ["negative", "positive"]) is None


def test_another_order_is_read_in_the_wanted_order():
    logits = [10, 20, 30]
    permutation = _permutation(["a", "b", "c"], ["c", "a", "b"])
    assert [logits[index] for index in permutation] == [30, 10, 20]


def test_another_number_of_labels_is_refused():
    with pytest.raises(ValueError, match=r"the teacher has 2 labels .* the student has 3 labels"):
        _permutation(["a", "b"], ["a", "b", "c"])


def test_other_names_and_doubled_names_are_refused():
    with pytest.raises(ValueError, match="would teach the wrong label in silence"):
        _permutation(["good", "bad"], ["negative", "positive"])
    with pytest.raises(ValueError, match="cannot be matched by name"):
        _permutation(["a", "A"], ["a", "A"])


def test_placeholder_names_count_as_no_names(teacher):
    assert model_label_names(teacher.config) == ["negative", "positive"]
    teacher.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    assert model_label_names(teacher.config) is None


def test_a_data_sets_names_are_those_of_its_class_label(reviews):
    assert dataset_label_names(reviews) == ["negative", "positive"]
    assert dataset_label_names(reviews, "sentence") is None
