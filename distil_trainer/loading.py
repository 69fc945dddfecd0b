"""A classifier and its tokenizer from the Hub or from a folder: in float32, whole, or not at all."""

import json
import logging
import os
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
)

import distil_trainer.students  # noqa: F401  makes their folders loadable, with no code from the folders
from distil_trainer.input_checks import check_padding
from distil_trainer.labels import label_permutation, model_label_names
from distil_trainer.students.pruned_encoders import class_for_pruned_heads

logger = logging.getLogger(__name__)


def load_classifier(name_or_path, *, revision=None, label_names=None, to_be_trained=False, trust_remote_code=False):
    """Load a sequence classifier and its fast tokenizer.

    The model is in float32 whatever type the checkpoint has, in evaluation mode, on the CPU. Where it came from the
    Hub, `model.config._commit_hash` is the commit that was loaded, else it is `None`. A tokenizer without a padding
    token (GPT-like models) gets its end-of-text token as one, and the model is told.

    Args:
        name_or_path (`str` or `os.PathLike`): a Hub id or a local folder.
        revision (`str`, *optional*): branch, tag or commit on the Hub.
        label_names (`list[str]`, *optional*): with `to_be_trained`, the labels of the model, in logit order. Otherwise
            the names that the model must have, in any order; a model that has only the placeholders `LABEL_0`, ...
            takes them in the order given.
        to_be_trained (`bool`, *optional*, defaults to `False`): the caller will train the model, so a classification
            head that is missing from the checkpoint, or has another number of labels, may start from random weights.
        trust_remote_code (`bool`, *optional*, defaults to `False`): run the Python files of the repository. Of the
            students of this package those of the package run.

    Returns:
        `tuple[PreTrainedModel, PreTrainedTokenizerFast]`

    Raises:
        OSError: if nothing can be loaded from `name_or_path`, or it has no tokenizer.
        ValueError: if the checkpoint lacks weights that nobody will train, needs code that is not trusted, has no fast
            tokenizer, no token to pad with or one that it would read as text, or a tokenizer of another model, or
            does not have `label_names`.
    """
    name = os.fspath(name_or_path)
    config = _config_dict(name, revision)
    _check_code_is_trusted(name, config, trust_remote_code)
    tokenizer = _load_tokenizer(name, revision, trust_remote_code)
    # The folder of a student of this package holds a copy of its code, which may be an older one.
    runs_its_code = trust_remote_code and not _is_our_student(config)
    model = _load_model(name, revision, label_names, to_be_trained, runs_its_code, class_for_pruned_heads(config))
    model.config._commit_hash = _commit_hash(name, revision)
    rows, tokens = model.get_input_embeddings().num_embeddings, len(tokenizer)
    if tokens > rows:
        raise ValueError(
            f"name_or_path={name!r} has a tokenizer of {tokens} tokens and a model with embeddings for {rows}. Some "
            "token numbers would fall outside of the table, so this is the tokenizer of another model: save the "
            "right one there."
        )
    _ensure_padding(model, tokenizer, name)
    check_padding(model.config, tokenizer)
    return model, tokenizer


def name_tokenizer_class(folder):
    """Name the class of a saved tokenizer as both majors of transformers know it.

    transformers 5 saves a tokenizer that is of no model's own class as TokenizersBackend, which transformers 4 cannot
    load. This can go when 4 is no longer supported.

    Args:
        folder (`str` or `os.PathLike`): what `tokenizer.save_pretrained` wrote, or a folder without a tokenizer; its
            `tokenizer_config.json` may be written anew.
    """
    path = Path(folder) / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        temporary = path.with_name(f"{path.name}.tmp")
        temporary.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.replace(path)


def _config_dict(name, revision):
    cause = None
    try:
        config, _ = PretrainedConfig.get_config_dict(name, revision=revision)
    except OSError as error:
        config, cause = {}, error
    if config:
        return config
    if Path(name).is_dir():
        raise OSError(
            f"name_or_path={name!r} is a folder without a readable config.json. A model folder is what "
            "`model.save_pretrained(folder)` and `tokenizer.save_pretrained(folder)` write: give such a folder."
        ) from cause
    if Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise OSError(
            f"name_or_path={name!r}: there is no such folder. Correct the path, or give a Hub id."
        ) from cause
    raise OSError(
        f"name_or_path={name!r} is not a folder here, and its config.json could not be loaded from the Hub (the cause "
        "is above: no network, no such repository or revision, or no access to it). Without network, give a local "
        "folder that holds the model: in the recipes --teacher_model_name_or_path and --student_model_name_or_path "
        "take one."
    ) from cause


def _commit_hash(name, revision):
    """Return the commit that was loaded from the Hub, or `None` for a folder. transformers 5 does not keep it."""
    if Path(name).is_dir():
        return None
    # The Hub's cache is laid out as snapshots/<commit>/config.json.
    cached = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(cached).parent.name if isinstance(cached, str) else None


def _check_code_is_trusted(name, config, trust_remote_code):
    if "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING and not trust_remote_code:
        raise ValueError(
            f"name_or_path={name!r} has model_type={config.get('model_type')!r}, which is defined by Python files in "
            "that repository. They would run on this machine with your rights: read them, then pass "
            "trust_remote_code=True."
        )


def _is_our_student(config):
    model_type = config.get("model_type")
    return model_type in CONFIG_MAPPING and CONFIG_MAPPING[model_type].__module__.startswith("distil_trainer.")


def _load_tokenizer(name, revision, trust_remote_code):
    no_tokenizer = (
        f"name_or_path={name!r} has no tokenizer that can be loaded. Without the model's own tokenizer its inputs "
        "would mean nothing: call `tokenizer.save_pretrained(...)` with the tokenizer it was trained with, into the "
        "same place."
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise OSError(no_tokenizer) from error
    # transformers 5 makes a tokenizer of special tokens alone where the files are missing.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise OSError(no_tokenizer)
    if not tokenizer.is_fast:
        raise ValueError(
            f"name_or_path={name!r} has a slow tokenizer only ({type(tokenizer).__name__}). Labelling and serving "
            "need the `tokenizers` library's file tokenizer.json: convert it (`pip install sentencepiece` lets "
            "transformers convert most) and save it there, or choose another model."
        )
    return tokenizer


def _load_model(name, revision, label_names, to_be_trained, trust_remote_code, pruned_class):
    label_maps = {}
    if to_be_trained and label_names is not None:
        label_maps["id2label"] = dict(enumerate(label_names))
        label_maps["label2id"] = {label: index for index, label in enumerate(label_names)}
    loader = AutoModelForSequenceClassification
    if pruned_class is not None:
        # The class of transformers 5 knows of no pruned heads, and that of 4.57 would be saved without code for 5.
        loader, trust_remote_code = pruned_class, False
        label_maps = {"config": AutoConfig.from_pretrained(name, revision=revision, **label_maps)}
    model, loading = loader.from_pretrained(
        name,
        revision=revision,
        dtype=torch.float32,  # transformers 5 keeps a checkpoint's float16
        trust_remote_code=trust_remote_code,
        ignore_mismatched_sizes=True,  # they are judged here, where the error can say what to do
        output_loading_info=True,
        **label_maps,
    )
    # Names in transformers 4.57; in 5 names with two shapes.
    mismatched = {key if isinstance(key, str) else key[0] for key in loading["mismatched_keys"]}
    untrained = sorted(set(loading["missing_keys"]) | mismatched)
    encoder = [key for key in untrained if key.startswith(f"{model.base_model_prefix}.") and ".pooler." not in key]
    if encoder:
        raise ValueError(
            f"name_or_path={name!r} lacks weights of the encoder, or has them in another shape: {_some(encoder)}. "
            "They would be random in silence: the files and config.json do not belong together, so export the "
            "checkpoint again."
        )
    if untrained and not to_be_trained:
        raise ValueError(
            f"name_or_path={name!r} has no trained classification head: {_some(untrained)} are missing from it or "
            "have another shape. Its logits would be random, and a student would learn noise. Give a fine-tuned "
            "classifier, or fine-tune this one first (to_be_trained=True; in the recipes --train_teacher)."
        )
    if label_names is not None and not to_be_trained:
        _name_labels(model, name, label_names)
    return model.eval()


def _some(keys):
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _name_labels(model, name, label_names):
    own_names = model_label_names(model.config)
    if own_names is None and len(label_names) == model.config.num_labels:
        logger.info("%s has no label names of its own: its logits are read as %s, in this order.", name, label_names)
        model.config.id2label = dict(enumerate(label_names))
        model.config.label2id = {label: index for index, label in enumerate(label_names)}
    else:
        placeholders = [model.config.id2label[index] for index in range(model.config.num_labels)]
        label_permutation(
            own_names or placeholders, list(label_names), given=f"the model {name}", wanted="label_names"
        )


def _ensure_padding(model, tokenizer, name):
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                f"name_or_path={name!r} has a tokenizer with neither a padding token nor an end-of-text token. Texts "
                "of different lengths could not share a batch: set `tokenizer.pad_token` to a token that texts do "
                "not contain, resize the model's embeddings where it is new, and save both."
            )
        tokenizer.pad_token = tokenizer.eos_token
        logger.info("%s has no padding token: its end-of-text token %r pads.", name, tokenizer.eos_token)
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id
