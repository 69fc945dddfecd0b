"""Matches: which state of the student is compared with which of the teacher, by which loss, at which weight."""

import difflib
import math
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path

import yaml

_LOSSES = {
    "hidden_states": ("mse", "cosine"),
    "attentions": ("mse", "cosine", "kl"),
    "query_relations": ("kl",),
    "key_relations": ("kl",),
    "value_relations": ("kl",),
    "cls_states": ("pkd", "mse", "cosine"),
    "pooled_states": ("mse", "cosine", "similarity_preserving", "rkd_distance", "rkd_angle"),
}
_STATES = {
    "hidden_states": "hidden_states",
    "attentions": "attentions",
    "query_relations": "queries",
    "key_relations": "keys",
    "value_relations": "values",
    "cls_states": "hidden_states",
    "pooled_states": "hidden_states",
}
RELATIONS = ("query_relations", "key_relations", "value_relations")


@dataclass(frozen=True)
class Match:
    """One comparison of a student's layer with a teacher's.

    | `what` | `loss` | compares |
    | :-- | :-- | :-- |
    | `hidden_states` | `mse`, `cosine` | hidden states of every token |
    | `attentions` | `mse`, `cosine`, `kl` | attention maps of every head, where the head counts are equal |
    | `query_relations`, `key_relations`, `value_relations` | `kl` | how the queries (keys, values) of a row relate, \
in any number of heads and any width |
    | `cls_states` | `pkd`, `mse`, `cosine` | hidden state of the token that the classification head reads |
    | `pooled_states` | `mse`, `cosine`, `similarity_preserving`, `rkd_distance`, `rkd_angle` | mean hidden state of \
a row |

    Attributes:
        what (`str`): see the table.
        loss (`str`): see the table.
        teacher_layer (`int`, *optional*): 0 is the embedding output, 1 the output of the first layer, and so on;
            attentions and relations begin with 1. The last layer by default.
        student_layer (`int`, *optional*): likewise.
        weight (`float`, *optional*, defaults to 1.0): at least 0; at 0 throughout, the match is left out.
        final_weight (`float`, *optional*): weight at the last step, reached linearly; constant by default.
        relation_heads (`int`, *optional*): for relations, the number of heads into which both sides are split; by
            default the teacher's number of heads where it divides both widths, else the largest below that does.
    """

    what: str
    loss: str
    teacher_layer: int | None = None
    student_layer: int | None = None
    weight: float = 1.0
    final_weight: float | None = None
    relation_heads: int | None = None

    @property
    def name(self):
        """Name under which the term is logged, such as `hidden_states_mse_t6_s3`; for planned matches."""
        return f"{self.what}_{self.loss}_t{self.teacher_layer}_s{self.student_layer}"


def states_of(what):
    """Return the states that a kind of match reads: hidden_states, attentions, queries, keys or values."""
    return _STATES[what]


def read_matches(matches):
    """Read matches and check all that can be checked without a model.

    Args:
        matches (`list[dict]` or `str`, *optional*): one dictionary for each match, with the attributes of [`Match`] as
            keys; or such a list as YAML or JSON text; or the path of a `.yaml`, `.yml` or `.json` file that holds it.

    Returns:
        `list[Match]`, layers as given; empty for `None`.

    Raises:
        ValueError: if it cannot be read; if a key, kind, loss, layer or weight is not a legal one; or if two matches
            name the same student layer for the same loss, or for two teacher layers.
    """
    matches = _parse(matches)
    read = [_read_match(match, f"matches[{number}]") for number, match in enumerate(matches)]
    check_no_layer_twice([(f"matches[{number}]", match) for number, match in enumerate(read)])
    return read


def check_no_layer_twice(sourced_matches):
    """Refuse two matches that compare the same layer of the student by the same loss, or with two teacher layers.

    Args:
        sourced_matches (`list[tuple[str, Match]]`): each with the words that say where it comes from.

    Raises:
        ValueError: if there are two.
    """
    seen = []
    for source, match in sourced_matches:
        for other_source, other in seen:
            if (match.what, match.student_layer) != (other.what, other.student_layer):
                continue
            # "Last" may be the layer that the other one names by its number: known when the models are.
            layers = {match.teacher_layer, other.teacher_layer} - {None}
            if match.loss != other.loss and len(layers) < 2:
                continue
            layer = "last layer" if match.student_layer is None else f"layer {match.student_layer}"
            raise ValueError(
                f"{source} names a layer twice: {match.what} with loss {match.loss} of the student's {layer} stands "
                f"in {other_source} already{'' if match.loss == other.loss else f' with loss {other.loss}'} (teacher "
                f"layer {_layer(other)}; here {_layer(match)}). The layer would be pulled to two targets, or to one "
                "at twice its weight. Keep one of them."
            )
        seen.append((source, match))


def _layer(match):
    return "last" if match.teacher_layer is None else match.teacher_layer


def _parse(matches):
    source = "matches"
    if isinstance(matches, str):
        text, is_path = matches, matches.endswith((".yaml", ".yml", ".json"))
        source = matches if is_path else source
        try:
            matches = yaml.safe_load(Path(text).read_text(encoding="utf-8") if is_path else text)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(
                f"{source}: cannot read these matches ({error}). Give a YAML list, or the path of a UTF-8 file that "
                "ends in .yaml, .yml or .json and holds one."
            ) from error
    if matches is None:
        return []
    if not isinstance(matches, list):
        raise ValueError(
            f"{source} holds a {type(matches).__name__}, but must hold a list with one dictionary for each match, "
            "such as [{what: hidden_states, loss: mse, teacher_layer: 6, student_layer: 3}]."
        )
    return matches


def _read_match(values, source):
    if not isinstance(values, dict):
        raise ValueError(
            f"{source}={values!r} is a {type(values).__name__}, but must be a dictionary such as "
            "{what: hidden_states, loss: mse, teacher_layer: 6, student_layer: 3}."
        )
    keys = [entry.name for entry in fields(Match)]
    for key in values:
        if key not in keys:
            raise ValueError(_not_one_of(f"{source}: unknown key {key!r}", key, keys))
    for entry in fields(Match):
        if entry.default is MISSING and entry.name not in values:
            raise ValueError(f"{source}={values}: {entry.name!r} is missing. Say what is compared, and by which loss.")
    match = Match(**values)
    if match.what not in list(_LOSSES):
        raise ValueError(_not_one_of(f"{source}: what={match.what!r} is unknown", match.what, _LOSSES))
    if match.loss not in _LOSSES[match.what]:
        legal = _LOSSES[match.what]
        raise ValueError(
            _not_one_of(f"{source}: loss={match.loss!r} does not exist for {match.what}", match.loss, legal)
        )
    first = 0 if states_of(match.what) == "hidden_states" else 1
    for name in ("teacher_layer", "student_layer"):
        layer = getattr(match, name)
        if layer is not None and not (is_whole(layer) and layer >= first):
            raise ValueError(
                f"{source}: {name}={layer!r}: for {match.what} it must be a whole number of at least {first}"
                + (", the embedding output" if first == 0 else " (0, the embedding output, has none)")
                + "; leave it out for the last layer."
            )
    heads = match.relation_heads
    if heads is not None and match.what not in RELATIONS:
        raise ValueError(
            f"{source}: relation_heads={heads!r} with what={match.what!r}: only relations are split into such heads, "
            "so it would be ignored. Leave it out."
        )
    if heads is not None and not (is_whole(heads) and heads >= 1):
        raise ValueError(f"{source}: relation_heads={heads!r} must be a whole number of at least 1.")
    final_weight = None if match.final_weight is None else _read_weight(match, "final_weight", source)
    return replace(match, weight=_read_weight(match, "weight", source), final_weight=final_weight)


def _read_weight(match, name, source):
    given = getattr(match, name)
    try:
        # YAML reads 1e-3 as text.
        weight = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        weight = math.nan
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(
            f"{source}: {name}={given!r} must be a number of at least 0, and finite; a negative one would push the "
            "student away from the teacher."
        )
    return weight


def _not_one_of(problem, name, legal):
    close = difflib.get_close_matches(str(name), legal, n=1)
    return f"{problem}.{f' Did you mean {close[0]}?' if close else ''} Choose one of {', '.join(legal)}."


def is_whole(value):
    """Return whether a value is a whole number, which `True` is not meant to be."""
    return isinstance(value, int) and not isinstance(value, bool)
