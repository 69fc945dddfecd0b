"""Every file that `ship` tried, of which it keeps two or three: the others are made again, with public functions."""

import shutil
from pathlib import Path

from export_models import MAX_LENGTH

from distil_trainer import optimize_onnx, quantize_dynamic, quantize_static
from distil_trainer.export.ladder import MIXED_RUNGS, MIXED_STATIC_RUNGS
from distil_trainer.export.sensitivity import most_harmful, node_harms

FORMS = ("fp32", "fp32 optimized", "int8 static", *MIXED_STATIC_RUNGS, "int8 dynamic", *MIXED_RUNGS)
TEXTS_OF_HARMS = 64  # as many as `ship` reads


def ladder_files(shipped, report, tokenizer, calibration):
    """Return the file of every form that `ship` made, by form: those that it did not keep are made again."""
    ladder = shipped.with_name(f"{shipped.name}_ladder")
    if not ladder.exists():
        partial = ladder.with_name(f"{ladder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        shutil.copytree(shipped, partial, ignore=shutil.ignore_patterns("model_*.onnx"))
        partial.rename(ladder)
    files = {"fp32": ladder / "model.onnx"}
    for number, rung in enumerate(report["rungs"]):
        if rung["size_bytes"] is None or rung["name"] == "fp32":
            continue
        path = ladder / f"rung-{number}.onnx"
        if not path.exists():
            if rung["file"] is not None:
                made = shutil.copyfile(shipped / rung["file"], ladder / rung["file"])
            else:
                made = make_again(rung["name"], ladder, tokenizer, calibration, files)["path"]
            Path(made).rename(path)
        files[rung["name"]] = path
    return files


def make_again(form, folder, tokenizer, calibration, files):
    """Make the file of one form, as `ship` makes it, and return what is known of it."""
    if form == "fp32 optimized":
        return optimize_onnx(folder)
    kind, nodes = ("int8 static" if form.startswith("int8 static") else "int8 dynamic"), ()
    if form != kind:
        texts, share = calibration[:TEXTS_OF_HARMS], (MIXED_RUNGS | MIXED_STATIC_RUNGS)[form]
        nodes = most_harmful(node_harms(files["fp32"], files[kind], tokenizer, texts, max_length=MAX_LENGTH), share)
    if kind == "int8 static":
        return quantize_static(folder, tokenizer, calibration, max_length=MAX_LENGTH, float_nodes=nodes)
    return quantize_dynamic(folder, float_nodes=nodes)


def why_there_is_none(form, tried):
    """Say why `ship` has no file of a form."""
    if form in tried:
        return tried[form]["reason"]
    if form in MIXED_STATIC_RUNGS and "int8 static" in tried:
        return "not tried: a form of int8 holds the accuracy, or there are no convolutions"
    if form.startswith("int8 static"):
        return "not tried: static int8 leaves recurrences in float"
    if tried["int8 dynamic"]["size_bytes"] is None:
        return "not tried: there is no dynamic int8 to start from"
    return "not tried: a smaller int8 form holds the accuracy"
