"""Scores of every epoch, in history.csv and in checkpoints, so that a resumed run has them all."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from sagehound import metrics
from sagehound.evaluation.tables import Epochs
from sagehound.models.classifier import Classifier
from sagehound.storage.atomic import read_csv, write_csv

NAME = "history.csv"
COLUMNS = tuple(metrics.of_epoch(("train", "valid"), "_"))  # train_loss, train_top1, valid_loss, valid_top1


class History(Callback):
    """Writes history.csv after each epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.epochs: Epochs = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch's scores."""
        assert isinstance(pl_module, Classifier)
        values = {**trainer.callback_metrics, **pl_module.train_scores.compute()}  # every process takes part in compute
        scores = {name: float(values[name.replace("_", "/", 1)]) for name in COLUMNS}
        self.epochs.append({"epoch": trainer.current_epoch + 1, **scores})
        if trainer.is_global_zero:
            write(self.path, self.epochs)

    def state_dict(self) -> dict[str, Any]:
        """The epochs so far."""
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the epochs of the checkpoint."""
        self.epochs = list(state_dict["epochs"])


def of_checkpoint(checkpoint: dict[str, Any] | None) -> Epochs:
    """The finished epochs of a checkpoint; none without a checkpoint."""
    return list(checkpoint["callbacks"].get("History", {}).get("epochs", [])) if checkpoint else []


def write(path: Path, epochs: Epochs) -> None:
    """Write history.csv: epoch, train_loss, train_top1, valid_loss, valid_top1; unknown values are empty."""
    rows = [[int(e["epoch"]), *(f"{e[name]:.6g}" if name in e else "" for name in COLUMNS)] for e in epochs]
    write_csv(path, ["epoch", *COLUMNS], rows)


def read(path: Path) -> Epochs:
    """The epochs of a history.csv."""
    return [{name: float(value or "nan") for name, value in row.items()} for row in read_csv(path)]
