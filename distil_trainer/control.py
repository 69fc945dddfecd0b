"""The control of a recipe: the student's copy, trained on gold labels alone; or that of another run, if it is equal.

Runs that differ in the transfer set or the losses alone have one and the same control: once trained, it does for all.
"""

import json
import shutil
from pathlib import Path

from accelerate import PartialState

from distil_trainer.fine_tuning import gold_label_arguments
from distil_trainer.recipe_arguments import run_settings
from distil_trainer.stages import content_hash, train_once
from distil_trainer.teacher_key import teacher_key

# Known only when the student is trained, and the epochs say nothing then.
_ABOUT_STEPS = {"max_steps", "epochs_per_cycle", "num_train_epochs"}
_FACTS = "control_facts"


def check_has_control(folder):
    """Refuse a folder that is not the output of a run whose control is finished.

    Args:
        folder (`str` or `os.PathLike`): what was given as `control_of`.

    Raises:
        ValueError: if it is not.
    """
    if not Path(folder, "work", f"{_FACTS}.json").is_file():
        raise ValueError(
            f"control_of={str(folder)!r}: there is no work/{_FACTS}.json in it, so it is not the output folder of a "
            "recipe that has trained its control: nothing could be taken from it. Give the --output_dir of such a "
            "run, let that run finish first, or leave control_of out."
        )


def control_facts(control, tokenizer, train, validation, training):
    """Return what decides the trained control, but for the number of its steps: the same facts mean the same control.

    Args:
        control (`PreTrainedModel`): the untrained control.
        tokenizer (`PreTrainedTokenizerFast`): its tokenizer.
        train (`Dataset`): rows with gold labels.
        validation (`Dataset`): decides only where the best checkpoint is kept.
        training (`DistillationArguments`): the student's arguments.

    Returns:
        `dict` of JSON values.
    """
    columns = [training.text_column, training.text_pair_column, training.label_column]
    columns = [column for column in columns if column is not None]
    settings = run_settings((gold_label_arguments(training),))
    facts = {name: value for name, value in settings.items() if name not in _ABOUT_STEPS} | {
        "processes": PartialState().num_processes,
        "untrained student": teacher_key(
            control,
            tokenizer,
            max_length=training.max_length,
            dtype=control.dtype,
            pairs=training.text_pair_column is not None,
        ),
        "training rows": content_hash(train.select_columns(columns)),
    }
    if training.load_best_model_at_end:
        facts["validation rows"] = content_hash(validation.select_columns(columns))
    return facts


def check_control_of(folder, facts):
    """Refuse another run's control that is not the one this run would train.

    Args:
        folder (`str` or `os.PathLike`): the other run's output folder, with a finished control.
        facts (`dict`): see `control_facts`; with `max_steps` and `epochs_per_cycle` where they are known, or they are
            not compared.

    Raises:
        ValueError: naming what differs.
    """
    there = json.loads(Path(folder, "work", f"{_FACTS}.json").read_text(encoding="utf-8"))
    different = [
        f"{name} ({there.get(name, 'default')} there, {facts.get(name, 'default')} here)"
        for name in sorted((facts.keys() | there.keys()) - (_ABOUT_STEPS - facts.keys()))
        if facts.get(name) != there.get(name)
    ]
    if different:
        raise ValueError(
            f"control_of={str(folder)!r}: its control is not the one that this run would train. They differ in "
            f"{', '.join(different)}, so the student would be compared with a model that learned under other "
            "conditions. Leave control_of out: this run goes on from here, and trains its own."
        )


def train_control(run, models, control, tokenizer, train, validation, training, facts, steps, epochs_per_cycle):
    """Train the control with as many steps as the student, or take that of another run.

    Args:
        run (`RunFolder`): keeps the result.
        models (`ModelArguments`): names the other run, in `control_of`.
        control (`PreTrainedModel`): the untrained control.
        tokenizer (`PreTrainedTokenizerFast`), train (`Dataset`), validation (`Dataset`), training
            (`DistillationArguments`): as in `control_facts`.
        facts (`dict`): the result of `control_facts`.
        steps (`int`): optimizer steps.
        epochs_per_cycle (`float`, *optional*): epochs of a cycle of the learning rate.

    Returns:
        `PreTrainedModel`: the trained control.

    Raises:
        ValueError: as in `check_control_of`.
    """
    facts = {**facts, "max_steps": steps, "epochs_per_cycle": epochs_per_cycle}
    if models.control_of is not None and not run.is_finished("control"):
        check_control_of(models.control_of, facts)
        run.once("control", lambda path: shutil.copytree(Path(models.control_of, "work", "control"), path))
    trained, _ = train_once(
        run,
        "control",
        control,
        tokenizer,
        train,
        validation,
        gold_label_arguments(training, max_steps=steps, epochs_per_cycle=epochs_per_cycle),
        trust_remote_code=models.trust_remote_code,
    )
    run.value(_FACTS, lambda: facts)
    return trained
