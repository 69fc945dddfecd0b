"""The distillation objective: which terms there are, and their weighted sum for one batch."""

from typing import NamedTuple

import torch

from distil_trainer import losses
from distil_trainer.alignment import pool_attention_to_words, pool_to_words, shared_words
from distil_trainer.matches import states_of
from distil_trainer.schedules import interpolate
from distil_trainer.states import pool_states, select_token
from distil_trainer.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL

# The loss on logits that each name stands for, by the kind of task. Regression has no distribution to soften.
_LOGIT_LOSSES = {
    SINGLE_LABEL: {
        "kl": losses.soft_target_kl,
        "mse": losses.logit_mse,
        "soft_cross_entropy": losses.soft_cross_entropy,
        "decoupled": losses.decoupled_kd,
    },
    MULTI_LABEL: {
        "kl": losses.sigmoid_kl,
        "mse": losses.logit_mse,
        "soft_cross_entropy": losses.sigmoid_cross_entropy,
    },
    REGRESSION: {"mse": losses.logit_mse},
}
_HARD_LABEL_LOSSES = {
    SINGLE_LABEL: losses.hard_label_cross_entropy,
    MULTI_LABEL: losses.hard_label_binary_cross_entropy,
    REGRESSION: losses.hard_label_mse,
}
_TOKEN_LOSSES = {"mse": losses.hidden_mse, "cosine": losses.hidden_cosine}
_ATTENTION_LOSSES = {"mse": losses.attention_mse, "cosine": losses.attention_cosine, "kl": losses.attention_kl}
_ROW_LOSSES = {
    "mse": losses.pooled_mse,
    "cosine": losses.pooled_cosine,
    "pkd": losses.pkd,
    "similarity_preserving": losses.similarity_preserving,
    "rkd_distance": losses.rkd_distance,
    "rkd_angle": losses.rkd_angle,
}


class Signals(NamedTuple):
    """What one model says about a batch.

    Attributes:
        logits (`torch.Tensor` of shape `(batch_size, num_labels)`): in the student's label order.
        states (`dict[str, tuple[torch.Tensor]]`): what `StateReader.read` gave.
        attention_mask (`torch.Tensor` of shape `(batch_size, length)`): of the tokens that this model read; `None` in
            batches without, which matches cannot do with.
        head_token (`str`): "first" or "last": the token that its head reads.
    """

    logits: torch.Tensor
    states: dict
    attention_mask: torch.Tensor | None
    head_token: str


def logit_loss_name(args, task):
    """Return the name of the loss on logits: the one asked for, else "kl", or "mse" for regression.

    Args:
        args (`DistillationArguments`): their `logit_loss`.
        task (`str`): one of `PROBLEM_TYPES`.

    Raises:
        ValueError: if the loss asked for does not exist for this task.
    """
    name = args.logit_loss or ("mse" if task == REGRESSION else "kl")
    if args.distils_logits and name not in _LOGIT_LOSSES[task]:
        raise ValueError(
            f"logit_loss={name!r} with problem_type={task!r}: that loss compares distributions over labels of which "
            f"one is right, and the student's outputs are not one. Choose {' or '.join(_LOGIT_LOSSES[task])}, or "
            "leave logit_loss out."
        )
    return name


def gold_label_loss(task, logits, labels):
    """Compute the loss of evaluation, the mean over rows of the task's own loss on gold labels."""
    return _HARD_LABEL_LOSSES[task](logits, labels)


class DistillationObjective:
    """`logit_loss_weight · logit loss + hard_label_weight · gold-label loss + Σ weight · match`.

    Every term is a mean over rows, padding left out. Weights and the temperature may move linearly from their first
    to their final value as training goes on.

    Args:
        args (`DistillationArguments`): weights, temperature, label smoothing.
        task (`str`): one of `PROBLEM_TYPES`; decides what softens logits and what gold labels are.
        matches (`list[Match]`): what is compared besides the logits.
        projected (`set[str]`): the names of those matches whose student states are projected first.
    """

    def __init__(self, args, task, matches, projected):
        self._args = args
        self._task = task
        self._matches = matches
        self._projected = projected
        self._logit_loss_name = logit_loss_name(args, task)

    def temperature(self, progress):
        """Return the temperature when `progress` (in [0, 1]) of training lies behind."""
        return interpolate(self._args.temperature, self._args.final_temperature, progress)

    def __call__(self, student, teacher, batch, project, progress):
        """Compute the loss of a batch.

        Args:
            student (`Signals`): with gradients.
            teacher (`Signals`): without; `None` where only gold labels teach.
            batch (`dict[str, torch.Tensor]`): `labels`, and the word numbers of tokens where tokenizers differ.
            project (`torch.nn.Module`): the prepared `Projections`; `None` where no widths differ.
            progress (`float`): share of training that lies behind, in [0, 1].

        Returns:
            `tuple[torch.Tensor, dict[str, torch.Tensor]]`: the loss, and each term by its name, unweighted and
            detached.
        """
        args = self._args
        weights, terms = {}, {}
        logit_weight = interpolate(args.logit_loss_weight, args.final_logit_loss_weight, progress)
        if args.distils_logits:
            name, term = self._logit_term(student.logits, teacher.logits, batch, self.temperature(progress))
            weights[name], terms[name] = logit_weight, term
        if args.uses_hard_labels:
            smoothing = {"label_smoothing": args.label_smoothing_factor} if self._task == SINGLE_LABEL else {}
            loss = _HARD_LABEL_LOSSES[self._task]
            weights[loss.__name__] = interpolate(args.hard_label_weight, args.final_hard_label_weight, progress)
            terms[loss.__name__] = loss(student.logits, batch["labels"], **smoothing)
        if self._matches:
            terms |= self._match_terms(student, teacher, batch, project)
            weights |= {match.name: interpolate(match.weight, match.final_weight, progress) for match in self._matches}
        loss = sum(weights[name] * term for name, term in terms.items())
        if not (args.distils_logits or args.uses_hard_labels):
            # Under DDP every parameter must get a gradient, the head's too.
            loss = loss + 0.0 * student.logits.float().sum()
        return loss, {name: term.detach() for name, term in terms.items()}

    def _logit_term(self, student_logits, teacher_logits, batch, temperature):
        loss = _LOGIT_LOSSES[self._task][self._logit_loss_name]
        if loss is losses.logit_mse:
            term = loss(student_logits, teacher_logits)
        elif loss is losses.decoupled_kd:
            unlabelled = torch.full((len(student_logits),), -100, device=student_logits.device)
            term = loss(
                student_logits,
                teacher_logits,
                batch.get("labels", unlabelled),
                temperature,
                self._args.target_class_weight,
                self._args.non_target_class_weight,
            )
        else:
            term = loss(student_logits, teacher_logits, temperature)
        return loss.__name__, term

    def _match_terms(self, student, teacher, batch, project):
        if student.attention_mask is None or teacher.attention_mask is None:
            raise ValueError(
                "The batch has no attention_mask (for a teacher with tokens of its own, teacher_attention_mask), and "
                "inner states are compared: padding would count as text. Leave data_collator= out, or let it give the "
                "mask."
            )
        words = None
        if "word_ids" in batch:
            words = shared_words(batch["word_ids"], batch["teacher_word_ids"])
        pairs = {match.name: _matched_states(match, student, teacher, batch, words) for match in self._matches}
        if self._projected:
            projected = project({name: pairs[name][0] for name in self._projected})
            pairs |= {name: (state, pairs[name][1]) for name, state in projected.items()}
        mask = student.attention_mask if words is None else words[0]
        return {match.name: _match_loss(match, *pairs[match.name], mask) for match in self._matches}


def _matched_states(match, student, teacher, batch, words):
    """Return the two states that a match compares, over the same positions."""
    states = []
    for signals, layer, ids in (
        (student, match.student_layer, "word_ids"),
        (teacher, match.teacher_layer, "teacher_word_ids"),
    ):
        kind = states_of(match.what)
        # Hidden states begin with the embeddings, the others with the first layer.
        state = signals.states[kind][layer if kind == "hidden_states" else layer - 1]
        if match.what == "pooled_states":
            state = pool_states(state, signals.attention_mask)
        elif match.what == "cls_states":
            state = select_token(state, signals.attention_mask, signals.head_token)
        elif words is not None and kind == "attentions":
            state = pool_attention_to_words(state, batch[ids], num_words=words[1], mask=words[0])
        elif words is not None:
            state = pool_to_words(state, batch[ids], num_words=words[1])
        states.append(state)
    return tuple(states)


def _match_loss(match, student_state, teacher_state, mask):
    if match.what == "attentions":
        return _ATTENTION_LOSSES[match.loss](student_state, teacher_state, mask)
    if match.what == "hidden_states":
        return _TOKEN_LOSSES[match.loss](student_state, teacher_state, mask)
    if match.what in ("pooled_states", "cls_states"):
        return _ROW_LOSSES[match.loss](student_state, teacher_state)
    return losses.relation_kl(student_state, teacher_state, mask, match.relation_heads)
