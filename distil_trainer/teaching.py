"""The stage of a recipe in which the student learns: which labelled rows teach it, as what, and in how many rounds."""

import copy
import shutil

from distil_trainer.fine_tuning import gold_label_arguments
from distil_trainer.meta_teaching import meta_arguments, train_with_feedback
from distil_trainer.pseudo_labels import hard_pseudo_labels, keep_confident
from distil_trainer.self_training import self_train
from distil_trainer.stages import train_once
from distil_trainer.tasks import SINGLE_LABEL
from distil_trainer.transfer_filter import filter_transfer_set

# What asks for a teacher's answers beforehand, and for the certainty of one label a row.
_OF_PSEUDO_LABELS = ("max_entropy_bits", "drop_disagreements", "pseudo_labels", "self_training_rounds")


def check_teaching(transfer, training, task):
    """Refuse settings of pseudo-labels that would have no effect or no meaning, before anything is trained.

    Args:
        transfer (`TransferSetArguments`): asks for pseudo-labels, filters or rounds.
        training (`DistillationArguments`): what is compared with the teacher.
        task (`str`): one of `PROBLEM_TYPES`.

    Raises:
        ValueError: naming them.
    """
    fields = type(transfer).__dataclass_fields__
    if transfer.meta_pseudo_labels is not None:
        _check_meta_pseudo_labels(transfer, training, task)
    given = {name: getattr(transfer, name) for name in _OF_PSEUDO_LABELS}
    given = [f"{name}={value!r}" for name, value in given.items() if value != fields[name].default]
    if given and task != SINGLE_LABEL:
        raise ValueError(
            f"{', '.join(given)} for scores: a teacher that gives a score has no label and no certainty. Leave it out."
        )
    if given and training.distils_states:
        raise ValueError(
            f"{', '.join(given)} with losses on hidden states or attention: those ask the teacher in every step, and "
            "nothing is labelled beforehand that could be filtered or hardened. Leave one of the two out."
        )
    if transfer.drop_disagreements and transfer.self_training_rounds:
        raise ValueError(
            f"drop_disagreements with self_training_rounds={transfer.self_training_rounds}: each round has another "
            "teacher, and the rows would be filtered by none of them. Leave one of the two out."
        )
    if transfer.drop_disagreements and not (transfer.copies or transfer.rewriting_copies):
        raise ValueError(
            "drop_disagreements without copies: no text is rewritten, so no label can leave that of its original. "
            "Give --copies, or leave it out."
        )


def choose_rows(labelled_set, transfer, training):
    """Keep the rows that shall teach, and turn the teacher's answers into hard labels where that is asked for.

    Args:
        labelled_set (`Dataset`): the transfer set with the teacher's logits.
        transfer (`TransferSetArguments`): filters and kind of labels.
        training (`DistillationArguments`): names the column of labels.

    Returns:
        `tuple[Dataset, dict[str, dict]]`: the rows, and the counts of each step.
    """
    counts = {}
    if transfer.drop_disagreements:
        labelled_set, counts["disagreements"] = filter_transfer_set(labelled_set, keep_disagreements=False)
    bits, column = transfer.max_entropy_bits, training.label_column
    if transfer.pseudo_labels == "hard":
        labelled_set, counts["pseudo_labels"] = hard_pseudo_labels(labelled_set, bits, column)
    elif bits is not None:
        labelled_set, counts["confident"] = keep_confident(labelled_set, bits, column)
    return labelled_set, counts


def train_student(
    run, student, tokenizer, rows, labelled, validation, training, transfer, *, teacher, metric, trust_remote_code
):
    """Train the student once, with feedback to its teacher, or in rounds of self-training.

    Args:
        run (`RunFolder`): keeps checkpoints and the result.
        student (`PreTrainedModel`): the untrained student.
        tokenizer (`PreTrainedTokenizerFast`): its tokenizer.
        rows (`Dataset`): what teaches it.
        labelled (`Dataset`): the training split, on which Meta Pseudo Labels measure the student.
        validation (`Dataset`): the validation split.
        training (`DistillationArguments`): how to train.
        transfer (`TransferSetArguments`): rounds and kind of labels.
        teacher (`tuple[PreTrainedModel, PreTrainedTokenizerFast]`): asked in each step where inner states are
            compared; draws the labels of Meta Pseudo Labels; labels the first round of self-training.
        metric (`str`): chooses the best round.
        trust_remote_code (`bool`): the student may bring its own Python files.

    Returns:
        `tuple[PreTrainedModel, int, DistillationArguments, list[dict]]`: the student, its optimizer steps, the
        arguments that it was trained with, and the facts of the rounds.
    """
    if transfer.pseudo_labels == "hard":
        training = gold_label_arguments(training, epochs_per_cycle=training.epochs_per_cycle)
    if transfer.meta_pseudo_labels is not None:
        training = meta_arguments(training, transfer.meta_pseudo_labels)
        model, steps = train_with_feedback(
            run,
            student,
            tokenizer,
            rows,
            labelled,
            validation,
            training,
            teacher=teacher,
            trust_remote_code=trust_remote_code,
        )
        return model, steps, training, []
    if not transfer.self_training_rounds:
        online = training.distils_states
        model, steps = train_once(
            run,
            "student",
            student,
            tokenizer,
            rows,
            validation,
            training,
            teacher=teacher[0] if online else None,
            teacher_tokenizer=teacher[1] if online else None,
            trust_remote_code=trust_remote_code,
        )
        return model, steps, training, []
    model, _, rounds = self_train(
        run,
        *teacher,
        lambda: (copy.deepcopy(student), tokenizer),
        rows,
        validation,
        training,
        rounds=transfer.self_training_rounds,
        max_entropy_bits=transfer.max_entropy_bits,
        metric=metric,
        trust_remote_code=trust_remote_code,
    )
    best = next(facts for facts in rounds if facts["is_best"])
    run.once("student", lambda path: shutil.copytree(run.path(f"round-{best['round']}"), path))
    return model, best["steps"], training, rounds


def _check_meta_pseudo_labels(transfer, training, task):
    meta_arguments(training, transfer.meta_pseudo_labels)  # refuses what it cannot be trained with
    fields = type(transfer).__dataclass_fields__
    others = [
        f"{name}={getattr(transfer, name)!r}"
        for name in _OF_PSEUDO_LABELS
        if getattr(transfer, name) != fields[name].default
    ]
    if others:
        raise ValueError(
            f"{', '.join(others)} with meta_pseudo_labels: the teacher draws a new label in every step, so nothing is "
            "labelled beforehand that could be filtered, hardened or taught in rounds. Leave one of the two out."
        )
    if task != SINGLE_LABEL:
        raise ValueError(
            "meta_pseudo_labels for scores: labels are drawn from a distribution over labels, and a teacher that "
            "gives a score has none. Leave it out."
        )
