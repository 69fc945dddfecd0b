"""The arguments of a distillation run, and how a command line, a YAML file and a recipe's defaults become them."""

import argparse
import difflib
import math
import os
import sys
import types
import typing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

LOGIT_LOSSES = ("kl", "mse", "soft_cross_entropy")


@dataclass
class DistillationArguments(TrainingArguments):
    """`TrainingArguments` plus what distillation adds: the loss, its weights, and which columns hold texts and labels.

    Two defaults differ from `TrainingArguments`: `report_to` is `"none"` on every version of transformers, and
    `use_cpu` is true where there is no accelerator.

    Raises:
        ValueError: if a temperature, weight or length is out of range, if the loss would be zero everywhere, or if an
            option of `TrainingArguments` is set that this loss could not honour.
    """

    temperature: float = field(
        default=2.0,
        metadata={"help": "Both models' logits are divided by it before the softmax; above 0. Not read by mse."},
    )
    logit_loss: Literal["kl", "mse", "soft_cross_entropy"] = field(
        default="kl",
        metadata={"help": "What compares the student's logits with the teacher's."},
    )
    logit_loss_weight: float = field(
        default=1.0,
        metadata={"help": "Weight of the logit loss; 0 trains on gold labels alone and needs no teacher."},
    )
    hard_label_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the cross-entropy on gold labels; rows without one count as rows but add nothing."
        },
    )
    text_column: str = field(default="sentence", metadata={"help": "Column that holds the text."})
    text_pair_column: str | None = field(
        default=None, metadata={"help": "Column that holds the second text, for tasks on pairs."}
    )
    label_column: str = field(
        default="label", metadata={"help": "Column that holds the gold label; -1, -100 and null mean unlabelled."}
    )
    max_length: int = field(
        default=128, metadata={"help": "Tokens kept of a text or pair, special tokens included; at least 3."}
    )
    length_grouped_batches: bool = field(
        default=False,
        metadata={"help": "Make batches of texts of similar length: less padding, the same rows in every epoch."},
    )
    report_to: None | str | list[str] = field(
        default="none", metadata={"help": "The integrations that receive the logs, such as tensorboard; none, or all."}
    )

    def __post_init__(self):
        # Without this, accelerate 1.15 gives the processes of a launcher on a CPU machine one world each: every one of
        # them is the main process and trains alone. The device is asked for to fix that state now.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        # A launcher's choice, which accelerate would follow without a word here.
        launched_precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if launched_precision in ("bf16", "fp16") and not (self.bf16 or self.fp16):
            setattr(self, launched_precision, True)
        super().__post_init__()
        self.device  # noqa: B018
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(
                f"temperature={self.temperature}: it divides the logits, so it must be above 0 and finite."
            )
        for name in ("logit_loss_weight", "hard_label_weight"):
            weight = getattr(self, name)
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(
                    f"{name}={weight}: a weight must be 0 or more and finite; a negative one would push the student "
                    "away from its target."
                )
        if self.logit_loss_weight == 0 and self.hard_label_weight == 0:
            raise ValueError(
                "logit_loss_weight=0 and hard_label_weight=0: the loss would be zero and nothing would be learned. "
                "Set one of them above 0."
            )
        if self.logit_loss not in LOGIT_LOSSES:
            raise ValueError(f"logit_loss={self.logit_loss!r}: choose one of {', '.join(LOGIT_LOSSES)}.")
        if self.text_pair_column == self.text_column:
            raise ValueError(
                f"text_pair_column={self.text_pair_column!r} is text_column too: every text would be paired with "
                "itself. Name another column, or leave it out."
            )
        if self.max_length < 3:
            raise ValueError(
                f"max_length={self.max_length}: special tokens count too, so fewer than 3 would leave no text."
            )
        if not 0 <= self.label_smoothing_factor < 1:
            raise ValueError(f"label_smoothing_factor={self.label_smoothing_factor}: it must be in [0, 1).")
        if self.label_smoothing_factor and self.hard_label_weight == 0:
            raise ValueError(
                f"label_smoothing_factor={self.label_smoothing_factor} with hard_label_weight=0: smoothing acts on "
                "gold labels only, so it would be ignored. Set hard_label_weight above 0, or leave smoothing out."
            )
        if self.use_liger_kernel:
            raise ValueError(
                "use_liger_kernel=True: Liger replaces the loss of language models and would go around the "
                "distillation loss. Leave it out."
            )
        # Each version of transformers has one of the two, under another name.
        other_order = getattr(self, "group_by_length", False) or (
            getattr(self, "train_sampling_strategy", "random") != "random"
        )
        if self.length_grouped_batches and other_order:
            raise ValueError(
                "length_grouped_batches=True together with group_by_length or train_sampling_strategy: only one of "
                "them can order the rows. Keep one."
            )


def parse_arguments(dataclass_types, argv=None, defaults=None):
    """Read dataclasses of arguments from a command line, a YAML file and a recipe's defaults.

    The YAML file, if there is one, is the last word of the command line and ends in `.yaml` or `.yml`. The command
    line beats the YAML file, which beats `defaults`, which beat the dataclasses' own defaults.

    Args:
        dataclass_types (`type` or `Iterable[type]`): the dataclasses; no two may share a field name.
        argv (`list[str]`, *optional*): words of the command line without the program's name; by default, this
            process's.
        defaults (`dict[str, Any]`, *optional*): values by field name.

    Returns:
        `tuple`: one instance of each dataclass, in order.

    Raises:
        ValueError: if the YAML file cannot be read or is not a mapping, if a name is no field, or if a value in the
            YAML file or in `defaults` does not fit its field. A bad value on the command line ends the program with
            the usual message of `argparse`.

    Example:

    ```python
    >>> from distil_trainer import DistillationArguments, parse_arguments
    >>> (args,) = parse_arguments(DistillationArguments, ["--temperature", "4"], {"max_length": 64})
    >>> args.temperature, args.max_length
    (4.0, 64)

    ```
    """
    dataclass_types = [dataclass_types] if isinstance(dataclass_types, type) else list(dataclass_types)
    argv = list(sys.argv[1:] if argv is None else argv)
    # Abbreviated names are refused: `--temp` would start to fail, or change its meaning, with each new argument.
    parser = HfArgumentParser(dataclass_types, allow_abbrev=False)
    _set_defaults(parser, defaults or {}, "defaults")
    if argv and argv[-1].endswith((".yaml", ".yml")):
        yaml_file = argv.pop()
        _set_defaults(parser, _read_yaml(yaml_file), yaml_file)
    *instances, unknown = parser.parse_args_into_dataclasses(
        argv, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        options = [word.split("=")[0] for word in unknown if word.startswith("-")]
        raise ValueError(_unknown_names("command line", options or unknown, _legal_names(parser)))
    return tuple(instances)


def _read_yaml(path):
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(
            f"{path}: cannot read this file of arguments ({error}). It must be UTF-8 YAML with one `name: value` a "
            "line."
        ) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{path}: holds a {type(values).__name__}, but must hold one `name: value` a line.")
    return values


def _set_defaults(parser, values, source):
    legal_names = _legal_names(parser)
    unknown = [str(name) for name in values if name not in legal_names]
    if unknown:
        raise ValueError(_unknown_names(source, unknown, legal_names))
    actions = {}
    for action in parser._actions:
        actions.setdefault(action.dest, action)
    hints = {name: hint for kind in parser.dataclass_types for name, hint in typing.get_type_hints(kind).items()}
    for name, value in values.items():
        actions[name].required = False
        parser.set_defaults(**{name: _convert(name, value, actions[name], hints[name], source)})


def _convert(name, value, action, hint, source):
    if value is None:
        return None
    if isinstance(value, dict | list) and action.nargs != "+":
        # The parser reads a field such as `str | list[str]` as one word; a YAML list is its other legal form.
        if type(value) in _plain_types(hint):
            return value
        raise ValueError(f"{source}: {name}={value!r} is a {type(value).__name__}, but one value is needed.")
    # YAML reads the bare word `no` as false.
    if value is False and action.choices and "no" in action.choices:
        value = "no"
    try:
        if action.nargs == "+":
            return [action.type(str(item)) for item in (value if isinstance(value, list) else [value])]
        converted = action.type(str(value))
    except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
        raise ValueError(f"{source}: {name}={value!r} does not fit this argument: {error}.") from error
    if action.choices and converted not in action.choices:
        raise ValueError(f"{source}: {name}={value!r}: choose one of {', '.join(map(str, action.choices))}.")
    return converted


def _plain_types(hint):
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return [typing.get_origin(part) or part for part in (typing.get_args(hint) if union else (hint,))]


def _legal_names(parser):
    return [entry.name for kind in parser.dataclass_types for entry in fields(kind) if entry.init]


def _unknown_names(source, names, legal_names):
    close = {name: difflib.get_close_matches(name.lstrip("-"), legal_names, n=1) for name in names}
    hints = "".join(f" Did you mean {match[0]} instead of {name}?" for name, match in close.items() if match)
    return f"{source}: unknown argument {', '.join(names)}.{hints} Legal names: {', '.join(sorted(legal_names))}."
