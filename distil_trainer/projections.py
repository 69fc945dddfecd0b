"""Linear maps from the student's widths to the teacher's: trained beside the student, never part of it."""

import os

import torch
from safetensors.torch import load_file, save_file
from torch import nn

_FILE = "projections.safetensors"


class Projections(nn.Module):
    """One linear map for each loss that compares states of unequal widths.

    They are a module of their own, which `DistillationTrainer` prepares beside the student: gradients are averaged
    over processes like the student's, while the student itself holds, saves and publishes nothing of them.

    Args:
        widths (`dict[str, tuple[int, int]]`): for each loss, by its name, the student's width and the teacher's.
        seed (`int`): decides the initial weights. The global random state is left as it was, so that the student's
            dropout is the same with and without projections.

    Reference:
        Romero et al. 2014 (FitNets), https://arxiv.org/abs/1412.6550, equation 3, and Jiao et al. 2019 (TinyBERT),
        https://arxiv.org/abs/1909.10351, equation 8. Each loss has its own map here; TinyBERT shares one between
        layers.
    """

    def __init__(self, widths, seed):
        super().__init__()
        # The weights are drawn on the CPU: `torch.manual_seed` would seed accelerators too, not all of which
        # `fork_rng` restores.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.linears = nn.ModuleDict(
                {
                    name: nn.Linear(student_width, teacher_width)
                    for name, (student_width, teacher_width) in widths.items()
                }
            )

    def forward(self, states):
        """Map student states to the teacher's width.

        Args:
            states (`dict[str, torch.Tensor]`): for each loss, by its name, states of shape `(..., student_width)`.

        Returns:
            `dict[str, torch.Tensor]`: for each, states of shape `(..., teacher_width)`.
        """
        return {name: self.linears[name](state) for name, state in states.items()}


def save_projections(projections, folder):
    """Write the weights to a file of their own in a checkpoint folder, which need not exist yet."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, _FILE)
    save_file({name: value.contiguous() for name, value in projections.state_dict().items()}, f"{path}.tmp")
    os.replace(f"{path}.tmp", path)


def load_projections(projections, folder):
    """Read what `save_projections` wrote.

    Args:
        projections (`Projections`): takes the weights; `None` for a run without.
        folder (`str`): a checkpoint.

    Raises:
        ValueError: if the file is missing, or belongs to other losses or widths; without projections, if it is there.
    """
    path = os.path.join(folder, _FILE)
    if projections is None:
        if os.path.isfile(path):
            raise ValueError(
                f"{path} belongs to a run with projections, and this one has none. Resume with the losses that the "
                "checkpoint was trained with."
            )
        return
    if not os.path.isfile(path):
        raise ValueError(
            f"resume_from_checkpoint={folder!r} has no {_FILE}: it was written by a run without projections, and this "
            "one would go on with untrained ones. Resume with the losses that the checkpoint was trained with."
        )
    saved, own = load_file(path), projections.state_dict()
    saved_shapes = {name: tuple(value.shape) for name, value in saved.items()}
    own_shapes = {name: tuple(value.shape) for name, value in own.items()}
    if saved_shapes != own_shapes:
        raise ValueError(
            f"{path} holds projections {saved_shapes}, but this run needs {own_shapes}. Resume with the losses that "
            "the checkpoint was trained with."
        )
    projections.load_state_dict(saved)
