"""A recipe on scores goes the whole road as a regression; one on labels by the metric it is told."""

import copy
import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Value, load_from_disk
from scipy.stats import pearsonr
from test_network_recipes import SMALL
from transformers import AutoConfig, pipeline
from vocabulary import WORDS

from distil_trainer import run_recipe
from distil_trainer.loading import load_classifier
from distil_trainer.recipe_task import check_training, fit_task, recipe_task, score_range, set_task

PAIRS = ["--text_column", "first", "--text_pair_column", "second", "--label_column", "score", "--copies", "0"]


@pytest.fixture
def scored(tmp_path, reviews):
    """Files of pairs of texts whose score is the share of words that they share, on a scale from 0 to 5."""
    for split, shift in (("train", 0), ("validation", 3), ("test", 5)):
        firsts = reviews["sentence"][shift:] + reviews["sentence"][:shift]
        seconds = [" ".join(text.split()[row % 4 :] + [WORDS[row % 9]]) for row, text in enumerate(firsts)]
        words = [(set(first.split()), set(second.split())) for first, second in zip(firsts, seconds, strict=True)]
        scores = [5 * len(one & other) / len(one | other) for one, other in words]
        rows = {"first": [f"{split} {text}" for text in firsts], "second": seconds, "score": scores}
        Dataset.from_dict(rows).to_parquet(tmp_path / f"{split}.parquet")
    return [
        word for split in ("train", "validation") for word in (f"--{split}_file", str(tmp_path / f"{split}.parquet"))
    ]


@pytest.fixture
def scorer_folder(tmp_path, teacher, tokenizer):
    """A folder with the tiny BERT and a head of one output, as transformers saves it: without a problem_type."""
    torch.manual_seed(3)
    teacher.classifier = torch.nn.Linear(teacher.config.hidden_size, 1)
    teacher.config.id2label, teacher.config.label2id = {0: "LABEL_0"}, {"LABEL_0": 0}
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    assert AutoConfig.from_pretrained(tmp_path / "teacher").problem_type is None
    return str(tmp_path / "teacher")


@pytest.fixture
def arguments(tmp_path):
    return [
        *("--output_dir", str(tmp_path / "out"), "--max_steps", "2", "--per_device_train_batch_size", "8"),
        *("--warmup_steps", "0", "--latency_texts", "4", "--max_accuracy_drop", "0.9", "--disable_tqdm", "True"),
        *("--near_duplicate_threshold", "1.0"),  # the splits' texts are alike
    ]


def _run(*words, **defaults):
    return run_recipe(defaults, [word for part in words for word in part], recipe="scores.py")


def test_scores_go_the_whole_road_from_the_teachers_one_output_to_the_card(
    scored, scorer_folder, arguments, tmp_path, capsys
):
    report = _run(
        arguments,
        scored,
        ["--test_file", str(tmp_path / "test.parquet"), "--teacher_model_name_or_path", scorer_folder],
        ["--student_layers", "2", "4", "--max_length", "32", *PAIRS],
    )
    table, out = capsys.readouterr().out, tmp_path / "out"
    gold = Dataset.from_parquet(str(tmp_path / "test.parquet"), keep_in_memory=True)
    texts = [{"text": row["first"], "text_pair": row["second"]} for row in gold]

    # A stranger's pipeline gives the score itself, and these scores are the ones that were judged.
    student, tokenizer = load_classifier(out)
    assert student.config.problem_type == "regression" and student.config.num_labels == 1
    answers = pipeline("text-classification", model=student, tokenizer=tokenizer)(
        texts, truncation=True, max_length=32
    )
    answers = [answer["score"] for answer in answers]
    judged = report["models"][2]["evaluation"]["test"]
    assert judged["pearson"] == pytest.approx(pearsonr(answers, gold["score"]).statistic, abs=1e-4)
    assert judged["mse"] == pytest.approx(np.mean(np.square(np.subtract(answers, gold["score"]))), rel=1e-4)

    assert report["task"]["problem_type"] == "regression" and report["task"]["metric"] == "pearson"
    assert (report["task"]["labels"], report["task"]["score_range"]) == (None, [1.0, 5.0])
    assert report["training"]["logit_loss"] == "mse" and report["training"]["temperature"] is None
    assert report["export"]["metric"] == "pearson" and "pearson_change" in report["export"]["rungs"][0]
    assert {"pearson_difference", "output_correlation"} < report["comparisons"][0].keys()
    assert (out / "pearson_latency.png").is_file() and not (out / "accuracy_latency.png").exists()
    assert json.loads((out / "onnx" / "config.json").read_text())["problem_type"] == "regression"
    for text in (table, (out / "README.md").read_text()):
        assert "Pearson r" in text and "Spearman" in text
        text = text.replace("--max_accuracy_drop", "")  # of the command line
        assert "ccuracy" not in text and "LABEL_0" not in text and "macro" not in text


def test_a_checkpoint_with_labels_is_fine_tuned_to_scores_and_teaches_a_network(
    scored, arguments, tmp_path, teacher, tokenizer
):
    teacher.config.problem_type = "single_label_classification"  # of what it was trained for before
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    report = _run(
        arguments,
        scored,
        ["--teacher_model_name_or_path", str(tmp_path / "teacher"), "--train_teacher", "--teacher_max_steps", "2"],
        ["--student_type", "bilstm", "--student_config", SMALL["bilstm"], "--max_length", "32", *PAIRS],
    )
    work = tmp_path / "out" / "work"
    for stage in ("teacher", "student", "control"):
        config = AutoConfig.from_pretrained(work / stage)
        assert (config.num_labels, config.problem_type) == (1, "regression"), stage
    log = json.loads((work / "teacher" / "trainer_state.json").read_text())
    assert log["best_metric"] == max(entry["eval_pearson"] for entry in log["log_history"] if "eval_pearson" in entry)
    assert report["data"]["validation"]["used_for"] == ["the ONNX file", "the teacher's best epoch"]


@pytest.mark.slow
def test_augmented_scores_stay_with_their_original_texts(scored, scorer_folder, arguments, tmp_path):
    words = ["--text_column", "first", "--label_column", "score", "--copies", "2", "--student_layers", "4"]
    report = _run(
        arguments,
        scored,
        ["--teacher_model_name_or_path", scorer_folder, "--hard_label_weight", "0.5", "--max_length", "32", *words],
    )
    transfer = load_from_disk(str(tmp_path / "out" / "work" / "transfer_set"))
    assert report["data"]["transfer"]["rows"] == len(transfer) > 48
    assert transfer.features["score"].dtype in ("float32", "float64")
    has_score = [score is not None for score in transfer["score"]]
    assert has_score == [kind == "original" for kind in transfer["operators"]]


def test_labels_are_judged_by_macro_f1_where_that_is_asked_for(sst2_arguments, tmp_path, capsys, teacher):
    teacher.bert.save_pretrained(tmp_path / "teacher")
    report = _run(
        sst2_arguments,
        ["--metric", "macro_f1", "--train_teacher", "--teacher_max_steps", "2", "--copies", "0"],
    )
    table, out = capsys.readouterr().out, tmp_path / "out"
    assert report["task"]["metric"] == report["export"]["metric"] == "macro_f1"
    teacher_row, control, student = report["models"][:3]
    values = [row["evaluation"]["validation"]["macro_f1"] for row in (teacher_row, student)]
    assert report["gaps"]["validation"]["retention"] == pytest.approx(values[1] / values[0])
    assert "macro_f1_difference" in report["comparisons"][0]
    assert "macro-F1 %" in table and "points of macro-F1" in table and (out / "macro_f1_latency.png").is_file()
    log = json.loads((out / "work" / "teacher" / "trainer_state.json").read_text())
    assert log["best_metric"] == max(entry.get("eval_macro_f1", 0) for entry in log["log_history"])
    assert "Its macro-F1 is" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metric", "accuracy"], "metric='accuracy' with problem_type='regression'"),
        (
            ["--teacher_select_by", "accuracy", "--train_teacher"],
            "select_by='accuracy' .* Choose one of loss, pearson",
        ),
        (["--temperature", "4"], "temperature=4.0 for scores: a regression has no probabilities"),
        (["--final_temperature", "1"], "final_temperature=1.0 for scores"),
        (["--logit_loss", "kl"], "logit_loss='kl' for scores"),
        (["--hard_label_weight", "1", "--label_smoothing_factor", "0.1"], "label_smoothing_factor=0.1 for scores"),
        (["--teacher_average", "probabilities"], "teacher_average='probabilities' for scores"),
    ],
)
def test_what_scores_do_not_have_is_refused_before_any_stage(
    scored, scorer_folder, arguments, tmp_path, words, message
):
    with pytest.raises(ValueError, match=message):
        _run(
            arguments, scored, ["--teacher_model_name_or_path", scorer_folder, "--student_layers", "4", *PAIRS, *words]
        )
    assert not (tmp_path / "out" / "work").exists()


def test_a_regression_cannot_teach_labels(sst2_arguments, scorer_folder):
    # `scorer_folder` puts the teacher of scores over that of labels.
    with pytest.raises(ValueError, match="The teacher .* has num_labels=1, .* labels are one label a row"):
        _run(sst2_arguments)


def test_a_classifier_cannot_teach_scores(scored, arguments, tmp_path, teacher, tokenizer):
    teacher.save_pretrained(tmp_path / "classifier")
    tokenizer.save_pretrained(tmp_path / "classifier")
    words = ["--teacher_model_name_or_path", str(tmp_path / "classifier"), "--student_layers", "4", *PAIRS]
    with pytest.raises(ValueError, match="has num_labels=2, problem_type=None, .* labels are scores"):
        _run(arguments, scored, words)


def test_models_fit_a_task_or_are_told_it(teacher):
    several, one = copy.deepcopy(teacher), copy.deepcopy(teacher)
    fit_task(teacher, "single_label_classification", "teacher")
    assert teacher.config.problem_type is None
    several.config.problem_type = "multi_label_classification"
    with pytest.raises(ValueError, match="The student has num_labels=2, problem_type='multi_label_classification'"):
        fit_task(several, "single_label_classification", "student")
    set_task(several, "single_label_classification")
    assert several.config.problem_type == "single_label_classification"
    one.config.num_labels = 1
    fit_task(one, "regression", "student")
    assert one.config.problem_type == "regression"
    one.config.num_labels = 2
    with pytest.raises(ValueError, match="num_labels=2, problem_type='regression'"):
        fit_task(one, "regression", "student")


def test_the_task_of_a_data_set_is_that_of_its_column():
    rows = Dataset.from_dict({"score": [0.5, None, 4.0], "label": [0, 1, 0], "labels": [[0], [1], [0, 1]]})
    assert recipe_task(rows, "score") == "regression" and score_range(rows, "score") == [0.5, 4.0]
    for feature in (Value("int32"), ClassLabel(names=["a", "b"])):
        named = rows.cast_column("label", feature)
        assert recipe_task(named, "label") == "single_label_classification" and score_range(named, "label") is None
    with pytest.raises(ValueError, match="holds lists .* recipes distil tasks of one label or one score a row"):
        recipe_task(rows, "labels")


def test_settings_that_mean_nothing_to_scores_are_no_matter_to_labels(tmp_path):
    from distil_trainer import DistillationArguments

    arguments = DistillationArguments(str(tmp_path), temperature=4.0, logit_loss="kl")
    check_training(arguments, "single_label_classification")
    check_training(DistillationArguments(str(tmp_path), temperature=1.0, logit_loss="mse"), "regression")
    with pytest.raises(ValueError, match="logit_loss='kl', temperature=4.0 for scores"):
        check_training(arguments, "regression")
