"""The report of a run: one plain dictionary with every figure and fact, from which table, plot and card are drawn.

**Schema** (version 1). Everything is JSON: strings, numbers, booleans, lists, dictionaries, `None`. Keys marked `*`
must be there; any other may be missing or `None`, and is then shown as "–" or left out.

```
name*         str   the student's name, for instance the output folder's
model_id      str   the student's id on the Hub, if it has or will have one
license       str   a Hub licence identifier such as "apache-2.0", if the user gave one
run*
  recipe      str   name of the recipe's file
  command     str   the command line that does the run again
  seed        int
  date        str   UTC, ISO 8601
  duration_s  float
  price_per_core_hour float  dollars, where the user gave a price: adds a column of what 100 million texts cost
  versions    {package: version}
  cpu         str   see `latency.cpu_name`
  device      str   what training ran on: "cpu", "cuda", or a name
  processes   int   world size
task
  language    str   ISO 639-1 code
  problem_type str  as in a model's configuration; by default one label a row
  metric      str   the headline metric: what table, gaps, plot and gate go by: "accuracy" (where there is none),
                    "macro_f1" or "pearson"
  labels      [str] in logit order; none for scores
  score_range [float, float]  lowest and highest score of the training rows
  text_pair   bool  whether inputs are pairs of texts
  max_length  int   tokens
teacher*
  name*       str   Hub id or folder name
  hub_id      str   only where the teacher was loaded from the Hub
  revision    str   commit hash on the Hub
  fingerprint str   hash of the weights
  trained_here bool whether this run fine-tuned it
  made_here   bool  whether this run made it too, from random weights: then `name` describes it
student*
  base*       str   what it started from: "layers 2, 4, 6 of the teacher", "distilbert-base-uncased"
  hub_id      str   only where it started from a checkpoint on the Hub
  needs_remote_code bool  whether its architecture is not one of transformers', in some version of it at least
  pruned      {str: value}  what each layer keeps, and how the student learned its answers again, where it was pruned
data
  train, validation, calibration, test, each:
    source    str   Hub id or file name
    hub_id    str   only where the rows came from the Hub
    rows      int
    fingerprint str
    used_for  [str] validation only: what it was used to choose, "the best checkpoint", "the ONNX file"; [] for nothing
  transfer          the rows the student was trained on, after augmentation
    rows      int
    operators {str: int}  rows by operator
    duplicates int  rows dropped because they stood in the set already
    in_evaluation_data int  rows dropped because they stand in validation or test
    near_evaluation_data int  rows dropped because they are near a row of these, optional
    unlabelled {str: int}  texts without labels that were given, dropped, and left, optional
    generated {str: int}  texts that a language model wrote, dropped, and left, optional
    audit     {str: value}  what `audit_transfer_set` says of the rows, optional
    chosen    {filter: {str: int}}  what each filter by the teacher's answers kept, in order, optional
    self_training [{str: value}]  what each round of self-training gave, see `self_train`, optional
    settings  {str: value}  of the augmenter
training      {str: value}  hyper-parameters, in the order to show them
models*       [row], in the order to show them; each row:
  role*       str   unique: "teacher", "control", "unpruned", "student", "onnx fp32", "onnx optimized", "onnx fp16",
                    "onnx int8", ...
  name        str   shown instead of the role's bare name
  engine      str   "PyTorch", "ONNX Runtime"
  parameters  int
  size_bytes  int   of the weights' file
  evaluation  {split: result of `evaluation.evaluate_logits`, or of `scores.evaluate_scores`}, "validation" and, scored
              once at the end, "test"; where a row has one label, with "constant": result of
              `evaluation.compare_with_constant` in the headline metric, labels by name, optional
  latency     result of `latency.measure_latencies` for the model
  speedup     float p50 of the teacher / p50 of the model: added by `make_report`
comparisons   [{"a": role, "b": role, "split": split, ...result of `evaluation.compare`, or with another headline
              metric of `compare_macro_f1` or `compare_scores` (a minus b)}]
gaps          {split: {"retention", "gap_closed", "noise"}}: added by `make_report`
export        result of `export.ship`, plus "subfolder": where it lies in the output folder ("onnx")
```
"""

import json
import os
from pathlib import Path

import numpy as np

from distil_trainer.evaluation import gap_closed
from distil_trainer.headline import headline_of

REPORT_FILE = "report.json"


def make_report(
    *,
    name,
    run,
    teacher,
    student,
    models,
    comparisons=(),
    data=None,
    task=None,
    training=None,
    export=None,
    license=None,
    model_id=None,
):
    """Put a report together, check that its parts fit, and add what follows from them.

    Added are each model's `speedup`, and for each split on which teacher, control and student were scored `retention`
    (headline metric of the student / of the teacher), `gap_closed` (see `evaluation.gap_closed`) and `noise`: true
    unless student and control were compared on this split and are distinguishable.

    Args:
        name, run, teacher, student, models, comparisons, data, task, training, export, license, model_id: see the
            schema at the head of this module.

    Returns:
        `dict`: the report; its parts are copies.

    Raises:
        ValueError: if a required key is missing, two models share a role, the headline metric is unknown, or a
            comparison names a role or split that no model has.
    """
    report = {
        "format_version": 1,
        "name": name,
        "model_id": model_id,
        "license": license,
        "run": run,
        "task": task or {},
        "teacher": teacher,
        "student": student,
        "data": data or {},
        "training": training or {},
        "models": list(models),
        "comparisons": list(comparisons),
        "export": export,
    }
    report = json.loads(_to_json(report))
    _check_required("teacher", report["teacher"], ["name"])
    _check_required("student", report["student"], ["base"])
    for index, row in enumerate(report["models"]):
        _check_required(f"models[{index}]", row, ["role"])
    metric = headline_of(report).key
    rows = {row["role"]: row for row in report["models"]}
    if len(rows) < len(report["models"]):
        roles = [row["role"] for row in report["models"]]
        raise ValueError(
            f"models have the roles {roles}, and some role stands twice. Comparisons name models by their role, so a "
            "doubled role would silently mix two models up: give each its own."
        )
    for comparison in report["comparisons"]:
        _check_comparison(comparison, rows, metric)
    teacher_p50_ms = _p50_ms(rows.get("teacher", {}))
    for row in report["models"]:
        p50_ms = _p50_ms(row)
        row["speedup"] = teacher_p50_ms / p50_ms if teacher_p50_ms and p50_ms else None
    report["gaps"] = _gaps(rows, report["comparisons"], metric)
    return report


def write_report(report, folder):
    """Write a report to `report.json` in a folder, whole or not at all.

    Args:
        report (`dict`): result of `make_report`.
        folder (`str` or `os.PathLike`): made where it does not exist.

    Returns:
        `pathlib.Path`: the file.

    Raises:
        ValueError: if the report holds NaN or infinite numbers, which JSON cannot carry.
        TypeError: if it holds anything else that JSON cannot carry.
    """
    return write_atomically(Path(folder) / REPORT_FILE, _to_json(report) + "\n")


def read_report(folder):
    """Read the `report.json` that `write_report` wrote into a folder."""
    return json.loads((Path(folder) / REPORT_FILE).read_text(encoding="utf-8"))


def write_atomically(path, content):
    """Write text or bytes to a file by way of a temporary name beside it, so that no reader ever sees half of it.

    Args:
        path (`str` or `os.PathLike`): the file; its folder is made where it does not exist.
        content (`str` or `bytes`): text is written as UTF-8 with `\\n` line ends.

    Returns:
        `pathlib.Path`: the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _to_json(report):
    try:
        return json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError as error:
        raise ValueError(
            "The report holds NaN or an infinite number, which JSON cannot carry: a measurement failed. Leave the "
            "value out, or give None."
        ) from error


def _plain(value):
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(
        f"The report holds {value!r} of type {type(value).__name__}. JSON carries strings, numbers, booleans, lists, "
        "dictionaries and None: turn it into one of them."
    )


def _check_required(part, values, keys):
    missing = [key for key in keys if values.get(key) is None]
    if missing:
        raise ValueError(
            f"The report's part {part}={values} lacks {missing}. Needed is the schema that the description of "
            "distil_trainer.report gives."
        )


def _check_comparison(comparison, rows, metric):
    _check_required(
        "comparisons", comparison, ["a", "b", "split", "n", f"{metric}_difference", "p_value", "distinguishable"]
    )
    for role in (comparison["a"], comparison["b"]):
        splits = list(rows.get(role, {}).get("evaluation") or {})
        if comparison["split"] not in splits:
            raise ValueError(
                f"A comparison names a={comparison['a']!r}, b={comparison['b']!r}, split={comparison['split']!r}, but "
                f"{role!r} has figures for the splits {splits} (models: {list(rows)}). A comparison must be of two "
                "models in the table, on a split both were scored on."
            )


def _p50_ms(row):
    return (row.get("latency") or {}).get("p50_ms")


def _gaps(rows, comparisons, metric):
    """Return retention and gap closed by split, where teacher, control and student were all scored."""
    evaluations = [rows.get(role, {}).get("evaluation") or {} for role in ("student", "control", "teacher")]
    gaps = {}
    for split in evaluations[0]:
        if not all(split in evaluation for evaluation in evaluations):
            continue
        student, control, teacher = (evaluation[split][metric] for evaluation in evaluations)
        gaps[split] = {
            # A correlation may be below zero, and a share of one means nothing.
            "retention": student / teacher if teacher > 0 and student >= 0 else None,
            "gap_closed": gap_closed(student, control, teacher),
            "noise": not any(
                {comparison["a"], comparison["b"]} == {"student", "control"}
                and comparison["split"] == split
                and comparison["distinguishable"]
                for comparison in comparisons
            ),
        }
    return gaps
