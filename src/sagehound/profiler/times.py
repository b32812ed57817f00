"""The times of a run: seconds of each phase, and with ``profiler=local`` everything else that is measured."""

import csv
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from sagehound.config import Profiler
from sagehound.debugger.findings import line
from sagehound.storage.atomic import write_json, write_text
from sagehound.system import console
from sagehound.system.machine import cores

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback

    from sagehound.profiler.operators import Operators
    from sagehound.profiler.sampler import Sampler
    from sagehound.profiler.step_profiler import StepProfiler

FOLDER = "profile"
_SHOWN = {
    "cpu": "CPU, %",
    "process_cpu": "CPU of the process, %",
    "memory": "memory, %",
    "rss_mb": "memory of the process, MB",
    "iowait": "waiting for disks, %",
}


class Times:
    """Seconds of each phase in ``seconds``. With a config, the profile of the run is measured too.

    Args:
        cfg: the group ``profiler``; None: only phases are timed.
        folder: the run's.
    """

    def __init__(self, cfg: Profiler | None, folder: Path) -> None:
        self.seconds: dict[str, float] = {}
        self._cfg = cfg if cfg and cfg.name == "local" else None
        self._folder, self._now = folder, "start"
        self._sampler: Sampler | None = None
        self.steps: StepProfiler | None = None
        self._operators: Operators | None = None

    def __enter__(self) -> Self:
        if self._cfg:
            from sagehound.profiler.operators import Operators
            from sagehound.profiler.sampler import Sampler
            from sagehound.profiler.step_profiler import StepProfiler

            self._sampler = Sampler(self._cfg.interval, lambda: self._now)
            self.steps = StepProfiler()
            self._operators = Operators(self._folder / FOLDER, self._cfg.num_steps)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._sampler:
            self._sampler.close()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase of the run; a phase may come several times."""
        before, self._now = self._now, name
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        self._now = before

    def callbacks(self) -> "list[Callback]":
        """Lightning's callbacks that measure."""
        return [self._operators] if self._operators else []

    @property
    def parts(self) -> dict[str, float]:
        """Milliseconds of each part of a mean train step; empty if steps are not measured."""
        return self.steps.state() if self.steps else {}

    def write(self, *, batch_size: int, workers: int, reads_photos: bool, own_transform: bool) -> None:
        """Write samples.csv, summary.json and findings.json into ``profile``, and print the findings."""
        if not (self._sampler and self.steps and self._operators):
            return
        import torch

        from sagehound.profiler import profile_rules as rules

        start = _process_start()
        first = self.steps.first_step
        profile = rules.Profile(
            list(self._sampler.samples),
            list(self.steps.steps),
            self.parts,
            None if first is None else first - start,
            batch_size,
            workers,
            reads_photos,
            own_transform,
            torch.get_num_threads(),
            cores(),
        )
        findings, missing = rules.evaluate(profile)
        for finding in findings:
            console.warn(f"profiler: {finding.rule}: {line(finding)}")
        folder = self._folder / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "samples.csv", _csv(profile.samples))
        content = {
            "phases": {name: round(s, 3) for name, s in self.seconds.items()},
            "start_to_first_step": None if first is None else round(first - start, 3),
            "steps": dict(profile.parts),
            "step_ms": _percentiles(np.array(profile.steps) * 1000),
            "operators": self._operators.table,
            "system": _use(profile),
            "findings": [asdict(finding) for finding in findings],
            "not_evaluated": missing,
        }
        write_json(folder / "summary.json", content)
        write_json(folder / "findings.json", {"findings": content["findings"], "not_evaluated": missing})


def _process_start() -> float:
    import psutil

    return float(psutil.Process().create_time())


def _csv(samples: Any) -> str:  # noqa: ANN401 - a sequence of samples
    columns = list(dict.fromkeys(name for sample in samples for name in sample))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(samples)
    return text.getvalue()


def _percentiles(values: np.ndarray[Any, Any]) -> dict[str, float]:
    if not len(values):
        return {}
    return {f"p{q}": round(float(np.percentile(values, q)), 3) for q in (5, 50, 95, 99)}


def _use(profile: Any) -> list[list[object]]:  # noqa: ANN401 - a Profile
    """Rows of name, median and 95th percentile, of the samples while features are computed and the model is trained."""
    names = dict(_SHOWN)
    for name in profile.samples[-1] if profile.samples else ():
        if name.startswith("gpu"):
            names[name] = (
                f"{name.partition('_')[0]}, {'MB' if name.endswith('_mb') else 'memory, %' if '_' in name else '%'}"
            )
    rows: list[list[object]] = []
    for name, shown in names.items():
        values = profile.column(name)
        if len(values):
            rows.append([shown, f"{np.median(values):.1f}", f"{np.percentile(values, 95):.1f}"])
    return rows
