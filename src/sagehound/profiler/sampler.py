"""Samples the use of CPU, memory, disk, network and GPUs in a thread."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psutil

Sample = dict[str, float | str]
_MB = 1e6


class Sampler:
    """Takes a sample at each interval until it is closed.

    A sample has ``time`` (seconds since the start), ``phase``, ``cpu`` (percent of all cores), ``core0``, ...,
    ``process_cpu`` (percent of all cores that this process uses), ``iowait`` (percent), ``memory`` (percent of the
    machine's), ``rss_mb`` (of this process), ``disk_read_mb_s``, ``disk_write_mb_s``, ``network_mb_s``, and for each
    GPU of NVIDIA ``gpu0``, ``gpu0_memory`` (percent) and ``gpu0_mb``.

    Args:
        interval: seconds between two samples.
        phase: returns the name of the current phase.
    """

    def __init__(self, interval: float, phase: Callable[[], str]) -> None:
        self.samples: list[Sample] = []
        self._interval, self._phase = interval, phase
        self._closed = threading.Event()
        self._process = psutil.Process()
        self._start = time.monotonic()
        self._before = (self._start, *_counters())
        psutil.cpu_percent(percpu=True)  # the first call returns no use
        psutil.cpu_times_percent()
        self._process.cpu_percent()
        self._gpus = list(_gpus())
        self._thread = threading.Thread(target=self._run, daemon=True, name="sagehound-sampler")
        self._thread.start()

    def close(self) -> None:
        """Take no more samples."""
        self._closed.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._closed.wait(self._interval):
            with suppress(psutil.Error, OSError):  # a counter may vanish; the next sample has it
                self.samples.append(self._sample())

    def _sample(self) -> Sample:
        now = time.monotonic()
        cores = psutil.cpu_percent(percpu=True)
        read, written, network = _counters()
        seconds = now - self._before[0]
        rates = [(b - a) / _MB / seconds for a, b in zip(self._before[1:], (read, written, network), strict=True)]
        self._before = (now, read, written, network)
        sample: Sample = {
            "time": round(now - self._start, 3),
            "phase": self._phase(),
            "cpu": round(sum(cores) / len(cores), 1),
            **{f"core{i}": use for i, use in enumerate(cores)},
            "process_cpu": round(self._process.cpu_percent() / len(cores), 1),
            "iowait": getattr(psutil.cpu_times_percent(), "iowait", 0.0),
            "memory": psutil.virtual_memory().percent,
            "rss_mb": round(self._process.memory_info().rss / _MB, 1),
            **dict(
                zip(("disk_read_mb_s", "disk_write_mb_s", "network_mb_s"), (round(r, 3) for r in rates), strict=True)
            ),
        }
        for number, read_gpu in enumerate(self._gpus):
            use, used, total = read_gpu()
            sample |= {
                f"gpu{number}": use,
                f"gpu{number}_memory": round(100 * used / total, 1),
                f"gpu{number}_mb": round(used / _MB),
            }
        return sample


def _counters() -> tuple[float, float, float]:
    """Bytes read from disks, written to them, and moved over the network, since the machine started."""
    disk, network = psutil.disk_io_counters(), psutil.net_io_counters()
    moved = float(network.bytes_sent + network.bytes_recv) if network else 0.0
    return (float(disk.read_bytes), float(disk.write_bytes), moved) if disk else (0.0, 0.0, moved)


def _gpus() -> Iterator[Callable[[], tuple[float, float, float]]]:
    """For each GPU of NVIDIA, a function that returns its use in percent, and its used and whole memory in bytes."""
    try:
        import pynvml  # type: ignore[import-untyped] # the extra gpu
    except ImportError:
        return
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError:  # no driver
        return

    def reader(handle: Any) -> Callable[[], tuple[float, float, float]]:  # noqa: ANN401 - pynvml ships no types
        def read() -> tuple[float, float, float]:
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            use = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
            return float(use), float(memory.used), float(memory.total)

        return read

    for i in range(count):
        yield reader(pynvml.nvmlDeviceGetHandleByIndex(i))
