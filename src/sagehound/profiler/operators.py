"""The operators of some train steps, by torch's profiler, as a trace file and a table."""

import gzip
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch.autograd.profiler import profile

from sagehound.debugger.observers import reported
from sagehound.storage.atomic import replacing

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
                is_cuda = torch.cuda.is_available()
                # kineto takes three seconds to start, and is needed for a GPU only
                recorded = profile(use_kineto=is_cuda, use_device="cuda" if is_cuda else None)
                with _without_stderr():
                    recorded.__enter__()
                self._profile = recorded
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
            with _without_stderr(), tempfile.TemporaryDirectory() as folder:
                recorded.__exit__(None, None, None)
                trace = Path(folder, "trace.json")
                recorded.export_chrome_trace(str(trace))
                content = trace.read_bytes()
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self.folder / NAME) as temporary:
                temporary.write_bytes(gzip.compress(content, 1))
            self.table = table_of(json.loads(content))


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Drop what torch's C++ code prints about missing GPUs."""
    before, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(null)


def table_of(trace: dict[str, Any]) -> list[dict[str, Any]]:
    """Calls and milliseconds of the slowest operators of a trace, without the operators that they call.

    torch's own key_averages returns the same, and takes seconds for a deep network.

    Args:
        trace: in Chrome's format, with ``ts`` and ``dur`` in microseconds.
    """
    calls: dict[str, int] = defaultdict(int)
    cpu: dict[str, float] = defaultdict(float)
    gpu: dict[str, float] = defaultdict(float)
    events = [e for e in trace["traceEvents"] if e.get("ph") == "X" and not str(e["name"]).startswith("[")]
    open_events: list[tuple[str, float]] = []  # name and end of the events around the current one
    thread = None
    for event in sorted(events, key=lambda e: (str(e["tid"]), e["ts"], -e["dur"])):
        name, start, duration = str(event["name"]), float(event["ts"]), float(event["dur"])
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
            gpu[name] += duration
            calls[name] += 1
            continue
        if event["tid"] != thread:
            open_events, thread = [], event["tid"]
        while open_events and open_events[-1][1] <= start:
            open_events.pop()
        if open_events:
            cpu[open_events[-1][0]] -= duration
        open_events.append((name, start + duration))
        cpu[name] += duration
        calls[name] += 1
    rows = [
        {"operator": n, "calls": calls[n], "cpu_ms": round(cpu[n] / 1000, 3), "gpu_ms": round(gpu[n] / 1000, 3)}
        for n in calls
    ]
    return sorted(rows, key=lambda row: (gpu[str(row["operator"])], cpu[str(row["operator"])]), reverse=True)[:_MOST]
