"""Every recipe runs from its first line to its card; a second start does no work again."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from datasets import Dataset
from recipe_files import RECIPES, load_recipe
from transformers import PreTrainedModel

from distil_trainer import TeacherLabeler

PUBLISHED = ["README.md", "report.json", "accuracy_latency.png", "config.json", "model.safetensors", "tokenizer.json"]


def test_the_sst2_recipe_goes_the_whole_road_and_a_second_start_asks_the_teacher_nothing(
    sst2_arguments, tmp_path, capsys
):
    recipe = load_recipe("sst2_electra_to_distilbert")
    report = recipe.main(sst2_arguments)
    table = capsys.readouterr().out
    out = tmp_path / "out"
    assert all((out / name).is_file() for name in PUBLISHED)
    assert [row["role"] for row in report["models"]][:3] == ["teacher", "control", "student"]
    assert "onnx fp32" in table and "onnx int8" in table
    assert report["training"]["optimizer_steps"] == 2
    first = {name: (out / name).read_bytes() for name in PUBLISHED}

    shutil.rmtree(tmp_path / "datasets_cache", ignore_errors=True)
    forwards = []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: forwards.append(1))
    try:
        assert recipe.main(sst2_arguments) == report
    finally:
        handle.remove()
    assert forwards == []
    assert {name: (out / name).read_bytes() for name in PUBLISHED if not name.endswith(".png")} == {
        name: content for name, content in first.items() if not name.endswith(".png")
    }


def test_the_teacher_labels_in_any_type_and_is_scored_in_full_precision(sst2_arguments, monkeypatch):
    asked = []

    class NotingLabeler(TeacherLabeler):
        def __init__(self, *given, dtype="auto", **named):
            asked.append(dtype)
            super().__init__(*given, dtype="bfloat16" if dtype == "auto" else dtype, **named)

        def map(self, dataset):
            asked.append((self.dtype, len(dataset)))
            return super().map(dataset)

    monkeypatch.setattr("distil_trainer.recipe.TeacherLabeler", NotingLabeler)
    monkeypatch.setattr("distil_trainer.recipe.train_student", lambda *_, **__: None)
    with pytest.raises(TypeError, match="cannot unpack"):  # what comes now does not matter here
        load_recipe("sst2_electra_to_distilbert").main(sst2_arguments)
    assert asked[0] == "auto" and asked[1][0] == torch.bfloat16
    assert asked[2:] == [torch.float32, (torch.float32, 48)]


def test_a_recipe_distils_inner_states_from_a_teacher_that_is_there_in_every_step(sst2_arguments, tmp_path):
    matches = tmp_path / "matches.yaml"
    matches.write_text("- {what: attentions, loss: kl, teacher_layer: 4, student_layer: 2, weight: 0.5}\n")
    states = ["--hidden_loss_weight", "1", "--relation_loss_weight", "1", "--matches", str(matches)]
    report = load_recipe("sst2_electra_to_distilbert").main([*sst2_arguments, *states])
    assert report["training"]["hidden_loss_weight"] == 1.0
    assert report["training"]["matches"][0]["what"] == "attentions"
    assert report["training"]["logit_loss"] == "mse"
    assert report["training"]["hidden_loss"] == "mse" and "attention_loss" not in report["training"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "hidden_loss_weight" in card and "attentions" in card
    logged = json.loads((tmp_path / "out" / "work" / "student" / "trainer_state.json").read_text())["log_history"]
    assert logged[-1]["step"] == 2


def test_the_sst2_recipe_fine_tunes_a_headless_teacher_when_told_to(sst2_arguments, tmp_path, teacher):
    teacher.bert.save_pretrained(tmp_path / "teacher")
    report = load_recipe("sst2_electra_to_distilbert").main(
        [
            *sst2_arguments,
            "--train_teacher",
            "--teacher_max_steps",
            "2",
            "--test_file",
            str(tmp_path / "validation.parquet"),
        ]
    )
    assert report["teacher"]["trained_here"]
    assert set(report["models"][0]["evaluation"]) == {"validation", "test"}


def test_a_headless_teacher_is_refused_unless_it_is_to_be_trained(sst2_arguments, tmp_path, teacher):
    teacher.bert.save_pretrained(tmp_path / "teacher")
    with pytest.raises(ValueError, match="classifier"):
        load_recipe("sst2_electra_to_distilbert").main(sst2_arguments)
    assert not (tmp_path / "out").exists()


def test_the_quickstart_runs(tmp_path):
    arguments = ["--output_dir", str(tmp_path / "out"), "--max_steps", "2", "--max_train_samples", "40"]
    arguments += ["--max_validation_samples", "60", "--latency_texts", "4", "--max_accuracy_drop", "0.9"]
    report = load_recipe("quickstart").main(arguments)
    assert all((tmp_path / "out" / name).is_file() for name in PUBLISHED)
    operators = report["data"]["transfer"]["operators"]
    assert any("replace" in name for name in operators)
    assert json.loads((tmp_path / "out/report.json").read_text()) == report


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "processes"),
    [
        (["accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no"], 1),
        (["torch.distributed.run", "--standalone", "--nproc_per_node", "2"], 2),
    ],
)
def test_a_launched_recipe_has_the_processes_it_was_given(sst2_arguments, tmp_path, launcher, processes):
    command = [sys.executable, "-m", *launcher, str(RECIPES / "sst2_electra_to_distilbert.py"), *sst2_arguments]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf_home"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["run"]["processes"] == processes
    assert report["training"]["batch_size"] == 8 * processes
    assert result.stdout.count("macro-F1") == 1  # one table, however many processes


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--analyzer", "en_core_web_sm_not_there"], OSError, "neither an installed spaCy pipeline nor a folder"),
        (["--student_layers", "2", "9"], ValueError, "layers"),
        (["--teacher_model_name_or_path", "nobody/nothing"], OSError, "--teacher_model_name_or_path"),
        (["--text_pair_column", "sentence"], ValueError, "is text_column too"),
        (["--text_column", "review"], ValueError, r"text_column='review'.*\['sentence', 'label'\]"),
        (["--train_file", "absent.tsv"], ValueError, "'absent.tsv' is not a file"),
    ],
)
def test_what_cannot_work_is_refused_before_any_stage(sst2_arguments, tmp_path, words, error, message):
    if "--analyzer" in words:
        pytest.importorskip("spacy")
    with pytest.raises(error, match=message):
        load_recipe("sst2_electra_to_distilbert").main([*sst2_arguments, *words])
    work = tmp_path / "out" / "work"
    assert not work.exists() or [path.name for path in work.iterdir()] == ["run.json"]


@pytest.mark.slow
def test_pairs_are_distilled_as_they_are_or_augmented(sst2_arguments, tmp_path):
    for split in ("train", "validation"):
        file = str(tmp_path / f"{split}.parquet")
        rows = Dataset.from_parquet(file, keep_in_memory=True)
        rows.add_column("second", [f"{text} too" for text in rows["sentence"]]).to_parquet(file)
    recipe = load_recipe("sst2_electra_to_distilbert")
    # The texts of the splits are alike, so near ones would go too.
    sst2_arguments = [*sst2_arguments, "--text_pair_column", "second", "--near_duplicate_threshold", "1.0"]
    report = recipe.main([*sst2_arguments, "--copies", "0"])
    assert report["task"]["text_pair"]
    assert report["data"]["transfer"]["rows"] == 48
    augmented = recipe.main([*sst2_arguments, "--output_dir", str(tmp_path / "augmented")])["data"]["transfer"][
        "audit"
    ]
    assert {"none", "first", "second", "both"} >= set(augmented["groups"]["rewritten"]) > {"none"}


def test_a_missing_package_of_a_late_stage_is_named_at_once(sst2_arguments, monkeypatch):
    monkeypatch.setattr("distil_trainer.opening.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'onnxruntime is not installed.*"distil_trainer\[onnx\]"'):
        load_recipe("sst2_electra_to_distilbert").main(sst2_arguments)


def test_a_recipe_without_teacher_or_student_says_which_argument_names_one(sst2_arguments):
    recipe = load_recipe("sst2_electra_to_distilbert")
    recipe.DEFAULTS = {**recipe.DEFAULTS, "student_model_name_or_path": None}
    place = sst2_arguments.index("--student_layers")
    without_layers = sst2_arguments[:place] + sst2_arguments[place + 3 :]
    with pytest.raises(ValueError, match="--student_layers, --student_type or --student_model_name_or_path"):
        recipe.main(without_layers)
    recipe.DEFAULTS = {**recipe.DEFAULTS, "teacher_model_name_or_path": None}
    with pytest.raises(ValueError, match="--teacher_model_name_or_path"):
        recipe.main(sst2_arguments[2:])


@pytest.mark.slow
def test_the_labels_of_teacher_and_data_must_agree_but_may_stand_in_another_order(sst2_arguments, tmp_path, teacher):
    recipe = load_recipe("sst2_electra_to_distilbert")
    straight = recipe.main(sst2_arguments)
    config = json.loads((tmp_path / "teacher/config.json").read_text())
    config["id2label"] = {"0": "spam", "1": "ham"}
    config["label2id"] = {"spam": 0, "ham": 1}
    (tmp_path / "teacher/config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"the teacher .* names its labels \['spam', 'ham'\]"):
        recipe.main([*sst2_arguments, "--output_dir", str(tmp_path / "other")])

    # The same teacher with its two outputs the other way round: every figure must stay what it was.
    with torch.no_grad():
        for parameter in teacher.classifier.parameters():
            parameter.copy_(parameter.flip(0))
    teacher.config.id2label, teacher.config.label2id = {0: "positive", 1: "negative"}, {"positive": 0, "negative": 1}
    teacher.save_pretrained(tmp_path / "teacher")
    turned = recipe.main([*sst2_arguments, "--output_dir", str(tmp_path / "turned")])
    for row, other in zip(straight["models"], turned["models"], strict=True):
        if row["role"] in ("teacher", "student", "onnx fp32"):
            assert row["evaluation"]["validation"]["accuracy"] == other["evaluation"]["validation"]["accuracy"]


def test_a_training_that_was_cut_off_after_its_last_step_is_not_trained_on(sst2_arguments, tmp_path, monkeypatch):
    recipe = load_recipe("sst2_electra_to_distilbert")
    straight = recipe.main(sst2_arguments)
    cut = [*sst2_arguments, "--output_dir", str(tmp_path / "cut")]
    with monkeypatch.context() as patch:
        patch.setattr("transformers.BertForSequenceClassification.save_pretrained", _save_checkpoints_only)
        with pytest.raises(KeyboardInterrupt):
            recipe.main(cut)
    assert (tmp_path / "cut/work/student-checkpoints/checkpoint-2/trainer_state.json").is_file()
    report = recipe.main(cut)
    assert report["training"] == straight["training"]
    for name in ("student", "control"):
        weights = [tmp_path / run / "work" / name / "model.safetensors" for run in ("out", "cut")]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def _save_checkpoints_only(model, folder, **options):
    if "checkpoint-" not in str(folder):
        raise KeyboardInterrupt
    PreTrainedModel.save_pretrained(model, folder, **options)


def test_another_teacher_in_the_same_folder_is_refused(sst2_arguments, tmp_path, teacher):
    recipe = load_recipe("sst2_electra_to_distilbert")
    recipe.main(sst2_arguments)
    with torch.no_grad():
        teacher.classifier.weight.neg_()
    teacher.save_pretrained(tmp_path / "teacher")
    with pytest.raises(ValueError, match="The teacher is not the one that this run was begun with"):
        recipe.main(sst2_arguments)


def test_training_texts_that_all_stand_in_the_evaluation_data_are_refused(sst2_arguments, tmp_path):
    words = [*sst2_arguments, "--validation_file", str(tmp_path / "train.parquet")]
    with pytest.raises(ValueError, match="training texts stand in the evaluation splits too"):
        load_recipe("sst2_electra_to_distilbert").main(words)


def test_the_published_command_tells_neither_the_token_nor_the_folders_of_this_machine(sst2_arguments, tmp_path):
    report = load_recipe("sst2_electra_to_distilbert").main([*sst2_arguments, "--hub_token", "hf_secret"])
    card = (tmp_path / "out/README.md").read_text()
    for published in (json.dumps(report), card):
        assert "hf_secret" not in published
        assert str(tmp_path) not in published
    assert "--train_file train.parquet" in report["run"]["command"]


def test_a_resume_argument_is_refused_since_a_recipe_resumes_by_itself(sst2_arguments):
    with pytest.raises(ValueError, match="a recipe goes on by itself"):
        load_recipe("sst2_electra_to_distilbert").main([*sst2_arguments, "--resume_from_checkpoint", "x"])


def test_the_quickstart_refuses_what_it_would_ignore(tmp_path):
    words = ["--output_dir", str(tmp_path / "out"), "--train_file", "mine.tsv", "--student_layers", "1"]
    with pytest.raises(ValueError, match=r"would ignore \['train_file', 'student_layers'\]"):
        load_recipe("quickstart").main(words)


def test_arguments_that_the_first_stage_refuses_can_be_corrected_in_the_same_folder(sst2_arguments):
    recipe = load_recipe("sst2_electra_to_distilbert")
    with pytest.raises(ValueError, match="mask_probability=1.5 is not a probability"):
        recipe.main([*sst2_arguments, "--mask_probability", "1.5"])
    assert recipe.main([*sst2_arguments, "--mask_probability", "0.5"])["models"]
