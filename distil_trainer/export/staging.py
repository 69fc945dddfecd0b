"""A folder or a file that appears whole: written beside its place under a hidden name, then renamed."""

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files

_FILE_STAGING = ".quantized.partial"

# What an export may leave in its folder, whichever version of transformers wrote it, and a card.
_EXPORT_FILES = {
    _FILE_STAGING,  # of a run that was killed
    "README.md",
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "merges.txt",
    "model.onnx",
    "model_quantized.onnx",
    "report.json",
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
    foreign = sorted(present - _EXPORT_FILES - _code_files(folder))
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


def _code_files(folder):
    """Name the Python files that an exported configuration refers to: a student's code, and no other file."""
    try:
        auto_map = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("auto_map", {})
        modules = {folder / f"{reference.split('.')[0]}.py" for reference in auto_map.values()}
        return {Path(path).name for module in modules for path in (module, *get_relative_import_files(module))}
    except (OSError, ValueError):
        return set()


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
