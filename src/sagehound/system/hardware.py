"""What the run computes on, and how exactly: the one place where `auto` is resolved."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from sagehound import processes
from sagehound.config import Finetune, Trainer
from sagehound.errors import ConfigError
from sagehound.machine import glibc


@dataclass(frozen=True)
class Compute:
    """Arguments of Lightning's Trainer."""

    accelerator: str  # cpu, cuda or mps
    devices: int
    precision: str
    strategy: str
    choices: list[str]  # what was chosen and why, for the user

    def __str__(self) -> str:
        return ", ".join(self.choices)


def choose(trainer: Trainer, finetune: Finetune, valid: int = sys.maxsize) -> Compute:
    """Resolve accelerator, devices, precision and strategy for this machine.

    Several devices are several processes. They are started here, unless torchrun or srun has started them. The
    backbone's gradients come and go under finetune=gradual, which DDP must be told.

    Raises:
        ConfigError: the config asks for a GPU where there is none, or for more devices than GPUs or ``valid`` photos,
            or for another number of processes than torchrun or srun has started.
    """
    gpus = torch.cuda.device_count()
    mps = not gpus and torch.backends.mps.is_available()
    if trainer.accelerator == "gpu" and not (gpus or mps):
        raise ConfigError("trainer.accelerator=gpu: torch sees no GPU here; choose trainer.accelerator=auto or cpu")
    on_gpu = bool(gpus) and trainer.accelerator != "cpu"
    group = processes.started()
    devices = trainer.devices or (group.of_machine if group else gpus if on_gpu else 1)
    if group and devices * trainer.num_nodes != group.size:
        raise ConfigError(
            f"{group.starter} has started {group.size} processes, trainer.devices={devices} and trainer.num_nodes="
            f"{trainer.num_nodes} want {devices * trainer.num_nodes}: give trainer.devices={group.of_machine} "
            f"trainer.num_nodes={group.size // group.of_machine}"
        )
    if on_gpu and devices > gpus:
        raise ConfigError(f"trainer.devices={devices}: torch sees {gpus} GPUs here; choose {gpus} at most")
    nodes = f" on trainer.num_nodes={trainer.num_nodes}" if trainer.num_nodes > 1 else ""
    if devices * trainer.num_nodes > valid:
        raise ConfigError(
            f"trainer.devices={devices}{nodes}: each needs a valid photo, there are {valid}; choose fewer devices"
        )
    accelerator = "cuda" if on_gpu else "mps" if mps and trainer.accelerator != "cpu" else "cpu"
    if trainer.precision == "16-mixed" and not on_gpu:
        raise ConfigError(
            "trainer.precision=16-mixed needs a GPU: choose trainer.precision=auto, bf16-mixed or 32-true"
        )
    precision, why = (
        _fastest_precision(accelerator) if trainer.precision == "auto" else (trainer.precision, "as asked for")
    )
    strategy = "auto"
    if devices * trainer.num_nodes > 1:
        strategy = "ddp" if group else "ddp_spawn"
        strategy += "_find_unused_parameters_true" if finetune.name == "gradual" else ""
    choices = [accelerator + (f" x {devices} ({strategy})" if strategy != "auto" else ""), f"{precision} ({why})"]
    if group:
        choices.insert(1, f"started by {group.starter}")
    elif trainer.num_nodes > 1:
        choices.insert(1, f"machine {node() + 1} of {trainer.num_nodes}")
    if accelerator == "cpu":
        choices.insert(1, f"{torch.get_num_threads()} threads")
        choices += ["freed memory is kept (glibc)"] if glibc() else []
    choices += [name for name in ("channels_last", "compile") if getattr(trainer, name)]
    return Compute(accelerator, devices, precision, strategy, choices)


def node() -> int:
    """The number of this machine among those that train together, from 0."""
    return int(os.environ.get("NODE_RANK", "0"))


def writes_results() -> bool:
    """Whether this process tests the model and writes the results, for all that train together."""
    return not processes.is_follower() if processes.started() else not node()


def environment() -> list[ClusterEnvironment]:
    """Lightning's view of the cluster; it must know only that a SLURM job of one task starts processes itself."""
    return [LightningEnvironment()] if "SLURM_NTASKS" in os.environ and not processes.started() else []


def leave_group() -> None:
    """End the connection to the processes of torchrun or srun; scores would wait for theirs."""
    if processes.started() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _fastest_precision(accelerator: str) -> tuple[str, str]:
    """The precision that `auto` stands for, and why; half precision only where the hardware computes in it."""
    if accelerator == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", "the GPU has it"
        return "16-mixed", "the GPU has no bf16"
    if accelerator == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return "bf16-mixed", "the processor has it"
    return "32-true", "the processor has no bf16" if accelerator == "cpu" else "the safe choice on mps"


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Set torch's number of threads in this block; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def reseed(seed: int, device: torch.device) -> None:
    """Seed what draws on the CPU and on this device; torch.manual_seed would ask every device there might be."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed what draws on the CPU; afterwards the generator is as it was before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
