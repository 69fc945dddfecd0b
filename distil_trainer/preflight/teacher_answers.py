"""Are the teacher's logits whole, worth learning, and in accord with the gold labels there are?"""

import numpy as np

from distil_trainer.inference import predict_logits, torch_runner
from distil_trainer.input_checks import padding_side
from distil_trainer.label_columns import read_labels
from distil_trainer.labels import dataset_label_names, label_permutation, model_label_names
from distil_trainer.objective import logit_loss_name
from distil_trainer.preflight.lengths import check_lengths
from distil_trainer.preflight.signal_quality import beats_chance, judge_logits, on_another_scale
from distil_trainer.tasks import REGRESSION, SINGLE_LABEL
from distil_trainer.training_data import check_teacher_logits, check_token_numbers

# Asking a large teacher for this many rows takes seconds on a CPU.
_MOST_ROWS_ASKED = 64
_FEWEST_ROWS_JUDGED = 30


def check_teacher_answers(run):
    """Check all cached logits for NaN, and judge those of a sample.

    Yields:
        `tuple[str, str]`: a status and a message; or raises.
    """
    if run.train_dataset is None or not (run.args.distils_logits or run.args.distils_states):
        return
    if not run.teachers:
        check_teacher_logits(run.train_dataset.with_format(None), run.student.config.num_labels, "train_dataset")
    elif (
        "input_ids" in run.train_dataset.column_names or not run.has_texts(run.train_dataset) or run.tokenizer is None
    ):
        yield "fine", "Not checked: the teacher is asked for texts here, and train_dataset holds tokens."
        return
    loss = logit_loss_name(run.args, run.task)
    temperature = None if loss == "mse" else run.args.temperature
    for what, sample, logits in _answers(run):
        broken = ~np.isfinite(logits).all(axis=1)
        if broken.any():
            yield (
                "refused",
                f"The {what} gives {broken.sum()} of {len(logits)} sample rows NaN or infinite logits. A single one "
                "turns every weight of the student into NaN: its weights are broken, or half precision overflows, and "
                "it must be loaded in float32.",
            )
            continue
        if not run.args.distils_logits:
            yield "fine", f"The {what} gives finite answers to {len(logits)} sample rows. They are not learned."
            continue
        weaknesses = judge_logits(logits, run.task, temperature, what)
        yield from (("warning", weakness) for weakness in weaknesses)
        if not weaknesses:
            yield "fine", f"The {what} tells the {len(logits)} sample rows apart."
        yield from _compare_with_gold_labels(run, what, sample, logits)


def _answers(run):
    """Yield what a teacher is, rows of the training set, and its logits of them in the student's label order."""
    if not run.teachers:
        sample = run.sample()
        logits = np.asarray(sample["teacher_logits"][:], dtype=np.float64)
        yield "teacher", sample, _in_order(run, logits, dataset_label_names(sample, "teacher_label"))
        return
    sample, tokens = run.sample(_MOST_ROWS_ASKED), run.tokens()
    texts = [sample[column][:] for column in run.text_columns]
    for what, model, tokenizer in run.readers[1:]:
        # What a model has no position or embedding for, it cannot be asked.
        check_lengths(model.config, tokenizer, run.args, what)
        check_token_numbers(tokens, run.prefix(what), model.config, f"the {what}", "train_dataset")
    for what, model, tokenizer in run.readers[1:]:
        side = padding_side(model.config)
        logits = predict_logits(
            torch_runner(model), tokenizer, *texts, max_length=run.args.max_length, padding_side=side
        )
        names = model_label_names(model.config) if run.args.distils_logits else None
        yield what, sample, _in_order(run, logits.astype(np.float64), names)


def _in_order(run, logits, names):
    wanted = model_label_names(run.named_student.config)
    if not names or not wanted:
        return logits
    permutation = label_permutation(names, wanted, given="the teacher", wanted="the student")
    return logits if permutation is None else logits[:, permutation]


def _compare_with_gold_labels(run, what, sample, logits):
    labels = _gold_labels(run, sample, logits)
    labelled = ~np.isnan(labels).any(axis=1)
    if labelled.sum() < _FEWEST_ROWS_JUDGED:
        yield "fine", f"The {what} is not compared with gold labels: {labelled.sum()} sample rows have some that fit."
    elif beats_chance(logits[labelled], labels[labelled], run.task):
        yield "fine", f"The {what} is better than chance on {labelled.sum()} labelled sample rows."
        if run.task == REGRESSION and on_another_scale(logits[labelled], labels[labelled]):
            yield (
                "warning",
                f"The {what} gives scores from {logits[labelled].min():.3g} to {logits[labelled].max():.3g} where the "
                f"gold scores run from {labels[labelled].min():.3g} to {labels[labelled].max():.3g}: they rise with "
                "them, but lie further from them than their mean does. A student learns the teacher's scale, and no "
                "correlation will show it. Bring one of them to the scale of the other, or train the teacher longer.",
            )
    else:
        yield (
            "warning",
            f"The {what} is no better than chance on {labelled.sum()} labelled sample rows: a student would learn "
            "noise. Check that it was trained for this task, that its tokenizer is its own, and that its labels mean "
            "what the data's do.",
        )


def _gold_labels(run, sample, logits):
    """Return gold labels of shape `(n, 1)` or `(n, num_labels)`, NaN where there are none that fit the student."""
    config, column = run.named_student.config, run.label_column(sample)
    if column is None:
        return np.full((len(logits), 1), np.nan)
    names = model_label_names(config)
    sample = sample.select_columns([column])
    try:
        sample, _ = read_labels(sample, column, names, config.num_labels, "train_dataset", problem_type=run.task)
    except (ValueError, TypeError):
        # Where gold labels are to be learned from, `check_labels` says what is wrong with them.
        return np.full((len(logits), 1), np.nan)
    labels = np.array(sample["labels"][:], dtype=np.float64).reshape(len(logits), -1)
    return np.where(labels < 0, np.nan, labels) if run.task == SINGLE_LABEL else labels
