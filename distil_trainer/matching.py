"""Matches for two models: which layers stand for each other, and the short forms spelt out."""

import math
from dataclasses import replace

import yaml

from distil_trainer.matches import RELATIONS, Match, check_no_layer_twice, is_whole, read_matches, states_of

# Losses that compare rows with rows of the same model, whatever their widths.
_FREE_OF_WIDTH = ("similarity_preserving", "rkd_distance", "rkd_angle")
_LAYER_MAPS = ("uniform", "last")


def plan_matches(args, teacher_shape, student_shape):
    """Make the full list of matches for two models: `args.matches`, then what the short forms stand for.

    `hidden_loss_weight` compares the embedding outputs and every pair of `layer_map`, `attention_loss_weight` every
    pair of `layer_map`, each pair at its share of the weight, so that a weight means the same for any depth.
    `relation_loss_weight` compares query, key and value relations of the student's last layer with those of the
    teacher layer that `layer_map` gives it, each at a third of the weight.

    Args:
        args ([`DistillationArguments`]): the matches and short forms.
        teacher_shape, student_shape ([`ModelShape`]): the two models.

    Returns:
        `list[Match]`: with layers and relation heads filled in; matches whose weight is 0 throughout are left out.

    Raises:
        ValueError: if a layer is out of range, two matches name the same student layer for the same loss, head counts
            differ for attentions, relation heads do not divide both widths, or the layer map does not fit the models.

    Reference:
        Jiao et al. 2019 (TinyBERT), https://arxiv.org/abs/1909.10351, section 3.1, for hidden states and attentions;
        Wang et al. 2020 (MiniLMv2), https://arxiv.org/abs/2012.15828, section 3, for relations. The papers sum over
        layers and relations; here they are averaged.
    """
    explicit = [(f"matches[{number}]", match) for number, match in enumerate(read_matches(args.matches))]
    sourced = [
        (source, _fill_in(match, source, args.relation_heads, teacher_shape, student_shape))
        for source, match in explicit + _short_forms(args, teacher_shape, student_shape)
    ]
    check_no_layer_twice(sourced)
    return [match for _, match in sourced if match.weight or match.final_weight]


def map_layers(layer_map, num_teacher_layers, num_student_layers):
    """Return for each student layer, from the first on, the teacher layer it learns from.

    Args:
        layer_map (`str` or `list[int]`): "uniform" spreads the student's layers evenly over the teacher's, the last on
            the last; "last" takes the teacher's last ones; a list is taken as it is.
        num_teacher_layers, num_student_layers (`int`): of the two models, without embeddings.

    Returns:
        `list[int]` of length `num_student_layers`, with layers from 1 to `num_teacher_layers`.

    Raises:
        ValueError: if a list does not fit the models, or if the student is deeper than the teacher with "last".

    Reference:
        Sun et al. 2019, https://arxiv.org/abs/1908.09355, section 3.2: "uniform" is PKD-Skip where the depths divide
        (and the map of TinyBERT, https://arxiv.org/abs/1909.10351), "last" is PKD-Last. Where the depths do not
        divide, "uniform" rounds to the nearest layer, halves upwards; the last layers are mapped too, which PKD leaves
        to the loss on logits.
    """
    if layer_map == "uniform":
        return [
            max(1, (2 * layer * num_teacher_layers + num_student_layers) // (2 * num_student_layers))
            for layer in range(1, num_student_layers + 1)
        ]
    if layer_map == "last":
        if num_student_layers > num_teacher_layers:
            raise ValueError(
                f"layer_map='last': the student has {num_student_layers} layers, the teacher {num_teacher_layers}, so "
                "there are too few to take the last ones of. Take layer_map='uniform', or a list."
            )
        return list(range(num_teacher_layers - num_student_layers + 1, num_teacher_layers + 1))
    if len(layer_map) != num_student_layers:
        raise ValueError(
            f"layer_map={layer_map} has {len(layer_map)} layers, but the student has {num_student_layers}: give one "
            "teacher layer for each student layer."
        )
    if layer_map[-1] > num_teacher_layers:
        raise ValueError(
            f"layer_map={layer_map}: layer {layer_map[-1]} is out of range, the teacher has layers 1 to "
            f"{num_teacher_layers}."
        )
    return layer_map


def read_layer_map(layer_map):
    """Read a layer map and check all that can be checked without a model.

    Args:
        layer_map (`str` or `list[int]`): "uniform", "last", or one teacher layer for each student layer; the list may
            be given as text, such as `"[4, 8, 12]"`.

    Returns:
        `str` or `list[int]`

    Raises:
        ValueError: if it is none of these, or if the layers decrease.
    """
    layers = layer_map
    if isinstance(layer_map, str) and layer_map not in _LAYER_MAPS:
        try:
            layers = yaml.safe_load(layer_map)
        except yaml.YAMLError:
            layers = None
    if isinstance(layers, str) and layers in _LAYER_MAPS:
        return layers
    if not (isinstance(layers, list) and layers and all(is_whole(layer) and layer >= 1 for layer in layers)):
        raise ValueError(
            f"layer_map={layer_map!r}: choose {' or '.join(_LAYER_MAPS)}, or list for each student layer the teacher "
            "layer it learns from, counted from 1, such as [4, 8, 12]."
        )
    if layers != sorted(layers):
        raise ValueError(
            f"layer_map={layers}: the teacher layers decrease, so that a higher student layer would learn from a "
            "lower teacher layer. Give them in rising order."
        )
    return layers


def projection_widths(match, teacher_shape, student_shape):
    """Return between which widths the student's states must be mapped before they can be compared with the teacher's.

    Args:
        match ([`Match`]): of a plan.
        teacher_shape, student_shape ([`ModelShape`]): the two models.

    Returns:
        `tuple[int, int]`: the student's width and the teacher's; `None` where nothing needs to be mapped.
    """
    if states_of(match.what) != "hidden_states" or match.loss in _FREE_OF_WIDTH:
        return None
    widths = student_shape.width(match.student_layer), teacher_shape.width(match.teacher_layer)
    return None if widths[0] == widths[1] else widths


def _short_forms(args, teacher_shape, student_shape):
    if not any(map(args.weights_of, ("hidden", "attention", "relation"))):
        return []
    mapped = map_layers(args.layer_map, teacher_shape.num_layers, student_shape.num_layers)
    pairs = list(zip(mapped, range(1, student_shape.num_layers + 1), strict=True))
    forms = [
        ("hidden", [("hidden_states", args.hidden_loss, *pair) for pair in [(0, 0), *pairs]]),
        ("attention", [("attentions", args.attention_loss, *pair) for pair in pairs]),
        ("relation", [(what, "kl", *pairs[-1]) for what in RELATIONS]),
    ]
    matches = []
    for form, compared in forms:
        if weights := args.weights_of(form):
            shares = [None if weight is None else weight / len(compared) for weight in weights]
            matches += [(f"{form}_loss_weight", Match(*each, *shares)) for each in compared]
    return matches


def _fill_in(match, source, relation_heads, teacher_shape, student_shape):
    layers = {}
    first = 0 if states_of(match.what) == "hidden_states" else 1
    for name, shape in (("teacher_layer", teacher_shape), ("student_layer", student_shape)):
        layer = getattr(match, name)
        layers[name] = shape.num_layers if layer is None else layer
        if layers[name] > shape.num_layers:
            raise ValueError(
                f"{source}: {name}={layer} is out of range: for {match.what}, the {name.split('_')[0]} has layers "
                f"{first} to {shape.num_layers}."
            )
    if match.what == "cls_states" and not student_shape.num_heads:
        raise ValueError(
            f"{source}: the student is no Transformer, and its head reads no single token, so that cls_states would "
            "compare the state of an arbitrary word. Compare pooled_states instead."
        )
    if match.what == "attentions" and teacher_shape.num_heads != student_shape.num_heads:
        raise ValueError(
            f"{source}: attentions need equal head counts, but the teacher has {teacher_shape.num_heads} heads and "
            f"the student {student_shape.num_heads}, so that no head of one belongs to a head of the other. Compare "
            "query_relations, key_relations and value_relations instead (relation_loss_weight): they need none."
        )
    if match.what in RELATIONS:
        heads = match.relation_heads or relation_heads
        match = replace(match, relation_heads=_relation_heads(heads, source, teacher_shape, student_shape))
    return replace(match, **layers)


def _relation_heads(heads, source, teacher_shape, student_shape):
    common = math.gcd(teacher_shape.hidden_size, student_shape.hidden_size)
    legal = [number for number in range(1, common + 1) if common % number == 0]
    if heads is None:
        return max(number for number in legal if number <= teacher_shape.num_heads)
    if heads not in legal:
        raise ValueError(
            f"{source}: relation_heads={heads} does not divide both the teacher's width of "
            f"{teacher_shape.hidden_size} and the student's of {student_shape.hidden_size}. Choose one of "
            f"{', '.join(map(str, legal))}."
        )
    return heads
