"""The system metrics of a training job with a ProfilerConfig, in the files that AWS's agent writes."""

import json
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from sagemaker_emulator.storage.records import Record

_INTERVAL = 500  # milliseconds; AWS's default


class SystemMetrics:
    """Samples CPU, memory, disks and network of this machine until it is closed; jobs share them.

    A line of JSON for each value: Type, Name, Dimension, Value, NodeId and Timestamp, as smdebug's readers expect. A
    file holds one minute: ``system/incremental/YYYYMMDDHH/SECONDS.algo-1.json``.

    Args:
        record: the job's; without a ProfilerConfig nothing is sampled.
        folder: of the profiler's output.
    """

    def __init__(self, record: Record, folder: Path) -> None:
        config: dict[str, Any] = record.get("ProfilerConfig", {})
        self._folder = folder / "system" / "incremental"
        self._interval = config.get("ProfilingIntervalInMilliseconds", _INTERVAL) / 1000
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        if config and not config.get("DisableProfiler"):
            psutil.cpu_percent(percpu=True)  # the first call returns no use
            self._before = self._counters()
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Take no more samples."""
        self._closed.set()
        if self._thread:
            self._thread.join(5)

    def _run(self) -> None:
        while not self._closed.wait(self._interval):
            with suppress(psutil.Error, OSError):
                self._write(time.time())

    def _write(self, now: float) -> None:
        minute = datetime.fromtimestamp(now - now % 60, UTC)
        file = self._folder / f"{minute:%Y%m%d%H}" / f"{int(minute.timestamp())}.algo-1.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as lines:
            for kind, name, dimension, value in self._values():
                event = {"Type": kind, "Name": name, "Dimension": dimension, "Value": value}
                lines.write(json.dumps(event | {"NodeId": "algo-1", "Timestamp": now}) + "\n")

    def _values(self) -> list[tuple[str, str, str, float]]:
        """Type, name, dimension and value."""
        counters = self._counters()
        rates = {name: (counters[name] - before) / self._interval for name, before in self._before.items()}
        self._before = counters
        cores = [("cpu", f"cpu{i}", "CPUUtilization", use) for i, use in enumerate(psutil.cpu_percent(percpu=True))]
        return [
            *cores,
            ("memory", "memory", "MemoryUtilization", psutil.virtual_memory().percent),
            ("i/o", "read", "IOThroughput", rates["read"]),
            ("i/o", "write", "IOThroughput", rates["write"]),
            ("network", "receive", "Algorithm Network Bytes Received", rates["received"]),
            ("network", "transmit", "Algorithm Network Bytes Transmitted", rates["sent"]),
        ]

    @staticmethod
    def _counters() -> dict[str, float]:
        disk, network = psutil.disk_io_counters(), psutil.net_io_counters()
        return {
            "read": float(disk.read_bytes) if disk else 0.0,
            "write": float(disk.write_bytes) if disk else 0.0,
            "received": float(network.bytes_recv) if network else 0.0,
            "sent": float(network.bytes_sent) if network else 0.0,
        }
