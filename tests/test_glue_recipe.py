"""The GLUE recipe: every task has its columns, and a task of pairs goes the whole road with a siamese student."""

import pytest
from datasets import ClassLabel, Dataset, load_dataset, load_from_disk
from recipe_files import load_recipe
from transformers import AutoModelForSequenceClassification

from distil_trainer import RECIPE_ARGUMENTS, DataArguments, load_splits, parse_arguments

COLUMNS = {
    "cola": ("sentence", None),
    "sst2": ("sentence", None),
    "mrpc": ("sentence1", "sentence2"),
    "qqp": ("question1", "question2"),
    "stsb": ("sentence1", "sentence2"),
    "mnli": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
    "rte": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
}
SMALL = "{lstm_size: 32, classifier_size: 8, embedding_size: 16}"


@pytest.fixture
def arguments(sst2_arguments):
    """Arguments for a tiny teacher, two steps of training and two copies of each row."""
    place = sst2_arguments.index("--student_layers")
    rest = sst2_arguments[:place] + sst2_arguments[place + 3 :]
    return [*rest, "--student_config", SMALL, "--teacher_max_steps", "1"]


@pytest.fixture
def pair_arguments(arguments, tmp_path):
    """The same, with files of pairs."""
    for split in ("train", "validation"):
        rows = load_dataset("parquet", data_files=str(tmp_path / f"{split}.parquet"), split="train")
        rows = rows.rename_column("sentence", "sentence1").add_column("sentence2", rows["sentence"][::-1])
        rows.cast_column("label", ClassLabel(names=["not_equivalent", "equivalent"])).to_parquet(
            tmp_path / f"{split}.parquet"
        )
    return arguments


def parsed(task, monkeypatch, *words):
    """Return the arguments that the recipe would run with, by name."""
    recipe = load_recipe("glue_bert_to_bilstm")
    monkeypatch.setattr(recipe, "run_recipe", lambda defaults, argv, recipe: (defaults, argv, recipe))
    defaults, rest, name = recipe.main(["--task_name", task, *words])
    assert rest == list(words) and name.endswith(f"recipes/glue_bert_to_bilstm.py --task_name {task}")
    instances = parse_arguments(RECIPE_ARGUMENTS, rest, defaults)
    return {name: value for instance in instances for name, value in vars(instance).items()}


@pytest.mark.parametrize("task", COLUMNS)
def test_every_task_has_its_data_and_columns(task, monkeypatch):
    given = parsed(task, monkeypatch)
    assert (given["dataset_name"], given["dataset_config_name"]) == ("nyu-mll/glue", task)
    assert (given["text_column"], given["text_pair_column"]) == COLUMNS[task]
    assert given["validation_split"] == ("validation_matched" if task == "mnli" else "validation")
    assert given["output_dir"] == f"outputs/glue_{task}_bert_to_bilstm"
    assert given["train_teacher"] and given["student_type"] == "bilstm"
    assert given["copies"] == (10 if given["text_pair_column"] else 20)


def test_the_tasks_are_those_nine():
    assert list(load_recipe("glue_bert_to_bilstm").TASKS) == list(COLUMNS)


def test_a_task_of_pairs_goes_the_whole_road_with_augmented_pairs(pair_arguments, tmp_path):
    report = load_recipe("glue_bert_to_bilstm").main(["--task_name", "mrpc", *pair_arguments])
    out = tmp_path / "out"
    assert report["task"]["text_pair"] and report["task"]["labels"] == ["not_equivalent", "equivalent"]
    assert {row["role"] for row in report["models"]} >= {"teacher", "control", "student", "onnx fp32", "onnx int8"}
    assert report["run"]["command"].startswith(
        "accelerate launch recipes/glue_bert_to_bilstm.py --task_name mrpc --teacher_model_name_or_path"
    )
    assert AutoModelForSequenceClassification.from_pretrained(out).config.type_vocab_size == 2
    transfer = load_from_disk(out / "work" / "transfer_set")
    assert set(transfer["rewritten"]) == {"none", "first", "second", "both"}
    assert {"sentence1", "sentence2"} < set(transfer.column_names)


@pytest.mark.slow
def test_a_task_of_single_sentences_goes_the_whole_road(arguments, tmp_path):
    report = load_recipe("glue_bert_to_bilstm").main([*arguments, "--task_name", "cola"])
    assert not report["task"]["text_pair"] and report["data"]["transfer"]["operators"].keys() > {"original", "mask"}
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config.type_vocab_size == 1


def test_an_unknown_task_is_refused_with_those_there(capsys):
    with pytest.raises(SystemExit):
        load_recipe("glue_bert_to_bilstm").main(["--task_name", "snli"])
    assert "invalid choice: 'snli' (choose from" in capsys.readouterr().err


def test_a_file_with_one_column_of_texts_is_refused_for_a_task_of_pairs(arguments, tmp_path):
    with pytest.raises(ValueError, match="no column text_column='sentence1'; its columns are"):
        load_recipe("glue_bert_to_bilstm").main(["--task_name", "rte", *arguments])
    Dataset.from_dict({"sentence1": ["a film"] * 2, "label": [0, 1]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="no column text_pair_column='sentence2'"):
        load_recipe("glue_bert_to_bilstm").main(["--task_name", "rte", *arguments])
    assert not (tmp_path / "out").exists()


def test_the_command_line_and_a_yaml_file_go_before_the_settings_of_the_task(tmp_path, monkeypatch):
    (tmp_path / "settings.yaml").write_text("max_length: 9\ncopies: 1\n")
    given = parsed("rte", monkeypatch, "--copies", "2", str(tmp_path / "settings.yaml"))
    assert given["max_length"] == 9 and given["copies"] == 2 and given["teacher_learning_rate"] == 4e-5


def test_scores_make_a_task_of_pairs_a_regression(pair_arguments, tmp_path):
    for split in ("train", "validation"):
        rows = load_dataset("parquet", data_files=str(tmp_path / f"{split}.parquet"), split="train")
        scores = [5 * number / len(rows) for number in range(len(rows))]
        rows.remove_columns("label").add_column("label", scores).to_parquet(tmp_path / f"{split}.parquet")
    report = load_recipe("glue_bert_to_bilstm").main(["--task_name", "stsb", *pair_arguments])
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config
    assert (config.num_labels, config.problem_type, config.type_vocab_size) == (1, "regression", 2)
    transfer = load_from_disk(tmp_path / "out" / "work" / "transfer_set")
    assert {row["label"] for row in transfer if row["rewritten"] != "none"} == {None}
    assert report["task"]["text_pair"]


def test_rows_of_qqp_without_a_second_question_are_dropped_from_the_training_split_alone(
    tmp_path, monkeypatch, caplog
):
    assert parsed("qqp", monkeypatch)["drop_empty_texts"] and not parsed("mrpc", monkeypatch)["drop_empty_texts"]
    rows = {"question1": ["a", "b", "c", "d"], "question2": ["a", "", None, " d"], "label": [0, 1, 0, 1]}
    Dataset.from_dict(rows).to_parquet(tmp_path / "some.parquet")
    Dataset.from_dict({name: values[::3] for name, values in rows.items()}).to_parquet(tmp_path / "all.parquet")
    columns = {"text_column": "question1", "text_pair_column": "question2"}

    def load(train, validation):
        files = {
            f"{name}_file": str(tmp_path / f"{file}.parquet")
            for name, file in (("train", train), ("validation", validation))
        }
        return load_splits(DataArguments(**files, drop_empty_texts=True), **columns)

    with caplog.at_level("WARNING", logger="distil_trainer"):
        assert load("some", "all")["train"]["question1"][:] == ["a", "d"]
    assert "2 of 4 rows with an empty text were dropped" in caplog.text
    with pytest.raises(ValueError, match="row 1 has question2=''"):
        load("all", "some")


def test_mnli_is_judged_on_the_split_that_is_named(monkeypatch):
    asked = []

    def load(name, config, split):
        asked.append((name, config, split))
        return Dataset.from_dict({"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [0, 1]})

    monkeypatch.setattr("distil_trainer.data.load_dataset", load)
    given = parsed("mnli", monkeypatch)
    data = DataArguments(*(given[name] for name in ("dataset_name", "dataset_config_name", "validation_split")))
    load_splits(data, text_column="premise", text_pair_column="hypothesis")
    assert asked == [("nyu-mll/glue", "mnli", "train"), ("nyu-mll/glue", "mnli", "validation_matched")]
