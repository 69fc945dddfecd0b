"""Ctrl-C that loses nothing: the step under way is finished, a checkpoint is written, and training ends."""

import logging
import os
import signal
import threading

from transformers import TrainerCallback

logger = logging.getLogger(__name__)


class SaveOnInterrupt(TrainerCallback):
    """Turn the first Ctrl-C into "save a checkpoint after this step and stop"; a second one stops at once.

    A checkpoint written in the middle of a step would not be one that an uninterrupted run passes through. For the
    same reason no evaluation is made on the way out that such a run would not make there. During an evaluation,
    training stops after it. Under a launcher it is enough that one process receives the signal: all stop after the
    same step, and none before the checkpoint is whole. (`torchrun`, itself interrupted, gives them 30 seconds.)

    Use as a context manager around `trainer.train()`; `KeyboardInterrupt` is raised when training has ended. It does
    nothing where Ctrl-C is ignored, as in a shell's background jobs, nor outside of the main thread, where Python
    delivers no signals.

    Args:
        accelerator (`accelerate.Accelerator`): tells the other processes.
    """

    def __init__(self, accelerator):
        self._accelerator = accelerator
        self._received = self._stopping = False
        self._saved_step = None
        self._process_id = None
        self._previous_handler = None

    def __enter__(self):
        self._received = self._stopping = False
        self._saved_step = None
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
            self._process_id = os.getpid()
            self._previous_handler = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, kind, error, traceback):
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)
            self._previous_handler = None
        if (self._received or self._stopping) and kind is None:
            saved = "none was saved" if self._saved_step is None else f"the last one is of step {self._saved_step}"
            raise KeyboardInterrupt(f"Training was interrupted. It goes on from a checkpoint: {saved}.")

    def on_step_end(self, args, state, control, **kwargs):
        self._stop_if_interrupted(control)

    def on_evaluate(self, args, state, control, **kwargs):
        self._stop_if_interrupted(control)

    def on_epoch_end(self, args, state, control, **kwargs):
        # `Trainer` takes a stop in the middle of an epoch for the epoch's end.
        if self._stopping and not float(state.epoch).is_integer():
            control.should_log = control.should_evaluate = False
            control.should_save = self._saved_step != state.global_step
        elif self._stopping:
            control.should_save = True  # again, with what the epoch's evaluation says

    def on_save(self, args, state, control, **kwargs):
        self._saved_step = state.global_step

    def _stop_if_interrupted(self, control):
        self._stopping = self._stopping or self._any_process_received()
        if self._stopping:
            control.should_save = True
            control.should_training_stop = True

    def _any_process_received(self):
        if self._accelerator.num_processes == 1:
            return self._received
        if self._received:
            self._accelerator.set_trigger()
        return self._accelerator.check_trigger()

    def _note(self, signal_number, frame):
        if os.getpid() != self._process_id:
            return  # a data loader's worker: it inherits the handler and must go on serving until training has ended
        if self._received:
            raise KeyboardInterrupt
        self._received = True
        logger.warning("Interrupted: a checkpoint is saved after this step. Press Ctrl-C again to stop at once.")
