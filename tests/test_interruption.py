"""Ctrl-C in a run: in one process, from outside, and in one of two; the file is also the program of the latter."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from loss_terms import largest_difference, make_student, trained_weights
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

from distil_trainer.arguments import DistillationArguments
from distil_trainer.trainer import DistillationTrainer

# Every kind of state that a checkpoint must hold; 48 rows in batches of 8: 6 steps an epoch.
GIVEN = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-2,
    "hidden_loss_weight": 1.0,
    "final_temperature": 1.0,
    "epochs_per_cycle": 1.0,
    "save_strategy": "no",
    "drop_evaluation_rows": False,
    "use_cpu": True,
    "disable_tqdm": True,
}


class Interrupt(TrainerCallback):
    """Send this process SIGINT within a step, or while it evaluates after one; a number of times."""

    def __init__(self, step, during="step", times=1):
        self.step, self.during, self.times = step, during, times

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if self.during == "step" and state.global_step == self.step - 1:
            self._send()

    def on_prediction_step(self, args, state, control, **kwargs):
        if self.during == "evaluation" and state.global_step == self.step:
            self._send()

    def _send(self):
        while self.times:
            self.times -= 1
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def handler():
    """A handler of our own, to be found again; a suite that runs in the background would have Ctrl-C ignored."""

    def stop(signal_number, frame):
        raise KeyboardInterrupt("outside of training")

    before = signal.signal(signal.SIGINT, stop)
    yield stop
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def make_trainer(teacher, tokenizer, reviews, tmp_path):
    def make(folder="out", callbacks=None, seed=1, evaluate=False, **given):
        return DistillationTrainer(
            make_student(16, dropout=0.2, seed=seed),
            DistillationArguments(str(tmp_path / folder), **{**GIVEN, **given}),
            train_dataset=reviews,
            eval_dataset=reviews.select(range(8)) if evaluate else None,
            processing_class=tokenizer,
            teacher=teacher,
            callbacks=callbacks,
        )

    return make


def _checkpoints(folder):
    return sorted(path.name for path in folder.glob("checkpoint-*"))


@pytest.mark.parametrize("step", [2, 6, 12], ids=["mid_epoch", "end_of_epoch", "last_step"])
def test_the_step_is_finished_and_saved_and_a_resumed_run_equals_the_straight_run(make_trainer, tmp_path, step):
    straight = make_trainer("straight")
    straight.train()
    interrupted = make_trainer(callbacks=[Interrupt(step)])
    with pytest.raises(KeyboardInterrupt, match=f"goes on from a checkpoint: the last one is of step {step}"):
        interrupted.train()
    assert interrupted.state.global_step == step
    assert _checkpoints(tmp_path / "out") == [f"checkpoint-{step}"]
    resumed = make_trainer(seed=5)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 12
    assert largest_difference(trained_weights(straight), trained_weights(resumed)) == 0.0


def test_accumulated_batches_of_the_step_are_finished_too(make_trainer, tmp_path):
    class InterruptFirstBatch(Interrupt):
        def on_substep_end(self, args, state, control, **kwargs):
            if state.global_step == self.step - 1:
                self._send()

    given = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    straight = make_trainer("straight", **given)
    straight.train()
    with pytest.raises(KeyboardInterrupt):
        make_trainer(callbacks=[InterruptFirstBatch(4, during="substep")], **given).train()
    assert _checkpoints(tmp_path / "out") == ["checkpoint-4"]
    resumed = make_trainer(seed=5, **given)
    resumed.train(resume_from_checkpoint=True)
    assert largest_difference(trained_weights(straight), trained_weights(resumed)) == 0.0


def test_an_interrupted_trainer_can_go_on_by_itself(make_trainer):
    straight = make_trainer("straight")
    straight.train()
    trainer = make_trainer(callbacks=[Interrupt(5)], logging_steps=3)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.train(resume_from_checkpoint=True)
    assert largest_difference(trained_weights(straight), trained_weights(trainer)) == 0.0
    # What steps 4 and 5 had added up for the log of step 6 ended with the interrupted run, as it does for the loss.
    (log,) = [log for log in trainer.state.log_history if log.get("step") == 6 and "loss" in log]
    hidden = [log[name] for name in log if name.startswith("hidden_states_mse")]
    assert log["loss"] == pytest.approx(log["soft_target_kl"] + sum(hidden) / len(hidden), abs=2e-4)


def test_a_second_signal_stops_at_once(make_trainer, tmp_path, handler):
    trainer = make_trainer(callbacks=[Interrupt(2, times=2)])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.state.global_step == 1
    assert _checkpoints(tmp_path / "out") == []
    assert signal.getsignal(signal.SIGINT) is handler


def test_during_an_evaluation_training_stops_after_it(make_trainer, tmp_path):
    given = {"evaluate": True, "eval_strategy": "steps", "eval_steps": 4}
    straight = make_trainer("straight", **given)
    straight.train()
    interrupted = make_trainer(callbacks=[Interrupt(4, during="evaluation")], **given)
    with pytest.raises(KeyboardInterrupt):
        interrupted.train()
    assert interrupted.state.global_step == 4
    assert _checkpoints(tmp_path / "out") == ["checkpoint-4"]
    resumed = make_trainer(seed=5, **given)
    resumed.train(resume_from_checkpoint=True)
    assert largest_difference(trained_weights(straight), trained_weights(resumed)) == 0.0


@pytest.mark.parametrize(
    ("save_strategy", "step", "during", "evaluations"),
    [
        ("no", 6, "evaluation", 1),
        ("epoch", 3, "step", 0),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("no", 3, "step", 0), ("no", 6, "step", 1), ("epoch", 6, "step", 1), ("epoch", 9, "step", 1))
        ),
    ],
)
def test_only_whole_epochs_are_evaluated_and_the_resumed_run_has_their_best(
    make_trainer, save_strategy, step, during, evaluations
):
    given = {"evaluate": True, "eval_strategy": "epoch", "metric_for_best_model": "loss", "greater_is_better": False}

    def evaluated(trainer):
        return [log for log in trainer.state.log_history if "eval_loss" in log]

    straight = make_trainer("straight", save_strategy=save_strategy, **given)
    straight.train()
    interrupted = make_trainer(callbacks=[Interrupt(step, during)], save_strategy=save_strategy, **given)
    with pytest.raises(KeyboardInterrupt):
        interrupted.train()
    assert len(evaluated(interrupted)) == evaluations
    resumed = make_trainer(seed=5, save_strategy=save_strategy, **given)
    resumed.train(resume_from_checkpoint=True)
    timing = {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}
    figures = [
        [{name: log[name] for name in log.keys() - timing} for log in evaluated(each)] for each in (straight, resumed)
    ]
    assert figures[0] == figures[1]
    assert resumed.state.best_metric == straight.state.best_metric


def test_the_handler_is_that_of_before_after_every_kind_of_end(make_trainer, handler):
    make_trainer(max_steps=1).train()
    assert signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(KeyboardInterrupt):
        make_trainer(callbacks=[Interrupt(1)]).train()
    assert signal.getsignal(signal.SIGINT) is handler

    class Fail(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        make_trainer(callbacks=[Fail()]).train()
    assert signal.getsignal(signal.SIGINT) is handler
    trainer = make_trainer(max_steps=1)
    before = list(trainer.callback_handler.callbacks)
    trainer.train()
    assert trainer.callback_handler.callbacks == before


def test_a_run_after_an_interrupted_one_is_not_interrupted(make_trainer):
    trainer = make_trainer(callbacks=[Interrupt(1)], max_steps=3)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.train().global_step == 3


def test_where_ctrl_c_is_ignored_it_stays_ignored(make_trainer):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    trainer = make_trainer(callbacks=[Interrupt(1)], max_steps=3)
    assert trainer.train().global_step == 3
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_outside_of_the_main_thread_training_works_and_no_handler_is_set(make_trainer, handler):
    seen = []

    class Look(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            seen.append(signal.getsignal(signal.SIGINT))

    trainer = make_trainer(callbacks=[Look()], max_steps=2)
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join()
    assert trainer.state.global_step == 2
    assert seen == [handler, handler]


# Programs of their own


class _Report(TrainerCallback):
    """Say on standard output which steps are finished."""

    def on_step_end(self, args, state, control, **kwargs):
        print(f"step {state.global_step}\n", end="", flush=True)


class _SlowDisk(DistillationTrainer):
    """The process that saves takes longer than it takes the other to end."""

    def _save_optimizer_and_scheduler(self, output_dir):
        if self.is_world_process_zero():
            time.sleep(1)
        super()._save_optimizer_and_scheduler(output_dir)


def _program_trainer(folder, output, callbacks=None, seed=1, **given):
    from datasets import load_from_disk

    return _SlowDisk(
        make_student(16, dropout=0.2, seed=seed),
        DistillationArguments(str(folder / output), **{**GIVEN, **given}),
        train_dataset=load_from_disk(str(folder / "rows")),
        processing_class=AutoTokenizer.from_pretrained(folder / "teacher"),
        teacher=AutoModelForSequenceClassification.from_pretrained(folder / "teacher", dtype=torch.float32),
        callbacks=callbacks,
    )


def _long_run(folder):
    given = {"per_device_train_batch_size": 1, "max_steps": 100_000, "dataloader_num_workers": 2}
    _program_trainer(folder, "out", [_Report()], **given).train()


def _two_processes(folder):
    rank = int(os.environ["RANK"])
    given = {"per_device_train_batch_size": 4}
    straight = _program_trainer(folder, "straight", **given)
    straight.train()
    interrupted = _program_trainer(folder, "out", [Interrupt(4)] if rank == 1 else [], **given)
    assert interrupted.args.world_size == 2
    saved = None
    try:
        interrupted.train()
    except KeyboardInterrupt:
        saved = (folder / "out" / "checkpoint-4" / "trainer_state.json").is_file()  # what is written last
    resumed = _program_trainer(folder, "out", seed=5, **given)
    resumed.train(resume_from_checkpoint=str(folder / "out" / "checkpoint-4"))
    difference = largest_difference(trained_weights(straight), trained_weights(resumed))
    facts = {"saved": saved, "step": interrupted.state.global_step, "difference": difference}
    (folder / f"{rank}.json").write_text(json.dumps(facts))
    torch.distributed.destroy_process_group()  # or its threads now and then abort the process as it exits


@pytest.fixture
def folder(tmp_path, teacher, tokenizer, reviews):
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    reviews.save_to_disk(str(tmp_path / "rows"))
    return tmp_path


def _start(command, folder, program):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    environment.pop("ACCELERATE_MIXED_PRECISION", None)
    log = open(folder / "log", "w")  # noqa: SIM115
    return subprocess.Popen(
        [*command, str(Path(__file__).resolve()), program, str(folder)],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def test_ctrl_c_in_a_terminal_ends_a_program_with_a_checkpoint_that_loads(folder):
    process = _start([sys.executable], folder, "_long_run")
    log = folder / "log"
    try:
        deadline = time.monotonic() + 60
        while "step 3\n" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the data loader's workers too
        process.wait(timeout=30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    text = log.read_text()
    assert process.returncode == -signal.SIGINT, text[-3000:]
    assert text.count("Interrupted: a checkpoint is saved after this step") == 1
    (checkpoint,) = (folder / "out").glob("checkpoint-*")
    step = int(checkpoint.name.split("-")[1])
    assert text.rstrip().endswith(f"the last one is of step {step}.")
    assert f"step {step}\n" in text and f"step {step + 1}\n" not in text
    loaded = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    assert largest_difference(make_student(16).state_dict(), loaded.state_dict()) > 1e-4
    resumed = _program_trainer(folder, "out", per_device_train_batch_size=1, max_steps=step + 1)
    assert resumed.train(resume_from_checkpoint=str(checkpoint)).global_step == step + 1


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_both_after_the_same_step_once_it_is_saved(folder):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = _start(command, folder, "_two_processes")
    try:
        assert process.wait(timeout=120) == 0, (folder / "log").read_text()[-5000:]
    finally:
        # torchrun ends its workers when it is asked to end; killed outright, it would leave them behind.
        process.terminate()
        process.wait()
    facts = [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert facts == [{"saved": True, "step": 4, "difference": 0.0}] * 2


if __name__ == "__main__":
    # Where a suite runs in the background, its programs inherit that Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    {"_long_run": _long_run, "_two_processes": _two_processes}[sys.argv[1]](Path(sys.argv[2]))
