"""The gate: a model ships in the smallest form that keeps its accuracy on the user's data, or not at all."""

import json
import logging

import numpy as np
import torch

from distil_trainer.export.judging import answers_of, gold_answers, judge_file, not_made, read_texts, value_of
from distil_trainer.export.onnx import export_onnx, onnx_runner
from distil_trainer.export.quantization import quantize_dynamic
from distil_trainer.export.staging import staged_folder
from distil_trainer.export.static_quantization import choose_calibration_rows, quantize_static
from distil_trainer.headline import choose_headline
from distil_trainer.inference import predict_logits, torch_runner
from distil_trainer.input_checks import check_pairs, padding_side
from distil_trainer.tasks import REGRESSION, problem_type

logger = logging.getLogger(__name__)

# Name of the rung -> parts kept in float; from the smallest file to the most careful one. On a 6-layer MiniLM their
# mean logit errors are 0.076, 0.050 and 0.046; float embeddings alone (0.070) gain little for their size.
_RUNGS = {
    "int8 dynamic": (),
    "int8 dynamic, float down-projections": ("down_projections",),
    "int8 dynamic, float down-projections and embeddings": ("down_projections", "embeddings"),
}
# The first rung of a graph with convolutions: dynamic int8 makes them smaller, but not faster.
_STATIC_RUNG = "int8 static"


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
    metric=None,
    threads=None,
    calibration_texts=None,
    calibration_text_pairs=None,
):
    """Export a classifier to ONNX, quantize it to int8, and keep of it what holds its accuracy.

    Accuracy stands for the metric that is asked for: macro-F1 is gated in the same way, and of a regression, a model
    that gives a text one score, Pearson's correlation with the gold scores.

    The float ONNX must equal PyTorch (see `export_onnx`) and hold its accuracy. Then rungs of int8 are tried until one
    holds it too: static int8 first where the model has convolutions (see `quantize_static`), then dynamic int8, from
    the smallest file on (see `quantize_dynamic`). Dynamic int8 scales activations over the batch, so each rung is
    scored in batches and text by text, and must pass both. `folder` appears, or replaces an earlier export, only when
    all is done:

    - `model.onnx`, and `model_quantized.onnx` where a rung passed,
    - `config.json` and the tokenizer, for `ORTModelForSequenceClassification.from_pretrained(folder, file_name=...)`
      and `transformers.pipeline`,
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
        metric (`str`, *optional*): "accuracy" or "macro_f1", of a regression "pearson"; by default accuracy or
            "pearson".
        threads (`int`, *optional*): threads of onnxruntime; all cores by default.
        calibration_texts (`list[str]`, *optional*): some hundreds of texts of the training data, for the scales of
            static int8. Only a model with convolutions needs them; without them it goes on to dynamic int8.
        calibration_text_pairs (`list[str]`, *optional*): their second sentences.

    Returns:
        `dict`: `chosen` (`"model_quantized.onnx"` or `"model.onnx"`), `num_rows`, `metric`, `pytorch_accuracy`,
        `max_accuracy_drop`, `max_length`, `threads`, `export` (engine, opset, parity), `quantization` (of the rung
        that passed, or `None`) and `rungs`, one for each form tried: `name`, `file` (`None` where it was not kept),
        `size_bytes`, `accuracy` and `accuracy_change` (the worse of the two ways of batching),
        `agreement_with_pytorch` (share of rows with the same label, in batches), `agreement_batch_1` (text by text;
        `None` for float, which does not depend on the batch), `passed` and `reason`. With another metric its name
        stands for `accuracy`: `pytorch_macro_f1`, `pearson_change`. Of scores, `difference_from_pytorch` and
        `difference_batch_1`, the largest difference of a score, take the place of the agreements: a correlation does
        not see scores that are shifted or stretched.

    Raises:
        TypeError: if a text is not a string.
        ValueError: if the data lacks a column, a label or rows, or has labels that are not the model's, or scores that
            are all the same; if the model gives several labels or scores a row, or logits that are not finite, or
            cannot read `max_length` tokens; if its task has no such metric; if fewer than 8 calibration texts are
            not blank, or they do not have second sentences as the data has.
        RuntimeError: if the float ONNX does not equal PyTorch or loses more accuracy than allowed. Nothing is written.
        FileExistsError: if `folder` holds anything but an earlier export.
    """
    if not 0 <= max_accuracy_drop < 1:
        raise ValueError(
            f"max_accuracy_drop={max_accuracy_drop} must be at least 0 and below 1: half a percentage point, or 0.005 "
            "of a correlation, is 0.005. With any other value the gate would let nothing or everything through."
        )
    check_pairs(model.config, tokenizer, text_pair_column)
    max_length = min(max_length, tokenizer.model_max_length)
    eval_dataset = eval_dataset.with_format(None)
    _check_answers(model.config)
    metric = choose_headline(metric, problem_type(model.config)).key
    texts, pairs = read_texts(eval_dataset, text_column, text_pair_column)
    gold = gold_answers(eval_dataset, label_column, model.config)
    names = [*([_STATIC_RUNG] if _has_convolutions(model) else []), *_RUNGS]
    if calibration_texts is not None and _STATIC_RUNG in names:
        if (text_pair_column is None) != (calibration_text_pairs is None):
            raise ValueError(
                f"text_pair_column={text_pair_column!r}, but calibration_text_pairs "
                f"{'is None' if calibration_text_pairs is None else 'is given'}: the scales of static int8 would be "
                "those of other inputs than are served. Give second sentences for both or for neither."
            )
        choose_calibration_rows(calibration_texts, calibration_text_pairs)  # raises now, not after the export

    def predict(runner, **batching):
        batching["padding_side"] = padding_side(model.config)
        return predict_logits(runner, tokenizer, texts, pairs, max_length=max_length, **batching)

    def score(path, *ways_of_batching):
        runner = onnx_runner(path, threads)
        answers = [answers_of(predict(runner, **batching), model.config) for batching in ways_of_batching]
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
        exported = export_onnx(model, tokenizer, staging, max_length=max_length)
        rungs = [{"name": "fp32", **score(staging / "model.onnx", {})}]
        if not rungs[0]["passed"]:
            raise RuntimeError(
                f"The float ONNX does not hold the model's {metric} on {len(texts)} rows: {rungs[0]['reason']}. Its "
                "logits equal PyTorch's on random words, so the inputs differ: see that the tokenizer is the model's "
                "own, and that the exported graph takes all the inputs it makes. Nothing was written."
            )
        quantization = None
        for name in names:
            if name == _STATIC_RUNG and calibration_texts is None:
                rungs.append({"name": name, **not_made(metric, "not tried: it needs calibration_texts")})
                logger.info("Static int8, the fast form of convolutions, was not tried: it needs calibration_texts.")
                continue
            try:
                if name == _STATIC_RUNG:
                    attempt = quantize_static(
                        staging, tokenizer, calibration_texts, calibration_text_pairs, max_length=max_length
                    )
                else:
                    attempt = quantize_dynamic(staging, keep_float=_RUNGS[name])
            except RuntimeError as error:
                rungs.append({"name": name, **not_made(metric, str(error))})
                continue
            rungs.append({"name": name, **score(staging / "model_quantized.onnx", {}, {"tokens_per_batch": 1})})
            if rungs[-1]["passed"]:
                quantization = {key: value for key, value in attempt.items() if key != "path"}
                break
            rungs[-1]["file"] = None
            (staging / "model_quantized.onnx").unlink()
        report = {
            "chosen": "model.onnx" if quantization is None else "model_quantized.onnx",
            "num_rows": len(texts),
            "metric": metric,
            f"pytorch_{metric}": value_of(metric, pytorch_answers, gold),
            "max_accuracy_drop": max_accuracy_drop,
            "max_length": max_length,
            "threads": threads,
            "export": {key: exported[key] for key in ("engine", "opset", "parity")},
            "quantization": quantization,
            "rungs": rungs,
        }
        (staging / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if quantization is None:
        logger.warning(
            "No int8 form of the model holds its %s, so %s has the float model only. %s. Allow a larger "
            "max_accuracy_drop if that is good enough.",
            metric,
            folder,
            "; ".join(f"{rung['name']}: {rung['reason']}" for rung in rungs[1:]),
        )
    return report


def _has_convolutions(model):
    return any(isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d)) for module in model.modules())


def _check_answers(config):
    outputs = 1 if problem_type(config) == REGRESSION else max(2, config.num_labels)
    if config.problem_type == "multi_label_classification" or config.num_labels != outputs:
        raise ValueError(
            f"The model has num_labels={config.num_labels}, problem_type={config.problem_type!r}; the gate judges "
            "single-label classifiers and regressions of one score. Use export_onnx and quantize_dynamic, and judge "
            "the file by a metric that fits."
        )
