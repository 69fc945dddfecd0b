"""Trainings with Meta Pseudo Labels on tiny models: what the tests of them share."""

import copy

import torch
from loss_terms import largest_difference, make_student

from distil_trainer.meta_pseudo_labels import MetaPseudoLabelsArguments, MetaPseudoLabelsTrainer

COMMON = {"save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 8}
COMMON |= {"learning_rate": 1e-3, "drop_evaluation_rows": False, "logging_steps": 1}
# Plain descent, whose small errors stay small; Adam would blow up those of gradients close to zero.
DESCENT = {"max_steps": 4, "optim": "sgd", "learning_rate": 0.1, "adam_epsilon": 1e-3, "max_grad_norm": 0.0}
TEACHER_RATE = 1e-3


def set_dropout(model, probability):
    """Give all dropout of a model one probability."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = probability
        if hasattr(module, "dropout_prob"):  # of attention maps, in BERT of transformers 4.57
            module.dropout_prob = probability
    return model


def decided(teacher):
    """Give the tiny teacher a head that tells rows apart, and no dropout."""
    with torch.no_grad():
        teacher.classifier.weight *= 50
    return set_dropout(teacher, 0.0)


def make_trainer(folder, teacher, tokenizer, reviews, student=None, given=None, **arguments):
    """Make a trainer of a fresh student under a copy of the teacher; 10 of the rows are labelled."""
    arguments = {**COMMON, "teacher_learning_rate": TEACHER_RATE, "labelled_batch_size": 6, **arguments}
    return MetaPseudoLabelsTrainer(
        make_student() if student is None else student,
        MetaPseudoLabelsArguments(str(folder), **arguments),
        **{
            "train_dataset": reviews.remove_columns("label"),
            "labelled_dataset": reviews.select(range(10)),
            "processing_class": tokenizer,
            "teacher": copy.deepcopy(teacher),
            **(given or {}),
        },
    )


def weights(trainer):
    """Return copies of the weights of student and teacher, by the names of both."""
    models = {"student": trainer.model, "teacher": trainer.teacher.models[0]}
    return {
        f"{whose}.{name}": value.clone()
        for whose, model in models.items()
        for name, value in model.state_dict().items()
    }


def difference_of(whose, first, second):
    """Return the largest difference between the weights of the student, or the teacher, in what `weights` returned."""
    first, second = ({name: each[name] for name in each if name.startswith(whose)} for each in (first, second))
    return largest_difference(first, second)


def logs_of(trainer):
    """Return the training logs, one a step."""
    return [log for log in trainer.state.log_history if "loss" in log]


def draw_always(monkeypatch, labels):
    """Let the teacher draw given labels in every batch."""
    monkeypatch.setattr(
        "distil_trainer.meta_pseudo_labels.trainer.sample_pseudo_labels",
        lambda logits, uniforms: torch.tensor(labels)[: len(logits)],
    )


def collect_nothing(monkeypatch):
    """Leave out the collection that each training begins with; it takes longer than that of these models does."""
    monkeypatch.setattr("accelerate.utils.memory.gc.collect", lambda: 0)
