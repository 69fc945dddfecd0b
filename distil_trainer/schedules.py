"""How weights, the temperature and the learning rate change as training goes on."""

import math

from torch.optim.lr_scheduler import CyclicLR

# The lowest learning rate of a cycle is the highest divided by this.
_RANGE = 25


def interpolate(start, end, progress):
    """Return the point between two values that a linear schedule has reached.

    Args:
        start (`float`): the value at the first step.
        end (`float`, *optional*): the value at the last step; `None` for `start` throughout.
        progress (`float`): share of training that lies behind, in [0, 1].

    Returns:
        `float`
    """
    return start if end is None else (1 - progress) * start + progress * end


def steps_per_cycle(args, num_rows, rows_per_batch):
    """Return the optimizer steps (`int`) that `epochs_per_cycle` epochs have.

    Args:
        args (`DistillationArguments`): cycles, processes and how batches are made.
        num_rows (`int`): rows of the training set.
        rows_per_batch (`int`): in each process.
    """
    whole = math.floor if args.dataloader_drop_last else math.ceil
    batches = whole(num_rows / (rows_per_batch * args.world_size))
    return round(args.epochs_per_cycle * math.ceil(batches / args.gradient_accumulation_steps))


def cyclic_schedule(optimizer, steps_per_cycle):
    """Make a schedule of triangles: each parameter group from its `lr` / 25 up to `lr` and back in one cycle.

    The highest learning rate is reached exactly, in the middle of the cycle (half a step before it, where
    `steps_per_cycle` is odd). The optimizer's groups are set to the lowest one here. Momentum stays as it is.

    Args:
        optimizer (`torch.optim.Optimizer`): its groups hold the highest learning rates: their `max_lr`, or where there
            is none, as in one that had no such schedule before, their `lr`.
        steps_per_cycle (`int`): optimizer steps from one lowest point to the next, at least 2.

    Returns:
        `torch.optim.lr_scheduler.CyclicLR`: to be stepped after each optimizer step; its state can be saved.

    Raises:
        ValueError: if `steps_per_cycle` is below 2.

    Reference:
        Smith 2015, https://arxiv.org/abs/1506.01186, section 3.1, policy "triangular". The ratio of 25 is that of
        fast.ai's one-cycle policy.
    """
    if steps_per_cycle < 2:
        raise ValueError(
            f"steps_per_cycle={steps_per_cycle}: a cycle needs at least 2 steps, one up and one down. Raise "
            "epochs_per_cycle, or accumulate fewer batches a step."
        )
    # Kept in the group, because an earlier schedule of this kind has left `lr` at its lowest.
    highest = [group.setdefault("max_lr", group["lr"]) for group in optimizer.param_groups]
    steps_up = steps_per_cycle // 2
    return CyclicLR(
        optimizer,
        base_lr=[learning_rate / _RANGE for learning_rate in highest],
        max_lr=highest,
        step_size_up=steps_up,
        step_size_down=steps_per_cycle - steps_up,
        cycle_momentum=False,
    )
