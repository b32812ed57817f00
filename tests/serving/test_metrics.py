"""GET /metrics: counters and times by model, in Prometheus' format."""

import base64
import json
import time

import pytest
from helpers import Server
from prometheus_client.parser import text_string_to_metric_families

from sagehound.serving.model_store import ModelStore
from sagehound.serving.photo_times import PhotoTimes, Span
from sagehound.serving.server_metrics import ServerMetrics

Samples = dict[tuple[str, ...], float]


def samples(server: Server) -> Samples:
    """The value of each sample, by its name and the values of its labels in the order of their names."""
    text = server.request("GET", "/metrics").data.decode()
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(s.name, *(s.labels[name] for name in sorted(s.labels))): s.value for s in found}


def change(before: Samples, after: Samples, *sample: str) -> float:
    return after.get(sample, 0) - before.get(sample, 0)


def test_photos_and_the_seconds_of_their_steps_are_counted_by_model(server: Server, photo: bytes) -> None:
    before = samples(server)
    begin = time.perf_counter()
    body = json.dumps({"instances": [base64.b64encode(content).decode() for content in (photo, b"no photo", photo)]})
    assert server.invoke(body.encode(), "application/json").status == 200
    lasted, after = time.perf_counter() - begin, samples(server)
    assert change(before, after, "sagehound_requests_total", "run", "/invocations", "200") == 1
    assert change(before, after, "sagehound_photos_total", "run", "answered") == 2
    assert change(before, after, "sagehound_photos_total", "run", "refused") == 1
    for step in ("queue", "decode", "inference"):
        name = f"sagehound_photo_{step}_seconds"
        assert change(before, after, f"{name}_count", "run") == 2, step
        assert 0 < change(before, after, f"{name}_sum", "run") < 2 * lasted, step


def test_requests_of_unknown_models_make_no_series(server: Server, photo: bytes) -> None:
    for name in ("nobody", "somebody"):
        assert server.request("POST", f"/models/{name}/invoke", photo, Content_Type="image/jpeg").status == 404
    named = {key[1] for key in samples(server) if key[0] == "sagehound_requests_total"}
    assert "" in named, "requests without a model"
    assert not named & {"nobody", "somebody"}


def test_an_explanation_is_no_fifty_photos(server: Server, photo: bytes) -> None:
    before = samples(server)
    assert server.request("POST", "/models/run/explain", photo, Content_Type="image/jpeg").status == 200
    assert server.request("POST", "/models/run/explain", b"no photo", Content_Type="image/jpeg").status == 400
    after = samples(server)
    for outcome in ("answered", "refused"):
        assert change(before, after, "sagehound_explanations_total", "run", outcome) == 1
        assert change(before, after, "sagehound_photos_total", "run", outcome) == 0


def test_models_beyond_fifty_share_a_series() -> None:
    metrics = ServerMetrics(ModelStore(10**9))
    for number in range(1000):
        times = PhotoTimes(0, Span(1, 10**7), Span(2 * 10**7, 3 * 10**7))
        metrics.count_photo(f"model-{number}", "answered", times)
    families = {f.name: f for f in text_string_to_metric_families(metrics.text().decode())}
    counts = {s.labels["model"]: s.value for s in families["sagehound_photos"].samples if s.name.endswith("_total")}
    assert len(counts) == 51
    assert (counts["model-0"], counts["other"]) == (1, 950)
    queued = {s.labels["model"]: s.value for s in families["sagehound_photo_queue_seconds"].samples if "_sum" in s.name}
    assert queued["model-7"] == pytest.approx(0.01 + 1e-9)
