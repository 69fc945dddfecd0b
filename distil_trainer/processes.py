"""The processes of one launch: which one this is, and whether all of them see one folder."""

import os
import uuid

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list


def process_state():
    """Return accelerate's state of this process; under a launcher the first call joins the group of all.

    Returns:
        `PartialState`
    """
    # Without `cpu=True`, accelerate 1.15 under torchrun on a machine without accelerator starts the process group, yet
    # tells every process that it is alone and the main one.
    return PartialState(cpu=not torch.accelerator.is_available())


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
