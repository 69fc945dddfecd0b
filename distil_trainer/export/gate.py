"""The gate: a model ships in the smallest form that keeps its accuracy on the user's data, or not at all."""

import json
import logging

import numpy as np
import torch

from distil_trainer.export.onnx import export_onnx, onnx_runner
from distil_trainer.export.quantization import quantize_dynamic
from distil_trainer.export.staging import staged_folder
from distil_trainer.export.static_quantization import choose_calibration_rows, quantize_static
from distil_trainer.inference import predict_logits, torch_runner
from distil_trainer.input_checks import check_pairs, padding_side
from distil_trainer.labels import dataset_label_names, label_permutation, model_label_names

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
    threads=None,
    calibration_texts=None,
    calibration_text_pairs=None,
):
    """Export a classifier to ONNX, quantize it to int8, and keep of it what holds its accuracy.

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
        model (`PreTrainedModel`): a single-label classifier; put into evaluation mode, left on its device.
        tokenizer (`PreTrainedTokenizerFast`): its tokenizer.
        folder (`str` or `os.PathLike`): a new folder, or one that holds an earlier export.
        eval_dataset (`Dataset`): labelled texts that nothing was trained on.
        text_column (`str`, *optional*, defaults to `"sentence"`): the column of texts.
        text_pair_column (`str`, *optional*): the column of second sentences.
        label_column (`str`, *optional*, defaults to `"label"`): the column of gold labels. The names of a `ClassLabel`
            are matched to the model's, in whatever order; integers are the model's label numbers.
        max_length (`int`, *optional*, defaults to 128): tokens kept of each text, and the longest input to be
            served; never more than `tokenizer.model_max_length`.
        max_accuracy_drop (`float`, *optional*, defaults to 0.005): how much accuracy, as a share of all rows, an ONNX
            file may lose against PyTorch.
        threads (`int`, *optional*): threads of onnxruntime; all cores by default.
        calibration_texts (`list[str]`, *optional*): some hundreds of texts of the training data, for the scales of
            static int8. Only a model with convolutions needs them; without them it goes on to dynamic int8.
        calibration_text_pairs (`list[str]`, *optional*): their second sentences.

    Returns:
        `dict`: `chosen` (`"model_quantized.onnx"` or `"model.onnx"`), `num_rows`, `pytorch_accuracy`,
        `max_accuracy_drop`, `max_length`, `threads`, `export` (engine, opset, parity), `quantization` (of the rung
        that passed, or `None`) and `rungs`, one for each form tried: `name`, `file` (`None` where it was not kept),
        `size_bytes`, `accuracy` and `accuracy_change` (the worse of the two ways of batching),
        `agreement_with_pytorch` (share of rows with the same label, in batches), `agreement_batch_1` (text by text;
        `None` for float, which does not depend on the batch), `passed` and `reason`.

    Raises:
        TypeError: if a text is not a string.
        ValueError: if the data lacks a column, a label or rows, or has labels that are not the model's; if the model
            is no single-label classifier, gives logits that are not finite, or cannot read `max_length` tokens; if
            fewer than 8 calibration texts are not blank, or they do not have second sentences as the data has.
        RuntimeError: if the float ONNX does not equal PyTorch or loses more accuracy than allowed. Nothing is written.
        FileExistsError: if `folder` holds anything but an earlier export.
    """
    if not 0 <= max_accuracy_drop < 1:
        raise ValueError(
            f"max_accuracy_drop={max_accuracy_drop} must be at least 0 and below 1: it is a share of the rows, half a "
            "percentage point is 0.005. With any other value the gate would let nothing or everything through."
        )
    check_pairs(model.config, tokenizer, text_pair_column)
    max_length = min(max_length, tokenizer.model_max_length)
    eval_dataset = eval_dataset.with_format(None)
    texts, pairs = _texts(eval_dataset, text_column, text_pair_column)
    gold = _gold_labels(eval_dataset, label_column, model.config)
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
        labels = [predict(runner, **batching).argmax(axis=1) for batching in ways_of_batching]
        return _compare(path, labels, pytorch_labels, gold, max_accuracy_drop)

    with staged_folder(folder) as staging:
        pytorch_logits = predict(torch_runner(model))
        if not np.isfinite(pytorch_logits).all():
            raise ValueError(
                "The model gives logits that are not finite on "
                f"{int((~np.isfinite(pytorch_logits)).any(axis=1).sum())} of {len(texts)} rows. Every comparison with "
                "them would fail or pass by accident: train it again with a lower learning rate, or in float32."
            )
        pytorch_labels = pytorch_logits.argmax(axis=1)
        pytorch_accuracy = float(np.mean(pytorch_labels == gold))
        exported = export_onnx(model, tokenizer, staging, max_length=max_length)
        rungs = [{"name": "fp32", **score(staging / "model.onnx", {})}]
        if not rungs[0]["passed"]:
            raise RuntimeError(
                f"The float ONNX does not hold the model's accuracy on {len(texts)} rows: {rungs[0]['reason']}. Its "
                "logits equal PyTorch's on random words, so the inputs differ: see that the tokenizer is the model's "
                "own, and that the exported graph takes all the inputs it makes. Nothing was written."
            )
        quantization = None
        for name in names:
            if name == _STATIC_RUNG and calibration_texts is None:
                rungs.append({"name": name, **_NOT_MADE, "reason": "not tried: it needs calibration_texts"})
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
                rungs.append({"name": name, **_NOT_MADE, "reason": str(error)})
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
            "pytorch_accuracy": pytorch_accuracy,
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
            "No int8 form of the model holds its accuracy, so %s has the float model only. %s. Allow a larger "
            "max_accuracy_drop if that is good enough.",
            folder,
            "; ".join(f"{rung['name']}: {rung['reason']}" for rung in rungs[1:]),
        )
    return report


def _has_convolutions(model):
    return any(isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d)) for module in model.modules())


_NOT_MADE = {
    "file": None,
    "size_bytes": None,
    "accuracy": None,
    "accuracy_change": None,
    "agreement_with_pytorch": None,
    "agreement_batch_1": None,
    "passed": False,
}


def _compare(path, labels, pytorch_labels, gold, max_accuracy_drop):
    """Judge a file by its labels; `labels` holds them once for each way of batching, the worst of which counts."""
    pytorch_accuracy = float(np.mean(pytorch_labels == gold))
    accuracy = min(float(np.mean(one == gold)) for one in labels)
    agreements = [float(np.mean(one == pytorch_labels)) for one in labels]
    passed = accuracy - pytorch_accuracy >= -max_accuracy_drop - 1e-12
    return {
        "file": path.name,
        "size_bytes": path.stat().st_size,
        "accuracy": accuracy,
        "accuracy_change": accuracy - pytorch_accuracy,
        "agreement_with_pytorch": agreements[0],
        "agreement_batch_1": agreements[1] if len(agreements) > 1 else None,
        "passed": passed,
        "reason": f"accuracy {pytorch_accuracy:.4f} -> {accuracy:.4f}, "
        f"{'within' if passed else 'beyond'} the allowed drop of {max_accuracy_drop}",
    }


def _texts(dataset, text_column, text_pair_column):
    if not len(dataset):
        raise ValueError("eval_dataset has no rows, so nothing can be said of the accuracy: give labelled texts.")
    columns = []
    for column in (text_column, text_pair_column):
        if column is None:
            columns.append(None)
            continue
        _check_column(dataset, column, "text")
        texts = list(dataset[column])
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(
                    f"Row {row} of eval_dataset has {column}={text!r}; a text must be a string. Drop such rows, or "
                    "fill them."
                )
        columns.append(texts)
    return columns


def _gold_labels(dataset, label_column, config):
    """Return the gold labels as the model's label numbers."""
    if config.num_labels < 2 or config.problem_type == "multi_label_classification":
        raise ValueError(
            f"The model has num_labels={config.num_labels}, problem_type={config.problem_type!r}; the gate compares "
            "accuracies of single-label classifiers. Use export_onnx and quantize_dynamic, and judge the file by a "
            "metric that fits."
        )
    _check_column(dataset, label_column, "label")
    labels = list(dataset[label_column])
    names, model_names = dataset_label_names(dataset, label_column), model_label_names(config)
    permutation = None
    if names is not None and model_names is not None:
        permutation = label_permutation(model_names, names, given="the model", wanted="eval_dataset")
    for row, label in enumerate(labels):
        if not isinstance(label, int) or not 0 <= label < config.num_labels:
            raise ValueError(
                f"Row {row} of eval_dataset has {label_column}={label!r}; every row needs a label from 0 to "
                f"{config.num_labels - 1}, or the accuracy would count it as an error. Drop unlabelled rows, and "
                "encode names as a ClassLabel (`dataset.class_encode_column`)."
            )
    gold = np.array(labels)
    return gold if permutation is None else np.array(permutation)[gold]


def _check_column(dataset, column, what):
    if column not in dataset.column_names:
        raise ValueError(
            f"{what}_column={column!r} is not in eval_dataset, which has the columns {dataset.column_names}: name the "
            f"one that holds the {what}s."
        )
