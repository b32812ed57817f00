"""The server as its clients meet it: a real process, real requests."""

import base64
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Server
from PIL import Image

from sagehound.artifact.archive import Card, opened, unpack
from sagehound.serving.predictor import Predictor

SERVE = [sys.executable, "-c", "from sagehound.cli.sagemaker_container import serve; serve()"]


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def png(width: int, height: int) -> bytes:
    made = io.BytesIO()
    Image.new("1", (width, height)).save(made, "PNG")
    return made.getvalue()


def error(answer: Any) -> str:  # noqa: ANN401 - urllib3's
    assert answer.headers["Content-Type"] == "application/json"
    found = json.loads(answer.data)["error"]
    assert found["message"]
    return str(found["code"])


def test_a_photo_gets_its_five_most_probable_classes(server: Server, photo: bytes) -> None:
    answer = server.invoke(photo)
    assert answer.status == 200
    said = answer.json()
    assert said["label"] == "Slate"
    assert said["top"][0]["label"] == "Slate"
    assert sum(best["probability"] for best in said["top"]) == pytest.approx(1, abs=1e-4)
    assert "probabilities" not in said


def test_formats_of_photos_and_answers(server: Server, photo: bytes) -> None:
    with Image.open(io.BytesIO(photo)) as image:
        for kind in ("PNG", "WEBP", "BMP", "TIFF"):
            other = io.BytesIO()
            image.save(other, kind, lossless=True)
            assert server.invoke(other.getvalue(), f"image/{kind.lower()}").json()["label"] == "Slate"
    assert server.invoke(photo, "application/x-image").status == 200
    assert server.invoke(photo, Accept="text/csv; top_k=1").data.startswith(b"Slate,0.")
    everything = server.request(
        "POST", "/invocations?probabilities=all&top_k=2", photo, Content_Type="image/jpeg"
    ).json()
    assert list(everything["probabilities"]) == ["Amber", "Moss", "Slate"]
    assert len(everything["top"]) == 2
    assert server.invoke(photo, Accept="application/json; top_k=2; probabilities=all").json() == everything


def test_unknown_photos_and_sets_of_classes_are_answered_if_asked(server: Server, photo: bytes, run: Path) -> None:
    usual = server.invoke(photo).json()
    assert not {"unknown", "unknown_score", "set"} & usual.keys()
    query = "/invocations?unknown=1&coverage=0.9"
    asked = server.request("POST", query, photo, Content_Type="image/jpeg").json()
    assert asked["unknown"] is False
    assert 0 <= asked["unknown_score"] < 1
    assert asked["set"][0] == "Slate"
    for name in ("label", "probability", "top"):
        assert asked[name] == usual[name], name
    assert server.invoke(photo, Accept="application/json; unknown=1; coverage=0.9").json() == asked
    many = json.dumps({"instances": [b64(photo), b64(b"no photo")]}).encode()
    one, bad = server.request("POST", query, many, Content_Type="application/json").json()["predictions"]
    assert (one, bad["error"]["code"]) == (asked, "bad_photo")
    with opened(run) as folder:
        thresholds = Card.read(folder).thresholds
        noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
        row = Predictor(folder).scored([np.asarray(Image.fromarray(noise).resize((160, 160)))])[0]
    assert row[-1] > thresholds.unknown, "noise is like no photo of the training"
    refused = server.request("POST", "/invocations?coverage=0.5", photo, Content_Type="image/jpeg")
    assert (refused.status, error(refused)) == (400, "input_error")
    assert "coverage=0.5: choose from 0.8, 0.9, 0.95, 0.99" in refused.json()["error"]["message"]
    refused = server.invoke(photo, Accept="text/csv; unknown=1")
    assert (refused.status, error(refused)) == (406, "not_acceptable")


def test_several_photos_are_answered_in_order_and_a_bad_one_fails_alone(server: Server, photo: bytes) -> None:
    body = json.dumps({"instances": [b64(photo), b64(b"no photo"), {"b64": b64(photo)}, 7, b64(png(9000, 9000))]})
    answer = server.invoke(body.encode(), "application/json")
    assert answer.status == 200
    one, two, three, four, five = answer.json()["predictions"]
    assert one == three
    assert one["label"] == "Slate"
    assert [p["error"]["code"] for p in (two, four, five)] == ["bad_photo", "input_error", "too_many_pixels"]
    lines = f'"{b64(photo)}"\nnothing\n'.encode()
    answer = server.invoke(lines, "application/jsonlines")
    assert answer.headers["Content-Type"] == "application/jsonlines"
    good, bad = map(json.loads, answer.data.splitlines())
    assert good == one
    assert bad["error"]["code"] == "input_error"
    assert server.invoke(lines, "application/jsonlines", Accept="text/csv").data.count(b"\n") == 2


def test_many_clients_get_the_answers_that_one_gets(server: Server, run_photos: Path) -> None:
    photos = [p.read_bytes() for p in sorted(run_photos.glob("*/*/*.jpg"))]
    alone = [server.invoke(p).json() for p in photos]
    with ThreadPoolExecutor(16) as pool:
        together = [a.json() for a in pool.map(server.invoke, photos * 3)]
    for a, b in zip(alone * 3, together, strict=True):
        assert a["label"] == b["label"]
        assert a["probability"] == pytest.approx(b["probability"], abs=1e-4)


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"not an image", "image/jpeg", 400, "bad_photo"),
        (b"", "image/jpeg", 400, "bad_photo"),
        (png(8000, 8000), "image/png", 413, "too_many_pixels"),
        (b"0" * (25 * 2**20 + 1), "image/jpeg", 413, "too_large"),
        (b"x", "text/plain", 415, "unsupported_content_type"),
        (b"x", "", 415, "unsupported_content_type"),
        (b"{", "application/json", 400, "input_error"),
        (b'{"instances": []}', "application/json", 400, "input_error"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(
    server: Server, photo: bytes, body: bytes, content_type: str, status: int, code: str
) -> None:
    answer = server.invoke(body, content_type)
    assert (answer.status, error(answer)) == (status, code)
    assert server.invoke(photo).status == 200, "nothing is lost by it"


def test_a_truncated_photo_is_refused(server: Server, photo: bytes) -> None:
    answer = server.invoke(photo[: len(photo) // 2])
    assert (answer.status, error(answer)) == (400, "bad_photo")
    assert "truncated" in answer.json()["error"]["message"]


def test_a_body_without_a_length_is_cut_off_at_the_limit(server: Server) -> None:
    answer = server._pool.request(
        "POST",
        server.url + "/invocations",
        body=(b"0" * 2**20 for _ in range(30)),
        headers={"Content-Type": "image/jpeg"},
    )
    assert (answer.status, error(answer)) == (413, "too_large")


def test_other_errors_look_the_same(server: Server, photo: bytes) -> None:
    for method, path, status, code in (
        ("GET", "/nowhere", 404, "not_found"),
        ("PUT", "/models", 405, "method_not_allowed"),
        ("GET", "/models/nobody", 404, "unknown_model"),
        ("DELETE", "/models/nobody", 404, "unknown_model"),
        ("POST", "/models/nobody/invoke", 404, "unknown_model"),
        ("POST", "/invocations?top_k=0", 400, "bad_request"),
        ("POST", "/invocations?probabilities=some", 400, "bad_request"),
    ):
        answer = server.request(method, path, photo if method == "POST" else None, Content_Type="image/jpeg")
        assert (answer.status, error(answer)) == (status, code), path
    answer = server.invoke(photo, Accept="image/png")
    assert (answer.status, error(answer)) == (406, "not_acceptable")


def test_ping_metrics_and_descriptions(server: Server, photo: bytes) -> None:
    assert server.request("GET", "/ping").status == 200
    server.invoke(photo)
    metrics = server.request("GET", "/metrics").data.decode()
    assert 'sagehound_requests_total{model="run",route="/invocations",status="200"}' in metrics
    assert "process_resident_memory_bytes" in metrics
    description = server.request("GET", "/openapi.json").json()
    assert {"/ping", "/invocations", "/models", "/models/{name}", "/models/{name}/invoke", "/metrics"} <= set(
        description["paths"]
    )
    docs = server.request("GET", "/docs").data.decode()
    assert "//" not in docs.replace("http://www.w3.org", ""), "no outside address is loaded"


def test_models_come_and_go(server: Server, run: Path, photo: bytes) -> None:
    (name,) = [m["modelName"] for m in server.request("GET", "/models").json()["models"]]
    assert name == "run"
    described = server.request("GET", "/models/run").json()
    assert described["modelUrl"] == str(run)
    assert described["card"]["classes"] == ["Amber", "Moss", "Slate"]

    def load(**body: str) -> Any:  # noqa: ANN401 - urllib3's
        return server.request("POST", "/models", json.dumps(body).encode(), Content_Type="application/json")

    assert load(model_name="second", url=str(run / "model.tar.gz")).status == 200
    try:
        answer = load(model_name="second", url=str(run))
        assert (answer.status, error(answer)) == (409, "already_loaded")
        assert (
            server.request("POST", "/models/second/invoke", photo, Content_Type="image/jpeg").json()["label"] == "Slate"
        )
        assert server.invoke(photo).status == 200, "the model that the server was started with is still the one"
    finally:
        assert server.request("DELETE", "/models/second").status == 200
    assert server.request("DELETE", "/models/second").status == 404
    for body in ({"model_name": "x", "url": "/nowhere"}, {"model_name": "../x", "url": "x"}, {"url": "x"}):
        assert load(**body).status == 400
    assert (
        server.request("POST", "/models", b'{"model_name": "x", "url": "x"}', Content_Type="text/plain").status == 415
    )
    assert server.request("POST", "/models", b" " * 100_000, Content_Type="application/json").status == 413


@pytest.mark.slow
def test_too_many_requests_are_told_to_come_again(run: Path, tmp_path: Path, photo: bytes) -> None:
    server = Server(tmp_path, f"model={run}", "deploy.max_requests=1")
    large = json.dumps({"instances": [b64(png(7000, 7000))] * 3}).encode()
    with ThreadPoolExecutor(1) as other:
        slow = other.submit(server.invoke, large, "application/json")
        time.sleep(0.3)
        answer = server.invoke(photo)
        assert (answer.status, error(answer), answer.headers["Retry-After"]) == (503, "busy", "1")
        assert slow.result().status == 200
    assert server.invoke(photo).status == 200
    assert server.stop() == (143, "")


@pytest.mark.slow
def test_256_clients_wait_instead_of_being_refused(server: Server, photo: bytes) -> None:
    """Load balancers open some hundred connections; at 7 ms a photo the last of 256 waits 1.8 s."""
    with ThreadPoolExecutor(256) as clients:
        answers = list(clients.map(lambda _: server.invoke(photo).status, range(512)))
    assert answers == [200] * 512


@pytest.mark.slow
def test_sigterm_answers_what_was_begun(run: Path, tmp_path: Path, photo: bytes) -> None:
    server = Server(tmp_path, f"model={run}")
    half = server.connect()
    head = "POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
    head += f"Content-Length: {len(photo)}\r\n\r\n"
    half.sendall(head.encode() + photo[:100])
    time.sleep(0.3)
    stopped: list[tuple[int, str]] = []
    stopping = threading.Thread(target=lambda: stopped.append(server.stop()))
    stopping.start()
    time.sleep(0.5)
    with pytest.raises(OSError, match="refused"):
        server.connect()
    half.sendall(photo[100:])
    assert half.recv(100).startswith(b"HTTP/1.1 200")
    half.close()
    stopping.join()
    assert stopped == [(143, "")]


@pytest.mark.parametrize(
    ("header", "status"),
    [("Content-Length: " + "0" * 5000 + "1", 400), ("Content-Encoding: gzip\r\nContent-Length: 1", 415)],
)
def test_odd_headers(server: Server, header: str, status: int) -> None:
    with server.connect() as client:
        client.sendall(
            f"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n{header}\r\n\r\nx".encode()
        )
        assert client.recv(1000).startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize("before", [b"", b"Host: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"])
def test_heads_and_trailers_without_end_are_cut_off(server: Server, before: bytes) -> None:
    def endless(client: socket.socket) -> None:
        client.sendall(b"POST /invocations HTTP/1.1\r\n" + before)
        for _ in range(1000):
            client.sendall(b"X-Long: " + b"x" * 10_000 + b"\r\n")

    with server.connect() as client, pytest.raises(OSError, match=r"reset|Broken pipe"):
        endless(client)


def test_a_client_that_offers_http_2_is_answered_all_the_same(server: Server, photo: bytes) -> None:
    for name in ("Upgrade", "upgrade"):
        headers = {name: "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAMAAABkAAQAAP__"}
        assert server.invoke(photo, **headers).json()["label"] == "Slate"


def test_many_requests_over_one_connection(server: Server, photo: bytes) -> None:
    """More in all than one head may have."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port))
    padding = {"Content-Type": "image/jpeg", "X-Padding": "x" * 2000}
    for _ in range(100):
        connection.request("POST", "/invocations", photo, padding)
        answer = connection.getresponse()
        assert (answer.status, answer.read()[:8]) == (200, b'{"label"')
    connection.close()


def test_photos_that_would_need_gigabytes_are_refused(server: Server) -> None:
    for photo in (png(1, 100_000), png(15_000, 15_000)):
        answer = server.invoke(photo, "image/png")
        assert (answer.status, error(answer)) == (413, "too_many_pixels")


def test_a_model_that_gives_no_probabilities_is_refused(server: Server, run: Path, tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    unpack(run / "model.tar.gz", tmp_path / "m")

    def load(nodes: list[Any], kind: int) -> str:
        given = helper.make_tensor_value_info("photos", TensorProto.UINT8, ["b", 64, 64, 3])
        made = helper.make_tensor_value_info("out", kind, ["b", 3])
        axes = helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])
        graph = helper.make_graph(nodes, "g", [given], [made], [axes])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        size = json.loads((tmp_path / "m/model.json").read_text())["preprocessing"]["size"]
        for axis, side in zip((1, 2), size, strict=True):
            model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = side
        onnx.save(model, tmp_path / "m/model.onnx")
        body = json.dumps({"model_name": "odd", "url": str(tmp_path / "m")}).encode()
        answer = server.request("POST", "/models", body, Content_Type="application/json")
        assert answer.status == 400
        return str(answer.json()["error"]["message"])

    to_float = helper.make_node("Cast", ["photos"], ["f"], to=TensorProto.FLOAT)
    mean = helper.make_node("ReduceMean", ["f", "axes"], ["out"], keepdims=0)
    assert "its output is not probabilities" in load([to_float, mean], TensorProto.FLOAT)
    log = helper.make_node("Log", ["m"], ["out"])
    mean = helper.make_node("ReduceMean", ["f", "axes"], ["m"], keepdims=0)
    assert "its output is not probabilities" in load([to_float, mean, log], TensorProto.FLOAT)
    text = helper.make_node("Cast", ["m"], ["out"], to=TensorProto.INT64)
    assert "model.json says" in load([to_float, mean, text], TensorProto.INT64)


@pytest.fixture
def container(run: Path, tmp_path: Path) -> Iterator[str]:
    """The command `serve` as SageMaker starts it; yields its address."""
    unpack(run / "model.tar.gz", tmp_path / "ml/model")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {"SAGEMAKER_EMULATOR_OPT_ML": str(tmp_path / "ml"), "SAGEMAKER_BIND_TO_PORT": str(port)}
    process = subprocess.Popen(SERVE, env=environment)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    assert process.wait(30) == 143


@pytest.mark.slow
def test_the_containers_command_serves_the_same(container: str, run: Path, photo: bytes) -> None:
    import urllib3

    for _ in range(100):
        try:
            assert urllib3.request("GET", container + "/ping", retries=False).status == 200
            break
        except urllib3.exceptions.HTTPError:
            time.sleep(0.1)
    for host in ("model.endpoint", "[fe80::1%25eth0]:8080", "a b", ""):
        headers = {"Content-Type": "image/jpeg", "Host": host, "X-Forwarded-For": "203.0.113.7"}
        answer = urllib3.request("POST", container + "/invocations", body=photo, headers=headers)
        assert answer.json()["label"] == "Slate", "SageMaker decides who reaches it"
        wanted = {"model_name": "another", "url": str(run)}
        loaded = urllib3.request("POST", container + "/models", json=wanted, headers={"Host": host})
        assert loaded.status == 200
        assert urllib3.request("DELETE", container + "/models/another", headers={"Host": host}).status == 200


def test_a_container_without_a_model_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        SERVE,
        env=os.environ | {"SAGEMAKER_EMULATOR_OPT_ML": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert "no such run or file" in done.stderr


def test_serving_imports_no_torch(run: Path) -> None:
    code = (
        "import sys; from sagehound.serving.app import make_app; from sagehound.serving.model_store import ModelStore\n"
        f"models = ModelStore(10**9); models.load('m', {str(run)!r}); make_app(models)\n"
        "import sagehound.serving.server, sagehound.serving.batch_predict, sagehound.cli.sagemaker_container\n"
        "assert not {'torch', 'timm', 'lightning', 'matplotlib'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_model_that_is_no_model_is_refused(server: Server, run: Path, tmp_path: Path) -> None:
    unpack(run / "model.tar.gz", tmp_path / "m")
    (tmp_path / "m/model.onnx").write_bytes(b"noise" * 100)
    with tarfile.open(tmp_path / "m.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "m", ".")
    body = json.dumps({"model_name": "broken", "url": str(tmp_path / "m.tar.gz")}).encode()
    answer = server.request("POST", "/models", body, Content_Type="application/json")
    assert (answer.status, error(answer)) == (400, "input_error")
    assert "cannot be used" in answer.json()["error"]["message"]
