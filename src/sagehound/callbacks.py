"""What happens beside the training steps: checkpoints, stopping, averaging, progress."""

import io
import logging
import multiprocessing
import os
import re
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    EMAWeightAveraging,
    ModelCheckpoint,
)
from lightning.pytorch.plugins.io import TorchCheckpointIO
from rich.progress import Progress
from torch.multiprocessing.spawn import ProcessException

from sagehound import errors, hints, history
from sagehound.classifier import Classifier
from sagehound.config import Train, Trainer, as_dict
from sagehound.console import bar, metric, say
from sagehound.errors import Stopped
from sagehound.files import replacing
from sagehound.history import History
from sagehound.metrics import EACH_EPOCH, of_epoch

EpochEnd = Callable[[int, Mapping[str, float]], None]


def make_callbacks(trainer: Trainer, checkpoints: Path, *, keep_last: bool = True) -> list[Callback]:
    """The callbacks of a run; best.ckpt has the lowest validation loss, last.ckpt is where a resume goes on.

    Without ``keep_last`` there is no last.ckpt, not even when a signal stops the run, and no history.csv.
    """
    callbacks: list[Callback] = []
    if trainer.ema is not None:
        callbacks.append(EMAWeightAveraging(decay=trainer.ema))
    if trainer.patience is not None:
        callbacks.append(EarlyStopping("valid/loss", patience=trainer.patience, check_on_train_epoch_end=True))
    callbacks.append(StopOnSignal(checkpoints / "last.ckpt", save=keep_last))
    callbacks += [StepBar(), Lines(), MetricLines()]
    if keep_last:
        callbacks.append(History(checkpoints.with_name(history.NAME)))
    # in this order: last.ckpt knows which was best
    for name, monitor in (("best", "valid/loss"), *([("last", None)] if keep_last else [])):
        callbacks.append(
            Checkpoint(
                dirpath=checkpoints,
                filename=name,
                monitor=monitor,
                save_on_train_epoch_end=True,  # the next epoch then begins where this one ended
                enable_version_counter=False,
            )
        )
    return callbacks


class Checkpoint(ModelCheckpoint):
    """Lightning's, but a run's folder may be moved between stop and resume without forgetting the best epoch."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state up as of this folder, if the file that it speaks of is there."""
        here = Path(str(self.dirpath), f"{self.filename}.ckpt")
        if here.exists():
            super().load_state_dict(state_dict | {"dirpath": self.dirpath, "best_model_path": str(here)})


class AtomicFiles(TorchCheckpointIO):
    """Checkpoints that are there whole or not at all; Lightning's own are moved from /tmp, often another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        """Write beside the old file, then take its place."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(content.getbuffer())


class StepBar(Callback):
    """On a terminal, a bar of the running epoch's steps, below the lines of the finished epochs; it leaves nothing."""

    _bar: Progress | None = None  # made when training starts: it cannot be sent to DDP's processes

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the bar; after a resume the epoch's own hook is not called."""
        if trainer.is_global_zero:
            self._bar = bar()
            self._task = self._bar.add_task("", total=None)
            self._bar.start()
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the epoch's steps."""
        self._begin(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", trainer.num_training_batches)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the batches of valid photos."""
        self._begin(f"epoch {trainer.current_epoch + 1}, valid", sum(trainer.num_val_batches))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """One step more."""
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
        """One batch more."""
        self._move(batch_idx + 1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the bar."""
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the bar, so that the error's line stands alone."""
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


class Lines(Callback):
    """One line an epoch."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch's scores."""
        assert isinstance(pl_module, Classifier)
        valid, train = trainer.callback_metrics, pl_module.train_scores.compute()  # every process takes part in compute
        if trainer.is_global_zero:
            scores = [
                f"valid {m.label} {float(valid[f'valid/{m.name}']):{m.epoch_format}}"
                for m in EACH_EPOCH
                if "valid" in m.splits
            ]
            say(
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {', '.join(scores)}, "
                f"train loss {train['train/loss']:.4f}"
            )


class KeepConfig(Callback):
    """Keeps the run's config in its checkpoints: a resumed run must agree with it."""

    def __init__(self, cfg: Train) -> None:
        self.config = as_dict(cfg)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add it."""
        checkpoint["config"] = self.config


class EachEpoch(Callback):
    """Calls a function after each epoch; what it raises ends the run."""

    def __init__(self, tell: EpochEnd) -> None:
        self.tell = tell

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hand over how many epochs are done, and valid.loss, valid.top1, ..."""
        valid = {k.replace("/", "."): float(v) for k, v in trainer.callback_metrics.items() if k.startswith("valid/")}
        self.tell(trainer.current_epoch + 1, valid)


class MetricLines(Callback):
    """The epoch's scores as SageMaker reads them; silent outside its containers."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print valid.loss, valid.top1, ..., train.loss, train.top1, ..."""
        assert isinstance(pl_module, Classifier)
        train = pl_module.train_scores.compute()  # every process takes part in compute
        if trainer.is_global_zero:
            for name in of_epoch():
                metric(name, float({**trainer.callback_metrics, **train}[name.replace(".", "/", 1)]))


class StopOnSignal(Callback):
    """After SIGTERM or Ctrl-C: write last.ckpt at the next step and end the run; a second Ctrl-C ends it at once."""

    def __init__(self, last: Path, *, save: bool = True) -> None:
        self.last, self.save = last, save
        self.heard = 0  # the signal's number

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen; what listened before does so again after the run."""
        self._before = {s: signal.signal(s, self._hear) for s in _signals()}

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stop listening."""
        for signum, handler in getattr(self, "_before", {}).items():
            signal.signal(signum, handler)
        self._before = {}

    def _hear(self, signum: int, _: FrameType | None) -> None:
        if self.heard and signum == signal.SIGINT:
            raise stopped(signum, self.last)
        self.heard = signum

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Stop after a whole optimizer step; after an epoch's last, the epoch is finished first."""
        steps = trainer.accumulate_grad_batches
        if (batch_idx + 1) % steps == 0 and batch_idx + 1 < trainer.num_training_batches and self._any_heard(trainer):
            if self.save:
                trainer.save_checkpoint(self.last)
            self._stop()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop between two epochs: last.ckpt was written at the end of the one before."""
        if trainer.current_epoch and self._any_heard(trainer):
            self._stop()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last epoch has ended: last.ckpt is there, and only the evaluation is left to do."""
        if self._any_heard(trainer):
            self._stop()

    def _any_heard(self, trainer: pl.Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(bool(self.heard), all=False)

    def _stop(self) -> None:
        signum = self.heard or int(signal.SIGTERM)  # another process may have heard it
        raise stopped(signum, self.last)


def stopped(signum: int, last: Path) -> Stopped:
    """What to say and return after a signal, and how to resume."""
    name = signal.Signals(signum).name
    hint = f"; resume with: {hints.command([hints.override('resume', str(last.parent.parent))])}"
    where = hint if last.exists() else "; no checkpoint was written"
    return Stopped(f"stopped by {name}{where}", signum)


def _signals() -> list[signal.Signals]:
    """The signals that stop a run; Python lets no thread but the main one handle any."""
    return [signal.SIGTERM, signal.SIGINT] if threading.current_thread() is threading.main_thread() else []


@contextmanager
def signals_stop(last: Path) -> Iterator[None]:
    """Outside the training steps a signal ends the run at once; while DDP's processes train, they are told to stop.

    Raises:
        Stopped: SIGTERM or Ctrl-C came.
        SagehoundError: what one of DDP's processes raised.
    """
    heard: list[int] = []

    def hear(signum: int, _: FrameType | None) -> None:
        children = [p.pid for p in multiprocessing.active_children() if p.pid]
        if not children:
            raise stopped(signum, last)
        heard.append(signum)
        for pid in children:
            os.kill(pid, signal.SIGTERM)  # a terminal has sent them its own Ctrl-C already

    before = {s: signal.signal(s, hear) for s in _signals()}
    try:
        yield
    except ProcessException as error:
        raise stopped(heard[0], last) if heard else _of_child(error) from error
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _of_child(error: ProcessException) -> Exception:
    """The error of ours that a process of DDP's ended with, or what torch says of any other."""
    found = re.search(r"^sagehound\.errors\.(\w+): (.*)", str(error), flags=re.MULTILINE)
    kind = getattr(errors, found.group(1), None) if found else None
    return kind(found.group(2)) if found and kind and kind is not errors.Stopped else error


def _quiet() -> None:
    """Keep Lightning's hints and advertisements from between our lines; its errors still come through."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning", "torch.multiprocessing.spawn"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")


_quiet()  # whenever this module is read, which the processes that DDP starts do first
