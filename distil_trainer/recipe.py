"""The whole road of a recipe: augment, label, distil, train the control, export, measure, report."""

import copy
import os

import numpy as np
from accelerate import PartialState

from distil_trainer.audit_tables import audit_table
from distil_trainer.augmentation import texts_of
from distil_trainer.closing import close_run, measure, pytorch_contender, ship_once
from distil_trainer.command_line import parse_arguments
from distil_trainer.control import check_control_of, control_facts, train_control
from distil_trainer.fine_tuning import check_selection, fine_tuning_arguments
from distil_trainer.fresh_student import check_fresh_student, make_fresh_student
from distil_trainer.fresh_teacher import make_fresh_teacher
from distil_trainer.headline import choose_headline
from distil_trainer.hyper_parameters import hyper_parameters
from distil_trainer.labeled_dataset import push_labeled_dataset
from distil_trainer.labeling import TeacherLabeler
from distil_trainer.labels import dataset_label_names
from distil_trainer.opening import check_same_models, open_run
from distil_trainer.pruned_student import brings_its_class, check_pruning, prune_student
from distil_trainer.recipe_arguments import RECIPE_ARGUMENTS
from distil_trainer.recipe_task import check_training, fit_task, output_names, recipe_task, score_range
from distil_trainer.stages import (
    hub_id,
    load_teacher_and_splits,
    make_student,
    run_facts,
    short_name,
    split_facts,
    train_once,
    with_head,
    without_leaks,
)
from distil_trainer.tasks import problem_type
from distil_trainer.teacher_key import weights_hash
from distil_trainer.teaching import check_teaching, choose_rows, train_student
from distil_trainer.transfer_audit import audit_transfer_set
from distil_trainer.transfer_set import make_transfer_set


def run_recipe(defaults, argv=None, *, recipe):
    """Run a recipe that is told by its arguments: load, fine-tune the teacher if asked, make the student, distil.

    The closing table goes to standard output, once however many processes there are.

    Args:
        defaults (`dict[str, Any]`): the recipe's defaults, by argument.
        argv (`list[str]`, *optional*): the command line; `None` for this process's.
        recipe (`str`): the recipe's file.

    Returns:
        `dict`: the report.
    """
    arguments = parse_arguments(RECIPE_ARGUMENTS, argv, defaults)
    training, data, models, transfer, pruning, shipping = arguments
    teacher, teacher_tokenizer, splits = load_teacher_and_splits(models, data, training)
    label_names = output_names(splits["train"], training.label_column)
    task = recipe_task(splits["train"], training.label_column)
    select_by = models.teacher_select_by or choose_headline(shipping.metric, task).key
    check_selection(select_by, task)
    check_training(training, task)
    check_teaching(transfer, training, task)
    if models.has_fresh_student:  # so that an error comes now, not later
        untrained = check_fresh_student(models, training, teacher, teacher_tokenizer, label_names)
    else:
        untrained, _, _ = make_student(models, teacher, teacher_tokenizer, label_names, seed=0)
    check_pruning(pruning, untrained, training.max_length)

    run = open_run(arguments)
    evaluation_splits = [split for name, split in splits.items() if name != "train"]
    train, _ = without_leaks(splits["train"], evaluation_splits, training, transfer.near_duplicate_threshold)
    if models.teacher_from_scratch:
        made = make_fresh_teacher(run, models, transfer, training, train, evaluation_splits, label_names)
        teacher, teacher_tokenizer = with_head(made[0], models.teacher_head), made[1]
    if models.train_teacher:
        teacher_arguments = fine_tuning_arguments(
            training,
            select_by,
            learning_rate=models.teacher_learning_rate,
            num_train_epochs=models.teacher_num_train_epochs,
            max_steps=models.teacher_max_steps,
        )
        teacher, _ = train_once(
            run, "teacher", teacher, teacher_tokenizer, train, splits["validation"], teacher_arguments
        )
    if models.has_fresh_student:
        made = make_fresh_student(run, models, training, train, teacher, teacher_tokenizer, label_names)
    else:
        made = make_student(models, teacher, teacher_tokenizer, label_names, seed=training.seed)
    student, tokenizer, student_facts = made
    report, table = distil(
        run,
        arguments,
        recipe=os.path.basename(recipe),
        argv=argv,
        splits=splits,
        teacher=(teacher, teacher_tokenizer),
        student=(student, tokenizer),
        student_facts=student_facts,
        teacher_name="a small BERT, trained from scratch" if models.teacher_from_scratch else None,
    )
    PartialState().print(f"{audit_table(report['data']['transfer']['audit'])}\n\n{table}")
    return report


def distil(run, arguments, *, recipe, argv, splits, teacher, student, student_facts, teacher_name=None, analyzer=None):
    """Go the whole road from a teacher and an untrained student to a published folder, each stage once per run.

    The control is the student's copy: the same initial weights, number of steps, batch size and schedule, on the
    gold labels of the original sentences. It lacks the teacher and the augmentation. Runs that differ in nothing else
    can share it, see `train_control`.

    Args:
        run (`RunFolder`): see `open_run`.
        arguments (`tuple`): instances of `RECIPE_ARGUMENTS`, in that order.
        recipe (`str`): the recipe's file name.
        argv (`list[str]`, *optional*): the recipe's arguments; `None` for this process's.
        splits (`dict[str, Dataset]`): "train", "validation" and perhaps "calibration" and "test", with a
            `ClassLabel`, or with scores as floats.
        teacher (`tuple[PreTrainedModel, PreTrainedTokenizerFast]`): the trained teacher.
        student (`tuple[PreTrainedModel, PreTrainedTokenizerFast]`): the untrained student, of the same task.
        student_facts (`dict`): the report's part `student`.
        teacher_name (`str`, *optional*): what the card calls a teacher that no argument names.
        analyzer (`Callable`, *optional*): tags words, in place of the spaCy pipeline that the arguments name.

    Returns:
        `tuple[dict, str]`: the report, and its closing table as text.
    """
    training, data, models, transfer, pruning, shipping = arguments
    held_out = {name: split for name, split in splits.items() if name != "train"}
    evaluation_splits = {name: held_out[name] for name in ("validation", "test") if name in held_out}
    (teacher, teacher_tokenizer), (student, tokenizer) = teacher, student
    task = recipe_task(splits["train"], training.label_column)
    headline = choose_headline(shipping.metric, task)
    fit_task(teacher, task, "teacher")
    fit_task(student, task, "student")
    check_teaching(transfer, training, task)
    near_threshold, columns = transfer.near_duplicate_threshold, (training.text_column, training.text_pair_column)
    train, dropped = without_leaks(splits["train"], held_out.values(), training, near_threshold)
    control = copy.deepcopy(student)
    control_decided_by = control_facts(control, tokenizer, train, splits["validation"], training)
    if models.control_of is not None:  # now, and not only when the student is trained
        is_given = training.max_steps > 0 and transfer.meta_pseudo_labels is None  # they add steps of their own
        steps_given = {"max_steps": training.max_steps} if is_given else {}
        check_control_of(models.control_of, control_decided_by | steps_given)

    transfer_set, transfer_facts = make_transfer_set(
        run, train, held_out.values(), transfer, training, analyzer=analyzer
    )
    for name, count in dropped.items():
        transfer_facts[name] += count
    facts = run_facts(run, recipe, argv, training)  # after the first stage: until then corrected arguments are welcome
    reading = {
        "text_column": training.text_column,
        "text_pair_column": training.text_pair_column,
        "max_length": training.max_length,
        "teacher_name": teacher_name,
    }
    labeler = TeacherLabeler(teacher, teacher_tokenizer, **reading)
    check_same_models(run, labeler.fingerprint, weights_hash(student))
    # A teacher whose inner states are compared, or that learns, is there in every step: its logits come on the way.
    is_online = training.distils_states or transfer.meta_pseudo_labels is not None
    is_labelled = not is_online or shipping.hub_dataset_id
    labelled_set = labeler.map(transfer_set) if is_labelled else transfer_set
    transfer_facts["audit"] = run.value(
        "audit",
        lambda: audit_transfer_set(
            labelled_set, texts_of(held_out.values(), *columns), *columns, near_threshold=near_threshold
        ),
    )
    # In full precision, in which it is timed too: the labels may be those of bfloat16.
    scorer = TeacherLabeler(teacher, teacher_tokenizer, dtype=teacher.dtype, **reading)
    teacher_logits = {
        ("teacher", name): np.asarray(scorer.map(split)["teacher_logits"], dtype=np.float32)
        for name, split in evaluation_splits.items()
    }

    rows = transfer_set
    if not is_online and not transfer.self_training_rounds:
        rows, transfer_facts["chosen"] = choose_rows(labelled_set, transfer, training)
    student, steps, student_training, transfer_facts["self_training"] = train_student(
        run,
        student,
        tokenizer,
        rows,
        train,
        splits["validation"],
        training,
        transfer,
        teacher=(teacher, teacher_tokenizer),
        metric=headline.key,
        trust_remote_code=models.trust_remote_code,
    )
    # As many steps a cycle as the student, though the control's epochs are shorter.
    cycle = training.epochs_per_cycle and training.epochs_per_cycle * len(rows) / len(train)
    control = train_control(
        run,
        models,
        control,
        tokenizer,
        train,
        splits["validation"],
        training,
        control_decided_by,
        steps,
        cycle,
    )
    # Before the teacher is described: labelling moves it to a GPU, and it is timed where the others are.
    calibration = labeler.map(held_out["calibration"]) if "calibration" in held_out else None
    contenders = [
        pytorch_contender("teacher", teacher, teacher_tokenizer),
        pytorch_contender("control", control, tokenizer),
    ]
    hyper = hyper_parameters(student_training, problem_type(student.config), steps)
    stage, name = "student", None
    if pruning.prunes:
        pruned, pruned_tokenizer, pruned_facts = prune_student(
            run, student, tokenizer, train, transfer_set, splits["validation"], training, pruning, steps
        )
        # Only now, when it has taught: that may have moved it to a GPU, and it is timed where the others are.
        contenders.append(pytorch_contender("unpruned", student, tokenizer, "student before pruning"))
        student, tokenizer = pruned, pruned_tokenizer
        stage, name = "pruned", "pruned student"
        is_remote = brings_its_class(run.path(stage))
        hyper |= {key: value for key, value in pruned_facts.items() if key.startswith("recovery")}
        student_facts = {**student_facts, "pruned": pruned_facts, "needs_remote_code": is_remote}
    onnx_contenders, shipped = ship_once(
        run, student, tokenizer, train, splits["validation"], training, shipping, calibrate_on=calibration
    )
    contenders += [pytorch_contender("student", student, tokenizer, name), *onnx_contenders]
    measured, comparisons = measure(
        run, contenders, evaluation_splits, training, shipping, known_logits=teacher_logits
    )
    used_for = ["the ONNX file"] + ["the best checkpoint"] * training.load_best_model_at_end
    used_for += ["the teacher's best epoch"] * models.train_teacher
    used_for += ["the round of self-training"] * bool(transfer.self_training_rounds)
    teacher_path = models.teacher_model_name_or_path
    report_parts = {
        "run": {**facts, "price_per_core_hour": shipping.price_per_core_hour},
        "task": {
            "language": shipping.language,
            "problem_type": task,
            "metric": headline.key,
            "labels": dataset_label_names(splits["train"], training.label_column),
            "score_range": score_range(train, training.label_column),
            "text_pair": training.text_pair_column is not None,
            "max_length": training.max_length,
        },
        "teacher": {
            "name": teacher_name or short_name(teacher_path),
            "hub_id": hub_id(teacher_path),
            "revision": teacher.config._commit_hash if hub_id(teacher_path) else None,
            "fingerprint": labeler.fingerprint,
            "trained_here": models.train_teacher or teacher_path is None,
            "made_here": teacher_name is not None,
        },
        "student": student_facts,
        "data": {
            name: split_facts(
                train if name == "train" else split,
                getattr(data, f"{name}_file") or data.dataset_name or "generated text",
                used_for if name == "validation" else ["the temperature"] if name == "calibration" else None,
            )
            for name, split in splits.items()
        }
        | {"transfer": transfer_facts},
        "training": hyper,
        "models": measured,
        "comparisons": comparisons,
        "export": {**shipped, "subfolder": "onnx"},
    }
    report, table = close_run(run, stage, report_parts, shipping, training)
    if shipping.hub_dataset_id and PartialState().is_main_process:
        push_labeled_dataset(
            labelled_set, shipping.hub_dataset_id, private=bool(training.hub_private_repo), token=training.hub_token
        )
    return report, table
