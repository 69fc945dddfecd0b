"""Self-training: a teacher labels texts, a student learns from the labels and becomes the teacher of the next round.

Yarowsky 1995, "Unsupervised Word Sense Disambiguation Rivaling Supervised Methods"; with a new student in each round,
Xie et al. 2020, https://arxiv.org/abs/1911.04252; with entropy thresholds on few-shot text classification, Vu et al.
2021 (STraTA), https://arxiv.org/abs/2109.06270.
"""

import json
import logging

import numpy as np

from distil_trainer.evaluation import evaluate_logits
from distil_trainer.labeling import TeacherLabeler
from distil_trainer.labels import dataset_label_names, label_permutation
from distil_trainer.pseudo_labels import hard_pseudo_labels, keep_confident
from distil_trainer.recipe_arguments import run_settings
from distil_trainer.stages import split_facts, train_once, without_leaks
from distil_trainer.tasks import SINGLE_LABEL, problem_type

logger = logging.getLogger(__name__)

_METRICS = ("accuracy", "macro_f1")


def self_train(
    run,
    teacher,
    teacher_tokenizer,
    make_student,
    transfer_set,
    validation,
    arguments,
    rounds=3,
    max_entropy_bits=None,
    metric="accuracy",
    trust_remote_code=False,
):
    """Train a new student in each round, on the answers of the student of the round before; keep the best one.

    In each round the teacher labels the transfer set, rows about which it is uncertain are dropped, and a new student
    is trained on the rest. Rounds end when one is not better on the validation data than the best before. It needs
    students that come near their teacher: one that is much smaller teaches the next round worse than it was taught.

    What a round teaches is in `arguments`. With a logit loss it is the teacher's logits (and gold labels, where
    `hard_label_weight` is above 0). Without one (`logit_loss_weight=0, hard_label_weight=1`) it is hard pseudo-labels,
    and gold labels where rows have them.

    Each training is a stage of `run`, so a run that was cut off goes on at its last checkpoint. Texts that stand in
    the validation data are dropped from the transfer set first. Figures on the validation data are flattered, because
    they choose the round: report the result on other data.

    Args:
        run (`RunFolder`): keeps students, checkpoints and facts.
        teacher (`PreTrainedModel`): the first teacher, a trained classifier with one label a row.
        teacher_tokenizer (`PreTrainedTokenizerFast`): its tokenizer.
        make_student (`Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerFast]]`): makes an untrained student and
            its tokenizer, of any architecture; called once a round. For the same start in each, seed it inside.
        transfer_set (`Dataset`): texts, with gold labels or none (see `mix`).
        validation (`Dataset`): texts with gold labels.
        arguments (`DistillationArguments`): how to train a student; the same in each round.
        rounds (`int`, *optional*, defaults to 3): most rounds.
        max_entropy_bits (`float`, *optional*): see `hard_pseudo_labels`. Rows with a gold label always stay.
        metric (`str`, *optional*, defaults to `"accuracy"`): what decides, `"accuracy"` or `"macro_f1"`.
        trust_remote_code (`bool`, *optional*, defaults to `False`): students may bring their own Python files.

    Returns:
        `tuple[PreTrainedModel, PreTrainedTokenizerFast, list[dict]]`: the student of the best round, its tokenizer,
        and one `dict` a round: `round`, `is_best`, `steps`, the counts of `hard_pseudo_labels` in `rows`, and
        `teacher` and `student`, what each of the two scores on the validation data (see `evaluate_logits`).

    Raises:
        ValueError: if the task does not have one label a row, inner states shall be compared, `rounds` or `metric` is
            not legal, or the run was begun with something else; and what `hard_pseudo_labels` and
            `DistillationTrainer` raise.

    Example:

    ```python
    arguments = DistillationArguments("out", logit_loss_weight=0, hard_label_weight=1, num_train_epochs=3)
    run = RunFolder("out", {"student": "roberta-base"})
    make_student = partial(load_classifier, "roberta-base", label_names=names, to_be_trained=True)
    student, tokenizer, facts = self_train(
        run, teacher, teacher_tokenizer, make_student, transfer, validation, arguments, rounds=5, max_entropy_bits=0.2
    )
    ```
    """
    _check(teacher, arguments, rounds, metric)
    transfer_set, _ = without_leaks(transfer_set, [validation], arguments)
    labeler = _labeler(teacher, teacher_tokenizer, arguments)
    _check_same_run(run, labeler, transfer_set, validation, arguments, max_entropy_bits)
    teacher_score = _score(teacher, teacher_tokenizer, validation, arguments)
    facts, best = [], None
    for number in range(rounds):
        name = f"round-{number}"
        student, tokenizer = make_student()
        selected = None
        if not run.is_finished(name):
            selected, counts = _labelled(labeler, transfer_set, arguments, max_entropy_bits)
            if facts:
                _warn_of_few_rows(number, counts, facts[-1]["rows"], max_entropy_bits)
            run.value(f"{name}-rows", lambda: counts)  # noqa: B023
        student, steps = train_once(
            run, name, student, tokenizer, selected, validation, arguments, trust_remote_code=trust_remote_code
        )
        labeler = _labeler(student, tokenizer, arguments)
        score = _score(student, tokenizer, validation, arguments)
        rows = run.value(f"{name}-rows", dict)
        facts.append(
            {
                "round": number,
                "is_best": False,
                "steps": steps,
                "rows": rows,
                "teacher": teacher_score,
                "student": score,
            }
        )
        logger.info("Round %d: %s %.4f on %d validation rows.", number + 1, metric, score[metric], score["n"])
        if best is not None and score[metric] <= facts[best[0]]["student"][metric]:
            break
        best, teacher_score = (number, student, tokenizer), score
    facts[best[0]]["is_best"] = True
    return best[1].eval(), best[2], facts


def _check(teacher, arguments, rounds, metric):
    task = problem_type(teacher.config)
    if task != SINGLE_LABEL:
        raise ValueError(
            f"The teacher's problem_type is {task!r}: entropies and pseudo-labels are of one label a row. Distil such "
            "a teacher with `DistillationTrainer`, which takes its answers as they are."
        )
    if arguments.distils_states:
        raise ValueError(
            "arguments ask for a loss on hidden states, attentions or relations, but in self-training a teacher gives "
            "its answers only, once a round. Leave these losses out."
        )
    if rounds < 1:
        raise ValueError(f"rounds={rounds} must be at least 1: in the first one the given teacher labels.")
    if metric not in _METRICS:
        raise ValueError(f"metric={metric!r} cannot choose a round: give one of {', '.join(_METRICS)}.")


def _labeler(teacher, tokenizer, arguments, dtype="auto"):
    return TeacherLabeler(
        teacher,
        tokenizer,
        text_column=arguments.text_column,
        text_pair_column=arguments.text_pair_column,
        max_length=arguments.max_length,
        dtype=dtype,
    )


def _check_same_run(run, labeler, transfer_set, validation, arguments, max_entropy_bits):
    """Refuse to go on with rounds that were begun with another teacher, other rows or other settings."""
    now = {
        "teacher": labeler.fingerprint,
        "transfer_set": split_facts(transfer_set, "rows")["fingerprint"],
        "validation": split_facts(validation, "rows")["fingerprint"],
        "max_entropy_bits": max_entropy_bits,
        **run_settings((arguments,)),
    }
    begun, now = run.value("self-training", lambda: now), json.loads(json.dumps(now))
    differences = [
        f"{name}: {begun.get(name, 'not given')!r} there, {now.get(name, 'not given')!r} now"
        for name in sorted(begun.keys() | now.keys())
        if begun.get(name) != now.get(name)
    ]
    if differences:
        raise ValueError(
            f"The folder {str(run.folder)!r} holds rounds that were begun with something else "
            f"({'; '.join(differences)}). Later rounds would build on students of another experiment: give another "
            "folder."
        )


def _labelled(labeler, transfer_set, arguments, max_entropy_bits):
    labelled = labeler.map(transfer_set)
    label = keep_confident if arguments.distils_logits else hard_pseudo_labels
    return label(labelled, max_entropy_bits, arguments.label_column)


def _warn_of_few_rows(number, counts, counts_before, max_entropy_bits):
    """Warn of a round that keeps less than half of the rows of the one before."""
    if 2 * counts["rows_out"] < counts_before.get("rows_out", 0):  # a folder of an older version may have no counts
        logger.warning(
            "Round %d of self-training keeps %s of %s rows, and the one before kept %s: the student that now teaches "
            "is less certain than its teacher was, and max_entropy_bits=%s, set for that one, takes its answers away. "
            "Of the rows left %s have gold labels. Raise max_entropy_bits, or do fewer rounds.",
            number + 1,
            f"{counts['rows_out']:,}",
            f"{counts['rows_in']:,}",
            f"{counts_before['rows_out']:,}",
            max_entropy_bits,
            f"{counts['gold_labels']:,}",
        )


def _score(teacher, tokenizer, validation, arguments):
    labeler = _labeler(teacher, tokenizer, arguments, dtype=teacher.dtype)  # a figure is not taken in half precision
    logits = np.asarray(labeler.map(validation)["teacher_logits"], dtype=np.float32)
    names = dataset_label_names(validation, arguments.label_column)
    if names is not None:
        permutation = label_permutation(
            labeler.label_names, names, given=labeler.teacher_name, wanted="the validation data"
        )
        logits = logits if permutation is None else logits[:, permutation]
    return evaluate_logits(logits, validation[arguments.label_column], seed=arguments.seed)
