"""Training loops in processes of their own that do one step each in turn: a busy machine slows all of them alike.

Each loop stays as its library wrote it. It calls `Turn.take` between two steps, and waits there while the others
work. Its memory is its own too, so that the peak of each can be told.
"""

import multiprocessing
import resource
import statistics
import sys
import time
from typing import NamedTuple

import numpy as np
import torch
from transformers import TrainerCallback


class Measurement(NamedTuple):
    """What one loop did: the seconds and the loss of each step, and the peak resident memory of its process."""

    seconds: list[float]
    losses: list[float]
    peak_mb: int


def alternate(arms, num_steps, threads):
    """Run `num_steps` steps of each arm, one after the other in every round; who comes first changes by the round.

    `arms` maps a name to `(function, *arguments)`, called as `function(turn, *arguments)` in a fresh process, so both
    must be importable and picklable. Returns a `Measurement` by name. No step starts before every arm is set up.
    """
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    try:
        for name, (function, *arguments) in arms.items():
            pipes[name], other_end = context.Pipe()
            processes.append(context.Process(target=_run_arm, args=(other_end, threads, function, arguments)))
            processes[-1].start()
            other_end.close()
        for name, pipe in pipes.items():
            _receive(name, pipe)
        return _take_turns(pipes, num_steps)
    finally:
        for process in processes:
            process.terminate()


def compare(seconds, baseline):
    """Return the median and the quartiles of the ratios of two lists of seconds, round by round."""
    ratios = [mine / other for mine, other in zip(seconds, baseline, strict=True)]
    return {
        "ratio": round(statistics.median(ratios), 4),
        "quartiles": [round(float(value), 4) for value in np.quantile(ratios, [0.25, 0.75])],
    }


class Turn:
    """One arm's side of the exchange."""

    def __init__(self, connection):
        self.loss = float("nan")
        self._connection = connection
        self._start = None

    def take(self):
        """End the step in progress, if there is one, and wait until the next may start.

        Raises:
            EndOfTurns: when there are no more.
        """
        if self._start is None:
            self._connection.send("ready")
        else:
            seconds = time.perf_counter() - self._start
            self._connection.send((seconds, float(self.loss)))
        step = self._connection.recv()
        if step is None:
            raise EndOfTurns
        # Every arm draws the same dropout in the same step.
        torch.manual_seed(step)
        self._start = time.perf_counter()


class EndOfTurns(Exception):
    """Raised in an arm's process to leave its training loop."""


def train_in_turns(trainer, turn):
    """Let a `Trainer` train, one optimizer step a turn, and say the loss of each."""
    plain_step = trainer.training_step

    def step(*args, **kwargs):
        turn.loss = plain_step(*args, **kwargs)
        return turn.loss

    trainer.training_step = step
    trainer.add_callback(_TakeTurns(turn))
    trainer.train()


class _TakeTurns(TrainerCallback):
    # From the start of one step to the start of the next lies all that the loop does, one batch collated included.
    def __init__(self, turn):
        self._turn = turn

    def on_step_begin(self, args, state, control, **kwargs):
        self._turn.take()


def _take_turns(pipes, num_steps):
    names = list(pipes)
    steps = {name: [] for name in names}
    for step in range(num_steps):
        first = step % len(names)
        for name in names[first:] + names[:first]:
            pipes[name].send(step)
            steps[name].append(_receive(name, pipes[name]))
    measurements = {}
    for name, pipe in pipes.items():
        pipe.send(None)
        seconds, losses = map(list, zip(*steps[name], strict=True))
        measurements[name] = Measurement(seconds, losses, _receive(name, pipe))
    return measurements


def _run_arm(connection, threads, function, arguments):
    torch.set_num_threads(threads)
    try:
        function(Turn(connection), *arguments)
    except EndOfTurns:
        connection.send(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
    else:
        raise RuntimeError(f"{function.__name__} ended before its steps did. Give it more rows, or fewer steps.")


def _receive(name, pipe):
    try:
        return pipe.recv()
    except EOFError:
        sys.exit(f"{name} stopped with the error above.")
