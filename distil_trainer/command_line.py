"""How a command line, a YAML file and a recipe's defaults become dataclasses of arguments."""

import argparse
import difflib
import sys
import types
import typing
from dataclasses import fields
from pathlib import Path

import yaml
from transformers import HfArgumentParser


def parse_arguments(dataclass_types, argv=None, defaults=None):
    """Read dataclasses of arguments from a command line, a YAML file and a recipe's defaults.

    The YAML file, if there is one, is the last word of the command line, is not the value of an option, and ends in
    `.yaml` or `.yml`. The command line beats the YAML file, which beats `defaults`, which beat the dataclasses' own
    defaults.

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
    if argv and argv[-1].endswith((".yaml", ".yml")) and not _is_value(argv[-2:-1], parser):
        yaml_file = argv.pop()
        _set_defaults(parser, _read_yaml(yaml_file), yaml_file)
    *instances, unknown = parser.parse_args_into_dataclasses(
        argv, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        options = [word.split("=")[0] for word in unknown if word.startswith("-")]
        raise ValueError(_unknown_names("command line", options or unknown, _legal_names(parser)))
    return tuple(instances)


def read_mapping(name, value, example):
    """Read an argument that is a mapping, or YAML or JSON text of one.

    Args:
        name (`str`): the argument's name, for messages.
        value (`dict`, `str` or `None`): what was given.
        example (`str`): a legal value, for messages.

    Returns:
        `dict`; empty for `None`.

    Raises:
        ValueError: if it is anything else.
    """
    mapping = value
    if isinstance(value, str):
        try:
            mapping = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"{name}={value!r} cannot be read: {error}.") from error
    if not isinstance(mapping or {}, dict):
        raise ValueError(f"{name}={value!r} must be a mapping of settings, such as {example}.")
    return mapping or {}


def _is_value(words_before, parser):
    """Return whether a word that follows these must be the value of an option."""
    action = parser._option_string_actions.get(words_before[0]) if words_before else None
    return action is not None and action.nargs is None  # an option that takes exactly one


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
