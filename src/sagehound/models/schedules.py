"""Schedules of the learning rate: for every step, or after epochs without a lower validation loss."""

import math
from typing import Any

import lightning.pytorch as pl
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from sagehound.config import Schedule
from sagehound.errors import ConfigError


def each_step(optimizer: Optimizer, schedule: Schedule, trainer: pl.Trainer) -> LambdaLR:
    """A cosine or constant learning rate for all steps of the trainer, after a warm-up.

    Raises:
        ConfigError: the trainer has no end.
    """
    epochs = trainer.max_epochs or 0
    steps = trainer.estimated_stepping_batches
    if not math.isfinite(steps):
        raise ConfigError(f"schedule={schedule.name} must know how long training takes: give max_epochs or max_steps")
    total, end = int(steps), schedule.min_lr if schedule.name == "cosine" else 1.0
    if epochs <= 0:  # max_steps alone: Lightning has not counted the batches yet
        trainer.fit_loop.setup_data()
    an_epoch = total / epochs if epochs > 0 else trainer.num_training_batches / trainer.accumulate_grad_batches
    warmup = round(min(schedule.warmup_epochs * an_epoch, total)) if schedule.warmup_epochs else 0
    return LambdaLR(optimizer, lambda step: rate(step, total, warmup, end))


def plateau(optimizer: Optimizer, schedule: Schedule, state: dict[str, Any] | None) -> ReduceLROnPlateau:
    """A learning rate that drops after epochs without a lower validation loss. ``state`` is that of a resumed run."""
    scheduler = ReduceLROnPlateau(optimizer, factor=schedule.factor, patience=schedule.patience)
    if state is not None:
        scheduler.load_state_dict(state)
    return scheduler


def adjust(scheduler: object) -> None:
    """Set the learning rates of a resumed run by its schedule, which may be longer than before."""
    if isinstance(scheduler, LambdaLR):
        groups = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        for group, peak, share in groups:
            group["lr"] = peak * share(scheduler.last_epoch)


def rate(step: int, total: int, warmup: int, end: float) -> float:
    """Share of the peak learning rate: linear rise over ``warmup`` steps, then half a cosine down to ``end``.

    Loshchilov and Hutter 2017, without restarts; ``end=1`` keeps the rate constant.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2
