"""The gate: a model ships in the fastest form that passes every limit of the user, or not at all."""

import json
import logging
import os

import numpy as np

from distil_trainer.export.choice import apply_limits, choose_rung, limits_table
from distil_trainer.export.confidence import confidence_facts, held_out_temperature, read_held_out
from distil_trainer.export.judging import answers_of, gold_answers, judge_file, read_texts, value_of
from distil_trainer.export.ladder import Ladder, is_int8
from distil_trainer.export.onnx import export_onnx
from distil_trainer.export.serving import add_runtime, file_hashes, serving_facts
from distil_trainer.export.staging import staged_folder
from distil_trainer.export.static_quantization import choose_calibration_rows
from distil_trainer.headline import choose_headline
from distil_trainer.inference import predict_logits, torch_runner
from distil_trainer.input_checks import check_pairs, padding_side
from distil_trainer.latency import latency_samples, summarize_latency
from distil_trainer.tasks import REGRESSION, problem_type

logger = logging.getLogger(__name__)

_WARMUP = 10


def ship(
    model,
    tokenizer,
    folder,
    eval_dataset,
    *,
    text_column="sentence",
    text_pair_column=None,
    label_column="label",
    max_length=128,
    max_accuracy_drop=0.005,
    target_latency_ms=None,
    max_size_mb=None,
    metric=None,
    threads=None,
    calibration_texts=None,
    calibration_text_pairs=None,
    calibrate_on=None,
):
    """Export a classifier to ONNX, try every form of it that suits, and choose the fastest that is good enough.

    Accuracy stands for the metric that is asked for: macro-F1 is gated in the same way, and of a regression, a model
    that gives a text one score, Pearson's correlation with the gold scores.

    The float ONNX must equal PyTorch (see `export_onnx`) and hold its accuracy. Further rungs are the float graph of
    fused nodes (`optimize_onnx`), static int8 (`quantize_static`; not of recurrences, which it leaves in float) and
    dynamic int8 (`quantize_dynamic`). Where no int8 holds the accuracy, dynamic int8 is made with its most harmful
    nodes in float, as measured on the calibration texts (`node_harms`); static int8 too, where it does not hold the
    accuracy of convolutions. Weights in 16 bits (`halve_weights`) are as fast as float32 and half the size, and tried
    where float32 is too large. Dynamic int8 scales activations over the batch, so int8 is scored in batches and text
    by text, and must pass both. All files are timed in turns on the evaluation texts, one text at a time
    (`measure_latencies`). Of those that pass every limit the one with the lowest median is chosen, or a smaller one
    whose median is not distinguishable from it (`choose_rung`).

    `folder` appears, or replaces an earlier export, only when all is done:

    - `model.onnx`; `model_optimized.onnx` or `model_fp16.onnx` where that was chosen; and `model_quantized.onnx`, the
      best int8 form that passes the limits, where one does,
    - `config.json` and the tokenizer, for `ORTModelForSequenceClassification.from_pretrained(folder, file_name=...)`
      and `transformers.pipeline`,
    - `classifier.py` and `requirements.txt`, to serve the folder without torch (see `Classifier`),
    - `report.json`, the content of which is returned.

    Args:
        model (`PreTrainedModel`): a single-label classifier, or a regression of one score; put into evaluation mode,
            left on its device.
        tokenizer (`PreTrainedTokenizerFast`): its tokenizer.
        folder (`str` or `os.PathLike`): a new folder, or one that holds an earlier export.
        eval_dataset (`Dataset`): labelled texts that nothing was trained on.
        text_column (`str`, *optional*, defaults to `"sentence"`): the column of texts.
        text_pair_column (`str`, *optional*): the column of second sentences.
        label_column (`str`, *optional*, defaults to `"label"`): the column of gold labels. The names of a `ClassLabel`
            are matched to the model's, in whatever order; integers are the model's label numbers.
        max_length (`int`, *optional*, defaults to 128): tokens kept of each text, and the longest input to be
            served; never more than `tokenizer.model_max_length`.
        max_accuracy_drop (`float`, *optional*, defaults to 0.005): how much of the metric an ONNX file may lose
            against PyTorch: 0.005 is half a percentage point of accuracy, or 0.005 of Pearson's correlation.
        target_latency_ms (`float`, *optional*): the longest median time of one text on this machine, without
            tokenization. By default any.
        max_size_mb (`float`, *optional*): the largest chosen file, in millions of bytes. By default any.
        metric (`str`, *optional*): "accuracy" or "macro_f1", of a regression "pearson"; by default accuracy or
            "pearson".
        threads (`int`, *optional*): threads of onnxruntime; all cores by default.
        calibration_texts (`list[str]`, *optional*): some hundreds of texts of the training data, for the scales of
            static int8 and the harm of each node. Without them there is no static int8, and parts that are known to be
            harmful stay in float.
        calibration_text_pairs (`list[str]`, *optional*): their second sentences.
        calibrate_on (`Dataset`, *optional*): labelled rows, with the columns of `eval_dataset`, on which a temperature
            is fitted (`fit_temperature`), that the logits of every file are divided by: probabilities become honest,
            labels stay. Rows that nothing was trained on and no figure is reported on. Where they have the column
            `teacher_logits` (see `TeacherLabeler`), the report says too how many texts the chosen file may answer
            alone (`cascade_report`).

    Returns:
        `dict`: `chosen` (`"model_quantized.onnx"`, or the name of a float file), `chosen_rung`, `num_rows`, `metric`,
        `pytorch_accuracy`, `max_accuracy_drop`, `target_latency_ms`, `max_size_mb`, `max_length`, `threads`, `export`
        (engine, opset, parity), `quantization` (of the int8 file that was kept, or `None`), `confidence` (see
        `confidence_facts`; `None` without `calibrate_on`), `latency` (how it was measured), `serving` (see
        `serving_facts`; `None` where `classifier.py` was left out), `sha256` (by file), `tokenizer_sha256` (of
        `tokenizer.json`, or `None`) and `rungs`, one for each form tried: `name`, `file` (`None` where it was not
        kept), `size_bytes`, `accuracy` and `accuracy_change` (the worse of the two ways of batching),
        `agreement_with_pytorch` (share of rows with the same label, in batches), `agreement_batch_1` (text by text;
        `None` for float, which does not depend on the batch), `p50_ms`, `p95_ms`, `p50_difference_ms` (of rungs that
        pass: the 95 % interval of the difference from the fastest), `passed` and `reason`. With another metric its
        name stands for `accuracy`: `pytorch_macro_f1`, `pearson_change`. Of scores, `difference_from_pytorch` and
        `difference_batch_1`, the largest difference of a score, take the place of the agreements: a correlation does
        not see scores that are shifted or stretched.

    Raises:
        TypeError: if a text is not a string.
        ValueError: if the data lacks a column, a label or rows, or has labels that are not the model's, or labels or
            scores that are all the same; if the model gives several labels or scores a row, or logits that are not
            finite, or cannot read `max_length` tokens; if its task has no such metric, or a limit is not above zero;
            if fewer than 8 calibration texts are not blank, or they do not have second sentences as the data has; if
            `calibrate_on` is given for a regression, lacks what `eval_dataset` must have, or the model does no better
            than chance on it.
        RuntimeError: if the float ONNX does not equal PyTorch or loses more accuracy than allowed, or no rung passes
            the limits: then the message has the table of what each reached. Nothing is written.
        FileExistsError: if `folder` holds anything but an earlier export.

    Reference:
        Kim and Awadalla, FastFormers, https://arxiv.org/abs/2010.13382, for the order of the rungs.
    """
    if not 0 <= max_accuracy_drop < 1:
        raise ValueError(
            f"max_accuracy_drop={max_accuracy_drop} must be at least 0 and below 1: half a percentage point, or 0.005 "
            "of a correlation, is 0.005. With any other value the gate would let nothing or everything through."
        )
    for name, limit in (("target_latency_ms", target_latency_ms), ("max_size_mb", max_size_mb)):
        if limit is not None and not limit > 0:
            raise ValueError(f"{name}={limit} must be above 0, or None for no limit: no file could ever keep to it.")
    check_pairs(model.config, tokenizer, text_pair_column)
    max_length = min(max_length, tokenizer.model_max_length)
    eval_dataset = eval_dataset.with_format(None)
    _check_answers(model.config)
    metric = choose_headline(metric, problem_type(model.config)).key
    texts, pairs = read_texts(eval_dataset, text_column, text_pair_column)
    gold = gold_answers(eval_dataset, label_column, model.config)
    held_out = temperature = None
    if calibrate_on is not None:
        columns = text_column, text_pair_column, label_column
        held_out = read_held_out(calibrate_on, columns, model.config, (texts, pairs))
    calibration = None
    if calibration_texts is not None:
        if (text_pair_column is None) != (calibration_text_pairs is None):
            raise ValueError(
                f"text_pair_column={text_pair_column!r}, but calibration_text_pairs "
                f"{'is None' if calibration_text_pairs is None else 'is given'}: the scales of static int8 would be "
                "those of other inputs than are served. Give second sentences for both or for neither."
            )
        calibration = choose_calibration_rows(calibration_texts, calibration_text_pairs)  # raises now, not later

    def predict(runner, texts=texts, pairs=pairs, **batching):
        batching["padding_side"] = padding_side(model.config)
        return predict_logits(runner, tokenizer, texts, pairs, max_length=max_length, **batching)

    def judge(path, logits):
        answers = [answers_of(each, model.config) for each in logits]
        return judge_file(path, answers, pytorch_answers, gold, metric, max_accuracy_drop)

    with staged_folder(folder) as staging:
        pytorch_logits = predict(torch_runner(model))
        if not np.isfinite(pytorch_logits).all():
            raise ValueError(
                "The model gives logits that are not finite on "
                f"{int((~np.isfinite(pytorch_logits)).any(axis=1).sum())} of {len(texts)} rows. Every comparison with "
                "them would fail or pass by accident: train it again with a lower learning rate, or in float32."
            )
        pytorch_answers = answers_of(pytorch_logits, model.config)
        if held_out is not None:
            temperature = held_out_temperature(held_out, predict(torch_runner(model), held_out.texts, held_out.pairs))
        exported = export_onnx(model, tokenizer, staging, max_length=max_length, temperature=temperature)
        ladder = Ladder(staging, predict, judge, metric=metric, threads=threads)
        rungs = ladder.rungs
        if not rungs[0]["passed"]:
            raise RuntimeError(
                f"The float ONNX does not hold the model's {metric} on {len(texts)} rows: {rungs[0]['reason']}. Its "
                "logits equal PyTorch's on random words, so the inputs differ: see that the tokenizer is the model's "
                "own, and that the exported graph takes all the inputs it makes. Nothing was written."
            )
        ladder.climb(tokenizer, calibration, max_length, max_size_mb)
        cores = threads or os.cpu_count()
        samples = latency_samples(
            {name: (runner, tokenizer) for name, runner in ladder.runners.items()},
            texts,
            pairs,
            threads=cores,
            max_length=max_length,
            warmup=_WARMUP,
        )
        latencies = {name: summarize_latency(values, cores, _WARMUP) for name, values in samples.items()}
        for rung in rungs:
            if rung["name"] in latencies:
                apply_limits(rung, latencies[rung["name"]], target_latency_ms, max_size_mb)
        passing = [rung for rung in rungs if rung["passed"]]
        if not passing:
            raise RuntimeError(
                f"No form of the model passes max_accuracy_drop={max_accuracy_drop}, target_latency_ms="
                f"{target_latency_ms} and max_size_mb={max_size_mb} with {cores} threads on this CPU "
                f"({latencies['fp32']['cpu']}):\n{limits_table(rungs, metric)}\nNothing was written. Loosen the limit "
                "that is missed, or distil into a smaller student."
            )
        milliseconds = {name: values[:, 0] for name, values in samples.items()}
        chosen = choose_rung(passing, milliseconds)
        int8 = [chosen] if is_int8(chosen) else [dict(rung) for rung in passing if is_int8(rung)]
        kept_int8 = choose_rung(int8, milliseconds)["name"] if int8 else None
        confidence = None
        if held_out is not None:
            run = ladder.runners[chosen["name"]]
            alone = None if held_out.teacher_logits is None else predict(run, held_out.texts, held_out.pairs)
            confidence = confidence_facts(temperature or 1.0, held_out, pytorch_logits, predict(run), gold, alone)
        ladder.keep({chosen["name"], kept_int8})

        serving = serving_facts(tokenizer, model.config, max_length=max_length, text_pair=pairs is not None)
        has_runtime = add_runtime(staging, tokenizer, serving, texts, pairs)
        quantization = {key: value for key, value in ladder.facts.get(kept_int8, {}).items() if key != "path"} or None
        report = {
            "chosen": chosen["file"],
            "chosen_rung": chosen["name"],
            "num_rows": len(texts),
            "metric": metric,
            f"pytorch_{metric}": value_of(metric, pytorch_answers, gold),
            "max_accuracy_drop": max_accuracy_drop,
            "target_latency_ms": target_latency_ms,
            "max_size_mb": max_size_mb,
            "max_length": max_length,
            "threads": threads,
            "export": {key: exported[key] for key in ("engine", "opset", "parity")},
            "quantization": quantization,
            "confidence": confidence,
            "latency": {key: latencies["fp32"][key] for key in ("batch_size", "n", "mean_tokens", "threads", "cpu")},
            "serving": serving if has_runtime else None,
            "sha256": file_hashes(staging),
            "tokenizer_sha256": file_hashes(staging, "tokenizer.json").get("tokenizer.json"),
            "rungs": rungs,
        }
        (staging / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if kept_int8 is None:
        logger.warning(
            "No int8 form of the model holds its %s within the limits, so %s has the float model only. %s. Allow a "
            "larger max_accuracy_drop if that is good enough.",
            metric,
            folder,
            "; ".join(f"{rung['name']}: {rung['reason']}" for rung in rungs if is_int8(rung)),
        )
    return report


def _check_answers(config):
    outputs = 1 if problem_type(config) == REGRESSION else max(2, config.num_labels)
    if config.problem_type == "multi_label_classification" or config.num_labels != outputs:
        raise ValueError(
            f"The model has num_labels={config.num_labels}, problem_type={config.problem_type!r}; the gate judges "
            "single-label classifiers and regressions of one score. Use export_onnx and quantize_dynamic, and judge "
            "the file by a metric that fits."
        )
