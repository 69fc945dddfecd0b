"""What `check_distillation` finds, one thing wrong at a time; it must never raise, and change nothing."""

import copy
import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, List, Value
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ByT5Tokenizer,
    RobertaConfig,
    T5Config,
    XLNetConfig,
)

from distil_trainer.arguments import DistillationArguments
from distil_trainer.preflight import Finding, check_distillation, check_lengths, findings_table, reads_own_tokens
from distil_trainer.preflight.lengths import most_tokens, share_truncated
from distil_trainer.preflight.signal_quality import beats_chance, judge_logits
from distil_trainer.students import EmbeddingBagConfig, EmbeddingBagForSequenceClassification, TransformerCnnConfig
from distil_trainer.students.pruned_encoders import PrunedRobertaConfig

NAMES = ["negative", "positive"]


@pytest.fixture
def make_args(tmp_path):
    def make(**given):
        return DistillationArguments(str(tmp_path / "out"), **{"use_cpu": True, "max_length": 32, **given})

    return make


@pytest.fixture
def student(teacher):
    return _student(teacher)


def _student(teacher, **changes):
    config = copy.deepcopy(teacher.config)
    config.num_hidden_layers = 2
    for name, value in changes.items():
        setattr(config, name, value)
    return BertForSequenceClassification(config)


def _with_signal(dataset, logits, names=NAMES):
    logits = np.asarray(logits, dtype=np.float32)
    labels = np.nan_to_num(logits).argmax(axis=1).tolist()
    dataset = dataset.add_column("teacher_logits", logits.tolist())
    dataset = dataset.cast_column("teacher_logits", List(Value("float32"), length=logits.shape[1]))
    return dataset.add_column("teacher_label", labels).cast_column("teacher_label", ClassLabel(names=names))


@pytest.fixture
def signal(reviews):
    """A teacher that is right of most rows, and never sure."""
    labels = np.array(reviews["label"])
    answers = np.where(np.arange(48) % 8 == 0, 1 - labels, labels)
    return _with_signal(reviews, np.stack([1.0 - answers, answers], axis=1))


@pytest.fixture
def look(student, make_args, tokenizer, signal):
    def run(model=None, dataset=None, eval_dataset=None, processing_class=tokenizer, teacher=None, **given):
        dataset = signal if dataset is None else dataset
        others = {name: given.pop(name) for name in ("teacher_processing_class", "sample_size") if name in given}
        found = check_distillation(
            student if model is None else model,
            make_args(**given),
            dataset,
            eval_dataset,
            processing_class,
            teacher,
            **others,
        )
        assert all(isinstance(finding, Finding) for finding in found)
        return found

    return run


def _of(findings, check):
    return [(status, message) for name, status, message in findings if name == check]


def _statuses(findings, check):
    return [status for status, _ in _of(findings, check)]


def test_a_run_that_fits_is_fine_throughout(look, reviews):
    others = reviews.map(lambda row: {"sentence": f"{row['sentence']} {row['sentence']} cold"})
    findings = look(eval_dataset=others, hard_label_weight=0.5)
    assert {finding.status for finding in findings} == {"fine"}
    checks = [
        "models and data", "losses", "label names", "labels", "columns", "lengths", "tokens", "evaluation rows",
        "teacher's answers",
    ]  # fmt: skip
    assert list(dict.fromkeys(finding.check for finding in findings)) == checks


def test_a_run_with_a_teacher_that_is_asked_is_checked_too(look, teacher, reviews):
    findings = look(dataset=reviews, teacher=teacher, hidden_loss_weight=1.0)
    assert not {"refused"} & {finding.status for finding in findings}
    assert "hidden_states_mse_t0_s0" in _of(findings, "losses")[0][1]
    assert _of(findings, "teacher's answers")


def test_nothing_given_is_changed_and_no_random_number_is_drawn(look, teacher, reviews, student):
    teacher.config._attn_implementation = "sdpa"
    student.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    before = copy.deepcopy(student.config.to_dict())
    torch.manual_seed(0)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    look(dataset=reviews, teacher=teacher, attention_loss_weight=1.0)
    assert student.config.to_dict() == before and teacher.config._attn_implementation == "sdpa"
    assert torch.equal(torch.get_rng_state(), state) and (np.random.get_state()[1] == numpy_state).all()


def test_the_table_aligns_its_columns_and_wraps_messages():
    findings = [Finding("labels", "fine", "Good."), Finding("label names", "refused", "long words " * 20)]
    lines = findings_table(findings).split("\n")
    assert lines[0] == "labels       fine     Good."
    assert lines[1].startswith("label names  refused  long words long")
    assert lines[2].startswith(" " * 22) and lines[2][22:26] in ("long", "word") and max(map(len, lines)) <= 119


def test_findings_can_be_written_as_json(look):
    assert json.loads(json.dumps(look()))[0][0] == "models and data"


# Models and data


def test_a_data_set_of_another_type_is_refused_and_ends_the_checks(look):
    findings = look(dataset=[{"sentence": "a"}])
    assert len(findings) == 1 and findings[0].status == "refused" and "is a list" in findings[0].message


def test_missing_teacher_logits_are_refused(look, reviews):
    (finding,) = look(dataset=reviews)
    assert finding.status == "refused" and "has no column 'teacher_logits'" in finding.message


def test_a_teacher_of_another_task_is_refused(look, teacher, reviews):
    model = _student(teacher, problem_type="multi_label_classification")
    (finding,) = look(model, dataset=reviews, teacher=teacher)
    assert finding.status == "refused" and "problem_type" in finding.message


# Losses


def test_kl_for_regression_is_refused(look, teacher, reviews):
    model = _student(teacher, num_labels=1)
    dataset = reviews.add_column("teacher_logits", [[float(index)] for index in range(48)])
    findings = look(model, dataset=dataset, logit_loss="kl")
    assert _statuses(findings, "losses") == ["refused"]
    assert _statuses(look(model, dataset=dataset), "losses") == ["fine"]


def test_decoupled_for_several_labels_is_refused(look, teacher, signal):
    model = _student(teacher, problem_type="multi_label_classification")
    assert _statuses(look(model, dataset=signal.remove_columns("label"), logit_loss="decoupled"), "losses") == [
        "refused"
    ]


def test_layers_out_of_range_are_refused(look, teacher, reviews):
    matches = [{"what": "hidden_states", "loss": "mse", "teacher_layer": 9, "student_layer": 1}]
    assert _statuses(look(dataset=reviews, teacher=teacher, matches=matches), "losses") == ["refused"]


def test_unequal_widths_are_projected(look, teacher, reviews):
    model = _student(teacher, hidden_size=16)
    findings = look(model, dataset=reviews, teacher=teacher, hidden_loss_weight=1.0)
    assert _statuses(findings, "losses") == ["fine", "fixed"]
    assert "width 16 to 32" in _of(findings, "losses")[1][1]


def test_attention_losses_set_attention_to_eager(look, teacher, student, reviews):
    teacher.config._attn_implementation = "eager"
    student.config._attn_implementation = "sdpa"
    findings = look(dataset=reviews, teacher=teacher, attention_loss_weight=1.0)
    ((status, message),) = _of(findings, "attention maps")
    assert status == "fixed" and "the student has sdpa" in message and "teacher" not in message
    student.config._attn_implementation = "eager"
    assert _statuses(look(dataset=reviews, teacher=teacher, attention_loss_weight=1.0), "attention maps") == ["fine"]
    assert not _of(look(dataset=reviews, teacher=teacher, hidden_loss_weight=1.0), "attention maps")


# Labels


def test_placeholder_names_become_the_teachers_or_the_datas(look, teacher, signal, reviews):
    model = _student(teacher, id2label={0: "LABEL_0", 1: "LABEL_1"})
    ((status, message),) = _of(look(model), "label names")
    assert status == "fixed" and "teacher's, ['negative', 'positive']" in message
    findings = look(model, dataset=reviews, logit_loss_weight=0.0, hard_label_weight=1.0)
    assert "the data's" in _of(findings, "label names")[0][1]


def test_labels_in_another_order_are_put_right(look, reviews):
    signal = _with_signal(reviews, np.eye(2)[np.arange(48) % 2], names=NAMES[::-1])
    found = _of(look(dataset=signal), "label names")
    assert found[0][0] == "fixed" and "put into the student's order" in found[0][1]


def test_other_names_and_other_numbers_of_labels_are_refused(look, reviews, teacher):
    signal = _with_signal(reviews, np.eye(2)[np.arange(48) % 2], names=["bad", "good"])
    assert "refused" in _statuses(look(dataset=signal), "label names")
    model = _student(teacher, id2label={index: f"LABEL_{index}" for index in range(3)})
    assert "refused" in _statuses(look(model), "label names")


def test_logits_whose_order_no_one_names_are_a_warning(look, signal):
    assert "warning" in _statuses(look(dataset=signal.remove_columns("teacher_label")), "label names")


def test_names_of_labels_that_are_not_read_do_not_matter(look, signal):
    signal = signal.cast_column("label", ClassLabel(names=["dog", "cat"]))
    assert _statuses(look(dataset=signal), "label names") == ["fine"]
    assert "refused" in _statuses(look(dataset=signal, hard_label_weight=1.0), "label names")


def test_labels_out_of_range_and_a_missing_column_are_refused(look, signal):
    wrong = signal.remove_columns("label").add_column("label", [7] * 48)
    ((status, message),) = _of(look(dataset=wrong, hard_label_weight=1.0), "labels")
    assert status == "refused" and "row 0 has label=7" in message
    findings = look(dataset=signal.remove_columns("label"), hard_label_weight=1.0)
    ((status, message),) = _of(findings, "labels")
    assert status == "refused" and "no column 'label'" in message and "sentence" in message


def test_training_without_any_and_evaluation_with_some_labels_is_refused(look, signal, reviews):
    unlabelled = signal.map(lambda row: {"label": -1})
    found = _of(look(dataset=unlabelled, hard_label_weight=1.0), "labels")
    assert found[0][0] == "refused" and "0 of 48" in found[0][1]
    some = reviews.map(lambda row, index: {"label": -1 if index else 0}, with_indices=True)
    found = _of(look(eval_dataset={"validation": some, "test": reviews}), "labels")
    assert [status for status, _ in found] == ["refused", "fine"] and "validation: 1 of 48" in found[0][1]


def test_labels_of_several_and_of_scores_are_counted(look, reviews, teacher):
    model = _student(teacher, problem_type="multi_label_classification")
    several = _with_signal(
        reviews.remove_columns("label").add_column("label", [[1.0, 0.0], [None, None]] * 24), np.eye(2)[[0, 1] * 24]
    )
    assert "24 of 48" in _of(look(model, dataset=several, hard_label_weight=1.0), "labels")[0][1]
    several = several.remove_columns("label").add_column("label", [[2.0, 0.0]] * 48)
    assert _statuses(look(model, dataset=several, hard_label_weight=1.0), "labels") == ["refused"]


# Rows


def test_columns_that_are_not_read_are_named(look, signal):
    dataset = signal.add_column("idx", list(range(48)))
    ((status, message),) = _of(look(dataset=dataset), "columns")
    assert status == "fine" and message.endswith("Not read, and dropped: label, idx.")
    assert "sentence, teacher_logits, teacher_label" in message
    assert "dropped: idx." in _of(look(dataset=dataset, hard_label_weight=1.0), "columns")[0][1]


def test_texts_that_are_cut_are_a_warning(look):
    found = _of(look(max_length=5), "lengths")
    assert found[0][0] == "warning" and "more than the 5 tokens the student reads" in found[0][1]


def test_a_length_over_the_tokenizers_is_cut(look):
    found = _of(look(max_length=100), "lengths")
    assert found[0] == ("fixed", "max_length=100 is cut to the 64 of the student's tokenizer.")


def test_a_length_over_the_positions_is_refused_for_student_and_teacher(look, teacher, reviews, tokenizer):
    short = _student(teacher, max_position_embeddings=20)
    ((status, message),) = _of(look(short), "lengths")
    assert status == "refused" and "the student has positions for 20 tokens" in message and "max_length=20" in message
    found = _of(look(dataset=reviews, teacher=short), "lengths")
    assert found[-1][0] == "refused" and "the teacher has positions for 20" in found[-1][1]


def test_rows_of_tokens_are_held_against_the_positions(look, teacher, signal, tokenizer):
    tokens = signal.map(lambda batch: {"input_ids": tokenizer(batch["sentence"])["input_ids"]}, batched=True)
    assert _statuses(look(dataset=tokens), "lengths") == ["fine"]
    assert _statuses(look(_student(teacher, max_position_embeddings=6), dataset=tokens), "lengths") == ["refused"]


def test_positions_are_counted_as_each_architecture_counts_them():
    assert most_tokens(BertConfig(max_position_embeddings=512)) == 512
    assert most_tokens(RobertaConfig(max_position_embeddings=514, pad_token_id=1)) == 512
    assert most_tokens(PrunedRobertaConfig(max_position_embeddings=514, pad_token_id=1)) == 512
    assert most_tokens(TransformerCnnConfig(RobertaConfig(max_position_embeddings=514, pad_token_id=1))) == 512
    assert most_tokens(T5Config()) is None and most_tokens(XLNetConfig()) is None


def test_roberta_refuses_the_length_that_its_position_table_seems_to_allow(tokenizer, make_args):
    config = RobertaConfig(max_position_embeddings=34, pad_token_id=1)
    check_lengths(config, tokenizer, make_args(max_length=32), "teacher")
    with pytest.raises(ValueError, match="max_length=33: the teacher has positions for 32 tokens"):
        check_lengths(config, tokenizer, make_args(max_length=33), "teacher")


def test_the_share_of_cut_texts_counts_special_tokens_and_both_texts(tokenizer):
    assert share_truncated(tokenizer, [["a film", "a good film"]], 4) == 0.5
    assert share_truncated(tokenizer, [["a film", "a good film"], ["a", "a"]], 6) == 0.5


def test_an_empty_text_is_refused(look, signal):
    empty = signal.map(lambda row, index: {"sentence": row["sentence"] if index else " "}, with_indices=True)
    ((status, message),) = _of(look(dataset=empty), "tokens")
    assert status == "refused" and "row 0" in message


def test_a_padding_token_that_the_teacher_does_not_know_is_refused(look, reviews, teacher, tokenizer):
    from zoo import make_teacher, make_tokenizer

    gpt2, own = make_teacher("gpt2"), make_tokenizer("gpt2")
    gpt2.config.pad_token_id = None
    findings = look(dataset=reviews, teacher=gpt2, teacher_processing_class=own)
    assert _statuses(findings, "tokens") == ["refused"]


def test_pairs_for_a_network_of_single_texts_and_the_other_way_round_are_refused(look, signal, tokenizer):
    sizes = {"vocab_size": 100, "embedding_size": 4, "num_labels": 2}
    single, paired = (
        EmbeddingBagForSequenceClassification(EmbeddingBagConfig(**sizes, type_vocab_size=types)) for types in (1, 2)
    )
    pairs = signal.add_column("second", signal["sentence"])
    assert _statuses(look(single), "tokens") == ["fine"]
    assert _statuses(look(paired, dataset=pairs, text_pair_column="second"), "tokens") == ["fine"]
    ((status, message),) = _of(look(single, dataset=pairs, text_pair_column="second"), "tokens")
    assert status == "refused" and "it reads single texts" in message
    ((status, message),) = _of(look(paired), "tokens")
    assert status == "refused" and "it compares the two texts of a pair" in message
    tokens = signal.map(lambda batch: dict(tokenizer(batch["sentence"])), batched=True)
    assert _statuses(look(single, dataset=tokens, text_pair_column="second"), "tokens") == ["fine"]


def test_rows_that_stand_in_evaluation_data_are_counted(look, reviews):
    some = reviews.select(range(5)).map(lambda row: {"sentence": row["sentence"].upper()})
    assert _of(look(eval_dataset=some), "evaluation rows")[0][0] == "fixed"
    assert "5 of 48" in _of(look(eval_dataset=some), "evaluation rows")[0][1]
    assert _statuses(look(eval_dataset=some, drop_evaluation_rows=False), "evaluation rows") == ["warning"]
    assert _statuses(look(eval_dataset=reviews), "evaluation rows") == ["refused"]


def test_pairs_are_compared_as_pairs(look, signal, reviews):
    pairs = signal.add_column("second", [f"a {index}" for index in range(48)])
    evaluation = reviews.add_column("second", [f"a {index if index < 3 else -1}" for index in range(48)])
    findings = look(dataset=pairs, eval_dataset=evaluation, text_pair_column="second")
    assert "3 of 48" in _of(findings, "evaluation rows")[0][1]
    assert _statuses(findings, "tokens") == ["fine"]


def test_rows_of_tokens_are_not_compared(look, signal, reviews, tokenizer):
    tokens = signal.map(
        lambda batch: {"input_ids": tokenizer(batch["sentence"])["input_ids"]}, batched=True, remove_columns="sentence"
    )
    ((status, message),) = _of(look(dataset=tokens, eval_dataset=reviews), "evaluation rows")
    assert status == "fine" and "Not checked" in message


# The teacher's answers


@pytest.mark.parametrize("row", [0, 47])
def test_logits_that_are_not_finite_are_refused_wherever_they_stand(look, reviews, row):
    logits = np.eye(2)[np.arange(48) % 2]
    logits[row, 0] = np.nan
    ((status, message),) = _of(look(dataset=_with_signal(reviews, logits), sample_size=3), "teacher's answers")
    assert status == "refused" and f"row {row}" in message


def test_a_teacher_that_is_asked_and_gives_nan_is_refused(look, reviews, teacher):
    teacher.classifier.bias.data[0] = torch.nan
    ((status, message),) = _of(look(dataset=reviews, teacher=teacher), "teacher's answers")
    assert status == "refused" and "48 of 48 sample rows NaN" in message


def test_a_teacher_that_is_too_sure_for_the_temperature_is_a_warning(look, reviews):
    certain = _with_signal(reviews, 40.0 * np.eye(2)[np.arange(48) % 2])
    statuses = _statuses(look(dataset=certain), "teacher's answers")
    assert statuses == ["warning", "fine"]
    assert _statuses(look(dataset=certain, temperature=10.0), "teacher's answers") == ["fine", "fine"]
    assert _statuses(look(dataset=certain, logit_loss="mse"), "teacher's answers") == ["fine", "fine"]


def test_a_teacher_no_better_than_chance_is_a_warning(look, signal, reviews):
    # Right of every other row.
    by_chance = _with_signal(reviews, np.eye(2)[np.arange(48) // 2 % 2])
    found = _of(look(dataset=by_chance), "teacher's answers")
    assert found[-1][0] == "warning" and "no better than chance on 48 labelled" in found[-1][1]
    assert "better than chance on 48" in _of(look(), "teacher's answers")[-1][1]


def test_a_teacher_that_is_asked_is_compared_with_gold_labels_in_the_students_order(look, reviews, teacher, tokenizer):
    from distil_trainer.inference import predict_logits, torch_runner

    answers = predict_logits(torch_runner(teacher), tokenizer, reviews["sentence"][:])
    teacher.classifier.bias.data -= torch.tensor(np.median(answers[:, :1] - answers[:, 1:]) * np.array([1.0, 0.0]))
    answers = predict_logits(torch_runner(teacher), tokenizer, reviews["sentence"][:])
    dataset = reviews.remove_columns("label").add_column("label", answers.argmax(axis=1).tolist())
    dataset = dataset.cast_column("label", ClassLabel(names=NAMES))
    assert "is better than chance on 48" in _of(look(dataset=dataset, teacher=teacher), "teacher's answers")[-1][1]
    model = _student(teacher, id2label=dict(enumerate(NAMES[::-1])))
    findings = look(model, dataset=dataset, teacher=teacher)
    assert "is better than chance on 48" in _of(findings, "teacher's answers")[-1][1]
    teacher.config.id2label = dict(enumerate(NAMES[::-1]))
    findings = look(_student(teacher, id2label=dict(enumerate(NAMES))), dataset=dataset, teacher=teacher)
    assert "no better than chance" in _of(findings, "teacher's answers")[-1][1]


def test_several_teachers_are_judged_one_by_one(look, reviews, teacher):
    findings = look(dataset=reviews, teacher=[teacher, copy.deepcopy(teacher)])
    messages = " ".join(message for _, message in _of(findings, "teacher's answers"))
    assert "The teacher 0" in messages and "The teacher 1" in messages


def test_a_warning_names_its_teacher_once(look, reviews, teacher):
    # Certain enough, and of one label: two warnings, the third is of the gold labels.
    found = _of(look(dataset=_with_signal(reviews, [[40.0, 0.0]] * 24 + [[41.0, 0.0]] * 24)), "teacher's answers")
    starts = ["The teacher gives all 48 rows", "The teacher is 100.00% sure", "The teacher is no better than chance"]
    for (status, message), start in zip(found, starts, strict=True):
        assert status == "warning" and message.startswith(start) and message.count("The teacher") == 1
    teacher.classifier.bias.data += torch.tensor([90.0, 0.0])
    found = _of(look(dataset=reviews, teacher=[teacher, teacher]), "teacher's answers")
    numbers = [message[:13] for _, message in found if "gives all" in message]
    assert numbers == ["The teacher 0", "The teacher 1"]


def test_few_gold_labels_or_unfit_ones_are_not_compared(look, signal, reviews):
    assert "not compared" in _of(look(sample_size=20), "teacher's answers")[-1][1]
    words = signal.remove_columns("label").add_column("label", ["good"] * 48)
    assert "0 sample rows" in _of(look(dataset=words), "teacher's answers")[-1][1]


def test_rows_of_tokens_are_not_shown_to_a_teacher(look, reviews, teacher, tokenizer):
    tokens = reviews.map(
        lambda batch: {"input_ids": tokenizer(batch["sentence"])["input_ids"]}, batched=True, remove_columns="sentence"
    )
    ((status, message),) = _of(look(dataset=tokens, teacher=teacher), "teacher's answers")
    assert status == "fine" and "Not checked" in message


def test_scores_and_several_labels_are_judged_in_their_own_way(look, reviews, teacher):
    score = _student(teacher, num_labels=1)
    values = [[float(index)] for index in range(48)]
    dataset = reviews.remove_columns("label").add_column("label", [float(index) for index in range(48)])
    found = _of(look(score, dataset=dataset.add_column("teacher_logits", values)), "teacher's answers")
    assert [status for status, _ in found] == ["fine", "fine"] and "better than chance" in found[1][1]
    several = _student(teacher, problem_type="multi_label_classification")
    dataset = reviews.remove_columns("label").add_column("label", [[1.0, 0.0], [0.0, 0.0]] * 24)
    dataset = _with_signal(dataset, [[2.0, -1.0], [-2.0, -1.0]] * 24)
    found = _of(look(several, dataset=dataset), "teacher's answers")
    assert [status for status, _ in found] == ["fine", "fine"] and "better than chance" in found[1][1]


def test_a_teacher_of_scores_on_another_scale_is_warned_of(look, reviews, teacher):
    gold = [float(index % 6) for index in range(48)]
    dataset = reviews.remove_columns("label").add_column("label", gold)
    for scale, statuses in ((0.2, ["fine", "fine", "warning"]), (0.9, ["fine", "fine"])):
        signal = dataset.add_column("teacher_logits", [[scale * score] for score in gold])
        found = _of(look(_student(teacher, num_labels=1), dataset=signal), "teacher's answers")
        assert [status for status, _ in found] == statuses
        if "warning" in statuses:
            assert "scores from 0 to 1 where the gold scores run from 0 to 5" in found[-1][1]


# The figures behind them


def test_logits_without_information_are_recognised():
    task, varied = "single_label_classification", np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    assert judge_logits(varied, task, 2.0) == []
    assert "same logits, [1.0, 2.0]" in judge_logits(np.array([[1.0, 2.0]] * 3), task, 2.0)[0]
    assert "equal logits" in judge_logits(np.array([[1.0, 1.0], [2.0, 2.0]]), task, 2.0)[0]
    assert "label number 0" in judge_logits(np.array([[1.0, 0.0], [2.0, 0.0]]), task, 2.0)[0]
    assert "hard labels" in judge_logits(varied * 100, task, 2.0)[0]
    assert judge_logits(varied * 100, task) == []
    assert judge_logits(varied[:1], task, 2.0) == []


def test_soft_targets_are_degenerate_above_a_mean_probability_of_0_999():
    # The top probability is 1 / (1 + e^-x), so 0.999 lies at x = log 999 = 6.907.
    rows = np.array([[1.0, 0.0], [0.0, 1.0]])
    for task in ("single_label_classification", "multi_label_classification"):
        shift = rows - 0.5 if task.startswith("multi") else rows
        scale = 2 if task.startswith("multi") else 1
        assert judge_logits(6.90 * scale * shift, task, 1.0) == []
        assert len(judge_logits(6.92 * scale * shift, task, 1.0)) == 1
        assert judge_logits(2 * 6.90 * scale * shift, task, 2.0) == []


def test_constant_scores_are_recognised():
    assert len(judge_logits(np.full((5, 1), 3.0), "regression")) == 1
    assert judge_logits(np.arange(5.0)[:, None], "regression") == []


def test_always_giving_the_most_frequent_label_is_no_better_than_chance():
    task, labels = "single_label_classification", np.array([0] * 57 + [1] * 7)[:, None]
    always = np.tile([1.0, 0.0], (64, 1))
    assert not beats_chance(always, labels, task)
    # 61 of 64 right, 4 of the 7 rare ones found.
    some = always.copy()
    some[-4:] = [0.0, 1.0]
    assert beats_chance(some, labels, task)
    assert not beats_chance(some[:, ::-1], labels, task)


def test_chance_in_several_labels_and_in_scores():
    truth = np.random.default_rng(0).integers(0, 2, (40, 3)).astype(float)
    assert beats_chance(2 * truth - 1, truth, "multi_label_classification")
    assert not beats_chance(np.full((40, 3), -1.0), truth, "multi_label_classification")
    assert not beats_chance(1 - 2 * truth, truth, "multi_label_classification")
    values = np.arange(40.0)[:, None]
    assert beats_chance(values**3, values, "regression")
    assert not beats_chance(-values, values, "regression")
    assert not beats_chance(np.zeros((40, 1)), values, "regression")


def test_own_tokens_are_recognised_by_the_tokenizers_content(student, teacher, tokenizer):
    from zoo import make_tokenizer

    assert not reads_own_tokens(student, tokenizer, [], None)
    assert not reads_own_tokens(student, tokenizer, [teacher], None)
    assert not reads_own_tokens(student, tokenizer, [teacher], copy.deepcopy(tokenizer))
    assert reads_own_tokens(student, tokenizer, [teacher], make_tokenizer("roberta"))
    with pytest.raises(ValueError, match="without processing_class="):
        reads_own_tokens(student, None, [teacher], tokenizer)
    with pytest.raises(ValueError, match="teacher_processing_class= is given without teacher="):
        reads_own_tokens(student, tokenizer, [], tokenizer)


def test_a_tokenizer_without_a_fast_version_is_the_same_only_as_itself(student, teacher, tokenizer):
    slow = ByT5Tokenizer()
    assert not slow.is_fast
    assert not reads_own_tokens(student, slow, [teacher], slow)
    assert reads_own_tokens(student, tokenizer, [teacher], slow)
    assert reads_own_tokens(student, slow, [teacher], tokenizer)
    assert reads_own_tokens(student, slow, [teacher], copy.deepcopy(slow))


def test_a_teacher_with_a_slow_tokenizer_is_checked(look, teacher, reviews):
    slow = ByT5Tokenizer()
    teacher.resize_token_embeddings(len(slow))
    given = {"dataset": reviews, "teacher": teacher, "teacher_processing_class": slow, "max_length": 80}
    assert "refused" not in {finding.status for finding in look(**given)}


def test_a_teacher_that_cannot_read_the_rows_is_refused_and_not_asked(look, teacher, reviews, student):
    short = _student(teacher, max_position_embeddings=20)
    findings = look(dataset=reviews, teacher=short, max_length=60)
    assert "refused" in _statuses(findings, "lengths")
    assert _of(findings, "teacher's answers")[0][0] == "refused"
    unknown = copy.deepcopy(teacher)
    unknown.resize_token_embeddings(6)
    student.resize_token_embeddings(6)
    findings = look(dataset=reviews, teacher=unknown)
    for check in ("tokens", "teacher's answers"):
        assert "has embeddings for 6 only" in _of(findings, check)[-1][1]


def test_a_teacher_is_not_asked_for_texts_where_tokens_are_trained_on(look, teacher, reviews, tokenizer):
    short = _student(teacher, max_position_embeddings=20)
    tokens = [tokenizer(text)["input_ids"] for text in reviews["sentence"]]
    assert max(map(len, tokens)) <= 20
    findings = look(dataset=reviews.add_column("input_ids", tokens), teacher=short, max_length=60)
    assert "refused" not in {finding.status for finding in findings}
    assert _of(findings, "teacher's answers") == [
        ("fine", "Not checked: the teacher is asked for texts here, and train_dataset holds tokens.")
    ]


def test_rows_with_more_tokens_than_the_teacher_has_positions_are_refused(look, teacher, reviews, tokenizer):
    short = _student(teacher, max_position_embeddings=8)
    tokens = [tokenizer(text)["input_ids"] for text in reviews["sentence"]]
    findings = look(dataset=reviews.add_column("input_ids", tokens), teacher=short, max_length=8)
    assert "and the teacher has positions for 8" in _of(findings, "lengths")[-1][1]


def test_a_teacher_whose_states_alone_are_learned_is_asked_for_finite_answers_too(look, teacher, reviews):
    losses = {"logit_loss_weight": 0.0, "hidden_loss_weight": 1.0}
    findings = look(dataset=reviews, teacher=teacher, **losses)
    assert _of(findings, "teacher's answers") == [
        ("fine", "The teacher gives finite answers to 48 sample rows. They are not learned.")
    ]
    with torch.no_grad():
        teacher.classifier.weight.fill_(float("nan"))
    assert _statuses(look(dataset=reviews, teacher=teacher, **losses), "teacher's answers") == ["refused"]


def test_a_teacher_without_label_names_is_warned_of(look, teacher, reviews):
    teacher.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    findings = _of(look(dataset=reviews, teacher=teacher), "label names")
    assert findings[0][0] == "warning" and "the teacher has no names for its labels" in findings[0][1]


def test_the_sample_is_spread_over_all_rows(look, signal):
    # Sorted by label: the first rows alone would be of one kind.
    ordered = signal.sort("label")
    found = _of(look(dataset=ordered, sample_size=16), "teacher's answers")
    assert found[0] == ("fine", "The teacher tells the 16 sample rows apart.")


def test_no_data_at_all_is_checked_without_complaint(student, make_args):
    findings = check_distillation(student, make_args())
    assert {finding.status for finding in findings} == {"fine"}


def test_a_data_set_of_one_row_is_checked(look, signal):
    assert "refused" not in {finding.status for finding in look(dataset=signal.select([0]))}


def test_empty_data_is_refused(look):
    (finding,) = look(dataset=Dataset.from_dict({"sentence": [], "teacher_logits": []}))
    assert finding.status == "refused" and "no rows" in finding.message
