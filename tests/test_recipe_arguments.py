"""Arguments of recipes are checked when they are read, and only what decides a result makes a run another run."""

import pytest

from distil_trainer import (
    RECIPE_ARGUMENTS,
    AugmentationArguments,
    ModelArguments,
    ShippingArguments,
    parse_arguments,
)
from distil_trainer.recipe_arguments import run_settings


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (AugmentationArguments, {"copies": -1}, "copies=-1 must be at least 0"),
        (AugmentationArguments, {"augmentation_num_proc": 0}, "augmentation_num_proc=0 must be at least 1"),
        (ModelArguments, {"teacher_select_by": "f1"}, "teacher_select_by='f1': choose accuracy or loss"),
        (ShippingArguments, {"latency_threads": 0}, "latency_threads=0 must be at least 1"),
        (ShippingArguments, {"latency_texts": 0}, "latency_texts=0 must be at least 1"),
        (ShippingArguments, {"max_accuracy_drop": 1.0}, "max_accuracy_drop=1.0 must be at least 0 and below 1"),
    ],
)
def test_values_out_of_range_are_refused(kind, values, message):
    with pytest.raises(ValueError, match=message):
        kind(**values)


def _settings(*words):
    return run_settings(parse_arguments(RECIPE_ARGUMENTS, list(words), {"output_dir": "out"}))


def test_where_a_run_writes_and_how_often_it_saves_are_no_settings():
    assert _settings() == _settings("--output_dir", "other", "--save_steps", "7", "--disable_tqdm", "true")


def test_how_often_a_run_saves_is_a_setting_where_the_best_checkpoint_is_kept():
    best = ["--load_best_model_at_end", "--eval_strategy", "steps", "--eval_steps", "7", "--save_strategy", "steps"]
    assert _settings(*best, "--save_steps", "7") != _settings(*best, "--save_steps", "14")


def test_what_decides_the_result_is_a_setting():
    assert _settings("--copies", "3") == {**_settings(), "copies": 3}


def test_a_file_with_other_content_is_another_setting(tmp_path):
    file = tmp_path / "train.tsv"
    found = []
    for content in ("a", "b"):
        file.write_text(content)
        found.append(_settings("--train_file", str(file)))
    assert found[0]["train_file"] == found[1]["train_file"]
    assert found[0] != found[1]
