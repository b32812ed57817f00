"""OpenTelemetry traces: a span for each request, and below it spans for reading, waiting, decoding and the model.

Where they go is told by OpenTelemetry's own variables, such as OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_SERVICE_NAME.
"""

import importlib.metadata
import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sagehound.errors import ConfigError
from sagehound.serving.photo_times import Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

OTLP, CONSOLE = "otlp", "console"
_PROTOCOL = "http/json"
_UNTRACED = "^[^?]*/(ping|health|metrics|v2/health/live|v2/health/ready)$"  # probes: many, and all alike
_END = 2.0  # seconds to send the last spans
_WARN_EVERY = 60.0  # seconds


def check(to: str) -> None:
    """Check that spans can be sent.

    Raises:
        ConfigError: the packages are missing, or the variables ask for another protocol.
    """
    try:
        import opentelemetry.instrumentation.asgi
        import opentelemetry.sdk.trace

        if to == OTLP:
            import opentelemetry.exporter.otlp.json.http.trace_exporter  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"deploy.traces={to} needs a package that is not installed ({error.name}): pip install 'sagehound[otel]'"
        ) from error
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if to == OTLP and os.environ.get(name, _PROTOCOL) != _PROTOCOL:
            raise ConfigError(
                f"{name}={os.environ[name]}: this server sends {_PROTOCOL}, which OpenTelemetry's collectors read on "
                "the same port as http/protobuf (4318): unset it"
            )


class Tracing:
    """Makes the spans of one server process and sends them in batches, from a thread of its own.

    Args:
        to: "otlp": to OTEL_EXPORTER_OTLP_ENDPOINT (http://localhost:4318 without it); "console": to stdout, as JSON.
    """

    def __init__(self, to: str) -> None:
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        _warn_seldom()
        version = importlib.metadata.version("sagehound")
        about = {SERVICE_VERSION: version} | ({} if _is_named() else {SERVICE_NAME: "sagehound"})
        self._provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_exporter(to)))
        self._tracer = self._provider.get_tracer("sagehound.serving", version)
        self._offset = time.time_ns() - time.perf_counter_ns()

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """The application with a span for each request, which continues the client's trace (header traceparent)."""
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        wrapped: ASGIApp = OpenTelemetryMiddleware(
            _named(app),
            excluded_urls=_UNTRACED,
            default_span_details=lambda scope: (scope.get("method", "HTTP"), {}),
            tracer_provider=self._provider,
            exclude_spans=["send", "receive"],
        )
        return wrapped

    def step(self, name: str, span: Span, photo: int | None) -> None:
        """Record a step of the current request; ``photo`` is its number from 0 if there are several."""
        attributes = {} if photo is None else {"sagehound.photo": photo}
        step = self._tracer.start_span(name, start_time=self._offset + span.begin, attributes=attributes)
        step.end(self._offset + span.end)

    def close(self) -> None:
        """Send the last spans, for two seconds at most: the collector may not respond."""
        ending = threading.Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        ending.start()
        ending.join(_END)


class _Seldom(logging.Handler):
    """Prints each warning once a minute: while a collector does not respond, each try to send spans gives one."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._next: dict[tuple[str, int], float] = {}  # by the line of code that warns: when it may do so again

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, unless the same line of code has warned within a minute."""
        now, line = time.monotonic(), (record.pathname, record.lineno)
        if now >= self._next.get(line, now):
            self._next[line] = now + _WARN_EVERY
            print(f"warning: deploy.traces: {record.getMessage()}", file=sys.stderr, flush=True)


def _warn_seldom() -> None:
    log = logging.getLogger("opentelemetry")
    if not log.handlers:
        log.addHandler(_Seldom())
        log.propagate = False


def _is_named() -> bool:
    return "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")


def _exporter(to: str) -> "SpanExporter":
    if to == CONSOLE:
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=sys.stdout, formatter=lambda span: span.to_json(indent=None) + "\n")
    from opentelemetry.exporter.otlp.json.http.trace_exporter import OTLPSpanExporter

    exporter: SpanExporter = OTLPSpanExporter()
    return exporter


def _named(app: ASGIApp) -> ASGIApp:
    """The application; it names the span of a request after its route, of which there are few, and its model."""
    from opentelemetry import trace

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        async def name(message: Message) -> None:
            if message["type"] == "http.response.start":
                span, route = trace.get_current_span(), getattr(scope.get("route"), "path", None)
                if route is not None:
                    span.update_name(f"{scope['method']} {route}")
                    span.set_attribute("http.route", route)
                for key, value in (("sagehound.model", scope.get("model")), ("request_id", scope.get("request_id"))):
                    if value:
                        span.set_attribute(key, value)
            await send(message)

        await app(scope, receive, name)

    return handle
