"""What teacher logits depend on besides the text, hashed into one key; and the type they are computed in."""

import json
from pathlib import Path

import torch
import xxhash

from distil_trainer.input_checks import padding_side

_DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}
# Facts about where a model came from, which leave its logits as they are.
_NOT_IN_KEY = {"_name_or_path", "_commit_hash", "architectures", "dtype", "torch_dtype", "transformers_version"}


def teacher_key(teacher, tokenizer, *, max_length, dtype, pairs):
    """Hash a teacher's weights and configuration, its tokenizer, and how texts are read.

    Args:
        teacher (`PreTrainedModel`): a sequence classifier, on any device.
        tokenizer (`PreTrainedTokenizerFast`): its tokenizer; truncation and padding of earlier calls do not count.
        max_length (`int`): tokens kept.
        dtype (`torch.dtype`): the type it computes in.
        pairs (`bool`): whether it reads pairs of texts.

    Returns:
        `str` of 32 hexadecimal digits.
    """
    config = {name: value for name, value in teacher.config.to_diff_dict().items() if name not in _NOT_IN_KEY}
    facts = {
        "format": 1,
        "weights": weights_hash(teacher),
        "class": type(teacher).__name__,
        "config": config,
        "label_names": [teacher.config.id2label[index] for index in range(teacher.config.num_labels)],
        "tokenizer": _tokenizer_facts(tokenizer, teacher.config),
        "max_length": max_length,
        "dtype": str(dtype),
        "pairs": pairs,
    }
    return xxhash.xxh3_128_hexdigest(json.dumps(facts, sort_keys=True, default=str).encode())


def resolve_dtype(dtype, teacher_dtype, device):
    """Choose the type that a teacher computes in.

    Args:
        dtype (`str` or `torch.dtype`): `"auto"`, or a type by name or itself: float32, bfloat16, float16.
        teacher_dtype (`torch.dtype`): the type of the teacher's weights.
        device (`torch.device`): where it runs.

    Returns:
        `torch.dtype`

    Raises:
        ValueError: if `dtype` is none of these, or is float32 for a teacher of lower precision.
    """
    if dtype == "auto":
        if teacher_dtype != torch.float32:
            return teacher_dtype
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    resolved = _DTYPES.get(dtype, dtype)
    if resolved not in _DTYPES.values():
        raise ValueError(f"dtype={dtype!r} must be 'auto' or one of {list(_DTYPES)}.")
    if teacher_dtype not in (torch.float32, resolved):
        raise ValueError(
            f"dtype={dtype!r}, but the teacher's weights are {teacher_dtype}: its logits would not have the precision "
            "asked for. Load it with `from_pretrained(..., dtype=torch.float32)`, or leave dtype='auto'."
        )
    return resolved


def name_teacher(config):
    """Name a teacher for people: its Hub id and revision, or the name of its folder.

    Args:
        config (`PretrainedConfig`): the teacher's configuration.

    Returns:
        `str`
    """
    path = config._name_or_path
    if Path(path).is_dir():
        return Path(path).resolve().name if path else f"an unnamed {config.model_type} classifier"
    # Set by transformers 4.57 and by `load_classifier`, but not by transformers 5 itself.
    revision = getattr(config, "_commit_hash", None)
    return f"{path} at revision {revision}" if revision else path


def weights_hash(model):
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _tokenizer_facts(tokenizer, config):
    # The truncation and padding in tokenizer.json are those of the last call.
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["truncation"] = content["padding"] = None
    return {
        "content": content,
        "mask_token": tokenizer.mask_token or tokenizer.unk_token,
        "inputs": tokenizer.model_input_names,
        "padding": [tokenizer.pad_token_id, padding_side(config)],
        "truncation_side": tokenizer.truncation_side,
    }


def _multiplies_bfloat16(device):
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
