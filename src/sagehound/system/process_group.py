"""Processes that torchrun or SLURM started to train one model together. Imports no torch."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """A group of processes, and the position of this process in it."""

    starter: str  # torchrun or srun
    size: int  # processes on all machines
    per_machine: int  # processes on each machine
    rank: int  # number of this process in the group, from 0
    local_rank: int  # its number on this machine, from 0


def started() -> Group | None:
    """The group of this process, read from the variables that Lightning reads; None if it was started alone."""
    variables = os.environ
    if "TORCHELASTIC_RUN_ID" in variables:
        names = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK")
        return Group("torchrun", *(int(variables[name]) for name in names))
    tasks = int(variables.get("SLURM_NTASKS", "1"))
    if tasks == 1 or "SLURM_PROCID" not in variables or variables.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return None
    per_machine = int(variables.get("SLURM_NTASKS_PER_NODE", tasks // int(variables.get("SLURM_NNODES", "1"))))
    return Group("srun", tasks, per_machine, int(variables["SLURM_PROCID"]), int(variables.get("SLURM_LOCALID", "0")))


def is_follower() -> bool:
    """Whether another process of the group writes the results."""
    group = started()
    return group is not None and group.rank > 0
