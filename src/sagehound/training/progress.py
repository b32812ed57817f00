"""Progress of training: a bar of the steps, a line for each epoch, and lines that SageMaker reads."""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from rich.progress import Progress

from sagehound.metrics import EACH_EPOCH, of_epoch
from sagehound.models.classifier import Classifier
from sagehound.system.console import bar, info, metric


class StepBar(Callback):
    """A bar of the current epoch's steps on a terminal. It is removed at the end."""

    _bar: Progress | None = None  # made when training starts, because it cannot be pickled for DDP

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the bar. After a resume the hook of the epoch is not called."""
        if trainer.is_global_zero:
            self._bar = bar()
            self._task = self._bar.add_task("", total=None)
            self._bar.start()
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting the epoch's steps."""
        self._begin(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", trainer.num_training_batches)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting the batches of valid photos."""
        self._begin(f"epoch {trainer.current_epoch + 1}, valid", sum(trainer.num_val_batches))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Advance by one step."""
        self._move(batch_idx + 1)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Advance by one batch."""
        self._move(batch_idx + 1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the bar."""
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the bar before the error is printed."""
        self._stop()

    def _begin(self, description: str, total: float) -> None:
        if self._bar:
            self._bar.reset(self._task, description=description, total=total)

    def _move(self, done: int) -> None:
        if self._bar:
            self._bar.update(self._task, completed=done)

    def _stop(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None


class LineProgress(Callback):
    """Prints one line per epoch."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch's scores."""
        assert isinstance(pl_module, Classifier)
        valid, train = trainer.callback_metrics, pl_module.train_scores.compute()  # every process takes part in compute
        if trainer.is_global_zero:
            scores = [
                f"valid {m.label} {float(valid[f'valid/{m.name}']):{m.epoch_format}}"
                for m in EACH_EPOCH
                if "valid" in m.each_epoch
            ]
            info(
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {', '.join(scores)}, "
                f"train loss {train['train/loss']:.4f}"
            )


class MetricLines(Callback):
    """Prints the epoch's scores in the form that SageMaker reads, inside its containers only."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print valid.loss, valid.top1, ..., train.loss, train.top1, ..."""
        assert isinstance(pl_module, Classifier)
        train = pl_module.train_scores.compute()  # every process takes part in compute
        if trainer.is_global_zero:
            for name in of_epoch():
                metric(name, float({**trainer.callback_metrics, **train}[name.replace(".", "/", 1)]))


class LearningRate(Callback):
    """Logs the head's learning rate as ``lr``, except to TensorBoard, which gets it with ``callbacks=lr_monitor``."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Log at the first step of an epoch, and when Lightning logs the loss of a step."""
        if not trainer.is_global_zero or not (batch_idx == 0 or trainer._logger_connector.should_update_logs):
            return
        rate = max(group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups)
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):
                logger.log_metrics({"lr": rate}, step=trainer.fit_loop.epoch_loop._batches_that_stepped)
