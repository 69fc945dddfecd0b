"""The processes of one launch: which one this is, where it computes, and whether all of them see one folder."""

import os
import socket
import uuid

import psutil
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env


def process_state():
    """Return accelerate's state of this process; under a launcher the first call joins the group of all.

    Returns:
        `PartialState`
    """
    # Without `cpu=True`, accelerate 1.15 under torchrun on a machine without accelerator starts the process group, yet
    # tells every process that it is alone and the main one.
    return PartialState(cpu=not torch.accelerator.is_available())


def process_device():
    """Choose the device that accelerate gives this process, without joining a group.

    Where only `RANK` and `WORLD_SIZE` are set, the processes of a machine take its accelerators in turn.

    Returns:
        `torch.device`
    """
    if PartialState._shared_state:
        return process_state().device
    if not torch.accelerator.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU"):
        return torch.device("cpu")
    kind, (rank, num_processes) = torch.accelerator.current_accelerator().type, place_among_processes()
    if num_processes == 1:
        return torch.device(kind)
    return torch.device(kind, int(os.environ.get("LOCAL_RANK", rank % torch.accelerator.device_count())))


def place_among_processes():
    """Read this process's number and how many there are from the environment, without joining a group.

    Returns:
        `tuple[int, int]`: `RANK` and `WORLD_SIZE`, as launchers set them; 0 and 1 where they are not set.

    Raises:
        ValueError: if they contradict each other.
    """
    rank, num_processes = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    if not 0 <= rank < num_processes:
        raise ValueError(
            f"RANK={rank} and WORLD_SIZE={num_processes} in the environment: the processes must be numbered from 0 to "
            "WORLD_SIZE - 1, or some of the work would have no process of its own. Set both, or neither."
        )
    return rank, num_processes


def process_mark():
    """Name this process for the others: machine, process id, and a word that no other call gets.

    Returns:
        `str`
    """
    return f"{_machine()}_{os.getpid()}_{uuid.uuid4().hex[:8]}"


def is_gone(mark):
    """Tell whether a process has surely ended; of those on other machines nothing is known.

    Args:
        mark (`str`): from `process_mark`.

    Returns:
        `bool`
    """
    machine, _, process_id = mark.rpartition("_")[0].rpartition("_")
    return machine == _machine() and process_id.isdigit() and not psutil.pid_exists(int(process_id))


def check_shared(folder, argument):
    """Refuse, before hours of work, a folder that a process cannot write or that not all of them see.

    Every process calls it at the same place.

    Args:
        folder (`SharedFolder`): the folder; each process writes an empty file there, and deletes it.
        argument (`str`): the argument that named it, for the error.

    Raises:
        OSError: in the process that cannot write it, or does not see what the others wrote.
    """
    state = process_state()
    (token,) = broadcast_object_list([uuid.uuid4().hex])
    probes = [f"{token}-{rank}.probe" for rank in range(state.num_processes)]
    folder.touch(probes[state.process_index])
    state.wait_for_everyone()
    seen = sum(map(folder.has, probes))
    state.wait_for_everyone()
    folder.remove(probes[state.process_index])
    if seen < len(probes):
        raise OSError(
            f"{argument}={str(folder)!r} is not one folder for all: process {state.process_index} sees the files of "
            f"{seen} of {len(probes)} processes there, and would wait for ever for the results of the others. Give a "
            "folder on a disk that the machines share, or a URL such as s3://bucket/folder."
        )


def _machine():
    # Containers may have one host name, yet each its own numbers of processes.
    numbers = os.stat("/proc/self/ns/pid").st_ino if os.path.exists("/proc/self/ns/pid") else 0
    return f"{socket.gethostname()}-{numbers}"
