"""Rows get the teacher's first choice where it is certain; gold labels stay; what has no first choice is refused."""

import logging

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value

from distil_trainer.arguments import DistillationArguments
from distil_trainer.labeling import TeacherLabeler
from distil_trainer.pseudo_labels import entropy_bits, hard_pseudo_labels, keep_confident
from distil_trainer.trainer import DistillationTrainer

NAMES = ["negative", "positive"]


def _row(probability):
    return [0.0, float(np.log(probability / (1 - probability)))]


# Entropies of 1, 0.469, 0.469, 0.0808 and 0.811 bits.
PROBABILITIES = [0.5, 0.9, 0.1, 0.99, 0.25]


def _dataset(labels=(-1,) * 5, *, label=ClassLabel(names=NAMES), logits=None, teacher_names=NAMES):  # noqa: B008
    logits = [_row(probability) for probability in PROBABILITIES] if logits is None else logits
    features = Features({"sentence": Value("string"), "teacher_logits": Sequence(Value("float32"))})
    columns = {"sentence": [f"text {row}" for row in range(len(logits))], "teacher_logits": logits}
    if labels is not None:
        columns["label"], features["label"] = list(labels), label
    if teacher_names is not None:
        columns["teacher_label"] = [-1] * len(logits)
        features["teacher_label"] = ClassLabel(names=teacher_names)
    return Dataset.from_dict(columns, features=features)


def test_the_entropy_is_in_bits():
    logits = np.array([[1.0, 1.0], [0.0, np.log(9)], [0.0, 1000.0]])
    assert entropy_bits(logits) == pytest.approx([1.0, 0.4689955935892812, 0.0], abs=1e-12)
    assert entropy_bits(np.zeros((1, 8))) == pytest.approx([3.0], abs=1e-12)


def test_rows_get_the_first_choice_and_uncertain_ones_are_dropped_and_counted():
    labelled, counts = hard_pseudo_labels(_dataset(), max_entropy_bits=0.5)
    assert labelled["sentence"][:] == ["text 1", "text 2", "text 3"]
    assert labelled["label"][:] == [1, 0, 1]
    assert labelled["is_pseudo_label"][:] == [True] * 3
    assert labelled.features["label"] == ClassLabel(names=NAMES)
    assert labelled["teacher_logits"][:] == _dataset().select([1, 2, 3])["teacher_logits"][:]
    mean = np.mean([0.4689955935892812, 0.4689955935892812, 0.08079313589591118])
    assert counts == {
        "rows_in": 5,
        "gold_labels": 0,
        "pseudo_labels": 3,
        "uncertain": 2,
        "rows_out": 3,
        "mean_entropy_bits": pytest.approx(mean, abs=1e-6),
        "rows_of_label": {"negative": 1, "positive": 2},
    }


def test_without_a_threshold_every_row_is_kept_and_a_tie_goes_to_the_first_label():
    labelled, counts = hard_pseudo_labels(_dataset())
    assert labelled["label"][:] == [0, 1, 0, 1, 0]
    assert (counts["uncertain"], counts["rows_out"]) == (0, 5)


@pytest.mark.parametrize(("label", "nothing"), [(ClassLabel(names=NAMES), -1), (Value("int32"), -100)])
def test_gold_labels_stay_however_uncertain_the_teacher_is(label, nothing):
    dataset = _dataset([1, 0, None, nothing, -1], label=label)
    labelled, counts = hard_pseudo_labels(dataset, max_entropy_bits=0.5)
    assert labelled["sentence"][:] == ["text 0", "text 1", "text 2", "text 3"]
    assert labelled["label"][:] == [1, 0, 0, 1]
    assert labelled["is_pseudo_label"][:] == [False, False, True, True]
    assert (counts["gold_labels"], counts["pseudo_labels"], counts["uncertain"]) == (2, 2, 1)
    assert labelled.features["label"] == ClassLabel(names=NAMES)


def test_gold_labels_can_give_way():
    labelled, counts = hard_pseudo_labels(_dataset([1, 0, 1, 0, 1]), 0.5, keep_gold_labels=False)
    assert labelled["label"][:] == [1, 0, 1]
    assert (counts["gold_labels"], counts["rows_out"]) == (0, 3)


def test_a_second_teacher_labels_what_the_first_one_labelled_but_not_gold():
    first, _ = hard_pseudo_labels(_dataset([1, -1, -1, -1, -1]))
    assert first["label"][:] == [1, 1, 0, 1, 0]
    turned = [_row(1 - probability) for probability in PROBABILITIES]
    features = first.features
    second = first.remove_columns("teacher_logits").add_column("teacher_logits", turned)
    second, counts = hard_pseudo_labels(second.cast(Features({name: features[name] for name in second.features})))
    assert second["label"][:] == [1, 0, 1, 0, 1]
    assert second["is_pseudo_label"][:] == [False, True, True, True, True]
    assert (counts["gold_labels"], counts["pseudo_labels"]) == (1, 4)


def test_labels_follow_the_names_where_the_teacher_has_another_order():
    labelled, counts = hard_pseudo_labels(_dataset([0, -1, -1, -1, -1], teacher_names=["Positive", "Negative"]))
    assert labelled["label"][:] == [0, 0, 1, 0, 1]
    assert counts["rows_of_label"] == {"negative": 3, "positive": 2}


def test_without_a_label_column_the_teacher_names_the_labels():
    labelled, _ = hard_pseudo_labels(_dataset(None), label_column="answer")
    assert labelled.features["answer"] == ClassLabel(names=NAMES)
    labelled, counts = hard_pseudo_labels(_dataset(None, teacher_names=None))
    assert labelled.features["label"] == Value("int64")
    assert counts["rows_of_label"] == {"0": 3, "1": 2}


def test_confident_rows_are_kept_as_they_are():
    dataset = _dataset([1, -1, -1, -1, -1])
    kept, counts = keep_confident(dataset, max_entropy_bits=0.5)
    assert kept.features == dataset.features
    assert kept[:] == dataset.select([0, 1, 2, 3])[:]
    assert (counts["gold_labels"], counts["pseudo_labels"], counts["uncertain"]) == (1, 3, 1)
    assert keep_confident(dataset)[0][:] == dataset[:]


def test_rows_are_the_same_in_steps_of_any_size(monkeypatch):
    rows = np.random.default_rng(0).normal(0, 2, (50, 3)).tolist()
    labels = [row % 4 - 1 for row in range(50)]
    dataset = _dataset(labels, label=ClassLabel(names=list("abc")), logits=rows, teacher_names=list("bca"))
    whole, counts = hard_pseudo_labels(dataset, 0.9)
    monkeypatch.setattr("distil_trainer.pseudo_labels._ROWS_PER_STEP", 7)
    steps, counts_in_steps = hard_pseudo_labels(dataset, 0.9)
    assert (steps[:], counts_in_steps) == (whole[:], counts)
    assert 0 < counts["uncertain"] < 50
    assert 0 < counts["gold_labels"] < 50


def test_a_student_learns_hard_pseudo_labels(reviews, teacher, tokenizer, tmp_path):
    unlabelled = reviews.map(lambda row: {"label": -1})
    labelled, counts = hard_pseudo_labels(TeacherLabeler(teacher, tokenizer).map(unlabelled))
    arguments = DistillationArguments(
        str(tmp_path / "out"), logit_loss_weight=0.0, hard_label_weight=1.0, max_steps=1, disable_tqdm=True
    )
    trainer = DistillationTrainer(teacher, arguments, train_dataset=labelled, processing_class=tokenizer)
    assert trainer.train_dataset["labels"][:] == labelled["teacher_label"][:]
    assert np.isfinite(trainer.train().training_loss)
    assert counts["pseudo_labels"] == 48


def test_one_label_for_all_rows_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING, logger="distil_trainer"):
        hard_pseudo_labels(_dataset(), max_entropy_bits=0.1)
    assert "All 1 rows have the same label" in caplog.text


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (_dataset().remove_columns("teacher_logits"), ValueError, "needed are rows with 'teacher_logits'"),
        (_dataset().select([]), ValueError, "dataset has 0 rows"),
        (_dataset(logits=[[0.5]] * 5), ValueError, "1 teacher_logits a row: with one, the teacher regresses"),
        (_dataset(logits=[[0.5, float("nan")]] * 5), ValueError, "row 0 has teacher_logits=.*nan"),
        (_dataset(logits=[[0.5, 1.0]] * 3 + [None] * 2), ValueError, "row 3 has no teacher_logits"),
        (_dataset(logits=[None] * 5), ValueError, "row 0 has no teacher_logits"),
        (_dataset(logits=[[0.0, 1.0]] * 4 + [[0.0, 1.0, 2.0]]), ValueError, "row 4 has 3 teacher_logits"),
        (Dataset.from_dict({"teacher_logits": [0.5], "label": [-1]}), TypeError, "teacher_logits holds double"),
        (_dataset([0.5] * 5, label=Value("float32")), TypeError, "holds float, but hard pseudo-labels are one whole"),
        (_dataset([[0, 1]] * 5, label=Sequence(Value("int64"))), TypeError, "several labels a row cannot be pseudo"),
        (_dataset(["a"] * 5, label=Value("string")), TypeError, "class_encode_column"),
        (_dataset([-1, 2, 0, 0, 0], label=Value("int64")), ValueError, "row 1 has label=2, but the teacher has 2"),
        (_dataset([-1, 0, -7, 0, 0], label=Value("int64")), ValueError, "row 2 has label=-7"),
        (_dataset(teacher_names=["a", "b", "c"]), ValueError, "column 'teacher_label' has the 3 labels"),
        (_dataset(label=ClassLabel(names=["a", "b", "c"])), ValueError, "column 'label' has the 3 labels"),
        (_dataset(teacher_names=["ham", "spam"]), ValueError, "cannot be matched by name"),
    ],
)
@pytest.mark.parametrize("function", [hard_pseudo_labels, keep_confident])
def test_rows_that_cannot_be_pseudo_labelled_are_refused(dataset, error, message, function):
    with pytest.raises(error, match=message):
        function(dataset)


@pytest.mark.parametrize("threshold", [0, -0.1, 1.0, 1.5, float("nan")])
def test_a_threshold_that_keeps_nothing_or_everything_is_refused(threshold):
    with pytest.raises(ValueError, match=f"max_entropy_bits={threshold} with 2 labels"):
        hard_pseudo_labels(_dataset(), threshold)


def test_a_threshold_below_every_row_is_refused_with_the_entropies():
    with pytest.raises(
        ValueError, match="leaves none of 5 rows: .* answer has 0.08079 bits, half .* have 0.469 or more"
    ):
        keep_confident(_dataset(), 0.05)
