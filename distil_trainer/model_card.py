"""The model card of a run, drawn from its report alone: the same report always gives the same card, byte for byte.

Mitchell et al., Model Cards for Model Reporting (arXiv 1810.03993).
"""

from importlib.resources import files
from pathlib import PurePath

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from distil_trainer.conclusions import (
    comparison_lines,
    constant_lines,
    constant_score_in_words,
    no_better_than_constant,
)
from distil_trainer.headline import METRICS, headline_of
from distil_trainer.tables import (
    MISSING,
    format_parameters,
    format_size,
    markdown_table,
    measurement_lines,
)
from distil_trainer.tasks import REGRESSION
from distil_trainer.transfer_words import round_lines, transfer_in_words
from distil_trainer.wording import listed

_SPLITS = ("train", "validation", "calibration", "test")
# File that the gate chose -> what the card calls it, and its row in the table.
_CHOSEN = {
    "model.onnx": ("", "onnx fp32"),
    "model_optimized.onnx": ("optimized ", "onnx optimized"),
    "model_fp16.onnx": ("fp16 ", "onnx fp16"),
    "model_quantized.onnx": ("int8 ", "onnx int8"),
}


def render_model_card(report, *, model_id=None):
    """Render the card of the student that a report is about.

    What the report lacks is left out of the card; nothing is made up for it. `base_model` names the teacher, and the
    checkpoint the student started from, where they come from the Hub. The Hub's relations between models (fine-tune,
    adapter, merge, quantization) have none for distillation, so none is claimed.

    Args:
        report (`dict`): result of `make_report`.
        model_id (`str`, *optional*): the model's id on the Hub, for the code that loads it, in place of the report's.
            Without either the code names a local folder.

    Returns:
        `huggingface_hub.ModelCard`: `str(card)` is the text, metadata included.
    """
    rows = {row["role"]: row for row in report["models"]}
    export, task, data = report.get("export") or {}, report["task"], report["data"]
    onnx_file, subfolder = export.get("chosen"), export.get("subfolder")
    quantized = onnx_file == "model_quantized.onnx"
    headline = headline_of(report)
    regression = task.get("problem_type") == REGRESSION
    seed = report["run"].get("seed")
    return ModelCard.from_template(
        _metadata(report),
        template_str=files("distil_trainer").joinpath("model_card_template.md").read_text(encoding="utf-8"),
        report=report,
        teacher=_model_in_words(report["teacher"], report["teacher"]["name"]),
        student=_student_in_words(report["student"]),
        kind="A text regression model" if regression else "A text classifier",
        regression=regression,
        score_range=_range_in_words(task.get("score_range")),
        headline=_first_words(report, rows, onnx_file, headline),
        location=model_id or report.get("model_id") or f"path/to/{report['name']}",
        example='{"text": "The first text.", "text_pair": "The second text."}'
        if task.get("text_pair")
        else f'"The text to {"score" if regression else "classify"}."',
        truncation=f", truncation=True, max_length={task['max_length']}" if task.get("max_length") else "",
        trust=", trust_remote_code=True" if report["student"].get("needs_remote_code") else "",
        onnx_path="/".join(part for part in (subfolder, onnx_file) if part),
        onnx_options=(f', subfolder="{subfolder}"' if subfolder else "") + f', file_name="{onnx_file}"',
        quantized=quantized,
        has_runtime=bool(export.get("serving")),
        dynamic=quantized and "calibration" not in (export.get("quantization") or {}),
        table=markdown_table(report),
        notes=[
            *measurement_lines(report),
            *constant_lines(report),
            *comparison_lines(report),
            *round_lines(report),
        ],
        test=headline.test,
        seed="" if seed is None else f" (seed {seed})",
        selection=_selection(data, rows),
        has_control="control" in rows,
        has_latency=any(row.get("latency") for row in rows.values()),
        checks=_checks(export, headline),
        confidence=_confidence(export.get("confidence")),
        rung_columns=_rung_columns(headline),
        rungs=[_rung_cells(rung, onnx_file, headline) for rung in export.get("rungs") or []],
        splits=[_split_cells(split, data[split]) for split in _SPLITS if data.get(split)],
        transfer=transfer_in_words(data.get("transfer")),
        hyperparameters=[(name, value) for name, value in report["training"].items() if value is not None],
        provenance=_provenance(report),
        scored=_scored(report),
    )


def _metadata(report):
    data, task = report["data"], report["task"]
    splits = [data[split] for split in ("train", "validation", "test") if data.get(split)]
    base_models = _hub_ids([report["teacher"], report["student"]])
    evaluation = next((row.get("evaluation") or {} for row in report["models"] if row["role"] == "student"), {})
    headline = headline_of(report)
    metrics = [headline, *(METRICS[key] for key in headline.others)]
    return ModelCardData(
        language=task.get("language"),
        license=report.get("license"),
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=base_models[0] if len(base_models) == 1 else base_models or None,
        datasets=_hub_ids(splits) or None,
        metrics=[metric.hub_type for metric in metrics] if evaluation else None,
        tags=["distillation", "onnx"] if report.get("export") else ["distillation"],
        model_name=report["name"] if evaluation else None,
        eval_results=[
            result
            for split, scores in evaluation.items()
            for result in _eval_results(split, scores, data.get(split), metrics)
        ]
        or None,
    )


def _eval_results(split, scores, facts, metrics):
    """Return the entries of the Hub's model index for one split."""
    facts = facts or {}
    source = facts.get("source") or split
    for metric in metrics:
        yield EvalResult(
            task_type="text-classification",
            # The Hub wants a data set's id here; for local rows, the name of what loads them is customary.
            dataset_type=facts.get("hub_id") or PurePath(source).suffix.lstrip(".") or "generator",
            dataset_name=source,
            dataset_split=split,
            metric_type=metric.hub_type,
            metric_name=metric.name[0].upper() + metric.name[1:],
            metric_value=round(scores[metric.key], 4),
        )


def _hub_ids(parts):
    return list(dict.fromkeys(part["hub_id"] for part in parts if part.get("hub_id")))


def _model_in_words(model, name):
    """Say which model this is: a link where it is on the Hub, the name of a folder that is not, or what a run made."""
    if model.get("made_here"):
        return f"{name} (trained in this run)"
    words = (
        f"[{model['hub_id']}](https://huggingface.co/{model['hub_id']})"
        if model.get("hub_id")
        else f"`{name}`, a local folder"
    )
    return f"{words} (fine-tuned in this run)" if model.get("trained_here") else words


def _student_in_words(student):
    words = _model_in_words(student, student["base"]) if student.get("hub_id") else student["base"]
    return f"{words}{_pruning_in_words(student['pruned'])}" if student.get("pruned") else words


def _pruning_in_words(pruned):
    """Say what pruning left, and how the student learned its answers again."""
    kept = [
        words.format(pruned[name])
        for name, words in (
            ("num_layers", "{} layers"),
            ("num_heads", "{} attention heads in each layer"),
            ("intermediate_size", "{} FFN neurons in each layer"),
            ("keep", "a share of {:g} of its encoder's FLOPs"),
            ("tokens", "{:,} tokens of its vocabulary"),
        )
        if pruned.get(name) is not None
    ]
    return (
        f". Trained, it was pruned to {listed(kept)}, and learned its "
        f"answers again from what it was before, in {pruned['recovery_steps']:,} steps"
    )


def _first_words(report, rows, onnx_file, headline):
    """Say in a few sentences what the student costs and keeps, from the figures that are there."""
    student, teacher = rows.get("student", {}), rows.get("teacher", {})
    scores, teacher_scores = student.get("evaluation") or {}, teacher.get("evaluation") or {}
    split = "test" if "test" in scores else "validation"
    words = []
    if split in scores:
        value, teacher_value = (
            headline.format_with_interval(each[split]) + headline.unit if split in each else None
            for each in (scores, teacher_scores)
        )
        against = f" (teacher: {teacher_value})" if teacher_value else ""
        words.append(f"{headline.claim.format(value=value, split=split)}{against}.")
        words += _warnings(report, split, scores[split].get("constant"), headline)
    if student.get("parameters") and teacher.get("parameters"):
        words.append(
            f"It has {format_parameters(student['parameters'])} parameters (teacher: "
            f"{format_parameters(teacher['parameters'])})."
        )
    kind, role = _CHOSEN.get(onnx_file, ("", None))
    chosen = rows.get(role, {})
    if chosen.get("latency"):
        speedup = f", {chosen['speedup']:.1f} times as fast as the teacher" if chosen.get("speedup") else ""
        words.append(
            f"Its {kind}ONNX file takes {format_size(chosen.get('size_bytes'))} and answers in "
            f"{chosen['latency']['p50_ms']:.2f} ms{speedup}."
        )
    return " ".join(words)


def _warnings(report, split, constant, headline):
    """Say first of all where the student, or what it learned from, does no better than one answer to everything."""
    weak = no_better_than_constant(report, split)
    names = [name for role, name in (("student", "it"), ("teacher", "its teacher")) if role in weak]
    if not constant or not names:
        return []
    words = " and ".join(names)
    words = [
        f"{words[0].upper()}{words[1:]} {'are' if len(names) > 1 else 'is'} not shown to be better than always "
        f"answering `{constant['label']}`, which would {constant_score_in_words(constant, headline)}."
    ]
    if constant["only_answer"] is not None:
        words.append(f"It answers `{constant['only_answer']}` on every {split} row.")
    return words


def _selection(data, rows):
    """Say what was chosen by looking at which split, and whether there are figures that no choice has touched."""
    used_for = (data.get("validation") or {}).get("used_for")
    words = ""
    if used_for:
        words = f"Validation was used to choose {' and '.join(used_for)}, so figures on it are somewhat too good. "
    elif used_for is not None:
        words = "Nothing was chosen by its figures on validation. "
    if any("test" in (row.get("evaluation") or {}) for row in rows.values()):
        return f"{words}The test split was scored once, at the end, and decided nothing."
    return f"{words}No test split was given."


def _range_in_words(score_range):
    """Say between which scores the training rows lie; empty where it is not known."""
    return f"from {score_range[0]:g} to {score_range[1]:g}" if score_range else ""


def _checks(export, headline):
    """Say what had to hold before the ONNX files were kept."""
    words = []
    parity = (export.get("export") or {}).get("parity")
    if parity:
        words.append(
            f"On unseen shapes with padding, the float file's logits differ from PyTorch's by at most "
            f"{parity['max_abs_difference']:.1g}."
        )
    if export.get("max_accuracy_drop") is not None:
        points = " points" if headline.unit else ""
        words.append(
            f"A file passes that loses at most {headline.scale * export['max_accuracy_drop']:g}{points} of "
            f"{headline.name} on the {export['num_rows']:,} validation rows."
        )
    if export.get("quantization"):
        words.append(f"Int8 was made for {export['quantization']['cpu_configuration']} processors.")
    return " ".join(words)


def _confidence(confidence):
    """Say what probabilities are worth, and which texts the student may answer without its teacher."""
    if not confidence:
        return []
    before, after = confidence["before"], confidence["after"]
    if confidence["temperature"] == 1:
        lines = [
            f"Its scores are not calibrated: it is right on all {confidence['rows']:,} rows set aside, which tell no "
            "temperature."
        ]
        return lines + _cascade(confidence)
    lines = [
        f"Scores of the ONNX files are of logits divided by a temperature of {confidence['temperature']:.2f}, fitted "
        f"on {confidence['rows']:,} rows set aside. On validation probability and share of right answers differ by "
        f"{100 * after['calibration_error']:.1f} points on average (15 bins), without it by "
        f"{100 * before['calibration_error']:.1f}. The PyTorch weights are as they were."
    ]
    return lines + _cascade(confidence)


def _cascade(confidence):
    return [
        f"Left to answer where its score is {row['threshold']:.3f} or more, the chosen file answers "
        f"{100 * row['answered_alone']:.0f} % of the texts ({100 * row['answered_alone_low']:.0f} to "
        f"{100 * row['answered_alone_high']:.0f} %), and {100 * row['agreement_reached']:.1f} % of these as "
        f"its teacher does ({row['n']:,} rows set aside)."
        for row in confidence.get("cascade") or []
        if row["threshold"] is not None
    ]


def _rung_columns(headline):
    beside = "same answer as PyTorch %" if headline.unit else "largest difference from PyTorch's scores"
    return [headline.column, f"change{', points' if headline.unit else ''}", beside]


def _rung_cells(rung, chosen, headline):
    value, change = rung.get(headline.key), rung.get(f"{headline.key}_change")
    # Dynamic int8 scales over the batch: of the two ways of batching, the worse is shown.
    agreements, differences = (
        [rung[key] for key in (f"{name}_pytorch", f"{name.partition('_')[0]}_batch_1") if rung.get(key) is not None]
        for name in ("agreement_with", "difference_from")
    )
    beside = f"{100 * min(agreements):.1f}" if agreements else f"{max(differences):.2g}" if differences else MISSING
    result = "passed" if rung.get("passed") else "refused" if rung.get("size_bytes") else "not made"
    result = f"{result}, chosen" if rung.get("passed") and rung.get("file") == chosen else result
    return [
        rung.get("file") or MISSING,
        rung.get("name") or MISSING,
        format_size(rung.get("size_bytes")),
        MISSING if value is None else headline.format(value),
        MISSING if change is None else headline.format_change(change),
        beside,
        result,
    ]


def _split_cells(split, facts):
    source = facts.get("hub_id")
    source = f"[{source}](https://huggingface.co/datasets/{source})" if source else f"`{facts.get('source', MISSING)}`"
    rows = MISSING if facts.get("rows") is None else f"{facts['rows']:,}"
    return [split, source, rows, f"`{facts['fingerprint']}`" if facts.get("fingerprint") else MISSING]


def _provenance(report):
    """Say with which teacher, when, on what and with which versions the run was made."""
    run, teacher = report["run"], report["teacher"]
    identity = [
        f"{name} `{teacher[key]}`"
        for name, key in (("revision", "revision"), ("weights' fingerprint", "fingerprint"))
        if teacher.get(key)
    ]
    words = [f"Teacher: {teacher['name']}{', ' if identity else ''}{', '.join(identity)}."]
    if run.get("date"):
        words.append(f"Run of {run['date']}.")
    if run.get("device"):
        processor = f" ({run['cpu']})" if run["device"] == "cpu" and run.get("cpu") else ""
        count = f", {run['processes']} process{'es' if run['processes'] > 1 else ''}" if run.get("processes") else ""
        words.append(f"Trained on {run['device']}{processor}{count}.")
    if run.get("duration_s") is not None:
        words.append(f"It took {run['duration_s'] / 60:.1f} minutes.")
    if run.get("versions"):
        words.append(f"With {', '.join(f'{package} {number}' for package, number in run['versions'].items())}.")
    return " ".join(words)


def _scored(report):
    """Say on which rows the models were scored."""
    sources = []
    for split in ("validation", "test"):
        counts = [(row.get("evaluation") or {}).get(split, {}).get("n") for row in report["models"]]
        if any(counts):
            source = (report["data"].get(split) or {}).get("source")
            named = f" ({source})" if source else ""
            sources.append(f"{max(filter(None, counts)):,} {split} rows{named}")
    return f"It was scored on {' and '.join(sources)} and on nothing else." if sources else "It was scored on nothing."
