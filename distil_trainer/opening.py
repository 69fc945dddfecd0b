"""The opening of a recipe: a folder for the run, and everything that would only fail hours later found out first."""

import os
from importlib.util import find_spec

from accelerate import PartialState
from transformers import AutoConfig

from distil_trainer.augmentation.analyzers import check_analyzer
from distil_trainer.control import check_has_control
from distil_trainer.hub import check_can_push
from distil_trainer.recipe_arguments import run_settings
from distil_trainer.run_folder import RunFolder
from distil_trainer.transfer_arguments import FROM_SCRATCH


def open_run(arguments):
    """Claim the output folder for a run with these arguments, or take up the run that lies there.

    What would only fail hours later is found out first: packages that a late stage needs, the spaCy pipeline, another
    run's control, and, where the result is to be pushed, the right to push.

    Args:
        arguments (`tuple`): instances of `RECIPE_ARGUMENTS`, in that order.

    Returns:
        `RunFolder`

    Raises:
        ImportError: if a package that a stage needs is missing.
        ValueError: if the folder holds another run, or `control_of` none; and what `check_can_push` and
            `check_analyzer` raise.
    """
    training, _, models, augmentation, _, shipping = arguments
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
    if augmentation.copies and augmentation.analyzer == "kiwi:morphemes":
        raise ValueError(
            "analyzer='kiwi:morphemes': the training texts would become morphemes and the evaluation texts would not, "
            "so every figure would be of other texts than were trained on. Give --analyzer kiwi; or write the files "
            "with `to_morphemes` first, and give no analyzer."
        )
    if augmentation.copies and augmentation.analyzer:
        check_analyzer(augmentation.analyzer)
    for wanted, name in (
        (augmentation.generated_rows and augmentation.language_model != FROM_SCRATCH, augmentation.language_model),
        (augmentation.rewriting_copies, augmentation.rewriting_model),
    ):
        if wanted:
            AutoConfig.from_pretrained(name)  # a name that nothing can be loaded from is found out now
    if models.control_of is not None:
        check_has_control(models.control_of)
    state = PartialState()
    for repo_id, repo_type in _repositories(training, shipping):
        if state.is_main_process:
            check_can_push(
                repo_id, repo_type=repo_type, private=bool(training.hub_private_repo), token=training.hub_token
            )
    settings = {"processes": state.num_processes, **run_settings(arguments)}
    return RunFolder(training.output_dir, settings)


def check_same_models(run, teacher_key, student_key):
    """Refuse to go on with a run whose teacher or untrained student is no longer what it was at the first start.

    Args:
        run (`RunFolder`): the run; the first start leaves the keys in it.
        teacher_key (`str`): hash of the teacher.
        student_key (`str`): hash of the untrained student.

    Raises:
        ValueError: if one of them differs.
    """
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
