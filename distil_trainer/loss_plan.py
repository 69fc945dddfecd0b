"""What the losses of a distillation need of its two models, worked out before either of them is run."""

from typing import NamedTuple

from distil_trainer.matches import Match, states_of
from distil_trainer.matching import plan_matches, projection_widths
from distil_trainer.states import model_shape

# States of a whole row, which need no alignment of tokens.
_ROW_STATES = ("cls_states", "pooled_states")


class LossPlan(NamedTuple):
    """The matches of a distillation, layers filled in, and what they need.

    Attributes:
        matches (`list[Match]`): what is compared besides logits.
        widths (`dict[str, tuple[int, int]]`): for the matches whose student states are projected first, by name, the
            student's width and the teacher's.
    """

    matches: list[Match]
    widths: dict[str, tuple[int, int]]

    @property
    def states(self):
        """The states that are read of both models (`set[str]`, see `StateReader`)."""
        return {states_of(match.what) for match in self.matches}

    @property
    def compares_tokens(self):
        """Whether single tokens are compared, so that those of two tokenizers must be aligned."""
        return any(match.what not in _ROW_STATES for match in self.matches)


def plan_losses(args, student_config, teacher_configs):
    """Settle which matches there are.

    Args:
        args (`DistillationArguments`): the matches and short forms.
        student_config (`PretrainedConfig`): the student's. Any model can be distilled from logits: the shapes are
            read only where inner states are compared.
        teacher_configs (`list[PretrainedConfig]`): of the teachers that are asked in every step; may be empty.

    Returns:
        [`LossPlan`]

    Raises:
        ValueError: if the matches do not fit the two models, or one of these is no Transformer.
    """
    if not (args.distils_states and teacher_configs):
        return LossPlan([], {})
    shapes = model_shape(teacher_configs[0]), model_shape(student_config)
    matches = plan_matches(args, *shapes)
    widths = {match.name: projection_widths(match, *shapes) for match in matches}
    return LossPlan(matches, {name: pair for name, pair in widths.items() if pair})


def check_optimizers(args, plan, optimizer, scheduler):
    """Refuse a given optimizer or scheduler with which the losses would not be trained as the arguments say.

    Args:
        args (`DistillationArguments`): the losses.
        plan ([`LossPlan`]): what they need.
        optimizer (`torch.optim.Optimizer`, *optional*): as given to the trainer.
        scheduler (`torch.optim.lr_scheduler.LRScheduler`, *optional*): likewise.

    Raises:
        ValueError: saying which.
    """
    if plan.widths and optimizer is not None:
        raise ValueError(
            f"optimizers= is given, and {', '.join(plan.widths)} need projections to the teacher's width, which it "
            "would never train. Leave optimizers= out, and set optim=, learning_rate= and projection_learning_rate= "
            "in the arguments."
        )
    if args.epochs_per_cycle is not None and scheduler is not None:
        raise ValueError(
            f"epochs_per_cycle={args.epochs_per_cycle} and a scheduler in optimizers=: the cycles are a scheduler of "
            "their own, and would never be run. Leave one of the two out."
        )
