"""Counters of the server for Prometheus."""

import os
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    generate_latest,
    multiprocess,
    values,
)
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sagehound.serving.model_store import ModelStore
from sagehound.serving.sessions import MOST_PHOTOS

_SECONDS = (0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_PHOTOS = (*range(1, 9), 16, MOST_PHOTOS)


class ServerMetrics:
    """Counters of one application; each has a registry of its own.

    Args:
        models: whose number is shown.
        folder: of the counters of all processes of this server, whose sum is shown; None: it has one process.
    """

    def __init__(self, models: ModelStore, folder: Path | None = None) -> None:
        if folder is not None:  # as prometheus_client does when it is imported with the variable
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
            values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
        r = CollectorRegistry()
        self.requests = Counter("sagehound_requests", "Requests answered", ["route", "status"], registry=r)
        self.seconds = Histogram(
            "sagehound_request_seconds",
            "From a request's head to its answer's end",
            ["route"],
            buckets=_SECONDS,
            registry=r,
        )
        self.photos = Counter("sagehound_photos", "Photos classified, or refused", ["outcome"], registry=r)
        self.batches = Histogram("sagehound_batch_photos", "Photos computed at once", buckets=_PHOTOS, registry=r)
        self.in_flight = Gauge(
            "sagehound_requests_in_flight", "Requests being read or answered", registry=r, multiprocess_mode="livesum"
        )
        self._registry = r if folder is None else CollectorRegistry()
        if folder is None:
            ProcessCollector(registry=r)
        else:
            multiprocess.MultiProcessCollector(self._registry, str(folder))  # type: ignore[no-untyped-call]
            self._registry.register(_Processes(folder))
        self._registry.register(_Models(models))

    def text(self) -> bytes:
        """The counters in Prometheus' text format."""
        return generate_latest(self._registry)


class _Models(Collector):
    """The models of this process; the other processes of the server have the same ones."""

    def __init__(self, models: ModelStore) -> None:
        self._models = models

    def collect(self) -> Iterable[Metric]:
        metric = Metric("sagehound_models", "Models by whether they are in memory", "gauge")
        listed = [model["inMemory"] for model in self._models.listed()]
        for state in (True, False):
            metric.add_sample(metric.name, {"in_memory": str(state).lower()}, listed.count(state))
        return [metric]


class _Processes(Collector):
    """Time and memory of the processes that have a gauge in the folder: the sum, and the earliest start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        pids = [file.stem.rpartition("_")[2] for file in self._folder.glob("gauge_livesum_*.db")]
        each = [ProcessCollector(pid=partial(str, pid), registry=None).collect() for pid in pids]
        found: dict[str, list[Metric]] = {}
        for metric in (metric for metrics in each for metric in metrics):
            found.setdefault(metric.name, []).append(metric)
        for name, metrics in found.items():
            first, numbers = metrics[0], [metric.samples[0].value for metric in metrics]
            total = Metric(name, first.documentation, first.type)
            value = min(numbers) if name == "process_start_time_seconds" else sum(numbers)
            total.add_sample(first.samples[0].name, {}, value)
            yield total


def forget_process(pid: int, folder: Path) -> None:
    """Leave a process that has ended out of the gauges; its counters remain."""
    multiprocess.mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]


class Measured:
    """ASGI middleware that counts requests by route and status."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request and count it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, note)
        finally:
            route = getattr(
                scope.get("route"), "path", "other"
            )  # the route, not the address, of which there are infinitely many
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - start)
