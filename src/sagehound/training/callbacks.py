"""Callbacks of a run: checkpoints, early stopping, averaging."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    EMAWeightAveraging,
    ModelCheckpoint,
)
from lightning.pytorch.plugins.io import TorchCheckpointIO

import sagehound.training.quiet  # noqa: F401 - before Lightning prints anything
from sagehound.config import Train, Trainer, as_dict
from sagehound.evaluation import history
from sagehound.evaluation.history import History
from sagehound.metrics import direction
from sagehound.training import checkpoint as checkpoint_files
from sagehound.training.progress import LineProgress, MetricLines, StepBar
from sagehound.training.stop import StopOnSignal

EpochEnd = Callable[[int, Mapping[str, float]], None]


def make_callbacks(trainer: Trainer, checkpoints: Path, *, keep_last: bool = True) -> list[Callback]:
    """The callbacks of a run. best.ckpt has the best ``trainer.monitor``; a resume continues from last.ckpt.

    Without ``keep_last`` there is no last.ckpt, not even when a signal stops the run, and no history.csv.
    """
    callbacks: list[Callback] = []
    if trainer.ema is not None:
        callbacks.append(EMAWeightAveraging(decay=trainer.ema))
    if trainer.patience is not None:
        callbacks.append(early_stopping(trainer))
    callbacks.append(StopOnSignal(checkpoints / "last.ckpt", save=keep_last))
    callbacks += [StepBar(), LineProgress(), MetricLines()]
    if keep_last:
        callbacks.append(History(checkpoints.with_name(history.NAME)))
    # in this order, so that last.ckpt knows which epoch was best
    monitored, mode = _monitored(trainer)
    for name, monitor in (("best", monitored), *([("last", None)] if keep_last else [])):
        callbacks.append(
            Checkpoint(
                dirpath=checkpoints,
                filename=name,
                monitor=monitor,
                mode=mode,
                save_on_train_epoch_end=True,  # so that a resume begins with the next epoch
                enable_version_counter=False,
            )
        )
    return callbacks


def early_stopping(trainer: Trainer) -> EarlyStopping:
    """Ends training after ``trainer.patience`` epochs without a better ``trainer.monitor``."""
    monitored, mode = _monitored(trainer)
    return EarlyStopping(monitored, patience=trainer.patience or 0, mode=mode, check_on_train_epoch_end=True)


def _monitored(trainer: Trainer) -> tuple[str, str]:
    """Lightning's name of ``trainer.monitor``, such as valid/loss, and min or max."""
    return trainer.monitor.replace(".", "/"), direction(trainer.monitor)[:3]


class Checkpoint(ModelCheckpoint):
    """Lightning's, but the best epoch is remembered if the run's folder is moved before a resume."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state with this folder's paths, if the checkpoint is there."""
        here = Path(str(self.dirpath), f"{self.filename}.ckpt")
        if here.exists():
            super().load_state_dict(state_dict | {"dirpath": self.dirpath, "best_model_path": str(here)})


class AtomicFiles(TorchCheckpointIO):
    """Writes checkpoints atomically. Lightning moves its own from /tmp, often another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        """Write a temporary file beside the old one, then replace it."""
        checkpoint_files.save(checkpoint, Path(path))


class KeepConfig(Callback):
    """Stores the run's config in its checkpoints; a resume is checked against it."""

    def __init__(self, cfg: Train) -> None:
        self.config = as_dict(cfg)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the config."""
        checkpoint["config"] = self.config


class EachEpoch(Callback):
    """Calls a function after each epoch. If it raises, the run ends."""

    def __init__(self, tell: EpochEnd) -> None:
        self.tell = tell

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Call the function with the number of finished epochs, and valid.loss, valid.top1, ..."""
        valid = {k.replace("/", "."): float(v) for k, v in trainer.callback_metrics.items() if k.startswith("valid/")}
        self.tell(trainer.current_epoch + 1, valid)
