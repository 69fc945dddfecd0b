"""The stages of a recipe up to the trained student, each done once however often the recipe is started."""

import copy
import json
import logging
import os
import platform
import shlex
import shutil
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import xxhash
from accelerate import PartialState
from transformers import TrainerState, set_seed

from distil_trainer.augmentation import drop_leaks, texts_of
from distil_trainer.data import load_splits
from distil_trainer.fresh_teacher import untrained_teacher
from distil_trainer.labels import label_permutation, model_label_names
from distil_trainer.latency import cpu_name
from distil_trainer.loading import load_classifier, name_tokenizer_class
from distil_trainer.meta_pseudo_labels import MetaPseudoLabelsTrainer
from distil_trainer.recipe_task import fit_task, output_names, recipe_task, set_task
from distil_trainer.run_folder import last_complete_checkpoint
from distil_trainer.students import TransformerCnnForSequenceClassification, student_from_teacher
from distil_trainer.tasks import REGRESSION, SINGLE_LABEL
from distil_trainer.trainer import DistillationTrainer

logger = logging.getLogger(__name__)


def load_teacher_and_splits(models, data, training):
    """Load the teacher and the splits that a recipe's arguments name, and see that their labels agree.

    A teacher to be fine-tuned takes its labels from the training split. A fine-tuned one must have the data's labels,
    in any order; one that never named its labels takes the data's names in their order. Data with scores need a
    teacher with one output.

    Returns:
        `tuple[PreTrainedModel, PreTrainedTokenizerFast, dict[str, Dataset]]`

    Raises:
        ValueError: if there is no teacher, a split cannot be read, or the labels do not fit.
    """
    if models.teacher_model_name_or_path is None and not models.teacher_from_scratch:
        raise ValueError("teacher_model_name_or_path=None: name a teacher with --teacher_model_name_or_path.")
    teacher_names = None
    if not models.train_teacher:
        teacher, tokenizer = _load_teacher(models, None)
        teacher_names = model_label_names(teacher.config) if teacher.config.num_labels > 1 else None
    splits = load_splits(
        data,
        text_column=training.text_column,
        text_pair_column=training.text_pair_column,
        label_column=training.label_column,
        label_names=teacher_names,
        seed=training.seed,
    )
    task = recipe_task(splits["train"], training.label_column)
    data_names, name = output_names(splits["train"], training.label_column), models.teacher_model_name_or_path
    if models.teacher_from_scratch:
        teacher, tokenizer = untrained_teacher(splits["train"], training, data_names)
        teacher = with_head(teacher, models.teacher_head)
    elif models.train_teacher:
        teacher, tokenizer = _load_teacher(models, data_names)
        set_task(teacher, task)
    else:
        fit_task(teacher, task, f"teacher {name}")
        if task == SINGLE_LABEL and teacher_names is None:
            teacher, tokenizer = _load_teacher(models, data_names)
        elif task == SINGLE_LABEL:
            label_permutation(teacher_names, data_names, given=f"the teacher {name}", wanted="the training split")
    return teacher, tokenizer, splits


def _load_teacher(models, label_names):
    teacher, tokenizer = load_classifier(
        models.teacher_model_name_or_path,
        revision=models.teacher_revision,
        label_names=label_names,
        to_be_trained=models.train_teacher,
        trust_remote_code=models.trust_remote_code,
    )
    return with_head(teacher, models.teacher_head), tokenizer


def with_head(model, head):
    """Return a model with the head of its own class, or over its encoder the convolutions (`cnn`)."""
    return TransformerCnnForSequenceClassification.from_encoder(model) if head == "cnn" else model


def without_leaks(train, evaluation_splits, training, near_threshold=None):
    """Drop from a training split what stands in evaluation splits, or is near it; see `drop_leaks`.

    It comes before everything that trains, so that teacher, student and control are denied the same rows. Of pairs
    both texts must stand there together.

    Args:
        train (`Dataset`): rows to train on.
        evaluation_splits (`Iterable[Dataset]`): splits that models are selected or scored on.
        training (`DistillationArguments`): names the columns.
        near_threshold (`float`, *optional*): least similarity of near texts; `None` drops equal ones only.

    Returns:
        `tuple[Dataset, dict[str, int]]`: the rows left, and how many were dropped `in_evaluation_data` and
        `near_evaluation_data`.

    Raises:
        ValueError: if no row is left.
    """
    columns = training.text_column, training.text_pair_column
    kept, equal = drop_leaks(train, texts_of(evaluation_splits, *columns), *columns)
    near = 0
    if near_threshold is not None:
        kept, near = drop_leaks(kept, texts_of(evaluation_splits, *columns), *columns, near_threshold)
    if not len(kept):
        raise ValueError(
            f"All {len(train)} training texts stand in the evaluation splits too, so nothing is left to train on: "
            "give splits that differ."
        )
    return kept, {"in_evaluation_data": equal, "near_evaluation_data": near}


def make_student(models, teacher, teacher_tokenizer, label_names, *, seed):
    """Make the untrained student: some layers of the teacher, or a checkpoint with a new head of the same labels.

    Args:
        models (`ModelArguments`): what to make.
        teacher (`PreTrainedModel`): may give its layers.
        teacher_tokenizer (`PreTrainedTokenizerFast`): its tokenizer.
        label_names (`list[str]`): see `output_names`; one name makes a regression.
        seed (`int`): of a new head's weights.

    Returns:
        `tuple[PreTrainedModel, PreTrainedTokenizerFast, dict]`: the last is the report's part `student`.
    """
    set_seed(seed)  # a new head starts from the same random weights in every start of the run
    if models.student_layers:
        student = with_head(student_from_teacher(teacher, layers=models.student_layers), models.student_head)
        facts = {"base": f"layers {', '.join(map(str, models.student_layers))} of the teacher"}
        return student, teacher_tokenizer, facts | {"needs_remote_code": needs_remote_code(student)}
    name = models.student_model_name_or_path
    if name is None:
        raise ValueError("There is no student: give --student_layers, --student_type or --student_model_name_or_path.")
    student, tokenizer = load_classifier(
        name, label_names=label_names, to_be_trained=True, trust_remote_code=models.trust_remote_code
    )
    set_task(student, REGRESSION if len(label_names) == 1 else SINGLE_LABEL)
    student = with_head(student, models.student_head)
    facts = {"base": short_name(name), "hub_id": hub_id(name), "needs_remote_code": needs_remote_code(student)}
    return student, tokenizer, facts


def needs_remote_code(student):
    """Return whether a model's class is not one of transformers', so that its code must travel with it."""
    return type(student).__module__.partition(".")[0] != "transformers"


def train_once(
    run,
    name,
    model,
    tokenizer,
    train_dataset,
    eval_dataset,
    training,
    *,
    teacher=None,
    teacher_tokenizer=None,
    labelled_dataset=None,
    trust_remote_code=False,
):
    """Train a model, going on from the last checkpoint of an earlier start.

    Args:
        run (`RunFolder`): keeps checkpoints and the result.
        name (`str`): "teacher", "student", "control": the stage, and the folder of the result.
        model (`PreTrainedModel`): the untrained model.
        tokenizer (`PreTrainedTokenizerFast`): its tokenizer.
        train_dataset (`Dataset`): a labelled transfer set, or a split with gold labels.
        eval_dataset (`Dataset`): the validation split; used only with `eval_strategy`.
        training (`DistillationArguments`): how to train. `output_dir` is replaced by a folder of the run.
        teacher (`PreTrainedModel`, *optional*): is asked in every step, where the data are not labelled beforehand.
        teacher_tokenizer (`PreTrainedTokenizerFast`, *optional*): its tokenizer.
        labelled_dataset (`Dataset`, *optional*): rows with gold labels, which make it a training with Meta Pseudo
            Labels (`training` must be for it): the teacher learns in place, and is kept in the result's `teacher`.
        trust_remote_code (`bool`, *optional*, defaults to `False`): the model may bring its own Python files.

    Returns:
        `tuple[PreTrainedModel, int]`: the trained model, and the number of optimizer steps.
    """
    checkpoints = str(run.path(f"{name}-checkpoints"))
    if not run.is_finished(name):
        arguments = copy.copy(training)
        arguments.output_dir = checkpoints
        arguments.push_to_hub = False
        arguments.drop_evaluation_rows = False  # dropped before, and counted in the report; see `without_leaks`
        arguments.dataloader_pin_memory = arguments.device.type == "cuda"  # elsewhere it only warns
        state, result = _finished_training(checkpoints, arguments.load_best_model_at_end)
        if state is None:
            run.announce(f"Training: {name}, {len(train_dataset):,} rows")
            given = {
                "train_dataset": train_dataset,
                "eval_dataset": eval_dataset,
                "processing_class": tokenizer,
                "teacher": teacher,
                "teacher_processing_class": teacher_tokenizer,
            }
            if labelled_dataset is None:
                trainer = DistillationTrainer(model, arguments, **given)
            else:
                trainer = MetaPseudoLabelsTrainer(model, arguments, **given, labelled_dataset=labelled_dataset)
            trainer.train(resume_from_checkpoint=last_complete_checkpoint(checkpoints))
            state = trainer.state
        else:
            trainer = None
            model, _ = load_classifier(result, trust_remote_code=trust_remote_code)

        def save(path):
            model.save_pretrained(path)
            tokenizer.save_pretrained(path)
            name_tokenizer_class(path)
            state.save_to_json(str(path / "trainer_state.json"))
            if labelled_dataset is not None and trainer is None:
                shutil.copytree(os.path.join(result, "teacher"), path / "teacher")
            elif labelled_dataset is not None:
                trainer.teacher.save(path / "teacher", teacher_tokenizer)

        run.once(name, save)
    if PartialState().is_main_process:
        shutil.rmtree(checkpoints, ignore_errors=True)
    folder = run.path(name)
    steps = json.loads((folder / "trainer_state.json").read_text())["global_step"]
    return load_classifier(folder, trust_remote_code=trust_remote_code)[0], steps


def split_facts(dataset, source, used_for=None):
    """Return the report's part on one split: source, rows, fingerprint, and what it was used to choose."""
    facts = {"source": short_name(source), "rows": len(dataset)}
    facts |= {"hub_id": hub_id(source), "fingerprint": content_hash(dataset)}
    return facts if used_for is None else {**facts, "used_for": used_for}


def short_name(name_or_path):
    """Return the last part of a local path, so that no machine's folders are published; a Hub id as it is."""
    return Path(name_or_path).resolve().name if os.path.exists(name_or_path) else name_or_path


def hub_id(name_or_path):
    """Return a Hub id, or `None` for a local path or generated data."""
    return name_or_path if name_or_path and not os.path.exists(name_or_path) and " " not in name_or_path else None


def run_facts(run, recipe, argv, training):
    """Return the report's part `run`: what was started, when, on what. The first call of a run decides it."""
    processes = PartialState().num_processes
    launcher = "accelerate launch" if processes == 1 else f"torchrun --nproc_per_node {processes}"
    words = _public_words(sys.argv[1:] if argv is None else argv)
    return run.value(
        "facts",
        lambda: {
            "recipe": recipe,
            "command": f"{launcher} recipes/{recipe} {shlex.join(words)}".strip(),
            "seed": training.seed,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "device": str(training.device),
            "cpu": cpu_name(),
            "processes": processes,
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("torch", "transformers", "datasets", "accelerate")},
            },
        },
    )


def _public_words(words):
    """Return a command line without its secrets, and without the folders of this machine."""
    public, skip = [], False
    for word in words:
        option = word.split("=")[0]
        if not (skip or option == "--hub_token"):
            public.append(Path(word).name if os.path.isabs(word) else word)
        skip = word == "--hub_token"
    return public


def _finished_training(checkpoints, load_best):
    """Find a training that reached its last step but was cut off before its result was kept.

    `Trainer` resumed from there would take one step more.

    Returns:
        `tuple[TrainerState, str]`: its state and the checkpoint whose weights are the result; `(None, None)` if the
        training is still to be done.
    """
    checkpoint = last_complete_checkpoint(checkpoints)
    if checkpoint is None:
        return None, None
    state = TrainerState.load_from_json(os.path.join(checkpoint, "trainer_state.json"))
    if state.global_step < state.max_steps:
        return None, None
    return state, state.best_model_checkpoint if load_best else checkpoint


def content_hash(dataset):
    """Return a hash of the rows of a data set, in order, with their columns (`str`)."""
    digest = xxhash.xxh64()
    for batch in dataset.with_format("arrow").iter(batch_size=10_000):
        for piece in batch.combine_chunks().to_batches():
            digest.update(piece.serialize())
    return digest.hexdigest()
