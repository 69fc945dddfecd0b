"""A folder that appears whole: written beside its place under a hidden name, then renamed."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

# What an export may leave in its folder, whichever version of transformers wrote it, and a card.
_EXPORT_FILES = {
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
    foreign = sorted(present - _EXPORT_FILES)
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
