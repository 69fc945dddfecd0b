"""The closing stages of a recipe: score every model on the same rows, time them in turns, report, publish, push."""

import dataclasses
import shutil
from functools import partial
from pathlib import Path

import numpy as np
from accelerate import PartialState

from distil_trainer.audit_plot import plot_transfer_audit
from distil_trainer.evaluation import compare, compare_macro_f1, compare_with_constant, evaluate_logits
from distil_trainer.export import onnx_runner, ship
from distil_trainer.headline import choose_headline, headline_of
from distil_trainer.hub import push_model_folder
from distil_trainer.inference import predict_logits, torch_runner
from distil_trainer.input_checks import padding_side
from distil_trainer.labels import dataset_label_names, label_permutation, model_label_names
from distil_trainer.latency import measure_latencies
from distil_trainer.model_card import render_model_card
from distil_trainer.plots import plot_accuracy_against_latency
from distil_trainer.recipe_task import recipe_task
from distil_trainer.report import make_report, read_report, write_atomically, write_report
from distil_trainer.scores import compare_scores, evaluate_scores
from distil_trainer.tables import closing_table
from distil_trainer.tasks import REGRESSION

_AUDIT_PLOT_FILE = "transfer_set.png"
_COMPARISONS = (("student", "teacher"), ("student", "control"), ("student", "unpruned"), ("onnx int8", "student"))


@dataclasses.dataclass
class Contender:
    """One row of the closing table: a model that answers, and what is known of it before it is measured.

    Args:
        role (`str`): "teacher", "control", "unpruned", "student", "onnx fp32", "onnx optimized", "onnx fp16",
            "onnx int8".
        engine (`str`): "PyTorch" or "ONNX Runtime".
        runner (`Callable`): see `distil_trainer.inference`.
        tokenizer (`PreTrainedTokenizerFast`): its tokenizer.
        padding_side (`str`): on which side its inputs are padded.
        label_names (`list[str]`): its labels in logit order.
        parameters (`int`): number of parameters.
        size_bytes (`int`): size of its weights as served.
        name (`str`, *optional*): what the table calls it where the role does not say enough.
        path (`str`, *optional*): from where another process can load it.
    """

    role: str
    engine: str
    runner: object
    tokenizer: object
    padding_side: str
    label_names: list
    parameters: int
    size_bytes: int
    name: str | None = None
    path: str | None = None


def pytorch_contender(role, model, tokenizer, name=None, path=None):
    """Describe a PyTorch model for the closing table."""
    tensors = [*model.parameters(), *model.buffers()]
    return Contender(
        role=role,
        engine="PyTorch",
        runner=torch_runner(model.cpu()),
        tokenizer=tokenizer,
        padding_side=padding_side(model.config),
        label_names=model_label_names(model.config),
        parameters=model.num_parameters(),
        size_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        name=name,
        path=path,
    )


def onnx_contender(role, path, model, tokenizer, threads, name=None):
    """Describe an ONNX file of a model for the closing table."""
    return Contender(
        role=role,
        engine="ONNX Runtime",
        runner=onnx_runner(path, threads=threads),
        tokenizer=tokenizer,
        padding_side=padding_side(model.config),
        label_names=model_label_names(model.config),
        parameters=model.num_parameters(),
        size_bytes=path.stat().st_size,
        name=name,
        path=str(path),
    )


# Texts that static int8 looks at for the ranges of activations.
_CALIBRATION_ROWS = 512


def ship_once(run, student, tokenizer, train, validation, training, shipping, *, whose="", calibrate_on=None):
    """Export the student to ONNX and int8 behind the gate of `ship`, once; some training texts calibrate static int8.

    Args:
        run (`RunFolder`): keeps the folder.
        student (`PreTrainedModel`): the trained student.
        tokenizer (`PreTrainedTokenizerFast`): its tokenizer.
        train (`Dataset`): the training split.
        validation (`Dataset`): the validation split.
        training (`DistillationArguments`): names the columns and the longest text.
        shipping (`ShippingArguments`): the gate's limits.
        calibrate_on (`Dataset`, *optional*): labelled rows for a temperature, see `ship`.
        whose (`str`, *optional*): stands before "onnx" in the stage's and the roles' names, where several are shipped.

    Returns:
        `tuple[list[Contender], dict]`: the float model and, where it passed, the int8 model; and the report of `ship`.
    """

    columns = training.text_column, training.text_pair_column
    sample = train.shuffle(seed=training.seed).select(range(min(_CALIBRATION_ROWS, len(train))))
    texts, pairs = (None if column is None else list(sample[column]) for column in columns)

    def build(path):
        ship(
            student.cpu(),
            tokenizer,
            path,
            validation,
            text_column=training.text_column,
            text_pair_column=training.text_pair_column,
            label_column=training.label_column,
            max_length=training.max_length,
            max_accuracy_drop=shipping.max_accuracy_drop,
            target_latency_ms=shipping.target_latency_ms,
            max_size_mb=shipping.max_size_mb,
            metric=shipping.metric,
            threads=shipping.latency_threads,
            calibration_texts=texts,
            calibration_text_pairs=pairs,
            calibrate_on=calibrate_on,
        )

    folder = run.once(f"{whose}onnx".replace(" ", "_"), build)
    shipped = read_report(folder)
    files = {"onnx fp32": "model.onnx"}
    for role, file in (("onnx optimized", "model_optimized.onnx"), ("onnx fp16", "model_fp16.onnx")):
        if shipped["chosen"] == file:
            files[role] = file
    if shipped["quantization"] is not None:
        files["onnx int8"] = "model_quantized.onnx"
    contenders = [
        onnx_contender(f"{whose}{role}", folder / file, student, tokenizer, shipping.latency_threads)
        for role, file in files.items()
    ]
    return contenders, shipped


def measure(run, contenders, splits, training, shipping, *, known_logits=None, pairs=_COMPARISONS):
    """Score the contenders on every split and time them on the validation texts; each figure is taken once per run.

    Args:
        run (`RunFolder`): keeps logits and timings.
        contenders (`list[Contender]`): the models, the teacher first.
        splits (`dict[str, Dataset]`): "validation" and perhaps "test", with gold labels or scores.
        training (`DistillationArguments`): names the columns and the seed.
        shipping (`ShippingArguments`): threads and number of texts of the timing.
        known_logits (`dict[tuple[str, str], np.ndarray]`, *optional*): logits by (role, split) that need no model.
        pairs (`Sequence[tuple[str, str]]`, *optional*): roles to compare, the first with the second.

    Returns:
        `tuple[list[dict], list[dict]]`: the report's parts `models` and `comparisons`.
    """
    known_logits = known_logits or {}
    rows = [_unmeasured_row(contender) for contender in contenders]
    comparisons = []
    for split, dataset in splits.items():
        gold, evaluate, compare_two = _judges(dataset, training, shipping)
        labelled = ~np.isnan(gold)
        logits = {}
        for contender, row in zip(contenders, rows, strict=True):
            key = (contender.role, split)
            values = known_logits.get(key)
            if values is None:
                name = f"logits/{contender.role.replace(' ', '-')}-{split}"
                values = run.array(name, lambda: _predict(contender, dataset, training))  # noqa: B023
            logits[contender.role] = _in_order_of(values, contender, dataset, training)[labelled]
            row["evaluation"][split] = evaluate(logits[contender.role], gold[labelled])
        comparisons += [
            {"a": a, "b": b, "split": split, **compare_two(logits[a], logits[b], gold[labelled])}
            for a, b in pairs
            if a in logits and b in logits
        ]
    validation = splits["validation"]
    latencies = run.value(
        "latency",
        lambda: measure_latencies(
            {contender.role: (contender.runner, contender.tokenizer) for contender in contenders},
            validation[training.text_column],
            None if training.text_pair_column is None else validation[training.text_pair_column],
            threads=shipping.latency_threads,
            max_length=training.max_length,
            max_texts=shipping.latency_texts,
            seed=training.seed,
        ),
    )
    for row in rows:
        row["latency"] = latencies[row["role"]]
    return rows, comparisons


def close_run(run, stage, report_parts, shipping, training):
    """Make the output folder a model repository: student, tokenizer, ONNX, report, plot and card; push it if asked.

    Args:
        run (`RunFolder`): the run, with the stages `stage` and "onnx" finished.
        stage (`str`): the student that is published, "student" or "pruned".
        report_parts (`dict`): the arguments of `make_report`.
        shipping (`ShippingArguments`): where else the card goes.
        training (`DistillationArguments`): where and whether to push.

    Returns:
        `tuple[dict, str]`: the report, and the closing table as text.
    """
    report = make_report(
        name=run.folder.resolve().name, license=shipping.license, model_id=training.hub_model_id, **report_parts
    )
    if PartialState().is_main_process:
        for file in sorted(run.path(stage).iterdir()):
            if file.name != "trainer_state.json":
                _replace(file, run.folder / file.name)
        _replace(run.path("onnx"), run.folder / "onnx")
        plot_accuracy_against_latency(report, run.folder / f"{headline_of(report).key}_latency.png")
        if "audit" in report["data"].get("transfer", {}):
            plot_transfer_audit(report["data"]["transfer"]["audit"], run.folder / _AUDIT_PLOT_FILE)
        card = str(render_model_card(report))
        write_report(report, run.folder)
        write_atomically(run.folder / "README.md", card)
        if shipping.hub_card:
            target = Path(shipping.hub_card)
            write_atomically(target, card)
            write_atomically(target.with_suffix(".report.json"), (run.folder / "report.json").read_text("utf-8"))
        if training.push_to_hub:
            push_model_folder(
                run.folder,
                training.hub_model_id or run.folder.resolve().name,
                private=bool(training.hub_private_repo),
                token=training.hub_token,
            )
    PartialState().wait_for_everyone()
    return report, closing_table(report)


def _judges(dataset, training, shipping):
    """Return the gold answers of a split, NaN where a row has none, and the functions that judge one model and two."""
    gold = np.asarray(dataset[training.label_column], dtype=np.float64)
    task, seed = recipe_task(dataset, training.label_column), training.seed
    metric = choose_headline(shipping.metric, task).key
    if task == REGRESSION:
        return gold, evaluate_scores, partial(compare_scores, seed=seed)
    two = compare if metric == "accuracy" else partial(compare_macro_f1, seed=seed)
    names = dataset_label_names(dataset, training.label_column)
    return np.where(gold < 0, np.nan, gold), partial(_judge_labels, metric=metric, names=names, seed=seed), two


def _judge_labels(logits, gold, *, metric, names, seed):
    """Score logits, and say what they are worth against always giving the most frequent label."""
    constant = compare_with_constant(logits, gold, metric, seed=seed)
    for key in ("label", "only_answer"):
        if names is not None and constant[key] is not None:
            constant[key] = names[constant[key]]
    return evaluate_logits(logits, gold, seed=seed) | {"constant": constant}


def _unmeasured_row(contender):
    return {
        "role": contender.role,
        "name": contender.name,
        "engine": contender.engine,
        "parameters": contender.parameters,
        "size_bytes": contender.size_bytes,
        "evaluation": {},
    }


def _predict(contender, dataset, training):
    return predict_logits(
        contender.runner,
        contender.tokenizer,
        dataset[training.text_column],
        None if training.text_pair_column is None else dataset[training.text_pair_column],
        max_length=training.max_length,
        padding_side=contender.padding_side,
        progress=f"Scoring {contender.role}",
    )


def _in_order_of(logits, contender, dataset, training):
    """Return logits in the order of the data's labels."""
    wanted_names = dataset_label_names(dataset, training.label_column)
    if contender.label_names is None or wanted_names is None:
        return logits
    permutation = label_permutation(
        contender.label_names, wanted_names, given=f"the {contender.role}", wanted="the evaluation data"
    )
    return logits if permutation is None else logits[:, permutation]


def _replace(source, target):
    """Copy a file or folder over another by way of a temporary name; a start that is cut off here does it again."""
    temporary = target.with_name(f".{target.name}.tmp")
    if source.is_dir():
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source, temporary)
        shutil.rmtree(target, ignore_errors=True)
    else:
        shutil.copyfile(source, temporary)
    temporary.replace(target)
