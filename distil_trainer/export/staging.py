"""A folder or a file that appears whole: written beside its place under a hidden name, then renamed."""

import json
import os
import shutil
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files

_FILE_STAGING = ".quantized.partial"

# What an export may leave in its folder, whichever version of transformers wrote it, and a card.
_EXPORT_FILES = {
    _FILE_STAGING,  # of a run that was killed
    "README.md",
    "__pycache__",  # Python's, where classifier.py was imported
    "added_tokens.json",
    "chat_template.jinja",
    "classifier.py",
    "config.json",
    "merges.txt",
    "model.onnx",
    "model_fp16.onnx",
    "model_optimized.onnx",
    "model_quantized.onnx",
    "report.json",
    "requirements.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "spm.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
}


@contextmanager
def staged_folder(folder):
    """Give an empty folder to write into; when the block ends without an error, it takes the place of `folder`.

    An earlier export at `folder` stays until then and is replaced whole. A block that fails leaves `folder`
    as it was; after a kill in the moment of renaming the next call puts the earlier export back.

    Args:
        folder (`str` or `os.PathLike`): where the files shall be. Must not exist, or hold an earlier export only.

    Yields:
        `Path`: the folder to write into.

    Raises:
        FileExistsError: if `folder` is a file, or holds files that no export has written.
    """
    folder = Path(os.path.abspath(folder))
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"folder={str(folder)!r} is a file. An export is a folder: give another name.")
    staging, previous = (folder.with_name(f".{folder.name}.{state}") for state in ("partial", "previous"))
    if previous.exists() and not folder.exists():  # killed between the two renames
        os.rename(previous, folder)
    present = {path.name for path in folder.iterdir()} if folder.exists() else set()
    foreign = sorted(present - _EXPORT_FILES - code_files(folder))
    if foreign:
        raise FileExistsError(
            f"folder={str(folder)!r} holds files that are not of an export ({', '.join(foreign[:5])}). The export "
            "replaces its folder whole, so they would be lost: give a folder of its own, such as one named onnx "
            "inside this one."
        )
    for leftover in (staging, previous):  # of a run that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        if folder.exists():
            os.rename(folder, previous)
        os.rename(staging, folder)
        shutil.rmtree(previous, ignore_errors=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def code_files(folder):
    """Name the Python files of a model's and its tokenizer's own code: those that their configurations refer to.

    Args:
        folder (`Path`): a model folder, with or without code.

    Returns:
        `set[str]`: names of files in it. Code that is referred to in another repository is not in the folder.
    """
    names = set()
    for name in ("config.json", "tokenizer_config.json"):
        # A tokenizer has a list: its slow and its fast class, one of which may be missing.
        given = [each if isinstance(each, list) else [each] for each in _auto_map(folder / name).values()]
        for reference in filter(None, chain.from_iterable(given)):
            module = folder / f"{reference.split('.')[0]}.py"
            if "--" not in reference and module.is_file():
                names |= {module.name, *(Path(file).name for file in get_relative_import_files(module))}
    return names


def brings_code(folder):
    """Return whether the configuration in a folder refers to code of the model's own, wherever it lies."""
    return bool(_auto_map(folder / "config.json"))


def read_config(folder):
    """Return the configuration of a model folder as it is written (`dict`, empty where there is none)."""
    return _read_json(folder / "config.json")


def _read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _auto_map(path):
    auto_map = _read_json(path).get("auto_map") or {}
    return auto_map if isinstance(auto_map, dict) else {"AutoTokenizer": auto_map}  # as older tokenizers have it


@contextmanager
def staged_file(path):
    """Give a path to write to; when the block ends without an error, that file takes the place of `path`.

    Args:
        path (`Path`): where the file shall be; one that is there stays until then.

    Yields:
        `Path`: a file of the same name in an empty hidden folder, which may hold other files meanwhile.
    """
    staging = path.with_name(_FILE_STAGING)
    shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
    staging.mkdir()
    try:
        yield staging / path.name
        (staging / path.name).replace(path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
