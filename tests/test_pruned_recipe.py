"""A recipe prunes its trained student, lets it learn its answers again, and publishes and ships that."""

import pytest
import torch
from recipe_files import load_recipe
from transformers import AutoTokenizer

from distil_trainer import PruningArguments, load_classifier, recipe

RECIPE = "sst2_electra_to_distilbert"


def _note_calls(monkeypatch, *names):
    calls = []

    def note(name, function):
        return lambda *given, **named: calls.append((name, given[0])) or function(*given, **named)

    for name in names:
        monkeypatch.setattr(recipe, name, note(name, getattr(recipe, name)))
    return calls


def test_a_recipe_publishes_the_pruned_student_beside_the_figures_of_the_unpruned(
    sst2_arguments, tmp_path, capsys, monkeypatch
):
    calls = _note_calls(monkeypatch, "prune_student", "pytorch_contender")
    words = [
        "--prune_heads",
        "2",
        "--prune_intermediate_size",
        "16",
        "--prune_vocabulary",
        "--recovery_max_steps",
        "3",
    ]
    report = load_recipe(RECIPE).main([*sst2_arguments, *words])
    # A teacher is moved to where training runs: what is timed must come to the CPU after that.
    assert [name for name, _ in calls].index("prune_student") < calls.index(("pytorch_contender", "unpruned"))
    roles = [row["role"] for row in report["models"]]
    assert roles[:5] == ["teacher", "control", "unpruned", "student", "onnx fp32"]
    assert "student before pruning" in capsys.readouterr().out
    rows = {row["role"]: row for row in report["models"]}
    assert rows["student"]["parameters"] < rows["unpruned"]["parameters"] == rows["control"]["parameters"]
    assert ("student", "unpruned") in [(each["a"], each["b"]) for each in report["comparisons"]]
    facts = report["student"]["pruned"]
    assert facts.items() >= {"num_heads": 2, "intermediate_size": 16, "recovery_steps": 3}.items()
    assert report["training"]["recovery_steps"] == 3

    out = tmp_path / "out"
    published, tokenizer = load_classifier(out)
    assert published.config.intermediate_size == 16
    assert len(tokenizer) == facts["tokens"] == published.config.vocab_size < _size(tmp_path / "teacher")
    untouched, _ = load_classifier(out / "work" / "pruned-not-recovered")
    weights = published.state_dict()
    assert any(not torch.equal(weights[name], weight) for name, weight in untouched.state_dict().items())
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "it was pruned to 2 attention heads in each layer, 16 FFN neurons in each layer and" in card
    assert "same student (before pruning)" in card
    assert ("trust_remote_code=True" in card) == report["student"]["needs_remote_code"]


def test_a_second_start_prunes_nothing_again(sst2_arguments, monkeypatch):
    arguments = [*sst2_arguments, "--prune_keep", "0.5"]
    report = load_recipe(RECIPE).main(arguments)
    assert report["student"]["pruned"]["keep"] == 0.5 and report["student"]["needs_remote_code"]
    assert report["training"]["recovery_steps"] == 1  # half of the student's two
    parameters = {row["role"]: row["parameters"] for row in report["models"]}
    assert parameters["student"] < parameters["unpruned"]
    monkeypatch.setattr("distil_trainer.pruned_student.prune", None)
    assert load_recipe(RECIPE).main(arguments) == report


@pytest.mark.slow
def test_pairs_lose_tokens_that_neither_text_has(sst2_arguments, tmp_path):
    from datasets import Dataset

    for split in ("train", "validation"):
        file = str(tmp_path / f"{split}.parquet")
        rows = Dataset.from_parquet(file, keep_in_memory=True)
        rows.add_column("second", ["bad"] * len(rows)).to_parquet(file)
    words = ["--text_pair_column", "second", "--copies", "0", "--near_duplicate_threshold", "1.0"]
    load_recipe(RECIPE).main([*sst2_arguments, *words, "--prune_vocabulary"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.convert_tokens_to_ids("bad") != tokenizer.unk_token_id


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prune_heads", "9"], "prune_heads=9 must be from 1 to"),
        (["--prune_intermediate_size", "9999"], "prune_intermediate_size=9999 must be from 1 to"),
        (["--prune_keep", "0.01"], "keep=0.01: one head and one neuron in each layer, which must stay, are"),
        (["--prune_layers", "3"], "prune_layers=3 must be from 1 to 2"),
        (["--student_head", "cnn", "--prune_heads", "2"], "model_type='transformer_cnn'"),
    ],
)
def test_sizes_that_the_student_does_not_have_are_refused_before_any_stage(sst2_arguments, tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(RECIPE).main([*sst2_arguments, *words])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", [["--prune_keep", "0.5"], ["--prune_vocabulary"]])
def test_a_network_without_layers_to_prune_is_refused(sst2_arguments, what):
    start = sst2_arguments.index("--student_layers")
    with pytest.raises(ValueError, match="model_type='glove_cnn'"):
        load_recipe("sst2_electra_to_glove_cnn").main(
            [*sst2_arguments[:start], *sst2_arguments[start + 3 :], "--word_vectors", "random", *what]
        )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prune_heads": 0}, "prune_heads=0 must be at least 1"),
        ({"prune_intermediate_size": 0}, "prune_intermediate_size=0 must be at least 1"),
        ({"prune_layers": -1}, "prune_layers=-1 must be at least 1"),
        ({"prune_keep": 0.0}, r"prune_keep=0.0 must be a share in \(0, 1\]"),
        ({"prune_keep": 1.5}, "prune_keep=1.5 must be a share"),
        (
            {"prune_keep": 0.5, "prune_heads": 2, "prune_layers": 1},
            "prune_keep=0.5 with prune_heads=2, prune_layers=1",
        ),
        ({"recovery_max_steps": 9}, "recovery_max_steps=9, and nothing is pruned"),
        ({"recovery_learning_rate": 1e-4}, "recovery_learning_rate=0.0001, and nothing is pruned"),
        ({"prune_vocabulary": True, "recovery_max_steps": 0}, "recovery_max_steps=0 must be above 0"),
        ({"prune_keep": 0.5, "recovery_learning_rate": -1.0}, "recovery_learning_rate=-1.0 must be above 0"),
    ],
)
def test_arguments_of_pruning_that_cannot_be_meant_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        PruningArguments(**values)


def _size(folder):
    return len(AutoTokenizer.from_pretrained(folder))
