"""A student cut out of its teacher: the embeddings, some of the encoder layers and the head.

Paper: DistilBERT (https://huggingface.co/papers/1910.01108), section 3, starts its student from every second layer.
"""

import copy
import re

import torch

# model_type -> (list of the encoder layers, name of their number in the configuration)
_FAMILIES = {
    "bert": ("bert.encoder.layer", "num_hidden_layers"),
    "roberta": ("roberta.encoder.layer", "num_hidden_layers"),
    "electra": ("electra.encoder.layer", "num_hidden_layers"),
    "distilbert": ("distilbert.transformer.layer", "n_layers"),
}


def student_from_teacher(teacher, num_layers=None, layers=None):
    """Make a student of the teacher's class from the teacher's embeddings, chosen encoder layers and head.

    The student is in float32 (whatever the teacher's type), in evaluation mode, on the teacher's device. It shares no
    tensor with the teacher, which is left as it is. All of its parameters are trainable.

    Args:
        teacher (`PreTrainedModel`): a classifier of the BERT, RoBERTa, ELECTRA or DistilBERT family.
        num_layers (`int`, *optional*): how many layers, evenly spaced and ending with the teacher's last: layer
            `floor(k * teacher_layers / num_layers)` for `k` = 1, ..., `num_layers` (3 of 6: 2, 4, 6; 4 of 6: 1, 3, 4,
            6).
        layers (`list[int]`, *optional*): which layers, counted from 1, increasing. Give either this or `num_layers`.

    Returns:
        `PreTrainedModel` with a configuration of its own; label names and all sizes but the depth are the teacher's.

    Raises:
        TypeError: if `layers` is not a list of integers, or `num_layers` is not an integer.
        ValueError: if the family is another, if heads of the teacher are pruned, or if the layers are not within it.

    Reference:
        DistilBERT (https://huggingface.co/papers/1910.01108), section 3. It also drops the token types and the pooler;
        here the student stays of the teacher's class, so that its head can be copied too.

    Example:
        ```python
        student = student_from_teacher(teacher, layers=[2, 4, 6])
        ```
    """
    config = copy.deepcopy(teacher.config)
    if config.model_type not in _FAMILIES:
        raise ValueError(
            f"The teacher has model_type={config.model_type!r}; layers can be taken from {', '.join(_FAMILIES)}. "
            "Which weights make up a layer of another family is not known here: load a small pretrained student "
            "instead (`load_classifier(..., to_be_trained=True)`)."
        )
    if getattr(config, "pruned_heads", None):
        raise ValueError(
            f"The teacher has pruned_heads={config.pruned_heads}, which count its own layers. In a student with fewer "
            "layers they would point to other ones: choose layers from the unpruned teacher, then prune the student, "
            "or call prune(teacher, num_layers=...)."
        )
    stem, depth_name = _FAMILIES[config.model_type]
    chosen = _chosen_layers(config.num_hidden_layers, num_layers, layers)
    setattr(config, depth_name, len(chosen))
    config.dtype = torch.float32
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are all overwritten
        student = type(teacher)(config)
    student.to(dtype=torch.float32)
    student.load_state_dict(_select(teacher.state_dict(), stem, chosen))
    return student.to(teacher.device).eval()


def _chosen_layers(teacher_layers, num_layers, layers):
    if (num_layers is None) == (layers is None):
        raise ValueError(
            f"num_layers={num_layers}, layers={layers}: give exactly one of them. `num_layers` spaces the layers "
            "evenly, `layers` names them, counted from 1."
        )
    if layers is None:
        if not _is_integer(num_layers):
            raise TypeError(f"num_layers={num_layers!r} must be an integer.")
        if not 1 <= num_layers <= teacher_layers:
            raise ValueError(
                f"num_layers={num_layers}: the teacher has {teacher_layers} layers, so between 1 and {teacher_layers} "
                "can be taken."
            )
        return [(k + 1) * teacher_layers // num_layers for k in range(num_layers)]
    if isinstance(layers, str) or not all(_is_integer(layer) for layer in layers):
        raise TypeError(f"layers={layers!r} must be a list of integers, such as [2, 4, 6].")
    chosen = list(layers)
    if not chosen or min(chosen) < 1 or max(chosen) > teacher_layers:
        raise ValueError(
            f"layers={chosen}: name at least one, counted from 1 to {teacher_layers}, the number of the teacher's "
            "layers."
        )
    if any(later <= earlier for earlier, later in zip(chosen, chosen[1:], strict=False)):
        raise ValueError(
            f"layers={chosen} must increase, each layer once: a layer fed with what stood above it in the teacher "
            f"would start from a state worse than random. Did you mean {sorted(set(chosen))}?"
        )
    return chosen


def _is_integer(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _select(weights, stem, chosen):
    """Keep the weights outside of the layers and those of the chosen ones, renumbered from 0."""
    new_index = {layer - 1: index for index, layer in enumerate(chosen)}
    selected = {}
    for name, weight in weights.items():
        match = re.fullmatch(rf"{re.escape(stem)}\.(\d+)\.(.+)", name)
        if match is None:
            selected[name] = weight
        elif int(match[1]) in new_index:
            selected[f"{stem}.{new_index[int(match[1])]}.{match[2]}"] = weight
    return selected
