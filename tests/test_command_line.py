"""The command line, a YAML file and defaults become dataclasses, in that order of precedence."""

from dataclasses import dataclass, field

import pytest

from distil_trainer.arguments import DistillationArguments
from distil_trainer.command_line import parse_arguments


@dataclass
class DataArguments:
    train_file: str | None = field(default=None)
    copies: int = field(default=20)
    layers: list[int] | None = field(default=None)
    shuffle: bool = field(default=True)


def _yaml(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_command_line_beats_yaml_beats_defaults_beats_the_fields(tmp_path):
    config = _yaml(tmp_path, "seed: 2\nmax_length: 22\ncopies: 2\n")
    defaults = {"seed": 1, "max_length": 11, "copies": 1, "temperature": 1.5}
    args, data = parse_arguments((DistillationArguments, DataArguments), ["--seed", "3", config], defaults)
    assert (args.seed, args.max_length, args.temperature, args.logit_loss) == (3, 22, 1.5, None)
    assert (data.copies, data.train_file) == (2, None)


def test_one_dataclass_may_be_given_alone():
    (data,) = parse_arguments(DataArguments, ["--copies", "4"])
    assert data == DataArguments(copies=4)


def test_yaml_values_take_the_type_of_their_field(tmp_path):
    config = _yaml(
        tmp_path,
        "learning_rate: 1e-5\neval_strategy: no\nbf16: false\nlength_grouped_batches: true\nlogit_loss: mse\n"
        "report_to: [tensorboard]\nlr_scheduler_kwargs: {num_cycles: 2}\nlayers: [1, 3]\nshuffle: false\n"
        "train_file: 12\ntext_pair_column: null\nhard_label_weight: 1\n",
    )
    args, data = parse_arguments((DistillationArguments, DataArguments), [config])
    assert args.learning_rate == 1e-5
    assert args.eval_strategy.value == "no"
    assert (args.bf16, args.length_grouped_batches, args.logit_loss) == (False, True, "mse")
    assert args.report_to == ["tensorboard"]
    assert args.lr_scheduler_kwargs == {"num_cycles": 2}
    assert (data.layers, data.shuffle, data.train_file) == ([1, 3], False, "12")
    assert args.text_pair_column is None
    assert args.hard_label_weight == 1.0


def test_a_switch_or_a_list_before_the_yaml_file_does_not_swallow_it(tmp_path):
    config = _yaml(tmp_path, "copies: 7\n")
    (data,) = parse_arguments(DataArguments, ["--layers", "2", "4", config])
    assert (data.layers, data.copies) == ([2, 4], 7)
    args, data = parse_arguments((DistillationArguments, DataArguments), ["--length_grouped_batches", config])
    assert (args.length_grouped_batches, data.copies) == (True, 7)
    (data,) = parse_arguments(DataArguments, ["--no_shuffle", config])
    assert data.shuffle is False


def test_a_required_field_may_come_from_yaml_or_defaults(tmp_path):
    @dataclass
    class Required:
        name: str

    assert parse_arguments(Required, [_yaml(tmp_path, "name: a\n")])[0].name == "a"
    assert parse_arguments(Required, [], {"name": "b"})[0].name == "b"


def test_an_empty_yaml_file_changes_nothing(tmp_path):
    assert parse_arguments(DataArguments, [_yaml(tmp_path, "")])[0] == DataArguments()


def test_unknown_names_are_refused_with_the_legal_ones(tmp_path):
    config = _yaml(tmp_path, "copes: 3\n")
    with pytest.raises(
        ValueError, match=r"config.yaml: unknown argument copes. Did you mean copies.*Legal names: copies"
    ):
        parse_arguments(DataArguments, [config])
    with pytest.raises(ValueError, match="defaults: unknown argument nothing_like_it. Legal names: copies"):
        parse_arguments(DataArguments, [], {"nothing_like_it": 3})
    with pytest.raises(ValueError, match=r"command line: unknown argument --copes. Did you mean copies"):
        parse_arguments(DataArguments, ["--copes=3"])
    with pytest.raises(ValueError, match="command line: unknown argument stray"):
        parse_arguments(DataArguments, ["stray"])


def test_a_name_is_not_abbreviated():
    with pytest.raises(ValueError, match="unknown argument --cop"):
        parse_arguments(DataArguments, ["--cop", "3"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("copies: many\n", "config.yaml: copies='many' does not fit this argument"),
        ("copies: [1, 2]\n", "copies=.1, 2. is a list, but one value is needed"),
        ("train_file: [a]\n", "train_file=.'a'. is a list"),
        ("- copies\n", "holds a list, but must hold one"),
        ("a: b: c\n", "cannot read this file of arguments"),
    ],
)
def test_a_yaml_file_that_does_not_fit_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(DataArguments, [_yaml(tmp_path, text)])


def test_a_choice_that_is_none_is_refused_by_name():
    with pytest.raises(
        ValueError, match="defaults: logit_loss='l1': choose one of kl, mse, soft_cross_entropy, decoupled"
    ):
        parse_arguments(DistillationArguments, [], {"logit_loss": "l1"})


def test_an_unreadable_yaml_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="absent.yaml: cannot read this file of arguments"):
        parse_arguments(DataArguments, [str(tmp_path / "absent.yaml")])
    binary = tmp_path / "binary.yml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="binary.yml: cannot read this file of arguments"):
        parse_arguments(DataArguments, [str(binary)])


def test_matches_and_layer_maps_come_from_yaml_as_lists_and_from_the_command_line_as_text(tmp_path):
    config = _yaml(
        tmp_path,
        "layer_map: [1, 3]\nteacher_weights: [1, 0.5]\nmatches:\n"
        "  - {what: attentions, loss: kl, teacher_layer: 3, weight: 1e-1}\n",
    )
    words = ["--layer_map", "[1, 3]", "--teacher_weights", "1", "0.5"]
    words += ["--matches", "[{what: attentions, loss: kl, teacher_layer: 3, weight: 1e-1}]"]
    (from_yaml,) = parse_arguments(DistillationArguments, [config])
    (from_words,) = parse_arguments(DistillationArguments, words)
    for args in (from_yaml, from_words):
        assert args.layer_map == [1, 3]
        assert args.teacher_weights == [1.0, 0.5]
        assert [(match["what"], match["weight"]) for match in args.matches] == [("attentions", 0.1)]
    assert from_yaml.matches == from_words.matches


def test_matches_come_from_a_file_named_on_the_command_line_before_the_yaml_file(tmp_path):
    matches = tmp_path / "matches.yaml"
    matches.write_text("- {what: cls_states, loss: pkd}\n", encoding="utf-8")
    (args,) = parse_arguments(DistillationArguments, ["--matches", str(matches), _yaml(tmp_path, "seed: 3\n")])
    assert (args.seed, args.matches[0]["what"]) == (3, "cls_states")


def test_a_choice_may_be_left_to_its_default_with_null(tmp_path):
    (args,) = parse_arguments(DistillationArguments, [_yaml(tmp_path, "logit_loss: null\n")], {"logit_loss": "mse"})
    assert args.logit_loss is None


def test_unknown_names_inside_of_matches_are_refused_with_the_legal_ones(tmp_path):
    config = _yaml(tmp_path, "matches:\n  - {what: attentions, los: kl}\n")
    with pytest.raises(
        ValueError, match="unknown key 'los'. Did you mean loss.*Choose one of what, loss, teacher_layer"
    ):
        parse_arguments(DistillationArguments, [config])


def test_a_yaml_file_that_is_the_value_of_an_option_is_not_the_file_of_arguments(tmp_path):
    file = tmp_path / "matches.yaml"
    file.write_text("- {what: attentions, loss: kl}\n")
    words = ["--output_dir", str(tmp_path), "--matches", str(file)]
    (args,) = parse_arguments(DistillationArguments, words)
    assert args.matches[0]["what"] == "attentions"
    settings = tmp_path / "settings.yaml"
    settings.write_text("temperature: 7\n")
    (args,) = parse_arguments(DistillationArguments, [*words, "--use_cpu", str(settings)])
    assert args.temperature == 7 and args.use_cpu and args.matches[0]["what"] == "attentions"
