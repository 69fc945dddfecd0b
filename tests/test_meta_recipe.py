"""Recipes with Meta Pseudo Labels: both phases, the adapted teacher, the plot, and what they refuse."""

import json

import pytest
import torch
from loss_terms import largest_difference
from recipe_files import load_recipe
from transformers import AutoModelForSequenceClassification

from distil_trainer import TransferSetArguments, stages
from distil_trainer.arguments import DistillationArguments
from distil_trainer.meta_teaching import FEEDBACK_STAGE, meta_arguments
from distil_trainer.tasks import REGRESSION
from distil_trainer.teaching import check_teaching

RECIPE = "sst2_meta_pseudo_labels"


@pytest.fixture
def meta_arguments_of_a_run(sst2_arguments, tmp_path):
    """The arguments of the recipe for 48 labelled rows and 20 without a label."""
    texts = [f"comment number {number} speaks of quite another thing" for number in range(20)]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    words = ["--unlabelled_files", str(tmp_path / "texts.txt"), "--copies", "0", "--teacher_max_steps", "1"]
    return [*sst2_arguments, *words, "--near_duplicate_threshold", "1.0", "--logging_steps", "1"]


def logs_of(stage, tmp_path):
    return json.loads((tmp_path / "out" / "work" / stage / "trainer_state.json").read_text())["log_history"]


def test_the_recipe_trains_with_feedback_then_on_labels_and_a_second_start_does_nothing(
    meta_arguments_of_a_run, tmp_path
):
    recipe = load_recipe(RECIPE)
    report = recipe.main(meta_arguments_of_a_run)
    out = tmp_path / "out"
    assert (out / "meta_pseudo_labels.png").read_bytes()[:4] == b"\x89PNG"
    assert report["data"]["transfer"]["rows"] > 48
    assert not {"copies", "mask_probability", "pool"} & set(report["data"]["transfer"]["settings"])  # were not read
    card = (out / "README.md").read_text()
    assert "(Meta Pseudo Labels), and then on the gold labels of the training split" in card
    assert "pseudo_labels=" not in card and "| `feedback_weight` | 32.0 |" in card
    assert [log["step"] for log in logs_of(FEEDBACK_STAGE, tmp_path) if "feedback" in log] == [1, 2]
    # 3 epochs of 48 rows in batches of 8.
    assert report["training"]["optimizer_steps"] == 2 + 18
    assert report["training"]["feedback_weight"] == 32.0 and report["training"]["teacher_learning_rate"] == 1e-5
    assert report["training"]["logit_loss"] == "cross-entropy with drawn labels"
    assert not report["training"].get("temperature")
    models = {
        name: AutoModelForSequenceClassification.from_pretrained(out / "work" / name).state_dict()
        for name in ("teacher", f"{FEEDBACK_STAGE}/teacher", FEEDBACK_STAGE, "student")
    }
    assert largest_difference(models["teacher"], models[f"{FEEDBACK_STAGE}/teacher"]) > 0
    assert largest_difference(models[FEEDBACK_STAGE], models["student"]) > 0
    shipped = AutoModelForSequenceClassification.from_pretrained(out).state_dict()
    assert largest_difference(models["student"], shipped) == 0.0
    assert not (out / "teacher").exists()

    forwards = []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: forwards.append(1))
    try:
        assert recipe.main(meta_arguments_of_a_run) == report
    finally:
        handle.remove()
    assert forwards == []


@pytest.mark.slow
def test_a_run_that_was_cut_off_before_its_result_was_kept_takes_both_models_from_the_last_checkpoint(
    meta_arguments_of_a_run, tmp_path, monkeypatch
):
    words, plain = [*meta_arguments_of_a_run, "--save_steps", "1"], stages.name_tokenizer_class

    def cut_off(path):
        if FEEDBACK_STAGE in str(path):
            raise KeyboardInterrupt
        plain(path)

    monkeypatch.setattr(stages, "name_tokenizer_class", cut_off)
    with pytest.raises(KeyboardInterrupt):
        load_recipe(RECIPE).main(words)
    monkeypatch.setattr(stages, "name_tokenizer_class", plain)
    checkpoint = tmp_path / "out" / "work" / f"{FEEDBACK_STAGE}-checkpoints" / "checkpoint-2"
    expected = AutoModelForSequenceClassification.from_pretrained(checkpoint / "teacher").state_dict()
    load_recipe(RECIPE).main(words)
    kept = tmp_path / "out" / "work" / FEEDBACK_STAGE / "teacher"
    adapted = AutoModelForSequenceClassification.from_pretrained(kept).state_dict()
    assert largest_difference(expected, adapted) == 0.0


@pytest.mark.slow
def test_it_is_an_option_of_other_recipes_too(meta_arguments_of_a_run, tmp_path):
    words = ["--meta_pseudo_labels", "{student_targets: soft, teacher_learning_rate: 1e-5, fine_tuning_epochs: 1}"]
    report = load_recipe("sst2_electra_to_distilbert").main([*meta_arguments_of_a_run, *words])
    assert report["training"]["student_targets"] == "soft" and report["training"]["logit_loss"] == "mse"
    assert report["training"]["teacher_learning_rate"] == 1e-5
    assert report["training"]["optimizer_steps"] == 2 + 6
    assert "logit_mse" in logs_of(FEEDBACK_STAGE, tmp_path)[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--meta_pseudo_labels", "soft"], "meta_pseudo_labels='soft' must be a mapping"),
        (["--meta_pseudo_labels", "{feedback: [}"], r"meta_pseudo_labels='{feedback: \[}' cannot be read"),
        (["--meta_pseudo_labels", "{learning_rate: 1}"], r"meta_pseudo_labels has \['learning_rate'\].*feedback_wei"),
        (["--meta_pseudo_labels", "{consistency_weight: 1}"], "needs a column of rewritten texts"),
        (["--meta_pseudo_labels", "{feedback_weight: -1}"], "feedback_weight=-1.0: it must be at least 0"),
        (["--temperature", "3"], "temperature=3.0 and final_temperature=None with student_targets='sampled'"),
        (["--hidden_loss_weight", "1"], "those of a teacher that learns were never tried"),
        (["--self_training_rounds", "1"], "self_training_rounds=1 with meta_pseudo_labels"),
        (["--pseudo_labels", "hard"], "pseudo_labels='hard' with meta_pseudo_labels"),
    ],
)
def test_what_cannot_be_honoured_is_refused_before_anything_is_trained(
    meta_arguments_of_a_run, tmp_path, words, message
):
    with pytest.raises(ValueError, match=message):
        load_recipe(RECIPE).main([*meta_arguments_of_a_run, *words])
    assert not (tmp_path / "out").exists()


def test_scores_have_no_labels_to_be_drawn(tmp_path):
    training = DistillationArguments(str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match="meta_pseudo_labels for scores"):
        check_teaching(TransferSetArguments(meta_pseudo_labels={}), training, REGRESSION)


def test_the_students_arguments_are_those_of_the_training_and_yaml_s_numbers_are_numbers(tmp_path):
    training = DistillationArguments(str(tmp_path), learning_rate=3e-4, use_cpu=True, max_length=50, seed=3)
    args = meta_arguments(training, "{teacher_learning_rate: 1e-5, labelled_batch_size: 8}")
    assert (args.learning_rate, args.max_length, args.seed) == (3e-4, 50, 3)
    assert args.teacher_learning_rate == 1e-5 and args.labelled_batch_size == 8
    assert meta_arguments(training, {}).labelled_batch_size == 32
