"""`GradualPruning`: sizes that shrink while a student is distilled.

Zhu and Gupta 2017, To prune, or not to prune, https://arxiv.org/abs/1710.01878, section 3: many small cuts with
training between them, large ones first.
"""

import base64
import logging
import math

import numpy as np
import torch
from accelerate.utils import reduce
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from distil_trainer.pruning.checks import check_can_be_pruned, check_size
from distil_trainer.pruning.gates import Gates, LayerUnits, layer_sizes
from distil_trainer.pruning.selection import keep_most_important
from distil_trainer.pruning.surgery import rebuild

logger = logging.getLogger(__name__)


class GradualPruning(TrainerCallback, ExportableState):
    """Prune the heads and FFN neurons of a `DistillationTrainer`'s student bit by bit while it learns.

    At each cut the least important are gated off for good: least by `Σ over rows of |∂loss / ∂gate|` since the cut
    before, where the loss is the one that is trained. When training ends, the gated parts are cut out of
    `trainer.model` itself, which then is what `prune` would have returned: save it with `trainer.save_model()`.
    Checkpoints on the way have the student's full size, with zeros where it is gated off, and training goes on from
    them as if it had not stopped.

    Where student and teacher are one model without dropout, a distillation loss has no gradient before the first cut:
    set `hard_label_weight` above 0 there.

    Args:
        num_heads (`int`, *optional*): heads of each layer at the end; all by default.
        intermediate_size (`int`, *optional*): FFN neurons of each layer at the end; all by default.
        first_cut (`float`, *optional*, defaults to 0.1): share of the training steps before the first cut.
        last_cut (`float`, *optional*, defaults to 0.6): share of the training steps after which the sizes are
            reached; what follows recovers.
        num_cuts (`int`, *optional*, defaults to 10): cuts, evenly spaced. After cut `k` a size is
            `last + (first - last) · (1 - k / num_cuts)³`, rounded up: equation (1) of the paper, one cut ahead, so
            that the first cuts too.

    Raises:
        TypeError: if a size is no integer.
        ValueError: if nothing is to be pruned, the schedule is not one, the sizes do not fit the student or are not
            those of the checkpoint, the loss told nothing of importance, the best checkpoint shall be loaded at the
            end, or one process sees several GPUs.

    Example:

    ```python
    trainer.add_callback(GradualPruning(num_heads=8, intermediate_size=768))
    trainer.train()
    ```
    """

    def __init__(self, num_heads=None, intermediate_size=None, *, first_cut=0.1, last_cut=0.6, num_cuts=10):
        if num_heads is None and intermediate_size is None:
            raise ValueError("num_heads=None, intermediate_size=None: nothing is to be pruned. Give one or both.")
        check_size("num_heads", num_heads, math.inf)
        check_size("intermediate_size", intermediate_size, math.inf)
        if not 0 <= first_cut <= last_cut <= 1:
            raise ValueError(
                f"first_cut={first_cut}, last_cut={last_cut}: they are shares of the training steps, so that 0 <= "
                "first_cut <= last_cut <= 1 must hold, such as 0.1 and 0.6."
            )
        if not isinstance(num_cuts, int) or num_cuts < 1:
            raise ValueError(f"num_cuts={num_cuts!r} must be a whole number of at least 1.")
        self._arguments = {
            "num_heads": num_heads,
            "intermediate_size": intermediate_size,
            "first_cut": first_cut,
            "last_cut": last_cut,
            "num_cuts": num_cuts,
        }
        self._gates = None

    def state(self):
        """Return what a checkpoint must know: which gates are open, and what was measured since the last cut."""
        progress = None
        if self._gates is not None:
            opened = np.concatenate([units.numpy() for layer in self._gates.open for units in layer])
            sums = np.concatenate([units for layer in self._sums for units in layer])
            progress = {
                "open": base64.b64encode(np.packbits(opened)).decode("ascii"),
                "sums": base64.b64encode(sums.astype("<f4")).decode("ascii"),
            }
        return {"args": self._arguments, "attributes": {"progress": progress}}

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if args.load_best_model_at_end:
            raise ValueError(
                "load_best_model_at_end=True with GradualPruning: the best checkpoint is likely one of before the "
                "last cut, whose weights have not learned to do without what is cut out at the end. Set it to False; "
                "the last weights count."
            )
        if args.n_gpu > 1:
            raise ValueError(
                f"GradualPruning, and one process sees {args.n_gpu} GPUs: it would copy the student to each in every "
                "step, and what its gates measure there is mixed up or lost. Start one process for each GPU, "
                f"`torchrun --nproc_per_node={args.n_gpu} ...`, or set CUDA_VISIBLE_DEVICES to one of them."
            )
        check_can_be_pruned(model)
        sizes = layer_sizes(model)
        check_size("num_heads", self._arguments["num_heads"], min(size.heads for size in sizes))
        check_size("intermediate_size", self._arguments["intermediate_size"], min(size.neurons for size in sizes))
        if self._gates is not None:  # of a training that ended with an error
            self._gates.detach()
        self._first_sizes = sizes
        self._cut_after = self._cut_steps(state.max_steps)
        self._gates = Gates(model)
        self._sums = [LayerUnits(np.zeros(size.heads, "f4"), np.zeros(size.neurons, "f4")) for size in sizes]
        if state.global_step:
            self._restore(state.stateful_callbacks.get(type(self).__name__, {}))
        self._gates.attach()

    def on_step_end(self, args, state, control, **kwargs):
        gates = self._gates
        # Each process has seen its own rows.
        taken = [[reduce(sums, reduction="sum").cpu().numpy() for sums in of_layer] for of_layer in gates.take()]
        # With fp16=True the first steps overflow: the optimizer leaves them out, and so must we.
        if all(np.isfinite(sums).all() for of_layer in taken for sums in of_layer):
            for total, (heads, neurons) in zip(self._sums, taken, strict=True):
                total.heads[:] += heads
                total.neurons[:] += neurons
        if state.global_step in self._cut_after:
            self._cut(self._cut_after[state.global_step], state.global_step)
        gates.zero_closed()  # each step anew: momentum moves weights that have no gradient

    def on_train_end(self, args, state, control, model=None, **kwargs):
        gates, self._gates = self._gates, None
        gates.detach()
        if state.global_step < max(self._cut_after):
            logger.warning(
                "Training ended after step %d of %d, before the last cut: nothing is cut out of the student, only "
                "gated off so far. Go on from a checkpoint with resume_from_checkpoint=.",
                state.global_step,
                state.max_steps,
            )
            return
        kept = [LayerUnits(*(np.flatnonzero(units.numpy()) for units in layer)) for layer in gates.open]
        smaller = rebuild(model, list(range(len(kept))), kept)
        smaller.train(model.training)
        # The trainer, and who called it, hold this object: it becomes the smaller model.
        model.__class__, model.__dict__ = smaller.__class__, smaller.__dict__

    def _cut_steps(self, max_steps):
        """Return the cuts by the step after which they are made; of several at one step the last."""
        first, last, num_cuts = (self._arguments[name] for name in ("first_cut", "last_cut", "num_cuts"))
        shares = [first + (last - first) * (cut - 1) / max(1, num_cuts - 1) for cut in range(1, num_cuts)] + [last]
        steps = [math.ceil(round(share * max_steps, 6)) for share in shares]  # 6.000000000000001 is step 6
        return {max(1, step): cut for cut, step in enumerate(steps, start=1)}

    def _cut(self, cut, step):
        left = (1 - cut / self._arguments["num_cuts"]) ** 3
        sizes = []
        for index, first in enumerate(self._first_sizes):
            of_layer = []
            for units, name in (("heads", "num_heads"), ("neurons", "intermediate_size")):
                size, last = getattr(first, units), self._arguments[name]
                of_layer.append(size if last is None else last + math.ceil((size - last) * left))
            sizes.append(LayerUnits(*of_layer))
            self._close(index, sizes[-1], step)
        self._sums = [LayerUnits(0 * heads, 0 * neurons) for heads, neurons in self._sums]
        logger.info(
            "After step %d of training each layer keeps (heads, neurons): %s.", step, [(*size,) for size in sizes]
        )

    def _close(self, index, size, step):
        opened, sums = self._gates.open[index], self._sums[index]
        if not sums.heads.any():
            raise ValueError(
                f"Up to step {step} the loss had no gradient at any head of layer {index}, or none that is finite: "
                "nothing says which heads are important. Where student and teacher are one model, a distillation loss "
                "is at its least: set hard_label_weight above 0, or keep dropout. Else lower the learning rate."
            )
        # What is closed stays closed, even where a resumed training has more steps and its schedule is behind.
        size = LayerUnits(*(min(each, int(units.sum())) for each, units in zip(size, opened, strict=True)))
        heads = np.where(opened.heads.numpy(), sums.heads, -1)
        neurons = np.where(opened.neurons.numpy(), sums.neurons, -1)
        (kept,) = keep_most_important([LayerUnits(heads, neurons)], size.heads, size.neurons)
        opened = LayerUnits(torch.zeros_like(opened.heads), torch.zeros_like(opened.neurons))
        opened.heads[kept.heads] = True
        opened.neurons[kept.neurons] = True
        self._gates.open[index] = opened

    def _restore(self, saved):
        progress = saved.get("attributes", {}).get("progress")
        if progress is not None and saved["args"] != self._arguments:
            raise ValueError(
                f"The checkpoint was made with GradualPruning of {saved['args']}, and now {self._arguments} is given: "
                "what is cut already cannot come back, and the sizes would be neither. Go on with those of the "
                "checkpoint, or begin anew from the unpruned weights."
            )
        if progress is None:
            raise ValueError(
                "The checkpoint holds nothing of GradualPruning: it was made without, so that the schedule would "
                "begin in its middle. Go on without GradualPruning, or begin anew from its weights."
            )
        counts = [count for size in self._first_sizes for count in size]
        opened = np.unpackbits(np.frombuffer(base64.b64decode(progress["open"]), np.uint8), count=sum(counts))
        sums = np.frombuffer(base64.b64decode(progress["sums"]), "<f4").copy()
        ends = np.cumsum(counts)[:-1]
        opened = [torch.from_numpy(part.astype(bool)) for part in np.split(opened, ends)]
        sums = np.split(sums, ends)
        self._gates.open = [LayerUnits(*pair) for pair in zip(opened[::2], opened[1::2], strict=True)]
        self._sums = [LayerUnits(*pair) for pair in zip(sums[::2], sums[1::2], strict=True)]
