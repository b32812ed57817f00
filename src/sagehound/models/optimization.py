"""The optimizer and the schedule of a classifier."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from sagehound.config import Finetune, Optimizer, Schedule
from sagehound.models import finetune as finetuning
from sagehound.models import optimizers, schedules


class Optimization(pl.LightningModule):
    """Optimizer and schedule of ``Classifier``."""

    backbone: nn.Module
    head: nn.Sequential
    finetune: Finetune
    schedule: Schedule
    pretrained: bool
    has_solved_head = False  # when training starts
    plateau: ReduceLROnPlateau | None = None
    _plateau_state: dict[str, Any] | None = None

    @property
    def lr(self) -> float:
        """Learning rate of the head; Lightning's Tuner may set it."""
        return self.optimizer.lr

    @lr.setter
    def lr(self, rate: float) -> None:
        self.optimizer.lr = self.hparams["lr"] = rate

    def _set_optimizer(
        self, optimizer: str | Callable[..., torch.optim.Optimizer], lr: float, decay: float, arguments: dict[str, Any]
    ) -> None:
        self.optimizer = Optimizer(
            optimizer if isinstance(optimizer, str) else optimizers.qualified_name(optimizer), lr, decay
        )
        self.make_optimizer = optimizer if callable(optimizer) else None
        self.optimizer_args = dict(arguments)

    def _optimizer_class(self) -> optimizers.Make:
        return self.make_optimizer or optimizers.find(self.optimizer.name)

    def _optimizer_arguments(self) -> dict[str, Any]:
        return {"lr": self.optimizer.lr, "weight_decay": self.optimizer.weight_decay} | self.optimizer_args

    def start_solved(self) -> None:
        """Train a head that is solved already: at the backbone's learning rate, and without a phase of its own."""
        self.has_solved_head = True
        self.finetune = replace(self.finetune, head_epochs=0)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, and a schedule for every step.

        Raises:
            ConfigError: the schedule needs a number of epochs, and the trainer has none.
        """
        groups = finetuning.parameter_groups(
            self.backbone,
            self.head,
            self.finetune,
            self.optimizer,
            pretrained=self.pretrained,
            solved=self.has_solved_head,
        )
        optimizer = optimizers.build(self.optimizer.name, self._optimizer_class(), groups, self._optimizer_arguments())
        if self.schedule.name == "plateau":
            self.plateau = schedules.plateau(optimizer, self.schedule, self._plateau_state)
            return optimizer
        scheduler = schedules.each_step(optimizer, self.schedule, self.trainer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add whether the head was solved, and the plateau's state, which Lightning would write too early."""
        checkpoint["has_solved_head"] = self.has_solved_head
        if self.plateau is not None:
            checkpoint["plateau"] = self.plateau.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what ``on_save_checkpoint`` adds; the schedule is made later."""
        if checkpoint.get("has_solved_head"):
            self.start_solved()
        self._plateau_state = checkpoint.get("plateau")
