"""`check_distillation`: every check in order, and what they found as a table."""

import textwrap
from typing import NamedTuple

from distil_trainer.preflight.fit import check_attention_maps, check_basics, check_label_names, check_losses
from distil_trainer.preflight.rows import check_columns, check_labels, check_leaks, check_text_lengths, check_tokens
from distil_trainer.preflight.run import Run
from distil_trainer.preflight.teacher_answers import check_teacher_answers

_CHECKS = {
    "losses": check_losses,
    "attention maps": check_attention_maps,
    "label names": check_label_names,
    "labels": check_labels,
    "columns": check_columns,
    "lengths": check_text_lengths,
    "tokens": check_tokens,
    "evaluation rows": check_leaks,
    "teacher's answers": check_teacher_answers,
}


class Finding(NamedTuple):
    """What one check found.

    Args:
        check (`str`): what was looked at.
        status (`str`): "fine"; "fixed": the trainer puts it right; "warning": it runs and is probably not meant so;
            "refused": the trainer will not take it, or fails later.
        message (`str`): what was found, and what to do.
    """

    check: str
    status: str
    message: str


def check_distillation(
    student,
    args,
    train_dataset=None,
    eval_dataset=None,
    processing_class=None,
    teacher=None,
    teacher_processing_class=None,
    sample_size=256,
):
    """Look over a distillation before it starts, in seconds; `DistillationTrainer` does it before its first step.

    Columns of labels and logits, and the texts that training and evaluation data share, are read in whole, in steps;
    what needs a tokenizer or a model is done for rows spread evenly over the training set. Nothing given is changed,
    but for teachers, which are put into evaluation mode, and no random numbers are drawn.

    Args:
        student, args, train_dataset, eval_dataset, processing_class, teacher, teacher_processing_class: as in
            [`DistillationTrainer`].
        sample_size (`int`, *optional*, defaults to 256): rows that are tokenized and whose teacher logits are judged;
            a teacher that has to be asked is asked for 64 of them at most.

    Returns:
        `list[Finding]`: in the order of the checks. What does not fit is "refused" and not raised; if it is the models
        and data sets themselves, nothing else is checked.

    Example:

    ```python
    findings = check_distillation(student, args, train, validation, tokenizer, teacher)
    print(findings_table(findings))
    ```
    """
    run = Run(
        student,
        args,
        train_dataset,
        eval_dataset if isinstance(eval_dataset, dict) else {"eval_dataset": eval_dataset},
        processing_class,
        [] if teacher is None else [*teacher] if isinstance(teacher, list | tuple) else [teacher],
        teacher_processing_class,
        sample_size,
    )
    findings = _findings("models and data", check_basics, run)
    if findings[-1].status == "refused":
        return findings
    for check, look in _CHECKS.items():
        findings += _findings(check, look, run)
    return findings


def findings_table(findings):
    """Draw findings as aligned text, long messages wrapped.

    Args:
        findings (`list[Finding]`): what `check_distillation` returned.

    Returns:
        `str`: up to 119 characters a line, without a line end.
    """
    widths = [max(len(finding[column]) for finding in findings) for column in (0, 1)]
    return "\n".join(
        textwrap.fill(
            f"{check:<{widths[0]}}  {status:<{widths[1]}}  {message}",
            width=119,
            subsequent_indent=" " * (sum(widths) + 4),
            break_on_hyphens=False,
            break_long_words=False,
        )
        for check, status, message in findings
    )


def _findings(check, look, run):
    findings = []
    try:
        for status, message in look(run):
            findings.append(Finding(check, status, message))
    except (ValueError, TypeError) as error:
        findings.append(Finding(check, "refused", str(error)))
    return findings
