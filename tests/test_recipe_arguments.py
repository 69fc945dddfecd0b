"""Arguments of recipes are checked when they are read, and only what decides a result makes a run another run."""

import pytest
import xxhash

from distil_trainer import (
    RECIPE_ARGUMENTS,
    ModelArguments,
    ShippingArguments,
    TransferSetArguments,
    parse_arguments,
)
from distil_trainer.recipe_arguments import run_settings


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (TransferSetArguments, {"copies": -1}, "copies=-1 must be at least 0"),
        (TransferSetArguments, {"augmentation_num_proc": 0}, "augmentation_num_proc=0 must be at least 1"),
        (
            ModelArguments,
            {"teacher_select_by": "f1"},
            "teacher_select_by='f1': choose accuracy, macro_f1, pearson or loss",
        ),
        (ShippingArguments, {"metric": "f1"}, "metric='f1': choose one of accuracy, macro_f1, pearson"),
        (ShippingArguments, {"target_latency_ms": 0.0}, "target_latency_ms=0.0 must be above 0"),
        (ShippingArguments, {"max_size_mb": -1.0}, "max_size_mb=-1.0 must be above 0"),
        (ShippingArguments, {"price_per_core_hour": 0.0}, "price_per_core_hour=0.0 must be above 0"),
        (ShippingArguments, {"latency_threads": 0}, "latency_threads=0 must be at least 1"),
        (ShippingArguments, {"latency_texts": 0}, "latency_texts=0 must be at least 1"),
        (ShippingArguments, {"max_accuracy_drop": 1.0}, "max_accuracy_drop=1.0 must be at least 0 and below 1"),
    ],
)
def test_values_out_of_range_are_refused(kind, values, message):
    with pytest.raises(ValueError, match=message):
        kind(**values)


FRESH = {"student_type": "bilstm"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**FRESH, "student_head": "cnn"}, "student_head='cnn' with student_type='bilstm': .*null"),
        ({**FRESH, "student_tokenizer": "a.model", "student_vocab_size": 99}, "'a.model' with student_vocab_size=99"),
        ({**FRESH, "student_tokenizer": "a.model", "student_lower": False}, "student_lower=False: a SentencePiece"),
        ({**FRESH, "extra_words": 9, "student_tokenizer": "a.model"}, "extra_words=9 with student_tokenizer='a.mod"),
        ({**FRESH, "extra_words": 9, "student_tokenizer": "bpe"}, "extra_words=9 with student_tokenizer='bpe'"),
        ({**FRESH, "extra_words": 9, "word_vectors": "random"}, "extra_words=9 with .*word_vectors='random'"),
        *(
            ({name: value, **more}, f"{name}={value!r} {where}".replace("[", r"\[").replace("{", r"\{"))
            for name, value in {
                "student_config": {"lstm_size": 8},
                "student_tokenizer": "bpe",
                "student_vocab_size": 99,
                "student_lower": False,
                "word_vectors": "random",
                "extra_words": 9,
            }.items()
            for more, where in (
                ({}, "without student_type"),
                ({"student_model_name_or_path": "a"}, "without student_type"),
                ({**FRESH, "student_layers": [2, 4]}, "with student_layers=[2, 4]"),
            )
        ),
    ],
)
def test_arguments_that_would_be_ignored_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ModelArguments(**values)


@pytest.mark.parametrize(
    "values",
    [
        {**FRESH, "student_model_name_or_path": "the recipe's default"},
        {**FRESH, "student_layers": [2, 4], "student_head": "cnn"},
        {**FRESH, "student_tokenizer": "a.model", "word_vectors": "random"},
        {**FRESH, "extra_words": 9, "word_vectors": "glove.txt", "student_vocab_size": 99, "student_lower": False},
        {"student_model_name_or_path": "a", "student_head": "cnn"},
    ],
)
def test_what_a_recipes_defaults_may_stand_beside_is_accepted(values):
    models = ModelArguments(**values)
    assert models.has_fresh_student == ("student_type" in values and "student_layers" not in values)


def _settings(*words):
    return run_settings(parse_arguments(RECIPE_ARGUMENTS, list(words), {"output_dir": "out"}))


def test_where_a_run_writes_and_how_often_it_saves_are_no_settings():
    assert _settings() == _settings("--output_dir", "other", "--save_steps", "7", "--disable_tqdm", "true")


def test_how_often_a_run_saves_is_a_setting_where_the_best_checkpoint_is_kept():
    best = ["--load_best_model_at_end", "--eval_strategy", "steps", "--eval_steps", "7", "--save_strategy", "steps"]
    assert _settings(*best, "--save_steps", "7") != _settings(*best, "--save_steps", "14")


def test_what_decides_the_result_is_a_setting():
    assert _settings("--copies", "3") == {**_settings(), "copies": 3}


@pytest.mark.parametrize("name", ["train_file", "word_vectors", "student_tokenizer"])
def test_a_file_with_other_content_is_another_setting(name, tmp_path):
    file = tmp_path / "file.model"
    found = []
    for content in ("a", "b"):
        file.write_text(content)
        found.append(_settings("--student_type", "bilstm", f"--{name}", str(file)))
    assert found[0][name] == found[1][name]
    assert found[0][f"{name}_xxh64"] == xxhash.xxh64(b"a").hexdigest() != found[1][f"{name}_xxh64"]
