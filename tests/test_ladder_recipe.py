"""The ladder of FastFormers goes from the padded teacher to the networks, and says what each rung brought."""

import json

import pytest
from recipe_files import load_recipe

NAME = "sst2_fastformers_ladder"


def test_the_ladder_is_climbed_in_one_run_and_a_second_start_trains_nothing(sst2_arguments, tmp_path, capsys):
    start = sst2_arguments.index("--student_layers")
    arguments = [*sst2_arguments[:start], *sst2_arguments[start + 3 :], "--price_per_core_hour", "0.04"]
    arguments += ["--pad_to", "64", "--max_length", "48", "--instances", "0"]
    arguments += ["--of_transformer", "--student_layers 2 4 --prune_keep 0.5", "--networks", "embedding_bag"]
    arguments += ["--of_networks", "--student_config '{embedding_size: 16}'"]
    report = load_recipe(NAME).main(arguments)
    table = capsys.readouterr().out

    out = tmp_path / "out"
    rungs = {row["role"]: row for row in report["models"]}
    assert list(rungs)[:3] == ["teacher", "teacher at real lengths", "teacher onnx fp32"]
    assert {"student", "student onnx fp32", "pruned student", "embedding_bag"} <= set(rungs)
    assert rungs["teacher"]["latency"]["mean_tokens"] == 64 > rungs["embedding_bag"]["latency"]["mean_tokens"]
    assert rungs["teacher"]["speedup"] == 1.0
    assert {each["b"] for each in report["comparisons"]} == {"teacher"}
    assert json.loads((out / "report.json").read_text())["models"] == report["models"]
    assert "against teacher padded to 64" in " ".join(table.split())
    assert "Of those that keep 99% of the teacher's accuracy or more" in table
    assert "$ for 100 million" in table
    for file in ("ladder.png", "latency.png", "transformer/README.md", "embedding_bag/README.md"):
        assert (out / file).is_file()

    weights = (out / "transformer" / "model.safetensors").stat().st_mtime_ns
    stages = {path: path.stat().st_mtime_ns for path in out.glob("*/work/*")}
    assert load_recipe(NAME).main(arguments) == report
    assert all(path.stat().st_mtime_ns == before for path, before in stages.items() if path.name != "lock")
    assert (out / "transformer" / "model.safetensors").stat().st_mtime_ns >= weights


def test_rungs_that_are_measured_are_not_mixed_with_others(tmp_path):
    recipe = load_recipe(NAME)

    def start(*words):
        recipe.keep_arguments(tmp_path, recipe.ladder_arguments(["--output_dir", str(tmp_path), *words])[0])

    start("--pad_to", "32")
    start("--pad_to", "64")  # no rung is there yet
    (tmp_path / "rungs").mkdir()
    start("--pad_to", "64")
    for words, message in (
        (["--of_transformer", "--max_steps 3"], "--of_transformer '--max_steps 3': the rungs in .* begun with ''"),
        (["--networks", "bilstm"], r"--networks \['bilstm'\]: the rungs in .* begun with \['glove_cnn'"),
    ):
        with pytest.raises(ValueError, match=message):
            start("--pad_to", "64", *words)


def test_the_fastest_rung_is_chosen_on_validation():
    def row(role, validation, test, speedup):
        accuracies = {"validation": {"accuracy": validation}, "test": {"accuracy": test}}
        return {"role": role, "name": None, "evaluation": accuracies, "speedup": speedup}

    rows = [row("teacher", 0.9, 0.9, 1.0), row("lucky", 0.5, 0.9, 9.0), row("good", 0.9, 0.5, 4.0)]
    assert all(
        ", good is the fastest: 4.0 times" in line for line in load_recipe(NAME).fastest_rungs({"models": rows})
    )
