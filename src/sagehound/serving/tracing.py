"""OpenTelemetry traces: a span for each request, and below it spans for reading, waiting, decoding and the model.

Where they go is told by OpenTelemetry's own variables, such as OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_SERVICE_NAME.
"""

import importlib.metadata
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from sagehound.errors import ConfigError
from sagehound.serving.photo_times import Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

OTLP, CONSOLE = "otlp", "console"
_PROTOCOL = "http/json"
_UNTRACED = (
    "^[^?]*/(ping|health|metrics|v2/health/live|v2/health/ready)$"  # asked every few seconds, and they say little
)


class Tracing:
    """Makes the spans of one server and sends them in batches, from a thread of its own.

    Args:
        to: "otlp": to OTEL_EXPORTER_OTLP_ENDPOINT (http://localhost:4318 without it); "console": to stdout, a line each.

    Raises:
        ConfigError: the packages are missing, or the variables ask for another protocol.
    """

    def __init__(self, to: str) -> None:
        try:
            from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
            from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            exporter = _exporter(to)
        except ImportError as error:
            raise ConfigError(
                f"deploy.traces={to} needs packages that are not installed ({error.name}): "
                "pip install 'sagehound[otel]'"
            ) from error
        about = {SERVICE_VERSION: importlib.metadata.version("sagehound")}
        if "OTEL_SERVICE_NAME" not in os.environ and "service.name" not in os.environ.get(
            "OTEL_RESOURCE_ATTRIBUTES", ""
        ):
            about[SERVICE_NAME] = "sagehound"
        self._provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("sagehound.serving", about[SERVICE_VERSION])
        self._middleware = OpenTelemetryMiddleware
        self._offset = time.time_ns() - time.perf_counter_ns()

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """The application with a span for each request, which continues the client's trace (header traceparent)."""
        wrapped: ASGIApp = self._middleware(
            app, tracer_provider=self._provider, exclude_spans=["send", "receive"], excluded_urls=_UNTRACED
        )
        return wrapped

    def step(self, name: str, span: Span, photo: int | None) -> None:
        """Record a step of the current request; ``photo`` is its number from 0 if there are several."""
        attributes = {} if photo is None else {"sagehound.photo": photo}
        begun = self._tracer.start_span(name, start_time=self._offset + span.begin, attributes=attributes)
        begun.end(self._offset + span.end)

    def close(self) -> None:
        """Send what is left; wait two seconds at most."""
        self._provider.force_flush(2000)
        self._provider.shutdown()


def _exporter(to: str) -> "SpanExporter":
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    if to == CONSOLE:
        return ConsoleSpanExporter(formatter=lambda span: span.to_json(indent=None) + "\n")
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if os.environ.get(name, _PROTOCOL) != _PROTOCOL:
            raise ConfigError(
                f"{name}={os.environ[name]}: this server sends {_PROTOCOL}, which every collector of OpenTelemetry "
                "reads on its port for HTTP (4318); unset it"
            )
    from opentelemetry.exporter.otlp.json.http.trace_exporter import OTLPSpanExporter

    exporter: SpanExporter = OTLPSpanExporter()
    return exporter
