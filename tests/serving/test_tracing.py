"""deploy.traces: OpenTelemetry's spans, as a collector receives them."""

import base64
import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from sagehound.errors import ConfigError
from sagehound.serving.app import make_app
from sagehound.serving.model_store import ModelStore
from sagehound.serving.photo_times import Span
from sagehound.serving.tracing import Tracing, check

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"  # of the example in W3C's "Trace Context"


@pytest.fixture
def extra() -> None:
    """Skips where the packages of the extra are missing."""
    for package in ("opentelemetry.instrumentation.asgi", "opentelemetry.exporter.otlp.json.http"):
        pytest.importorskip(package, reason="needs sagehound[otel]")


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """A receiver of OTLP over HTTP; yields its address and the messages that it gets, decoded with OTLP's schema."""
    received: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/json")
            received.append(decoded(body))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    server.server_close()


def decoded(body: bytes) -> Any:  # noqa: ANN401 - made by protobuf's compiler
    from google.protobuf.json_format import ParseDict
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    def with_base64(value: Any) -> Any:  # noqa: ANN401 - OTLP's JSON has identifiers in hexadecimal, protobuf's base64
        if isinstance(value, list):
            return [with_base64(inner) for inner in value]
        if not isinstance(value, dict):
            return value
        return {
            key: base64.b64encode(bytes.fromhex(inner)).decode()
            if key in ("traceId", "spanId", "parentSpanId")
            else with_base64(inner)
            for key, inner in value.items()
        }

    return ParseDict(with_base64(json.loads(body)), ExportTraceServiceRequest())


def spans_of(received: list[Any]) -> list[Any]:
    return [s for message in received for r in message.resource_spans for scope in r.scope_spans for s in scope.spans]


@contextmanager
def client(run: Path, to: str) -> Iterator[TestClient]:
    models = ModelStore(10**9, "run")
    models.load("run", str(run))
    with TestClient(make_app(models, tracing=Tracing(to))) as testing:
        yield testing


@pytest.mark.usefixtures("extra")
def test_a_request_continues_the_clients_trace_with_a_span_for_each_step(
    run: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collector() as (url, received):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        with client(run, "otlp") as server:
            headers = {"Content-Type": "image/jpeg", "traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "a-7"}
            assert server.post("/models/run/invoke?top_k=1", content=photo, headers=headers).status_code == 200
            server.get("/metrics")
            server.get("/v2/health/ready")
    spans = spans_of(received)
    assert {span.trace_id.hex() for span in spans} == {TRACE}, "nothing else is traced"
    (root,) = (span for span in spans if span.parent_span_id.hex() == PARENT)
    assert root.name == "POST /models/{name}/invoke"
    values = {a.key: a.value.string_value or a.value.int_value for a in root.attributes}
    assert (values["http.route"], values["sagehound.model"]) == ("/models/{name}/invoke", "run")
    assert values["request_id"] == "a-7"
    steps = sorted((s for s in spans if s is not root), key=lambda s: s.start_time_unix_nano)
    assert [step.name for step in steps] == ["read", "queue", "decode", "queue", "inference"]
    assert {step.parent_span_id for step in steps} == {root.span_id}
    ends = [root.start_time_unix_nano, *(step.end_time_unix_nano for step in steps)]
    for before, step in zip(ends, steps, strict=False):
        assert before <= step.start_time_unix_nano <= step.end_time_unix_nano <= root.end_time_unix_nano + 10**6
    assert abs(root.start_time_unix_nano - time.time_ns()) < 60 * 10**9
    about = {a.key: a.value.string_value for a in received[0].resource_spans[0].resource.attributes}
    assert about["service.name"] == "sagehound"


@pytest.mark.usefixtures("extra")
def test_photos_of_one_request_have_numbers_and_a_large_request_has_few_spans(
    run: Path, photo: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    body = {"instances": [base64.b64encode(photo).decode()] * 40}
    with client(run, "console") as server:
        assert server.post("/invocations", json=body).status_code == 200
        refused = server.post("/invocations", content=b"no photo", headers={"Content-Type": "image/jpeg"})
        assert refused.status_code == 400
    spans = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    numbers = {s["attributes"].get("sagehound.photo") for s in spans if s["name"] == "decode"}
    assert numbers == {*range(32), None}
    statuses = [s["attributes"]["http.status_code"] for s in spans if s["name"] == "POST /invocations"]
    assert statuses == [200, 400]


@pytest.mark.slow
@pytest.mark.usefixtures("extra")
def test_a_collector_that_does_not_respond_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        tracing = Tracing("otlp")
        begin = time.monotonic()
        tracing.step("read", Span(0, 1), None)
        assert time.monotonic() - begin < 1
        tracing.close()
        assert time.monotonic() - begin < 5


@pytest.mark.usefixtures("extra")
def test_a_collector_that_does_not_respond_gives_few_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    tracing = Tracing("console")
    for attempt in range(3):
        logging.getLogger("opentelemetry.exporter.otlp").warning("try %s failed", attempt)
    tracing.close()
    shown = [
        line for line in capsys.readouterr().err.splitlines() if "try " in line
    ]  # other tests' traces may warn too
    assert shown == ["warning: deploy.traces: try 0 failed"]


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.asgi", None)
    with pytest.raises(ConfigError, match=r"deploy\.traces=otlp needs a package .*pip install 'sagehound\[otel\]'"):
        check("otlp")


@pytest.mark.usefixtures("extra")
def test_another_protocol_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check("otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    check("console")
    with pytest.raises(ConfigError, match=r"OTEL_EXPORTER_OTLP_PROTOCOL=grpc: this server sends http/json"):
        check("otlp")
