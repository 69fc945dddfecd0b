"""The output folder of one run: stages finished once and never again, and no other run in the same folder."""

import json
import logging
import os
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
from accelerate import PartialState
from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

_RUN_FILE = "run.json"
_LOCK_FILE = "lock"


class RunFolder:
    """An output folder that remembers what was asked of it, and which stages of the work are finished.

    A stage builds under a temporary name and is renamed when complete, so a run that is killed and started again
    repeats at most the stage it was in. Under several processes the main one builds and the others wait.

    Args:
        folder (`str` or `Path`): the output folder; made when absent.
        settings (`dict`): everything that decides the result, as JSON values: the same settings mean the same run.

    Raises:
        ValueError: if the folder holds a run with other settings, or files that are no run at all, or is in use.
    """

    def __init__(self, folder, settings):
        self.folder = Path(folder)
        self._work = self.folder / "work"
        state = PartialState()
        if state.is_main_process:
            self._refuse_foreign_files()
            self._lock()
            self._claim(json.loads(json.dumps(settings, sort_keys=True)))
        state.wait_for_everyone()

    def path(self, name):
        """Return the path of a working file or folder of this run: `work/<name>`."""
        return self._work / name

    def is_finished(self, name):
        """Tell whether the stage `name` is complete."""
        return self.path(name).exists()

    def once(self, name, build):
        """Build a stage's file or folder, unless an earlier start of this run finished it.

        Args:
            name (`str`): the stage's name under `work/`.
            build (`Callable[[Path], None]`): writes the stage to the temporary path it is given.

        Returns:
            `Path`: the finished stage.
        """
        state = PartialState()
        if state.is_main_process and not self.is_finished(name):
            temporary = self.path(f"{name}.tmp{Path(name).suffix}")
            _remove(temporary)
            temporary.parent.mkdir(parents=True, exist_ok=True)
            build(temporary)
            os.replace(temporary, self.path(name))
        elif state.is_main_process:
            logger.info("%s: finished by an earlier start of this run.", name)
        state.wait_for_everyone()
        return self.path(name)

    def announce(self, text):
        """Say on standard error, once, which stage the progress bars and losses that follow belong to."""
        PartialState().print(f"\n{text}", file=sys.stderr, flush=True)

    def array(self, name, build):
        """Return the array that `build()` computes, from `work/<name>.npy` where it was computed before."""
        return np.load(self.once(f"{name}.npy", lambda path: np.save(path, build())), allow_pickle=False)

    def value(self, name, build):
        """Return the JSON value that `build()` computes, from `work/<name>.json` where it was computed before."""
        return json.loads(self.once(f"{name}.json", lambda path: path.write_text(json.dumps(build()))).read_text())

    def _refuse_foreign_files(self):
        if self.folder.is_file():
            raise ValueError(f"output_dir={str(self.folder)!r} is a file: give the path of a new or empty folder.")
        if self.folder.is_dir() and any(self.folder.iterdir()) and not self._work.is_dir():
            raise ValueError(
                f"output_dir={str(self.folder)!r} is not empty and holds no run of ours; its files could be "
                "overwritten. Give an empty or new --output_dir."
            )

    def _lock(self):
        """Keep other processes out for as long as this object lives."""
        self._work.mkdir(parents=True, exist_ok=True)
        try:
            self._held = FileLock(self.path(_LOCK_FILE), timeout=0, is_singleton=True)
            self._held.acquire()
        except Timeout as error:
            raise ValueError(
                f"output_dir={str(self.folder)!r} is in use by a run that is still going. Two runs would "
                "overwrite each other's stages: wait for it, or give another --output_dir."
            ) from error

    def _claim(self, settings):
        run_file = self.path(_RUN_FILE)
        # A run that failed before its first stage was done (a wrong path, say) left nothing worth keeping.
        if run_file.is_file() and {path.name for path in self._work.iterdir()} - {_RUN_FILE, _LOCK_FILE}:
            earlier = json.loads(run_file.read_text())
            differences = [
                f"{name}: {earlier.get(name, 'not given')!r} there, {settings.get(name, 'not given')!r} now"
                for name in sorted(earlier.keys() | settings.keys())
                if earlier.get(name) != settings.get(name)
            ]
            if differences:
                raise ValueError(
                    f"output_dir={str(self.folder)!r} holds another run ({'; '.join(differences)}). Going on would "
                    "mix two runs' results: give another --output_dir, or delete that folder."
                )
            return
        temporary = self.path(_RUN_FILE + ".tmp")
        temporary.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
        os.replace(temporary, run_file)


def last_complete_checkpoint(folder):
    """Return the newest checkpoint in a `Trainer` output folder that was written to its end, or `None`.

    `Trainer` writes `trainer_state.json` last; a checkpoint without a readable one (the run was killed while saving),
    or without the random state of every process, is passed over.
    """
    checkpoints = sorted(
        Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True
    )
    return next((str(path) for path in checkpoints if _is_complete(path)), None)


def _is_complete(checkpoint):
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    world_size = PartialState().num_processes
    ranks = ["rng_state.pth"] if world_size == 1 else [f"rng_state_{rank}.pth" for rank in range(world_size)]
    return all(zipfile.is_zipfile(checkpoint / name) for name in ranks)  # what `torch.save` writes ends in an index


def _remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
