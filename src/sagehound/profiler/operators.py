"""The operators of some train steps, by torch's profiler, as a trace file and a table."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch.profiler import ProfilerActivity, profile

from sagehound.debugger.observers import reported

_WARM_UP = 3  # steps, which also load libraries
_MOST = 15  # operators in the table
NAME = "trace.json.gz"


class Operators(Callback):
    """Records ``steps`` train steps after the third one; ui.perfetto.dev and chrome://tracing open the trace.

    Args:
        folder: for the trace file.
        steps: how many; 0: none.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.steps = folder, steps
        self.table: list[dict[str, Any]] = []  # name, calls, milliseconds of the operator itself
        self._profile: profile | None = None
        self._count = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Begin after the warm-up."""
        if self.steps and self._count == _WARM_UP and trainer.is_global_zero:
            with reported("no operators are recorded"):
                kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
                self._profile = profile(activities=kinds)
                self._profile.start()
        self._count += 1

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """End after the last recorded step."""
        if self._profile and self._count == _WARM_UP + self.steps:
            self._end()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what was recorded of a short training."""
        self._end()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write what was recorded before an error."""
        self._end()

    def _end(self) -> None:
        recorded, self._profile = self._profile, None
        if recorded is None:
            return
        with reported("the operators are not written"):
            recorded.stop()
            self.folder.mkdir(parents=True, exist_ok=True)
            recorded.export_chrome_trace(str(self.folder / f"partial-{NAME}"))
            (self.folder / f"partial-{NAME}").replace(self.folder / NAME)
            self.table = _table(recorded)


def _table(recorded: profile) -> list[dict[str, Any]]:
    rows = [
        {
            "operator": event.key,
            "calls": event.count,
            "cpu_ms": round(event.self_cpu_time_total / 1000, 3),
            "gpu_ms": round(getattr(event, "self_device_time_total", 0) / 1000, 3),
        }
        for event in recorded.key_averages()
        if not event.key.startswith("[") and not event.key.startswith("ProfilerStep")
    ]
    return sorted(rows, key=lambda row: -(row["gpu_ms"] or row["cpu_ms"]))[:_MOST]
