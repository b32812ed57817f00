"""deploy.capture=FOLDER: requests and responses in the form of SageMaker's data capture."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
import urllib3
from helpers import Command, Server

from sagehound.serving.request_capture import CapturedCall, RequestCapture


def records(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.rglob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def body(side: dict[str, str]) -> bytes:
    return base64.b64decode(side["data"])


@pytest.mark.slow
def test_the_server_captures_what_it_answered(
    run: Path, photo: bytes, run_photos: Path, launch: Command, tmp_path: Path
) -> None:
    server = Server(tmp_path / "server", f"model={run}", "deploy.capture=../captured")
    photos = [file.read_bytes() for file in sorted(run_photos.rglob("test/*/*"))]
    several = json.dumps({"instances": [base64.b64encode(p).decode() for p in photos]}).encode()
    try:
        answer = server.invoke(photo)
        assert server.invoke(several, "application/json").status == 200
        assert server.invoke(b"no photo").status == 400
        form, content_type = urllib3.encode_multipart_formdata({"file": ("dog.jpg", photo)})
        assert server.invoke(form, content_type).json()["file"] == "dog.jpg"
    finally:
        assert server.stop() == (143, "")
    first, second, third = records(tmp_path / "captured")
    (path, *_) = (tmp_path / "captured").rglob("*.jsonl")
    name = path.relative_to(tmp_path / "captured").as_posix()
    assert re.fullmatch(rf"{run.name}/AllTraffic/\d{{4}}/\d\d/\d\d/\d\d/\d\d-\d\d-\d{{3}}-[\w-]+\.jsonl", name)
    assert body(first["captureData"]["endpointInput"]) == photo
    assert body(first["captureData"]["endpointOutput"]) == answer.data
    assert first["captureData"]["endpointInput"]["observedContentType"] == "image/jpeg"
    assert body(second["captureData"]["endpointInput"]) == several
    assert third["captureData"]["endpointInput"]["observedContentType"] == content_type
    done = launch("monitor=local", f"model={run}", "monitor.captured=captured", "hydra.run.dir=out")
    assert done.returncode == 0, done.stderr
    counts = json.loads((tmp_path / "out/monitor.json").read_text())["photos"]
    assert counts == {"window": 12, "baseline": 9, "unreadable": 0, "repeated": 2}


def call(size: int = 10) -> CapturedCall:
    return CapturedCall("dogs", "image/jpeg", bytes(size), "application/json", b"{}")


def test_a_share_of_the_calls(tmp_path: Path) -> None:
    capture = RequestCapture(tmp_path, percent=20)
    for _ in range(1000):
        capture.add(call())
    capture.close()
    assert 140 < len(records(tmp_path)) < 260
    assert len({record["eventMetadata"]["eventId"] for record in records(tmp_path)}) == len(records(tmp_path))


def test_a_file_that_cannot_be_written_is_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dogs").write_text("where the model's folder would be")
    capture = RequestCapture(tmp_path)
    for _ in range(200):
        capture.add(call())
    capture.close()
    assert capsys.readouterr().out.count("warning: requests are not captured") == 1


def test_calls_that_wait_have_a_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capture = RequestCapture(tmp_path)
    capture.add(call(200 * 2**20))
    capture.close()
    assert "requests are not captured" in capsys.readouterr().out
    assert records(tmp_path) == []


def test_a_folder_that_cannot_be_made(run: Path, launch: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = launch("deploy=local", f"model={run}", "deploy.port=0", "deploy.capture=file/inside")
    assert done.returncode == 2
    assert done.stderr == "sagehound: deploy.capture=file/inside cannot be made: Not a directory; give a folder\n"
