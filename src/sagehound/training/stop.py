"""SIGTERM and Ctrl-C end a run with a checkpoint."""

import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch.multiprocessing.spawn import ProcessException

from sagehound import errors
from sagehound.config.overrides import override
from sagehound.errors import Stopped
from sagehound.system import program


class StopOnSignal(Callback):
    """After SIGTERM or Ctrl-C, writes last.ckpt at the next step and ends the run. A second Ctrl-C ends it at once."""

    def __init__(self, last: Path, *, save: bool = True) -> None:
        self.last, self.save = last, save
        self.received = 0  # the signal's number

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Install signal handlers."""
        self._before = {s: signal.signal(s, self._receive) for s in _signals()}

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restore the previous signal handlers."""
        for signum, handler in getattr(self, "_before", {}).items():
            signal.signal(signum, handler)
        self._before = {}

    def _receive(self, signum: int, _: FrameType | None) -> None:
        if self.received and signum == signal.SIGINT:
            raise stopped(signum, self.last)
        self.received = signum

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Stop after a whole optimizer step. After the last step of an epoch, finish the epoch first."""
        steps = trainer.accumulate_grad_batches
        if (
            (batch_idx + 1) % steps == 0
            and batch_idx + 1 < trainer.num_training_batches
            and self._any_received(trainer)
        ):
            if self.save:
                trainer.save_checkpoint(self.last)
            self._stop()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop between two epochs; last.ckpt was written at the end of the previous one."""
        if trainer.current_epoch and self._any_received(trainer):
            self._stop()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop before the evaluation; last.ckpt was written."""
        if self._any_received(trainer):
            self._stop()

    def _any_received(self, trainer: pl.Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(bool(self.received), all=False)

    def _stop(self) -> None:
        signum = self.received or int(signal.SIGTERM)  # another process may have received it
        raise stopped(signum, self.last)


def stopped(signum: int, last: Path) -> Stopped:
    """The error after a signal; it says how to resume."""
    name = signal.Signals(signum).name
    hint = f"; resume with: {program.command([override('resume', str(last.parent.parent))])}"
    where = hint if last.exists() else "; no checkpoint was written"
    return Stopped(f"stopped by {name}{where}", signum)


def _signals() -> list[signal.Signals]:
    """The signals that stop a run. Python handles signals only in the main thread."""
    return [signal.SIGTERM, signal.SIGINT] if threading.current_thread() is threading.main_thread() else []


@contextmanager
def signals_stop(last: Path) -> Iterator[None]:
    """Outside the training steps a signal ends the run at once. DDP's processes get the signal and stop themselves.

    Raises:
        Stopped: SIGTERM or Ctrl-C came.
        SagehoundError: one of DDP's processes raised it.
    """
    received: list[int] = []

    def receive(signum: int, _: FrameType | None) -> None:
        children = [p.pid for p in multiprocessing.active_children() if p.pid]
        if not children:
            raise stopped(signum, last)
        received.append(signum)
        for pid in children:
            os.kill(pid, signal.SIGTERM)  # a terminal sends Ctrl-C to them itself

    before = {s: signal.signal(s, receive) for s in _signals()}
    try:
        yield
    except ProcessException as error:
        raise stopped(received[0], last) if received else _of_child(error) from error
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _of_child(error: ProcessException) -> Exception:
    """The SagehoundError that ended one of DDP's processes; for other errors, torch's own."""
    match = re.search(r"^sagehound\.(?:errors|inference\.input_errors)\.(\w+): (.*)", str(error), flags=re.MULTILINE)
    kind = getattr(errors, match.group(1), None) if match else None
    return kind(match.group(2)) if match and kind and kind is not errors.Stopped else error
