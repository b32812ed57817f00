"""Counters of the server for Prometheus."""

import time
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sagehound.serving.model_store import ModelStore
from sagehound.serving.photo_times import PhotoTimes

_SECONDS = (0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STEP_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_MOST_MODELS = 50  # that have series of their own; each has 60
_OTHER = "other"


class ServerMetrics:
    """Counters of one application; each has a registry of its own.

    The label ``model`` is the name of a loaded model, "other" beyond the first fifty names, or empty where a request
    has no model.
    """

    def __init__(self, models: ModelStore) -> None:
        self._registry = r = CollectorRegistry()
        self._names: set[str] = set()
        ProcessCollector(registry=r)
        self.requests = Counter("sagehound_requests", "Requests answered", ["route", "status", "model"], registry=r)
        self.seconds = Histogram(
            "sagehound_request_seconds",
            "From a request's head to its answer's end",
            ["route"],
            buckets=_SECONDS,
            registry=r,
        )
        self._photos = Counter("sagehound_photos", "Photos classified, or refused", ["outcome", "model"], registry=r)
        self._explanations = Counter(
            "sagehound_explanations", "Photos explained, or refused", ["outcome", "model"], registry=r
        )
        steps = {
            "queue": "Seconds that a photo waited for a decoder and for the model",
            "decode": "Seconds to decode and preprocess a photo",
            "inference": "Seconds of the model for the batch that a photo was in",
        }
        self._queue, self._decode, self._inference = (
            Histogram(f"sagehound_photo_{step}_seconds", text, ["model"], buckets=_STEP_SECONDS, registry=r)
            for step, text in steps.items()
        )
        self.batches = Histogram("sagehound_batch_photos", "Photos computed at once", buckets=range(1, 9), registry=r)
        self.in_flight = Gauge("sagehound_requests_in_flight", "Requests being read or answered", registry=r)
        held = Gauge("sagehound_models", "Models by whether they are in memory", ["in_memory"], registry=r)
        for state in (True, False):
            held.labels(str(state).lower()).set_function(partial(_count, models, state))

    def label(self, model: str) -> str:
        """The label of a model that is loaded. Clients cannot make more than fifty."""
        if model in self._names:
            return model
        if len(self._names) >= _MOST_MODELS:
            return _OTHER
        self._names.add(model)
        return model

    def count_photo(self, model: str, outcome: str, times: PhotoTimes | None) -> None:
        """Count a photo of a loaded model, and observe the times of one that was classified."""
        label = self.label(model)
        self._photos.labels(outcome, label).inc()
        if times is None or times.inference is None:  # it was refused
            return
        if times.decode:
            self._decode.labels(label).observe(times.decode.seconds)
        self._queue.labels(label).observe(sum(span.seconds for span in times.queues()))
        self._inference.labels(label).observe(times.inference.seconds)

    def count_explanation(self, model: str, outcome: str) -> None:
        """Count an explanation by a loaded model."""
        self._explanations.labels(outcome, self.label(model)).inc()

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
            self.metrics.requests.labels(route, str(status), scope.get("model", "")).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - start)
