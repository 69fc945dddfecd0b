"""What the runtime without torch needs in a shipped folder: how to read texts, hashes of the files, and its code."""

import hashlib
import logging
import shutil
from pathlib import Path

from distil_trainer.input_checks import padding_side
from distil_trainer.tasks import problem_type

logger = logging.getLogger(__name__)

_CHECKED_TEXTS = 256


def serving_facts(tokenizer, config, *, max_length, text_pair):
    """Say how texts become inputs of the graph, and what its outputs mean; the report's part `serving`.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): the model's tokenizer.
        config (`PretrainedConfig`): the model's configuration.
        max_length (`int`): tokens kept of each text.
        text_pair (`bool`): whether texts come in pairs.

    Returns:
        `dict`: `labels` in logit order, `problem_type`, `text_pair`, `max_length`, `truncation_side`, `padding_side`,
        and `padding`, the number written into the padding of each input that the tokenizer makes.
    """
    padding = {"input_ids": tokenizer.pad_token_id}
    if "token_type_ids" in tokenizer.model_input_names:
        padding["token_type_ids"] = tokenizer.pad_token_type_id
    return {
        "labels": [config.id2label[label] for label in range(config.num_labels)],
        "problem_type": problem_type(config),
        "text_pair": text_pair,
        "max_length": max_length,
        "truncation_side": tokenizer.truncation_side,
        "padding_side": padding_side(config),
        "padding": padding,
    }


def add_runtime(folder, tokenizer, serving, texts, pairs):
    """Put `classifier.py` and its `requirements.txt` into a folder, if it reads texts as the tokenizer does.

    Args:
        folder (`Path`): holds the saved tokenizer.
        tokenizer (`PreTrainedTokenizerFast`): the tokenizer that the model was judged with.
        serving (`dict`): result of `serving_facts`.
        texts (`list[str]`): texts to compare the two on; at most 256 are read.
        pairs (`list[str]`): their second texts, or `None`.

    Returns:
        `bool`: whether it was put there. If not, a warning says why.
    """
    # Here, because a package without the extra `onnx` has no onnxruntime.
    import numpy
    import onnxruntime
    import tokenizers

    from distil_trainer import runtime

    difference = _difference(folder, tokenizer, serving, texts[:_CHECKED_TEXTS], pairs and pairs[:_CHECKED_TEXTS])
    if difference is not None:
        logger.warning(
            "classifier.py, the runtime without torch, is left out of %s: %s. The ONNX files serve through "
            "onnxruntime with this tokenizer of transformers.",
            folder,
            difference,
        )
        return False
    shutil.copyfile(runtime.__file__, folder / "classifier.py")
    versions = {module.__name__: module.__version__ for module in (numpy, onnxruntime, tokenizers)}
    lines = [f"{name}=={version}\n" for name, version in versions.items()]
    (folder / "requirements.txt").write_text("".join(lines), encoding="utf-8")
    return True


def file_hashes(folder, pattern="*.onnx"):
    """Return the SHA-256 of each ONNX file of a folder, or of another kind, by its name, as `dict[str, str]`."""
    hashes = {}
    for path in sorted(Path(folder).glob(pattern)):
        with open(path, "rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
        hashes[path.name] = digest.hexdigest()
    return hashes


def _difference(folder, tokenizer, serving, texts, pairs):
    from distil_trainer.runtime import load_tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        return f"{type(tokenizer).__name__} has no tokenizer.json, so its rules are Python code"
    expected = tokenizer(texts, pairs, truncation=True, max_length=serving["max_length"])
    read = load_tokenizer(path, serving).encode_batch_fast(
        texts if pairs is None else list(zip(texts, pairs, strict=True))
    )
    types = expected.get("token_type_ids") if "token_type_ids" in serving["padding"] else None
    for row, encoding in enumerate(read):
        if encoding.ids != expected["input_ids"][row] or (types is not None and encoding.type_ids != types[row]):
            return (
                f"its tokenizer.json reads {texts[row][:60]!r} as {encoding.ids[:8]}..., "
                f"{type(tokenizer).__name__} as {expected['input_ids'][row][:8]}..."
            )
    return None
