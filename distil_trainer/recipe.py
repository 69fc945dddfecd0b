"""The whole road of a recipe: augment, label, distil, train the control, export, measure, report."""

import copy
import os
from importlib.util import find_spec

import numpy as np
from accelerate import PartialState

from distil_trainer.augmentation.analyzers import load_pipeline
from distil_trainer.closing import close_run, measure, pytorch_contender, ship_once
from distil_trainer.command_line import parse_arguments
from distil_trainer.fine_tuning import fine_tuning_arguments, gold_label_arguments
from distil_trainer.fresh_student import check_fresh_student, make_fresh_student
from distil_trainer.hub import check_can_push
from distil_trainer.labeled_dataset import push_labeled_dataset
from distil_trainer.labeling import TeacherLabeler
from distil_trainer.labels import dataset_label_names
from distil_trainer.objective import logit_loss_name
from distil_trainer.recipe_arguments import RECIPE_ARGUMENTS, run_settings
from distil_trainer.run_folder import RunFolder
from distil_trainer.stages import (
    hub_id,
    load_teacher_and_splits,
    make_student,
    make_transfer_set,
    run_facts,
    short_name,
    split_facts,
    train_once,
    without_leaks,
)
from distil_trainer.tasks import problem_type
from distil_trainer.teacher_key import weights_hash


def run_recipe(defaults, argv=None, *, recipe):
    """Run a recipe that is told by its arguments: load, fine-tune the teacher if asked, make the student, distil.

    Args:
        defaults (`dict[str, Any]`): the recipe's defaults, by argument.
        argv (`list[str]`, *optional*): the command line; `None` for this process's.
        recipe (`str`): the recipe's file name.

    Returns:
        `tuple[dict, str]`: the report, and its closing table as text.
    """
    arguments = parse_arguments(RECIPE_ARGUMENTS, argv, defaults)
    training, data, models, _, _ = arguments
    teacher, teacher_tokenizer, splits = load_teacher_and_splits(models, data, training)
    label_names = dataset_label_names(splits["train"], training.label_column)
    is_fresh = models.student_type is not None and not models.student_layers
    if is_fresh:  # so that an error comes now, not later
        check_fresh_student(models, training, label_names)
    else:
        make_student(models, teacher, teacher_tokenizer, label_names, seed=0)

    run = open_run(arguments)
    evaluation_splits = [split for name, split in splits.items() if name != "train"]
    train, _ = without_leaks(splits["train"], evaluation_splits, training)
    if models.train_teacher:
        teacher_arguments = fine_tuning_arguments(
            training,
            models.teacher_select_by,
            learning_rate=models.teacher_learning_rate,
            num_train_epochs=models.teacher_num_train_epochs,
            max_steps=models.teacher_max_steps,
        )
        teacher, _ = train_once(
            run, "teacher", teacher, teacher_tokenizer, train, splits["validation"], teacher_arguments
        )
    if is_fresh:
        made = make_fresh_student(run, models, training, train, teacher, teacher_tokenizer, label_names)
    else:
        made = make_student(models, teacher, teacher_tokenizer, label_names, seed=training.seed)
    student, tokenizer, student_facts = made
    return distil(
        run,
        arguments,
        recipe=recipe,
        argv=argv,
        splits=splits,
        teacher=(teacher, teacher_tokenizer),
        student=(student, tokenizer),
        student_facts=student_facts,
    )


def open_run(arguments):
    """Claim the output folder for a run with these arguments, or take up the run that lies there.

    What would only fail hours later is found out first: packages that a late stage needs, the spaCy pipeline, and,
    where the result is to be pushed, the right to push.

    Args:
        arguments (`tuple`): instances of `RECIPE_ARGUMENTS`, in that order.

    Returns:
        `RunFolder`

    Raises:
        ImportError: if a package that a stage needs is missing.
        ValueError: if the folder holds another run; and what `check_can_push` and `load_pipeline` raise.
    """
    training, _, _, augmentation, shipping = arguments
    for package, extra in (("onnxruntime", "onnx"), ("matplotlib", "recipes")):
        if find_spec(package) is None:
            raise ImportError(
                f"{package} is not installed, and the last stages of a recipe need it: "
                f'pip install "distil_trainer[{extra}]".'
            )
    if training.resume_from_checkpoint is not None:
        raise ValueError(
            f"resume_from_checkpoint={training.resume_from_checkpoint!r}: a recipe goes on by itself from where "
            "its output folder stands. Leave it out."
        )
    if augmentation.copies and training.text_pair_column is not None:
        raise ValueError(
            f"copies={augmentation.copies} with text_pair_column={training.text_pair_column!r}: only single texts can "
            "be augmented; the second texts would be lost. Give --copies 0 to distil on the pairs as they are."
        )
    if augmentation.copies and augmentation.analyzer:
        load_pipeline(augmentation.analyzer)
    state = PartialState()
    for repo_id, repo_type in _repositories(training, shipping):
        if state.is_main_process:
            check_can_push(
                repo_id, repo_type=repo_type, private=bool(training.hub_private_repo), token=training.hub_token
            )
    settings = {"processes": state.num_processes, **run_settings(arguments)}
    return RunFolder(training.output_dir, settings)


def distil(run, arguments, *, recipe, argv, splits, teacher, student, student_facts, teacher_name=None, analyzer=None):
    """Go the whole road from a teacher and an untrained student to a published folder, each stage once per run.

    The control is the student's copy: the same initial weights, number of steps, batch size and schedule, on the
    gold labels of the original sentences. It lacks the teacher and the augmentation.

    Args:
        run (`RunFolder`): see `open_run`.
        arguments (`tuple`): instances of `RECIPE_ARGUMENTS`, in that order.
        recipe (`str`): the recipe's file name.
        argv (`list[str]`, *optional*): the recipe's arguments; `None` for this process's.
        splits (`dict[str, Dataset]`): "train", "validation" and perhaps "test", with a `ClassLabel`.
        teacher (`tuple[PreTrainedModel, PreTrainedTokenizerFast]`): the trained teacher.
        student (`tuple[PreTrainedModel, PreTrainedTokenizerFast]`): the untrained student.
        student_facts (`dict`): the report's part `student`.
        teacher_name (`str`, *optional*): what the card calls a teacher that no argument names.
        analyzer (`Callable`, *optional*): tags words, in place of the spaCy pipeline that the arguments name.

    Returns:
        `tuple[dict, str]`: the report, and its closing table as text.
    """
    training, data, models, augmentation, shipping = arguments
    evaluation_splits = {name: split for name, split in splits.items() if name != "train"}
    (teacher, teacher_tokenizer), (student, tokenizer) = teacher, student
    train, dropped = without_leaks(splits["train"], evaluation_splits.values(), training)
    control = copy.deepcopy(student)

    transfer_set, transfer_facts = make_transfer_set(
        run, train, evaluation_splits.values(), augmentation, training, analyzer=analyzer
    )
    transfer_facts["in_evaluation_data"] += dropped
    facts = run_facts(run, recipe, argv, training)  # after the first stage: until then corrected arguments are welcome
    labeler = TeacherLabeler(
        teacher,
        teacher_tokenizer,
        text_column=training.text_column,
        text_pair_column=training.text_pair_column,
        max_length=training.max_length,
        teacher_name=teacher_name,
    )
    _check_same_models(run, labeler.fingerprint, weights_hash(student))
    # A teacher whose inner states are compared is there in every step, and gives its logits on the way.
    online = {"teacher": teacher, "teacher_tokenizer": teacher_tokenizer} if training.distils_states else {}
    if not online or shipping.hub_dataset_id:
        labelled_set = labeler.map(transfer_set)
    teacher_logits = {
        ("teacher", name): np.asarray(labeler.map(split)["teacher_logits"], dtype=np.float32)
        for name, split in evaluation_splits.items()
    }

    student, steps = train_once(
        run,
        "student",
        student,
        tokenizer,
        transfer_set if online else labelled_set,
        splits["validation"],
        training,
        trust_remote_code=models.trust_remote_code,
        **online,
    )
    # As many steps a cycle as the student, though the control's epochs are shorter.
    cycle = training.epochs_per_cycle and training.epochs_per_cycle * len(transfer_set) / len(train)
    control, _ = train_once(
        run,
        "control",
        control,
        tokenizer,
        train,
        splits["validation"],
        gold_label_arguments(training, max_steps=steps, epochs_per_cycle=cycle),
        trust_remote_code=models.trust_remote_code,
    )
    onnx_contenders, shipped = ship_once(run, student, tokenizer, train, splits["validation"], training, shipping)
    contenders = [
        pytorch_contender("teacher", teacher, teacher_tokenizer),
        pytorch_contender("control", control, tokenizer),
        pytorch_contender("student", student, tokenizer),
        *onnx_contenders,
    ]
    rows, comparisons = measure(run, contenders, evaluation_splits, training, shipping, known_logits=teacher_logits)
    used_for = ["the int8 file"] + ["the best checkpoint"] * training.load_best_model_at_end
    used_for += ["the teacher's best epoch"] * models.train_teacher
    teacher_path = models.teacher_model_name_or_path
    report_parts = {
        "run": facts,
        "task": {
            "language": shipping.language,
            "labels": dataset_label_names(splits["train"], training.label_column),
            "text_pair": training.text_pair_column is not None,
            "max_length": training.max_length,
        },
        "teacher": {
            "name": teacher_name or short_name(teacher_path),
            "hub_id": hub_id(teacher_path),
            "revision": teacher.config._commit_hash if hub_id(teacher_path) else None,
            "fingerprint": labeler.fingerprint,
            "trained_here": models.train_teacher or teacher_path is None,
        },
        "student": student_facts,
        "data": {
            name: split_facts(
                train if name == "train" else split,
                getattr(data, f"{name}_file") or data.dataset_name or "generated text",
                used_for if name == "validation" else None,
            )
            for name, split in splits.items()
        }
        | {"transfer": transfer_facts},
        "training": _hyper_parameters(training, problem_type(student.config), steps),
        "models": rows,
        "comparisons": comparisons,
        "export": {**shipped, "subfolder": "onnx"},
    }
    report, table = close_run(run, report_parts, shipping, training)
    if shipping.hub_dataset_id and PartialState().is_main_process:
        push_labeled_dataset(
            labelled_set, shipping.hub_dataset_id, private=bool(training.hub_private_repo), token=training.hub_token
        )
    return report, table


def _check_same_models(run, teacher_key, student_key):
    """Refuse to go on with a run whose teacher or untrained student is no longer what it was at the first start."""
    now = {"teacher": teacher_key, "student": student_key}
    for role, key in run.value("models", lambda: now).items():
        if key != now[role]:
            raise ValueError(
                f"The {role} is not the one that this run was begun with: its weights, configuration or tokenizer "
                "have changed in the meantime. The stages that are finished belong to the old one: give another "
                "--output_dir."
            )


def _repositories(training, shipping):
    """Return (id, type) of every repository that the run will push to."""
    repositories = []
    if training.push_to_hub:
        repositories.append(
            (training.hub_model_id or os.path.basename(os.path.realpath(training.output_dir)), "model")
        )
    if shipping.hub_dataset_id:
        repositories.append((shipping.hub_dataset_id, "dataset"))
    return repositories


# What distillation adds to the losses on logits and labels: shown on the card where it was set.
_STATE_LOSSES = (
    "layer_map",
    "hidden_loss_weight",
    "hidden_loss",
    "attention_loss_weight",
    "attention_loss",
    "relation_loss_weight",
    "relation_heads",
    "matches",
    "projection_learning_rate",
)
_SCHEDULES = (
    "final_temperature",
    "final_logit_loss_weight",
    "final_hard_label_weight",
    "final_hidden_loss_weight",
    "final_attention_loss_weight",
    "final_relation_loss_weight",
    "epochs_per_cycle",
)


def _hyper_parameters(training, task, steps):
    batch_size = training.per_device_train_batch_size * training.gradient_accumulation_steps * training.world_size
    logit_loss = logit_loss_name(training, task)
    shown = _SCHEDULES + (_STATE_LOSSES if training.distils_states else ())
    shown += ("target_class_weight", "non_target_class_weight") if logit_loss == "decoupled" else ()
    return {
        "logit_loss": logit_loss,
        "logit_loss_weight": training.logit_loss_weight,
        "temperature": None if logit_loss == "mse" else training.temperature,
        "hard_label_weight": training.hard_label_weight,
        "label_smoothing_factor": training.label_smoothing_factor or None,
        **{name: getattr(training, name) for name in shown if _has_effect(training, name)},
        "optimizer": str(training.optim.value),
        "learning_rate": training.learning_rate,
        "schedule": "cyclic" if training.epochs_per_cycle else str(training.lr_scheduler_type.value),
        "warmup_steps": training.warmup_steps,
        "weight_decay": training.weight_decay,
        "batch_size": batch_size,
        "epochs": training.num_train_epochs if training.max_steps <= 0 else None,
        "optimizer_steps": steps,
        "length_grouped_batches": training.length_grouped_batches,
        "precision": "bf16" if training.bf16 else "fp16" if training.fp16 else "fp32",
        "seed": training.seed,
    }


def _has_effect(training, name):
    """Return whether a setting is worth showing: not a weight of 0, nor the kind of a loss whose weight is 0."""
    if name in _STATE_LOSSES and name.endswith("_weight"):
        return bool(getattr(training, name))
    return bool(getattr(training, f"{name}_weight", True))
