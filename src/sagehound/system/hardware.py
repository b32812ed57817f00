"""Chooses accelerator, devices, precision and strategy; `auto` is resolved only here."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from sagehound.config import Finetune, Trainer
from sagehound.errors import ConfigError
from sagehound.system import process_group
from sagehound.system.machine import glibc


@dataclass(frozen=True)
class Compute:
    """Arguments of Lightning's Trainer."""

    accelerator: str  # cpu, cuda or mps
    devices: int
    precision: str
    strategy: str
    choices: list[str]  # each choice and its reason, for the user

    def __str__(self) -> str:
        return ", ".join(self.choices)


def choose(trainer: Trainer, finetune: Finetune, valid: int = sys.maxsize) -> Compute:
    """Resolve accelerator, devices, precision and strategy for this machine.

    Each device has its own process. Lightning starts the processes, unless torchrun or srun has started them. With
    finetune=gradual the backbone has no gradients at first, so DDP must search for unused parameters.

    Args:
        trainer: the machine's keys.
        finetune: the fine-tuning's keys.
        valid: number of valid photos.

    Raises:
        ConfigError: the config requests a GPU and there is none, more devices than GPUs or valid photos, or another
            number of processes than torchrun or srun has started.
    """
    accelerator = _accelerator(trainer)
    group = process_group.started()
    devices = _devices(trainer, accelerator, group, valid)
    precision, reason = _precision(trainer, accelerator)
    strategy = "auto"
    if devices * trainer.num_nodes > 1:
        strategy = "ddp" if group else "ddp_spawn"
        strategy += "_find_unused_parameters_true" if finetune.name == "gradual" else ""
    choices = [accelerator + (f" x {devices} ({strategy})" if strategy != "auto" else ""), f"{precision} ({reason})"]
    if group:
        choices.insert(1, f"started by {group.starter}")
    elif trainer.num_nodes > 1:
        choices.insert(1, f"machine {node() + 1} of {trainer.num_nodes}")
    if accelerator == "cpu":
        choices.insert(1, f"{torch.get_num_threads()} threads")
        choices += ["freed memory is kept (glibc)"] if glibc() else []
    choices += [name for name in ("channels_last", "compile") if getattr(trainer, name)]
    return Compute(accelerator, devices, precision, strategy, choices)


def _accelerator(trainer: Trainer) -> str:
    """Resolve trainer.accelerator to cuda, mps or cpu."""
    has_cuda = torch.cuda.device_count() > 0
    has_mps = not has_cuda and torch.backends.mps.is_available()
    if trainer.accelerator == "gpu" and not (has_cuda or has_mps):
        raise ConfigError("trainer.accelerator=gpu: torch sees no GPU here; choose trainer.accelerator=auto or cpu")
    if trainer.accelerator == "cpu":
        return "cpu"
    return "cuda" if has_cuda else "mps" if has_mps else "cpu"


def _devices(trainer: Trainer, accelerator: str, group: process_group.Group | None, valid: int) -> int:
    """Resolve trainer.devices, the number of processes on each machine."""
    gpus = torch.cuda.device_count() if accelerator == "cuda" else 0
    devices = trainer.devices or (group.per_machine if group else gpus or 1)
    if group and devices * trainer.num_nodes != group.size:
        raise ConfigError(
            f"{group.starter} has started {group.size} processes, trainer.devices={devices} and trainer.num_nodes="
            f"{trainer.num_nodes} need {devices * trainer.num_nodes}: give trainer.devices={group.per_machine} "
            f"trainer.num_nodes={group.size // group.per_machine}"
        )
    if gpus and devices > gpus:
        raise ConfigError(f"trainer.devices={devices}: torch sees {gpus} GPUs here; choose {gpus} at most")
    nodes = f" on trainer.num_nodes={trainer.num_nodes}" if trainer.num_nodes > 1 else ""
    if devices * trainer.num_nodes > valid:
        raise ConfigError(
            f"trainer.devices={devices}{nodes}: each needs a valid photo, and there are {valid}; choose fewer devices"
        )
    return devices


def _precision(trainer: Trainer, accelerator: str) -> tuple[str, str]:
    """Resolve trainer.precision; returns the precision and the reason for it."""
    if trainer.precision == "16-mixed" and accelerator != "cuda":
        raise ConfigError(
            "trainer.precision=16-mixed needs a GPU: choose trainer.precision=auto, bf16-mixed or 32-true"
        )
    return _fastest_precision(accelerator) if trainer.precision == "auto" else (trainer.precision, "from the config")


def node() -> int:
    """The number of this machine among those that train together, from 0."""
    return int(os.environ.get("NODE_RANK", "0"))


def writes_results() -> bool:
    """Whether this process tests the model and writes the results, for all processes that train together."""
    return not process_group.is_follower() if process_group.started() else not node()


def environment() -> list[ClusterEnvironment]:
    """The cluster environment for Lightning; only a SLURM job of one task, which starts processes itself, needs one."""
    return [LightningEnvironment()] if "SLURM_NTASKS" in os.environ and not process_group.started() else []


def leave_group() -> None:
    """Leave the process group of torchrun or srun; otherwise, computing scores would wait for the other processes."""
    if process_group.started() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _fastest_precision(accelerator: str) -> tuple[str, str]:
    """The precision for `auto` and its reason; 16 bits only if the hardware supports them."""
    if accelerator == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", "the GPU supports it"
        return "16-mixed", "the GPU has no bf16"
    if accelerator == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return "bf16-mixed", "the CPU supports it"
    return "32-true", "the CPU has no bf16" if accelerator == "cpu" else "the safe choice on mps"


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Set torch's number of threads for this block; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def reseed(seed: int, device: torch.device) -> None:
    """Seed the generators of the CPU and of this device; torch.manual_seed would seed those of all devices."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the CPU generator for this block, and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
