"""Each round's student teaches the next, the best one is returned, and a run that was cut off goes on where it was."""

import numpy as np
import pytest
import torch
from datasets import concatenate_datasets
from loss_terms import make_student
from transformers import BertForSequenceClassification, TrainerCallback
from vocabulary import LABELS

from distil_trainer import self_training
from distil_trainer.arguments import DistillationArguments
from distil_trainer.inference import predict_logits, torch_runner
from distil_trainer.run_folder import RunFolder
from distil_trainer.self_training import self_train
from distil_trainer.trainer import DistillationTrainer


class _StopAfterOneStep(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        control.should_save = control.should_training_stop = True


HARD = {"logit_loss_weight": 0.0, "hard_label_weight": 1.0}


@pytest.fixture
def rows(reviews, teacher, tokenizer):
    """24 texts to learn from, the first 8 with gold labels, all 0; 24 to validate on, labelled as the teacher does."""
    texts = reviews["sentence"][:]
    with torch.no_grad():  # a teacher that has an opinion, and not always the same
        teacher.classifier.weight *= 20
        teacher.classifier.bias -= torch.tensor(np.median(predict_logits(torch_runner(teacher), tokenizer, texts), 0))
    answers = predict_logits(torch_runner(teacher), tokenizer, texts).argmax(axis=1).tolist()
    labels = [0] * 8 + [-1] * 16 + answers[24:]
    reviews = reviews.remove_columns("label").add_column("label", labels).cast(reviews.features)
    return reviews.select(range(24)), reviews.select(range(24, 48))


@pytest.fixture
def go(tmp_path, teacher, tokenizer, rows):
    """A function that self-trains tiny students in one and the same folder."""

    def run(
        folder="run", make=make_student, transfer=None, rounds=2, max_entropy_bits=None, metric="accuracy", **given
    ):
        given = {**HARD, "max_steps": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-2, **given}
        arguments = DistillationArguments(str(tmp_path / "out"), use_cpu=True, disable_tqdm=True, **given)
        return self_train(
            RunFolder(tmp_path / folder, {}),
            teacher,
            tokenizer,
            lambda: (make(), tokenizer),
            transfer or rows[0],
            rows[1],
            arguments,
            rounds=rounds,
            max_entropy_bits=max_entropy_bits,
            metric=metric,
        )

    return run


def _script(monkeypatch, *scores):
    """Let the validation data give these scores: the first teacher's, and then one a round."""
    scores = iter(scores)
    monkeypatch.setattr(self_training, "_score", lambda *_: {"n": 24, "accuracy": next(scores)})


def _are_equal(model, other):
    return all(torch.equal(*pair) for pair in zip(model.parameters(), other.parameters(), strict=True))


def test_students_teach_until_one_is_no_better_and_the_best_is_returned(go, monkeypatch, teacher, tmp_path):
    _script(monkeypatch, 0.9, 0.6, 0.7, 0.7)
    teachers, labelled = [], self_training._labelled

    def remember(labeler, *rest):
        teachers.append(labeler.teacher)
        return labelled(labeler, *rest)

    monkeypatch.setattr(self_training, "_labelled", remember)
    student, _, facts = go(rounds=9, max_steps=1)
    assert [fact["round"] for fact in facts] == [0, 1, 2]
    assert [fact["is_best"] for fact in facts] == [False, True, False]
    assert [fact["teacher"]["accuracy"] for fact in facts] == [0.9, 0.6, 0.7]
    assert [fact["student"]["accuracy"] for fact in facts] == [0.6, 0.7, 0.7]
    assert [fact["steps"] for fact in facts] == [1, 1, 1]
    rounds = [BertForSequenceClassification.from_pretrained(tmp_path / f"run/work/round-{n}") for n in (0, 1)]
    assert teachers[0] is teacher
    assert _are_equal(teachers[1], rounds[0])
    assert _are_equal(student, rounds[1])
    assert not _are_equal(student, rounds[0])
    assert not student.training


def test_hard_rounds_teach_the_teachers_answers_and_gold_labels_where_there_are_some(go, rows, monkeypatch):
    seen, train_once = [], self_training.train_once

    def remember(*given, **options):
        seen.append(given[4])
        return train_once(*given, **options)

    monkeypatch.setattr(self_training, "train_once", remember)
    facts = go(rounds=1, max_steps=1, transfer=concatenate_datasets(rows))[2]  # the validation texts are dropped
    labels, answers = seen[0]["label"][:], seen[0]["teacher_label"][:]
    assert labels == [0] * 8 + answers[8:]
    assert sum(answers[:8]) > 0
    assert 0 < sum(answers[8:]) < 16
    counts = {name: labels.count(number) for number, name in enumerate(LABELS)}
    assert facts[0]["rows"]["rows_of_label"] == counts
    assert (facts[0]["rows"]["gold_labels"], facts[0]["rows"]["pseudo_labels"]) == (8, 16)
    assert (facts[0]["teacher"]["accuracy"], facts[0]["teacher"]["n"]) == (1.0, 24)


def test_soft_rounds_filter_alone_and_gold_rows_stay(go, monkeypatch):
    seen, keep_confident = [], self_training.keep_confident

    def remember(*given):
        seen.append(keep_confident(*given))
        return seen[-1]

    monkeypatch.setattr(self_training, "keep_confident", remember)
    entropies = go(rounds=1, folder="all", max_steps=1, logit_loss_weight=1.0, hard_label_weight=0.0)[2][0]["rows"]
    threshold = entropies["mean_entropy_bits"]
    counts = go(rounds=1, folder="some", max_steps=1, logit_loss_weight=1.0, max_entropy_bits=threshold)[2][0]["rows"]
    assert counts["gold_labels"] == 8
    assert 0 < counts["uncertain"] < 16
    assert counts["uncertain"] + counts["pseudo_labels"] == 16
    kept = seen[1][0]
    assert len(kept) == counts["rows_out"]
    assert sum(label >= 0 for label in kept["label"]) == 8


@pytest.mark.parametrize(("kept", "is_warned"), [((20, 9), True), ((20, 10), False), ((9, 20), False)])
def test_a_round_with_less_than_half_of_the_rows_is_warned_of(go, monkeypatch, caplog, kept, is_warned):
    _script(monkeypatch, 0.9, 0.6, 0.7)
    labelled, kept = self_training._labelled, iter(kept)

    def few(labeler, transfer_set, arguments, _):
        rows, counts = labelled(labeler, transfer_set, arguments, None)
        return rows, {**counts, "rows_out": next(kept)}

    monkeypatch.setattr(self_training, "_labelled", few)
    with caplog.at_level("WARNING", logger="distil_trainer.self_training"):
        go(rounds=2, max_steps=1, max_entropy_bits=0.99)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == is_warned
    if is_warned:
        assert "Round 2 of self-training keeps 9 of 24 rows, and the one before kept 20" in messages[0]
        assert "max_entropy_bits=0.99" in messages[0] and "Of the rows left 8 have gold labels." in messages[0]


def test_a_student_with_its_labels_in_another_order_is_scored_by_their_names(go, tokenizer, rows):
    turned = dict(id2label=dict(enumerate(LABELS[::-1])), label2id={name: 1 - i for i, name in enumerate(LABELS)})
    student, _, facts = go(rounds=1, make=lambda: make_student(**turned))
    answers = 1 - predict_logits(torch_runner(student), tokenizer, rows[1]["sentence"][:]).argmax(1)
    assert facts[0]["student"]["accuracy"] == (answers == np.array(rows[1]["label"][:])).mean()


def test_a_finished_run_is_read_and_not_repeated(go, monkeypatch):
    student, _, facts = go(rounds=1, max_steps=1)
    monkeypatch.setattr(DistillationTrainer, "train", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(self_training, "_labelled", lambda *_: 1 / 0)
    again, _, facts_again = go(rounds=1, max_steps=1)
    assert facts_again == facts
    assert _are_equal(student, again)


@pytest.mark.slow
def test_a_run_that_was_cut_off_goes_on_with_its_round(go, monkeypatch, tmp_path):
    whole = go(folder="whole", max_steps=2, save_steps=1, rounds=2)
    trained, train = [], DistillationTrainer.train

    def cut_off(trainer, resume_from_checkpoint=None):
        trained.append(resume_from_checkpoint)
        if len(trained) == 2:  # after the first step of the second round
            trainer.add_callback(_StopAfterOneStep())
            train(trainer, resume_from_checkpoint)
            raise KeyboardInterrupt
        return train(trainer, resume_from_checkpoint)

    monkeypatch.setattr(DistillationTrainer, "train", cut_off)
    with pytest.raises(KeyboardInterrupt):
        go(max_steps=2, save_steps=1, rounds=2)
    student, _, facts = go(max_steps=2, save_steps=1, rounds=2)
    assert trained[:2] == [None, None]
    assert trained[2].endswith("round-1-checkpoints/checkpoint-1")
    assert len(trained) == 3
    assert facts == whole[2]
    assert _are_equal(student, whole[0])


def test_a_folder_with_rounds_of_something_else_is_refused(go, rows, monkeypatch):
    def cut_off(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(self_training, "train_once", cut_off)
    with pytest.raises(KeyboardInterrupt):
        go(rounds=1, max_steps=1)
    with pytest.raises(ValueError, match=r"begun with something else \(learning_rate: 0.01 there, 0.02 now\)"):
        go(rounds=1, max_steps=1, learning_rate=2e-2)
    with pytest.raises(ValueError, match="max_entropy_bits: None there, 0.5 now"):
        go(rounds=1, max_steps=1, max_entropy_bits=0.5)
    with pytest.raises(ValueError, match="transfer_set: "):
        go(rounds=1, max_steps=1, transfer=rows[0].select(range(20)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rounds": 0}, "rounds=0 must be at least 1"),
        ({"metric": "loss"}, "metric='loss' cannot choose a round: give one of accuracy, macro_f1"),
        ({"hidden_loss_weight": 1.0}, "hidden states, attentions or relations"),
    ],
)
def test_what_self_training_cannot_do_is_refused(go, given, message):
    with pytest.raises(ValueError, match=message):
        go(**given)


@pytest.mark.parametrize("task", ["regression", "multi_label_classification"])
def test_a_teacher_without_one_label_a_row_is_refused(go, teacher, task):
    teacher.config.problem_type = task
    with pytest.raises(ValueError, match=f"problem_type is '{task}'"):
        go()
