"""Processes that another program started to train one model together: torchrun's, or SLURM's. Imports no torch."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """The processes, and which of them this is."""

    starter: str  # torchrun or srun
    size: int  # processes on all machines
    of_machine: int  # processes on each machine
    rank: int  # this process's number among all, from 0
    local_rank: int  # its number on its machine, from 0


def started() -> Group | None:
    """The group of this process, by the variables that Lightning reads; None where the process was started alone."""
    given = os.environ
    if "TORCHELASTIC_RUN_ID" in given:
        names = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK")
        return Group("torchrun", *(int(given[name]) for name in names))
    tasks = int(given.get("SLURM_NTASKS", "1"))
    if tasks == 1 or "SLURM_PROCID" not in given or given.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return None
    of_machine = int(given.get("SLURM_NTASKS_PER_NODE", tasks // int(given.get("SLURM_NNODES", "1"))))
    return Group("srun", tasks, of_machine, int(given["SLURM_PROCID"]), int(given.get("SLURM_LOCALID", "0")))


def is_follower() -> bool:
    """Whether another process of the group writes the results."""
    group = started()
    return group is not None and group.rank > 0
