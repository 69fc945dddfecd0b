"""Runs with the same control share it; a control that learned under other conditions is refused."""

import json

import pytest
import torch
from recipe_files import load_recipe

from distil_trainer import load_classifier, stages

RECIPE = "sst2_electra_to_distilbert"
OTHER_TRANSFER_SET = ["--copies", "0", "--logit_loss", "kl", "--temperature", "2"]


@pytest.fixture
def first(sst2_arguments, tmp_path):
    """The folder of a finished run, and the arguments of a second one."""
    load_recipe(RECIPE).main(sst2_arguments)
    return tmp_path / "out", _into(tmp_path / "second", sst2_arguments)


def _into(folder, arguments):
    place = arguments.index("--output_dir") + 1
    return [*arguments[:place], str(folder), *arguments[place + 1 :]]


def _weights(folder):
    return load_classifier(folder / "work" / "control")[0].state_dict()


def test_a_run_takes_the_control_of_another_but_not_one_that_learned_under_other_conditions(
    first, tmp_path, monkeypatch
):
    folder, arguments = first
    arguments += ["--control_of", str(folder)]
    for words, message in (
        (["--learning_rate", "0.5"], r"differ in learning_rate \(default there, 0.5 here\), so"),
        (["--max_steps", "3"], r"differ in max_steps \(2 there, 3 here\), so"),
        (["--student_layers", "1", "4"], "differ in untrained student"),
        (["--max_train_samples", "40"], "differ in training rows"),
        (
            ["--load_best_model_at_end", "True", "--eval_strategy", "epoch", "--save_strategy", "epoch"],
            "validation rows",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            load_recipe(RECIPE).main([*_into(tmp_path / "refused", arguments), *words])
        assert not (tmp_path / "refused" / "work" / "transfer_set").exists()

    trained = []

    class NotingTrainer(stages.DistillationTrainer):
        def train(self, *given, **named):
            trained.append(self.args.output_dir.split("/")[-1])
            return super().train(*given, **named)

    monkeypatch.setattr(stages, "DistillationTrainer", NotingTrainer)
    report = load_recipe(RECIPE).main([*arguments, *OTHER_TRANSFER_SET])
    assert trained == ["student-checkpoints"]
    assert all(torch.equal(_weights(tmp_path / "second")[name], each) for name, each in _weights(folder).items())
    # Now it is there, and not taken again; a third run may take it from here.
    monkeypatch.setattr("distil_trainer.control.check_control_of", None)
    assert load_recipe(RECIPE).main([*arguments, *OTHER_TRANSFER_SET]) == report
    assert json.loads((tmp_path / "second" / "work" / "control_facts.json").read_text())["max_steps"] == 2


@pytest.mark.slow
def test_the_control_that_is_taken_is_the_one_that_the_run_would_have_trained(first, tmp_path):
    folder, arguments = first
    load_recipe(RECIPE).main([*arguments, *OTHER_TRANSFER_SET])
    facts = [json.loads((out / "work" / "control_facts.json").read_text()) for out in (folder, tmp_path / "second")]
    assert facts[0] == facts[1]
    assert all(torch.equal(_weights(tmp_path / "second")[name], each) for name, each in _weights(folder).items())


@pytest.mark.slow
def test_a_number_of_steps_that_only_the_student_tells_is_refused_and_the_run_goes_on_without(first, tmp_path):
    folder, arguments = first
    arguments += ["--max_steps", "-1", "--num_train_epochs", "1"]
    with pytest.raises(ValueError, match="differ in max_steps .* this run goes on from here"):
        load_recipe(RECIPE).main([*arguments, "--control_of", str(folder)])
    load_recipe(RECIPE).main(arguments)
    assert json.loads((tmp_path / "second" / "work" / "control_facts.json").read_text())["max_steps"] > 2


def test_a_folder_without_a_finished_control_is_refused_at_once(sst2_arguments, tmp_path):
    with pytest.raises(ValueError, match="there is no work/control_facts.json in it"):
        load_recipe(RECIPE).main([*sst2_arguments, "--control_of", str(tmp_path)])
    assert not (tmp_path / "out").exists()
