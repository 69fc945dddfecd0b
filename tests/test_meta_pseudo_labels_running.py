"""Meta Pseudo Labels beside what `Trainer` offers: accumulation, checkpoints, bf16, logs, arguments, and bad input."""

import copy
import math
from types import SimpleNamespace

import learning_teachers
import numpy as np
import pytest
import torch
from datasets import Dataset
from learning_teachers import COMMON, DESCENT, collect_nothing, decided, difference_of, logs_of, set_dropout, weights
from loss_terms import largest_difference, make_student
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer, HfArgumentParser, TrainerCallback

from distil_trainer.arguments import DistillationArguments
from distil_trainer.augmentation import RuleAugmenter
from distil_trainer.collator import DistillationCollator
from distil_trainer.meta_pseudo_labels import (
    MetaPseudoLabelsArguments,
    MetaPseudoLabelsTrainer,
    plot_meta_pseudo_labels,
)
from distil_trainer.meta_pseudo_labels.checks import check_meta_pseudo_labels
from distil_trainer.meta_pseudo_labels.data import labelled_rows
from distil_trainer.text import MASK_WORD
from distil_trainer.trainer import DistillationTrainer

CONSISTENT = {"consistency_weight": 2.0, "augmented_text_column": "rewritten"}


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch):
    collect_nothing(monkeypatch)


@pytest.fixture
def teacher(teacher):
    return decided(teacher)


@pytest.fixture
def make_trainer(teacher, tokenizer, reviews, tmp_path):
    def make(student=None, given=None, folder="out", **arguments):
        return learning_teachers.make_trainer(
            tmp_path / folder, teacher, tokenizer, reviews, student, given, **arguments
        )

    return make


@pytest.fixture
def rewritten(reviews):
    """The unlabelled rows, each with a form in which a word is masked."""
    texts = [f"{MASK_WORD} {text}" for text in reviews["sentence"]]
    return reviews.remove_columns("label").add_column("rewritten", texts)


# Batches, processes and checkpoints


@pytest.mark.parametrize("targets", ["sampled", "soft"])
def test_eight_rows_at_once_teach_both_models_as_four_times_two_do(make_trainer, rewritten, targets):
    trainers = []
    for rows, steps in ((8, 1), (2, 4)):
        given = {**DESCENT, **CONSISTENT, "student_targets": targets, "feedback_weight": 8.0}
        trainer = make_trainer(
            given={"train_dataset": rewritten},
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=steps,
            **given,
        )
        trainer.train()
        trainers.append(trainer)
    one, other = map(weights, trainers)
    assert difference_of("student", one, other) < 1e-6
    assert difference_of("teacher", one, other) < 1e-6
    for log, expected in zip(*map(logs_of, trainers), strict=True):
        compared = [name for name in log if name not in ("epoch", "grad_norm")]
        assert len(compared) > 10
        assert [log[name] for name in compared] == pytest.approx([expected[name] for name in compared], abs=1e-5)


@pytest.mark.parametrize("targets", ["sampled", "soft"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_by_bit(make_trainer, teacher, rewritten, targets):
    given = {**CONSISTENT, "save_strategy": "steps", "save_steps": 3, "max_steps": 5, "student_targets": targets}
    given |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "feedback_weight": 8.0}
    given |= {"teacher_warmup_steps": 2, "teacher_weight_decay": 0.1, "teacher_lr_scheduler_type": "cosine"}
    set_dropout(teacher, 0.2)

    straight, resumed = (
        make_trainer(make_student(dropout=0.2), {"train_dataset": rewritten}, folder, **given)
        for folder in ("straight", "resumed")
    )
    straight.train()
    checkpoint = f"{straight.args.output_dir}/checkpoint-3"
    resumed.train(resume_from_checkpoint=checkpoint)
    assert resumed.state.global_step == 5
    assert largest_difference(weights(straight), weights(resumed)) == 0.0
    last, expected = logs_of(resumed)[-1], logs_of(straight)[-1]
    assert last["centred_feedback"] == expected["centred_feedback"] != expected["feedback"]


def test_checkpoints_without_the_teacher_or_its_optimizer_are_refused(
    make_trainer, teacher, reviews, tokenizer, tmp_path
):
    trainer = make_trainer(max_steps=1, save_strategy="steps", save_steps=1, save_only_model=True)
    trainer.train()
    checkpoint = tmp_path / "out" / "checkpoint-1"
    (checkpoint / "teacher" / "config.json").rename(checkpoint / "elsewhere.json")
    with pytest.raises(
        ValueError, match="holds no model: the checkpoint was not written by a MetaPseudoLabelsTrainer"
    ):
        make_trainer(max_steps=2).train(resume_from_checkpoint=str(checkpoint))
    (checkpoint / "elsewhere.json").rename(checkpoint / "teacher" / "config.json")
    with pytest.raises(ValueError, match="has no teacher_state.pt"):
        make_trainer(max_steps=2).train(resume_from_checkpoint=str(checkpoint))


def test_the_best_student_is_kept_with_the_teacher_of_that_moment(make_trainer, reviews, tmp_path):
    accuracies = iter([0.5, 0.9, 0.7])
    trainer = make_trainer(
        given={"eval_dataset": reviews, "compute_metrics": lambda _: {"accuracy": next(accuracies)}},
        max_steps=3,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=1,
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
    )
    trainer.train()
    best, last = (tmp_path / "out" / f"checkpoint-{step}" for step in (2, 3))
    assert trainer.state.best_model_checkpoint == str(best)
    for folder, model in (("", trainer.model), ("teacher", trainer.teacher.models[0])):
        kept, later = (AutoModelForSequenceClassification.from_pretrained(each / folder) for each in (best, last))
        assert largest_difference(kept.state_dict(), model.state_dict()) == 0.0
        assert largest_difference(later.state_dict(), model.state_dict()) > 1e-5


def test_the_adapted_teacher_stands_beside_the_saved_student_as_a_model_of_its_own(make_trainer, reviews, tmp_path):
    trainer = make_trainer(max_steps=2)
    trainer.train()
    for _ in range(2):  # over an earlier one too
        trainer.save_model(str(tmp_path / "saved"))
    folder = tmp_path / "saved" / "teacher"
    saved = AutoModelForSequenceClassification.from_pretrained(folder)
    batch = AutoTokenizer.from_pretrained(folder)(reviews["sentence"][:4], padding=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(saved(**batch).logits, trainer.teacher.models[0].eval()(**batch).logits)
    assert not list((tmp_path / "saved").glob(".teacher*"))


def test_a_second_training_begins_with_a_new_optimizer_and_average(make_trainer):
    trainer = make_trainer(max_steps=2)
    trainer.train()
    first = weights(trainer)
    trainer.train()
    assert trainer.state.global_step == 2
    log = logs_of(trainer)[0]
    assert log["centred_feedback"] == log["feedback"]
    assert log["teacher_learning_rate"] == 1e-3
    assert difference_of("teacher", first, weights(trainer)) > 1e-4


def test_in_bfloat16_both_models_learn_and_the_labelled_loss_is_still_measured_in_float32(make_trainer, reviews):
    measured = []

    class Measured(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
            rows = labelled_rows(10, 6, args.seed, state.global_step)
            texts, labels = reviews[rows]["sentence"], torch.tensor(reviews[rows]["label"])
            inputs = trainer.processing_class(texts, padding=True, return_tensors="pt")
            with torch.no_grad():
                measured.append(F.cross_entropy(type(model).forward(model.eval(), **inputs).logits, labels).item())

    trainer = make_trainer(given={"callbacks": [Measured()]}, bf16=True, max_steps=3)
    before = weights(trainer)
    trainer.train()
    assert [log["labelled_loss_before"] for log in logs_of(trainer)] == pytest.approx(measured, abs=1e-6)
    after = weights(trainer)
    for whose in ("student", "teacher"):
        assert difference_of(whose, before, after) > 1e-4
    assert all(value.dtype == torch.float32 for value in after.values() if value.is_floating_point())


# Labelled rows, rewritten texts, tokenizers


def test_each_labelled_row_is_there_once_a_round_whatever_the_step(make_trainer):
    rows = np.concatenate([labelled_rows(10, 4, 3, step) for step in range(5)])
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert list(rows[:10]) != list(rows[10:])
    np.testing.assert_array_equal(labelled_rows(10, 4, 3, 4), rows[16:])
    assert sorted(labelled_rows(6, 6, 3, 7)) == list(range(6))


def test_a_teacher_that_gives_text_and_rewritten_text_the_same_answer_has_no_consistency_loss(
    make_trainer, reviews, rewritten
):
    same = reviews.remove_columns("label").add_column("rewritten", reviews["sentence"][:])
    logs = []
    for dataset in (same, rewritten):
        trainer = make_trainer(given={"train_dataset": dataset}, **CONSISTENT, max_steps=2)
        trainer.train()
        logs.append([log["teacher_consistency"] for log in logs_of(trainer)])
    assert max(map(abs, logs[0])) < 1e-7
    assert min(logs[1]) > 1e-7


def test_the_weight_of_consistency_rises_linearly_after_the_supervised_steps(make_trainer, rewritten):
    trainer = make_trainer(
        given={"train_dataset": rewritten}, **CONSISTENT, teacher_supervised_steps=2, consistency_ramp_share=0.5
    )
    trainer.state.max_steps = 10
    assert [trainer._consistency_weight(step) for step in range(2, 8)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_rows_whose_rewritten_text_stands_in_the_evaluation_data_are_dropped_with_their_pairs(
    make_trainer, rewritten, reviews
):
    leaks = Dataset.from_dict({"sentence": [rewritten[3]["rewritten"], rewritten[5]["sentence"]], "label": [0, 1]})
    trainer = make_trainer(
        given={"train_dataset": rewritten, "eval_dataset": leaks}, **CONSISTENT, drop_evaluation_rows=True
    )
    kept = [row for row in range(48) if row not in (3, 5) and reviews[row]["sentence"] != leaks[1]["sentence"]]
    assert len(trainer.train_dataset) == len(kept)
    tokenizer = trainer.processing_class
    for row, original in zip(trainer.train_dataset, kept, strict=True):
        # The mask word is one token in front.
        assert row["augmented_input_ids"][:2] == [tokenizer.cls_token_id, tokenizer.mask_token_id]
        assert row["augmented_input_ids"][2:] == row["input_ids"][1:]
        assert tokenizer.decode(row["input_ids"], skip_special_tokens=True) == reviews[original]["sentence"]


def test_a_teacher_with_a_tokenizer_of_its_own_reads_its_own_tokens_everywhere(
    make_trainer, teacher_zoo, rewritten, monkeypatch
):
    own, own_tokenizer = teacher_zoo("roberta")
    trainer = make_trainer(
        given={"teacher": own, "teacher_processing_class": own_tokenizer, "train_dataset": rewritten},
        **CONSISTENT,
        max_steps=2,
    )
    seen = []
    plain = own.forward

    def forward(input_ids, attention_mask=None, **kwargs):
        seen.append(input_ids)
        return plain(input_ids=input_ids, attention_mask=attention_mask, **kwargs)

    monkeypatch.setattr(own, "forward", forward)
    trainer.train()
    # Each step: drawn rows twice, their rewritten form, labelled rows; the first asks about a sample besides.
    assert all((tokens[:, 0] == own_tokenizer.cls_token_id).all() for tokens in seen)
    assert len(seen) >= 2 * 4


# Logs, arguments, the last phase


def test_logs_hold_every_figure_once_a_step_and_are_drawn(make_trainer, reviews, rewritten, tmp_path):
    trainer = make_trainer(
        given={"train_dataset": rewritten, "eval_dataset": reviews},
        **CONSISTENT,
        max_steps=4,
        logging_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        teacher_supervised_steps=1,
    )
    trainer.train()
    names = {
        "loss", "pseudo_label_cross_entropy", "teacher_student_agreement", "labelled_loss_before",
        "labelled_loss_after", "feedback", "centred_feedback", "teacher_label_cross_entropy", "teacher_feedback_loss",
        "teacher_pseudo_label_cross_entropy", "teacher_consistency", "teacher_learning_rate",
    }  # fmt: skip
    logs = logs_of(trainer)
    assert len(logs) == 2
    for log in logs:
        assert names <= set(log)
        assert all(math.isfinite(log[name]) for name in names)
        difference = log["labelled_loss_before"] - log["labelled_loss_after"]
        assert log["feedback"] == pytest.approx(difference, abs=1e-6)
    path = plot_meta_pseudo_labels(trainer.state.log_history, tmp_path / "run.png")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(ValueError, match="No log holds feedback"):
        plot_meta_pseudo_labels([{"loss": 1.0, "step": 1}], tmp_path / "none.png")


def test_the_last_phase_trains_the_student_on_labelled_rows_as_plain_training_would(
    make_trainer, reviews, tokenizer, tmp_path
):
    trainer = make_trainer(
        given={"eval_dataset": reviews}, max_steps=2, fine_tuning_epochs=2.0, fine_tuning_learning_rate=3e-3
    )
    trainer.train()
    before, student = weights(trainer), copy.deepcopy(trainer.model)
    phase = trainer.fine_tune_student()
    assert phase.state.global_step == 4  # 2 epochs of 10 rows in batches of 8
    assert [log["learning_rate"] for log in phase.state.log_history if "loss" in log][0] == 3e-3
    assert "eval_accuracy" in phase.evaluate()
    after = weights(trainer)
    assert difference_of("teacher", before, after) == 0.0
    plain = DistillationTrainer(
        student,
        DistillationArguments(
            str(tmp_path / "plain"),
            **{
                **COMMON,
                "num_train_epochs": 2,
                "learning_rate": 3e-3,
                "logit_loss_weight": 0.0,
                "hard_label_weight": 1,
            },
        ),
        train_dataset=reviews.select(range(10)),
        processing_class=tokenizer,
    )
    plain.train()
    assert largest_difference(plain.model.state_dict(), trainer.model.state_dict()) == 0.0


def test_the_last_phase_has_the_collator_and_metrics_of_the_first_and_no_warm_up(make_trainer, reviews, tokenizer):
    # 4.57 and 5.x take a share of the steps by different names.
    is_old = "warmup_ratio" in MetaPseudoLabelsArguments.__dataclass_fields__
    share = {"warmup_ratio" if is_old else "warmup_steps": 0.5}
    made, seen = [], []

    def preprocess(logits, labels):
        seen.append(tuple(logits.shape))
        return logits.argmax(dim=-1)

    class Collator(DistillationCollator):
        def __call__(self, rows):
            made.append(len(rows))
            return super().__call__(rows)

    texts, labels = tokenizer(reviews["sentence"][:10])["input_ids"], reviews["label"][:10]
    labelled = Dataset.from_dict({"input_ids": texts, "label": labels})
    trainer = make_trainer(
        given={
            "train_dataset": labelled.remove_columns("label"),
            "labelled_dataset": labelled,
            "eval_dataset": labelled,
            "processing_class": None,
            "data_collator": Collator(tokenizer),
            "compute_metrics": lambda answers: {"share": float((answers.predictions == answers.label_ids).mean())},
            "preprocess_logits_for_metrics": preprocess,
        },
        max_steps=1,
        fine_tuning_epochs=2.0,
        **share,
    )
    trainer.train()
    made.clear()
    phase = trainer.fine_tune_student()
    assert made == [8, 2, 8, 2]
    assert [log["learning_rate"] for log in logs_of(phase)][0] == 1e-3
    assert 0 <= phase.evaluate()["eval_share"] <= 1
    assert seen == [(8, 2), (2, 2)]


def test_every_argument_can_be_given_on_the_command_line():
    (args,) = HfArgumentParser(MetaPseudoLabelsArguments).parse_args_into_dataclasses(
        "--output_dir out --student_targets soft --feedback dot_product --teacher_lr_scheduler_type cosine "
        "--labelled_batch_size 16 --consistency_weight 1 --augmented_text_column rewritten".split()
    )
    assert (args.student_targets, args.feedback, args.labelled_batch_size) == ("soft", "dot_product", 16)


# Bad input


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fp16": True}, "fp16=True: half precision"),
        ({"student_targets": "hard"}, "student_targets='hard': choose one of sampled, soft"),
        ({"labelled_batch_size": 0}, "labelled_batch_size=0: it must be at least 1"),
        ({"teacher_learning_rate": 0.0}, "teacher_learning_rate=0.0: it must be above 0"),
        ({"feedback_weight": math.inf}, "feedback_weight=inf: it must be at least 0, and finite"),
        ({"consistency_ramp_share": 1.5}, "consistency_ramp_share=1.5: it must be at least 0 and at most 1"),
        ({"feedback_momentum": 1.0}, r"feedback_momentum=1.0: it must be in \[0, 1\)"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size=True: where memory is short"),
        ({"logit_loss": "kl"}, "logit_loss='kl' with student_targets='sampled'"),
        ({"temperature": 4.0}, "temperature=4.0 and final_temperature=None with student_targets='sampled'"),
        ({"final_temperature": 1.0}, "temperature=2.0 and final_temperature=1.0 with student_targets='sampled'"),
        ({"hidden_loss_weight": 1.0}, "those of a teacher that learns were never tried"),
        ({"consistency_weight": 1.0}, "consistency_weight=1.0 with augmented_text_column=None"),
        ({"augmented_text_column": "rewritten"}, "consistency_weight=0.0 with augmented_text_column='rewritten'"),
        (
            {"consistency_weight": 1.0, "augmented_text_column": "sentence"},
            "augmented_text_column='sentence' is text_column too",
        ),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_refused(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        MetaPseudoLabelsArguments(str(tmp_path), **{**COMMON, **given})


def test_models_and_data_that_do_not_fit_are_refused_before_anything_is_done(
    make_trainer, teacher, reviews, tokenizer
):
    unlabelled = reviews.remove_columns("label")
    student, own = make_student(), copy.deepcopy(teacher)
    sharing = copy.deepcopy(teacher)
    sharing.bert.embeddings = teacher.bert.embeddings
    scores = make_student(num_labels=1, problem_type="regression", id2label={0: "score"}, label2id={"score": 0})
    several = copy.deepcopy(teacher)
    several.config.problem_type = "multi_label_classification"
    cases = [
        ({"labelled_dataset": None}, "labelled_dataset=None: Meta Pseudo Labels need unlabelled rows"),
        ({"train_dataset": None}, "train_dataset=None"),
        ({"labelled_dataset": reviews.select([])}, "labelled_dataset has no rows"),
        (
            {"train_dataset": unlabelled.add_column("teacher_logits", [[0.0, 1.0]] * 48)},
            "a column 'teacher_logits': the teacher learns in every step, so logits that were computed beforehand go",
        ),
        ({"teacher": None}, "0 teachers are given"),
        ({"teacher": [own, copy.deepcopy(own)]}, "2 teachers are given"),
        ({"teacher": student}, "teacher is the student, or shares weights with it"),
        ({"teacher": copy.deepcopy(own).requires_grad_(False)}, "No weight of the teacher has requires_grad=True"),
        ({"teacher": copy.deepcopy(own).bfloat16()}, "The teacher's weights are bfloat16"),
        ({"teacher": several}, "The teacher's problem_type is 'multi_label_classification'"),
        (
            {"labelled_dataset": reviews.map(lambda row, index: {"label": -1 if index else 0}, with_indices=True)},
            "labelled_dataset: 47 of 48 rows have no label in column 'label'",
        ),
        ({"labelled_dataset": unlabelled}, "labelled_dataset has no column 'label'"),
    ]
    for given, message in cases:
        with pytest.raises(ValueError, match=message):
            make_trainer(student, given)
    with pytest.raises(ValueError, match="teacher is the student, or shares weights with it"):
        make_trainer(teacher, {"teacher": sharing})
    with pytest.raises(ValueError, match="The student's problem_type is 'regression'"):
        make_trainer(scores)
    with pytest.raises(ValueError, match="train_dataset has no column augmented_text_column='rewritten'"):
        make_trainer(student, **CONSISTENT)
    with pytest.raises(ValueError, match="logit_loss_weight=0: the student would learn nothing from what the teacher"):
        make_trainer(student, {"train_dataset": reviews}, logit_loss_weight=0.0, hard_label_weight=1.0)
    with pytest.raises(TypeError, match="labelled_dataset is a list"):
        make_trainer(student, {"labelled_dataset": [{"sentence": "a film"}]})
    with pytest.raises(TypeError, match="must be a `MetaPseudoLabelsArguments`"):
        MetaPseudoLabelsTrainer(student, DistillationArguments("out", use_cpu=True), train_dataset=unlabelled)
    with pytest.raises(ValueError, match="All 10 rows of labelled_dataset stand in the evaluation data too"):
        make_trainer(student, {"eval_dataset": reviews.select(range(10))}, drop_evaluation_rows=True)


def test_fewer_labelled_rows_a_step_than_processes_are_refused(teacher, reviews):
    args = SimpleNamespace(labelled_batch_size=3, world_size=4, augmented_text_column=None, distils_logits=True)
    with pytest.raises(ValueError, match="labelled_batch_size=3 and 10 labelled rows for 4 processes"):
        check_meta_pseudo_labels(make_student(), [teacher], args, reviews, reviews.select(range(10)))
    args.labelled_batch_size = 32
    with pytest.raises(ValueError, match="labelled_batch_size=32 and 2 labelled rows for 4 processes"):
        check_meta_pseudo_labels(make_student(), [teacher], args, reviews, reviews.select(range(2)))


def test_a_training_in_which_no_feedback_would_ever_come_is_refused(make_trainer):
    # 48 rows make 6 batches.
    with pytest.raises(ValueError, match="teacher_supervised_steps=6 of 6 steps: the teacher would learn"):
        make_trainer(num_train_epochs=1, teacher_supervised_steps=6).train()


def test_two_lines_pair_the_rows_of_a_rule_augmenter_with_their_parents(make_trainer, reviews):
    unlabelled = reviews.remove_columns("label")
    augmenter = RuleAugmenter.from_corpus(unlabelled["sentence"], copies=1, mask_probability=0.3, seed=13)
    rows = unlabelled.map(augmenter, batched=True, with_indices=True, remove_columns=["sentence"])
    rows = rows.filter(lambda row: row["operators"] != "original").rename_column("sentence", "rewritten")
    rows = rows.map(lambda batch: {"sentence": unlabelled[batch["parent"]]["sentence"]}, batched=True)
    trainer = make_trainer(given={"train_dataset": rows}, **CONSISTENT, max_steps=1)
    assert 20 < len(trainer.train_dataset) <= 48
    trainer.train()
    assert logs_of(trainer)[0]["teacher_consistency"] > 0
