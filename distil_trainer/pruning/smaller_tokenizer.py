"""A fast tokenizer with some of its tokens, renumbered in their order."""

import copy
import json
import tempfile
from pathlib import Path

import numpy as np

from distil_trainer.pruning.kept_tokens import merges_of

_KINDS = ("WordPiece", "BPE", "Unigram", "WordLevel")


def tokenizer_json(tokenizer):
    """Return what a fast tokenizer is made of, if it can be made smaller.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): any.

    Returns:
        `dict`: its `tokenizer.json`.

    Raises:
        ValueError: if it is no fast tokenizer, or one of a kind whose tokens cannot be taken out one by one.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"tokenizer={type(tokenizer).__name__} is a slow one, whose vocabulary stands in its own code: give the "
            "fast one, which has a tokenizer.json."
        )
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    model = described["model"]
    if model["type"] not in _KINDS:
        raise ValueError(
            f"tokenizer has a model of type {model['type']!r}: tokens can be taken out of {', '.join(_KINDS)}. Train "
            "a student with a tokenizer of its own instead (`train_tokenizer`)."
        )
    if model.get("dropout"):
        raise ValueError(
            f"tokenizer has dropout={model['dropout']}: it cuts the same text differently each time, so that there is "
            "no telling which tokens are in use. Set `tokenizer.backend_tokenizer.model.dropout = None`."
        )
    return described


def make_smaller_tokenizer(tokenizer, described, stay):
    """Make a tokenizer with the tokens that stay.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): left as it is.
        described (`dict`): what `tokenizer_json` says of it.
        stay (`np.ndarray` of shape `(num_tokens,)`, bool): which tokens stay, special and added ones among them.

    Returns:
        `PreTrainedTokenizerFast`: of the same class, with the same settings.
    """
    new_number = np.where(stay, np.cumsum(stay) - 1, -1)
    smaller = copy.deepcopy(described)
    smaller["truncation"] = smaller["padding"] = None  # of the last call
    _shrink_model(smaller["model"], new_number)
    for token in smaller["added_tokens"]:
        token["id"] = int(new_number[token["id"]])
    _renumber_post_processor(smaller["post_processor"], new_number)
    # By way of files, which each class of tokenizers reads in its own way.
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in Path(folder).iterdir():
            if path.name not in ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
                path.unlink()  # the whole vocabulary in other forms
        settings = json.loads((Path(folder) / "tokenizer_config.json").read_text(encoding="utf-8"))
        settings.pop("added_tokens_decoder", None)  # names numbers; tokenizer.json says the same
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        (Path(folder) / "tokenizer.json").write_text(json.dumps(smaller), encoding="utf-8")
        # Sides that were set on the tokenizer after it was made are not saved with it.
        sides = {"truncation_side": tokenizer.truncation_side, "padding_side": tokenizer.padding_side}
        made = type(tokenizer).from_pretrained(folder, **sides)
    made.name_or_path = tokenizer.name_or_path
    return made


def _shrink_model(model, new_number):
    vocab = model["vocab"]
    if model["type"] == "Unigram":
        model["vocab"] = [piece for number, piece in enumerate(vocab) if new_number[number] >= 0]
        if model["unk_id"] is not None:
            model["unk_id"] = int(new_number[model["unk_id"]])
        return
    kept = {token: int(new_number[number]) for token, number in vocab.items() if new_number[number] >= 0}
    model["vocab"] = dict(sorted(kept.items(), key=lambda item: item[1]))
    if model["type"] == "BPE":
        merges = zip(model["merges"], merges_of(model), strict=True)
        model["merges"] = [merge for merge, tokens in merges if all(token in kept for token in tokens)]


def _renumber_post_processor(processor, new_number):
    """Renumber the special tokens that are put around a text."""
    if processor is None:
        return
    for each in processor.get("processors", []):
        _renumber_post_processor(each, new_number)
    for token in (processor.get("special_tokens") or {}).values():
        # One beyond the table stays there: it is how the tokenizers of this package have pairs refused.
        known = [number < len(new_number) for number in token["ids"]]
        numbers = zip(token["ids"], known, strict=True)
        token["ids"] = [int(new_number[number]) if is_known else number for number, is_known in numbers]
    for name in ("sep", "cls"):
        if name in processor:
            token, number = processor[name]
            processor[name] = [token, int(new_number[number])]
