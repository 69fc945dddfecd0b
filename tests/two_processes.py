"""A script of the tests in two processes under `torchrun`."""

import os
import subprocess
import sys
from pathlib import Path


def run_in_two_processes(script, folder):
    """Run `script folder` in two processes of one thread each; fail with the end of its output if it fails."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    with subprocess.Popen(
        [*command, str(Path(script).resolve()), str(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=300)
        finally:
            # torchrun ends its workers when it is asked to end; killed outright, it would leave them behind.
            process.terminate()
    assert process.returncode == 0, output[-5000:]
