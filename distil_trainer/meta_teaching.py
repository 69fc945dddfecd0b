"""The stage of a recipe in which the teacher learns from what its pseudo-labels do to the student.

Pham et al. 2020, https://arxiv.org/abs/2003.10580.
"""

import copy
import json
from dataclasses import field, fields, make_dataclass

from accelerate import PartialState

from distil_trainer.arguments import DistillationArguments
from distil_trainer.command_line import parse_arguments, read_mapping
from distil_trainer.meta_pseudo_labels import MetaPseudoLabelsArguments, plot_meta_pseudo_labels
from distil_trainer.meta_pseudo_labels.last_phase import last_phase_arguments
from distil_trainer.stages import train_once

FEEDBACK_STAGE = "student_with_feedback"
_PLOT_FILE = "meta_pseudo_labels.png"
# A recipe's transfer set has each text as a row of its own, not beside its rewritten form.
_NEED_REWRITTEN_TEXTS = {"consistency_weight", "consistency_ramp_share", "augmented_text_column"}
_INHERITED = {each.name for each in fields(DistillationArguments)}
_Settings = make_dataclass(
    "_Settings",
    [
        (each.name, each.type, field(default=each.default, metadata=each.metadata))
        for each in fields(MetaPseudoLabelsArguments)
        if each.name not in _INHERITED | _NEED_REWRITTEN_TEXTS
    ],
)


def meta_arguments(training, given):
    """Put a recipe's `--training` arguments and its `--meta_pseudo_labels` together.

    Args:
        training (`DistillationArguments`): the student's.
        given (`dict` or `str`): what Meta Pseudo Labels add: a mapping, or YAML of one.

    Returns:
        `MetaPseudoLabelsArguments`

    Raises:
        ValueError: if it is no mapping, or what it holds is no setting that a recipe can honour, or does not fit.
    """
    settings = read_mapping("meta_pseudo_labels", given, "'{feedback_weight: 32}'")
    legal = sorted(each.name for each in fields(_Settings))
    if wrong := sorted(map(str, set(settings) - set(legal))):
        raise ValueError(
            f"meta_pseudo_labels has {wrong}, which cannot be given there: arguments of the student's training are "
            "given by themselves, and the consistency term needs a column of rewritten texts, which a recipe's "
            f"transfer set has not got. What can be given: {legal}."
        )
    (typed,) = parse_arguments(_Settings, [], settings)
    values = {each.name: getattr(training, each.name) for each in fields(training) if each.init}
    return MetaPseudoLabelsArguments(**values, **{name: getattr(typed, name) for name in settings})


def train_with_feedback(
    run, student, tokenizer, rows, labelled, validation, training, *, teacher, trust_remote_code=False
):
    """Train the student on labels that a learning teacher draws, then on gold labels; draw a plot of the first phase.

    Each phase is a stage of the run. The adapted teacher lies in the folder `teacher` of the first; the one given
    stays as it is, so that the report is about one model.

    Args:
        run (`RunFolder`): keeps checkpoints and results.
        student (`PreTrainedModel`): the untrained student.
        tokenizer (`PreTrainedTokenizerFast`): its tokenizer.
        rows (`Dataset`): the transfer set, for which the teacher draws labels.
        labelled (`Dataset`): the training split.
        validation (`Dataset`): the validation split.
        training (`MetaPseudoLabelsArguments`): how to train; see `meta_arguments`.
        teacher (`tuple[PreTrainedModel, PreTrainedTokenizerFast]`): trained.
        trust_remote_code (`bool`, *optional*, defaults to `False`): the student may bring its own Python files.

    Returns:
        `tuple[PreTrainedModel, int]`: the student, and the optimizer steps of both phases.
    """
    teacher, teacher_tokenizer = teacher
    student, steps = train_once(
        run,
        FEEDBACK_STAGE,
        student,
        tokenizer,
        rows,
        validation,
        training,
        teacher=copy.deepcopy(teacher),
        teacher_tokenizer=teacher_tokenizer,
        labelled_dataset=labelled,
        trust_remote_code=trust_remote_code,
    )
    if PartialState().is_main_process:
        logs = json.loads((run.path(FEEDBACK_STAGE) / "trainer_state.json").read_text())["log_history"]
        if any("feedback" in log for log in logs):  # a run of fewer steps than logging_steps has none
            plot_meta_pseudo_labels(logs, run.folder / _PLOT_FILE)
    student, more = train_once(
        run,
        "student",
        student,
        tokenizer,
        labelled,
        validation,
        last_phase_arguments(training),
        trust_remote_code=trust_remote_code,
    )
    return student, steps + more
