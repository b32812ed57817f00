"""Counters of the server for Prometheus."""

import time
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sagehound.serving.model_store import ModelStore

_SECONDS = (0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class ServerMetrics:
    """Counters of one application; each has a registry of its own."""

    def __init__(self, models: ModelStore) -> None:
        self._registry = r = CollectorRegistry()
        ProcessCollector(registry=r)
        self.requests = Counter("sagehound_requests", "Requests answered", ["route", "status"], registry=r)
        self.seconds = Histogram(
            "sagehound_request_seconds",
            "From a request's head to its answer's end",
            ["route"],
            buckets=_SECONDS,
            registry=r,
        )
        self.photos = Counter("sagehound_photos", "Photos classified, or refused", ["outcome"], registry=r)
        self.batches = Histogram("sagehound_batch_photos", "Photos computed at once", buckets=range(1, 9), registry=r)
        self.in_flight = Gauge("sagehound_requests_in_flight", "Requests being read or answered", registry=r)
        held = Gauge("sagehound_models", "Models by whether they are in memory", ["in_memory"], registry=r)
        for state in (True, False):
            held.labels(str(state).lower()).set_function(partial(_count, models, state))

    def text(self) -> bytes:
        """The counters in Prometheus' text format."""
        return generate_latest(self._registry)


def _count(models: ModelStore, in_memory: bool) -> int:
    return sum(m["inMemory"] is in_memory for m in models.listed())


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
