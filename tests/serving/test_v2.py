"""The Open Inference Protocol (KServe V2), identifiers of requests, the access log and the model card."""

import asyncio
import base64
import json
import re
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Server

from sagehound.artifact.archive import Card, opened, unpack
from sagehound.inference.preprocessing import Pixels, prepare
from sagehound.serving.request_log import RequestLog


@pytest.fixture
def pixels(run: Path, photo: bytes) -> Pixels:
    """What the model sees of ``photo``."""
    with opened(run) as folder:
        return prepare(photo, Card.read(folder).preprocessing)


def get(server: Server, path: str) -> Any:  # noqa: ANN401 - JSON
    answer = server.request("GET", path)
    assert answer.status == 200, path
    return answer.json()


def infer(server: Server, body: Any, model: str = "run", **headers: str) -> Any:  # noqa: ANN401 - JSON
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return server.request("POST", f"/v2/models/{model}/infer", raw, Content_Type="application/json", **headers)


def tensor(data: Any, shape: list[int], kind: str = "BYTES", **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    return {"name": "photos", "shape": shape, "datatype": kind, "data": data, **more}


def outputs(answer: Any) -> dict[str, Any]:  # noqa: ANN401 - urllib3's
    assert answer.status == 200, answer.data
    return {output["name"]: output["data"] for output in answer.json()["outputs"]}


def test_health_and_descriptions(server: Server) -> None:
    for path in ("/ping", "/health", "/v2/health/ready"):
        assert get(server, path) == {}
    assert get(server, "/v2/health/live") == {"live": True}
    assert get(server, "/v2")["name"] == "sagehound"
    assert get(server, "/v2/models/run/ready") == {"name": "run", "ready": True}
    described = get(server, "/v2/models/run")
    assert described["inputs"] == [{"name": "photos", "datatype": "BYTES", "shape": [-1]}]
    assert [o["name"] for o in described["outputs"]] == ["label", "probability", "probabilities", "unknown_score"]
    assert described["parameters"]["classes"] == ["Amber", "Moss", "Slate"]
    for answer in (server.request("GET", "/v2/models/nobody/ready"), infer(server, {}, "nobody")):
        assert answer.status == 404
        assert answer.json()["error"] == "no model 'nobody' is loaded; loaded: run", "a text, by this protocol"


def test_photos_get_what_invocations_gives(server: Server, photo: bytes) -> None:
    text = base64.b64encode(photo).decode()
    answer = infer(server, {"id": "7", "inputs": [tensor([text, text], [2])]})
    assert (answer.json()["id"], answer.json()["model_name"]) == ("7", "run")
    found = outputs(answer)
    query = "/invocations?probabilities=all&unknown=1"
    usual = server.request("POST", query, photo, Content_Type="image/jpeg").json()
    assert found["label"] == ["Slate", "Slate"]
    assert found["probability"] == pytest.approx([usual["probability"]] * 2, abs=1e-4)
    assert found["probabilities"] == pytest.approx([*usual["probabilities"].values()] * 2, abs=1e-4)
    assert found["unknown_score"] == pytest.approx([usual["unknown_score"]] * 2, abs=1e-4)
    shapes = {o["name"]: o["shape"] for o in answer.json()["outputs"]}
    assert shapes == {"label": [2], "probability": [2], "probabilities": [2, 3], "unknown_score": [2]}
    one = infer(server, {"inputs": [tensor([[text]], [1, 1])], "outputs": [{"name": "label"}]})
    assert outputs(one) == {"label": ["Slate"]}


def test_pixels_get_what_their_photo_gets(server: Server, photo: bytes, pixels: Pixels) -> None:
    usual = server.invoke(photo).json()["probability"]
    shape = [1, *pixels.shape]
    several = np.stack([pixels, pixels])
    for body in (
        tensor(pixels.astype(float).tolist(), shape, "FP32"),
        tensor(pixels.ravel().tolist(), shape, "UINT8"),
        tensor(several.ravel().tolist(), [2, *pixels.shape], "FP32"),
    ):
        found = outputs(infer(server, {"inputs": [body]}))
        assert found["label"][0] == "Slate"
        assert found["probability"] == pytest.approx([usual] * len(found["label"]), abs=1e-4)


def binary(content: bytes, shape: list[int], kind: str) -> tuple[bytes, dict[str, str]]:
    """A request whose tensor follows the JSON."""
    described = {"name": "photos", "shape": shape, "datatype": kind, "parameters": {"binary_data_size": len(content)}}
    head = json.dumps({"inputs": [described]}).encode()
    return head + content, {"Inference_Header_Content_Length": str(len(head))}


def test_tensors_may_follow_the_json(server: Server, photo: bytes, pixels: Pixels) -> None:
    element = struct.pack("<I", len(photo)) + photo
    for content, shape, kind in (
        (2 * element, [2], "BYTES"),
        (pixels.astype("<f4").tobytes(), [1, *pixels.shape], "FP32"),
        (pixels.tobytes(), [1, *pixels.shape], "UINT8"),
    ):
        body, headers = binary(content, shape, kind)
        assert set(outputs(infer(server, body, **headers))["label"]) == {"Slate"}
    body, headers = binary(element[:-1], [1], "BYTES")
    refused = infer(server, body, **headers)
    assert (refused.status, "ends too early" in refused.json()["error"]) == (400, True)
    for length in ("", "-1", "x", "9" * 30, str(len(body) + 1), "²"):
        headers = {"Inference_Header_Content_Length": length.encode().decode("latin-1")}
        assert infer(server, body, **headers).status == 400, length


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "no JSON"),
        (b"[]", "must be an object"),
        ({"instances": []}, "send one input"),
        ({"inputs": []}, "send one input"),
        ({"inputs": [tensor(["aGk="], [1])] * 2}, "send one input"),
        ({"inputs": [tensor([], [0])]}, "0 photos"),
        ({"inputs": [tensor(["aGk="], [2])]}, "shape [2] does not fit 1 photos"),
        ({"inputs": [tensor(["aGk="], "1")]}, "shape must be"),  # type: ignore[arg-type] # wrong
        ({"inputs": [tensor(["aGk="], [True])]}, "shape must be"),
        ({"inputs": [tensor("aGk=", [1])]}, "data must be a list"),
        ({"inputs": [tensor([7], [1])]}, "must be text in base64"),
        ({"inputs": [tensor(["aGk="], [1])]}, "not an image file"),
        ({"inputs": [tensor(["no base64!"], [1])]}, "no base64"),
        ({"inputs": [tensor(["aGk="], [1], "INT64")]}, "datatype 'INT64'"),
        ({"inputs": [tensor([7.0] * 12, [1, 2, 2, 3], "FP32")]}, "pixels of (2, 2, 3): this model sees (160, 160, 3)"),
        ({"inputs": [tensor([7.0] * 12, [12], "FP32")]}, "shape [12] does not fit"),
        ({"inputs": [tensor([0.5] * 12, [1, 2, 2, 3], "FP32")]}, "multiply them by 255"),
        ({"inputs": [tensor([-1.0] * 12, [1, 2, 2, 3], "FP32")]}, "between 0 and 255"),
        ({"inputs": [tensor([float("nan")] * 12, [1, 2, 2, 3], "FP32")]}, "between 0 and 255"),
        ({"inputs": [tensor([[1.0], []], [1, 2, 2, 3], "FP32")]}, "not numbers"),
        ({"inputs": [tensor(None, [1, 2, 2, 3], "FP32")]}, "not numbers"),
        ({"inputs": [tensor(["aGk="], [1])], "outputs": [7]}, "outputs must be a list"),
        ({"inputs": [tensor(["aGk="], [1])], "outputs": [{"name": "label"}] * 2}, "outputs names one of them twice"),
        ({"inputs": [tensor(["aGk="], [2**31 - 1] * 20_000)]}, "shape has 20,000 numbers: 1 to 4 are possible"),
        ({"inputs": [tensor([1] * 2**18, [1, 2, 2, 3], "FP32")]}, "more than 262,144 values"),
        ({"inputs": [tensor(["aGk="], [1], parameters={"binary_data_size": 7})]}, "0 bytes follow"),
    ],
)
def test_a_wrong_request_is_refused(server: Server, photo: bytes, body: Any, reason: str) -> None:  # noqa: ANN401 - JSON
    answer = infer(server, body)
    assert (answer.status, reason in answer.json()["error"]) == (400, True), answer.json()
    assert server.invoke(photo).status == 200


def test_many_requests_with_pixels_stall_nobody(server: Server, photo: bytes) -> None:
    values = b",".join([b"7.25"] * (3 * 160 * 160 * 3))
    body = b'{"inputs":[{"name":"photos","shape":[3,160,160,3],"datatype":"FP32","data":[' + values + b"]}]}"
    with ThreadPoolExecutor(12) as pool:
        attacks = [pool.submit(infer, server, body) for _ in range(12)]
        start = time.monotonic()
        assert server.invoke(photo).status == 200
        assert time.monotonic() - start < 5, "0.3 s on a quiet machine"
        assert {attack.result().status for attack in attacks} == {200}


def test_an_output_that_the_model_lacks(server: Server, photo: bytes) -> None:
    body = {"inputs": [tensor([base64.b64encode(photo).decode()], [1])], "outputs": [{"name": "mask"}]}
    assert "no output 'mask': choose from label" in infer(server, body).json()["error"]


def test_one_bad_photo_of_several_is_named(server: Server, photo: bytes) -> None:
    answer = infer(server, {"inputs": [tensor([base64.b64encode(photo).decode(), "aGk="], [2])]})
    assert (answer.status, answer.json()["error"]) == (400, "photo 2 of 2: not an image file")


def test_every_response_has_the_requests_identifier(server: Server, photo: bytes) -> None:
    assert server.invoke(photo, X_Request_Id="order-7/a").headers["X-Request-Id"] == "order-7/a"
    refused = server.invoke(b"x", X_Request_Id="order-8")
    assert refused.json()["request_id"] == refused.headers["X-Request-Id"] == "order-8"
    made = {server.request("GET", path).headers["X-Request-Id"] for path in ("/ping", "/nowhere", "/", "/models")}
    assert len(made) == 4
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)
    for wrong in ("a b", "x" * 129, "", '"', "\xe9"):
        assert re.fullmatch("[0-9a-f]{32}", server.request("GET", "/ping", X_Request_Id=wrong).headers["X-Request-Id"])
    refused = server.request("GET", "/models", Host="evil.example", X_Request_Id="order-9")
    assert (refused.status, refused.json()["request_id"]) == (421, "order-9")


@pytest.mark.slow
def test_each_request_is_a_line_of_json(run: Path, photo: bytes, tmp_path: Path) -> None:
    server = Server(tmp_path, f"model={run}", "deploy.log=json", SAGEHOUND_TOKEN="t" * 20)
    own = {"Authorization": f"Bearer {'t' * 20}"}
    for path in ("/ping", "/health", "/v2/health/live", "/v2/health/ready"):
        assert server.request("GET", path).status == 200, "health checks have no token"
    assert server.request("GET", "/v2/models/run").status == 401
    assert server.invoke(photo, X_Request_Id="order-7", **own).status == 200
    assert server.invoke(b'no\n"photo"', **own).status == 400
    assert server.request("GET", "/card", **own).data.startswith(b"# Model card\n")
    assert server.request("GET", "/models/run/card", **own).headers["Content-Type"] == "text/plain; charset=utf-8"
    assert server.request("GET", "/models/a%22%0Ab/card", **own).status == 404
    server.process.terminate()
    out, errors = server.process.communicate(timeout=60)
    assert (server.process.returncode, errors) == (143, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["path"], line["status"]) for line in lines[4:]] == [
        *(("/v2/models/run", 401), ("/invocations", 200), ("/invocations", 400), ("/card", 200)),
        *(("/models/run/card", 200), ('/models/a"\nb/card', 404)),
    ]
    answered = lines[5]
    assert (answered["request_id"], answered["method"], answered["client"]) == ("order-7", "POST", "127.0.0.1")
    assert answered["bytes_in"] == len(photo)
    assert answered["model"] == "run"
    assert answered["bytes_out"] > 50
    assert 0 < answered["seconds"] < 60
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", answered["time"])


def test_a_request_that_fails_is_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    async def broken(*_: object) -> None:
        raise ValueError("a bug")

    async def nothing(*_: object) -> Any:  # noqa: ANN401 - as in ASGI
        return {}

    scope = {"type": "http", "method": "GET", "path": "/x", "headers": [], "client": ("192.0.2.1", 5)}
    with pytest.raises(ValueError, match="a bug"):
        asyncio.run(RequestLog(broken, as_json=True)(scope, nothing, nothing))
    out, errors = capsys.readouterr()
    line = json.loads(out)
    assert (line["status"], line["error"], line["client"]) == (500, "ValueError", "192.0.2.1")
    assert errors == f"request {line['request_id']} failed: ValueError\n"


def test_a_model_without_a_card_says_so(server: Server, run: Path, tmp_path: Path) -> None:
    unpack(run / "model.tar.gz", tmp_path / "old")
    (tmp_path / "old/MODEL_CARD.md").unlink()
    (tmp_path / "old/MODEL_CARD.md").symlink_to("/etc/hostname")
    body = json.dumps({"model_name": "old", "url": str(tmp_path / "old")}).encode()
    assert server.request("POST", "/models", body, Content_Type="application/json").status == 200
    try:
        refused = server.request("GET", "/models/old/card")
        assert (refused.status, refused.json()["error"]["code"]) == (404, "no_card"), "links are not followed"
        assert get(server, "/v2/models/old/ready")["ready"]
    finally:
        assert server.request("DELETE", "/models/old").status == 200
