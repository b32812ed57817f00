"""POST /models/NAME/feedback: photos are kept with their right class, to train with."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import Server

from sagehound.serving.feedback import Feedback, NotSaved


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("feedback") / "kept"


@pytest.fixture(scope="module")
def listening(run: Path, kept: Path) -> Iterator[Server]:
    server = Server(kept.parent / "server", f"model={run}", f"deploy.feedback={kept}")
    yield server
    assert server.stop() == (143, "")


def told(server: Server, photo: bytes, query: str = "") -> tuple[int, dict[str, object]]:
    answer = server.request("POST", f"/models/run/feedback{query}", photo, Content_Type="image/jpeg")
    return answer.status, json.loads(answer.data)


def test_the_kept_photos_are_a_folder_to_train_with(listening: Server, kept: Path, photo: bytes) -> None:
    status, said = told(listening, photo, "?right=Amber")
    assert status == 200
    assert told(listening, photo, "?right=Amber") == (status, said), "the same photo is kept once"
    file = kept / str(said["file"])
    assert file.read_bytes() == photo
    assert file.parent == kept / "photos/Amber"
    assert file.suffix == ".jpeg"
    line = json.loads((kept / "feedback.jsonl").read_text().splitlines()[0])
    assert (line["model"], line["label"], line["right"], line["file"]) == ("run", "Slate", "Amber", said["file"])
    assert 0 < line["probability"] <= 1
    assert json.loads(listening.request("GET", "/models").data)["feedback"] is True


def test_the_last_class_that_is_told_counts(listening: Server, kept: Path, run_photos: Path) -> None:
    photo = sorted((run_photos / "test/001.Amber").iterdir())[1].read_bytes()
    _, first = told(listening, photo, "?right=Moss")
    lines = len((kept / "feedback.jsonl").read_text().splitlines())
    _, second = told(listening, photo, "?right=Slate")
    assert not (kept / str(first["file"])).exists()
    assert (kept / str(second["file"])).read_bytes() == photo
    told(listening, photo, "?right=Slate")
    assert len((kept / "feedback.jsonl").read_text().splitlines()) == lines + 1, "nothing new, no line"


def test_a_later_server_knows_what_was_kept(tmp_path: Path, photo: bytes) -> None:
    said = {"label": "Moss", "probability": 0.5}
    first = Feedback(tmp_path).add(photo, "run", said, "Moss")
    with (tmp_path / "feedback.jsonl").open("a") as lines:
        lines.write('{"time": "2026-')  # the disk was full
    second = Feedback(tmp_path).add(photo, "run", said, None)
    assert not (tmp_path / first).exists()
    assert (tmp_path / second).exists()
    assert json.loads((tmp_path / "feedback.jsonl").read_text().splitlines()[-1])["right"] is None


def test_a_full_disk_is_one_message(tmp_path: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    feedback = Feedback(tmp_path)
    free = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(NotSaved, match="less than 1 GB of the disk are free"):
        feedback.add(photo, "run", {"label": "Moss", "probability": 0.5}, "Moss")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".lock"]


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path: Path, photo: bytes) -> None:
    feedback = Feedback(tmp_path)
    (tmp_path / "photos").write_text("a file in the way")
    with pytest.raises(NotSaved, match="the feedback cannot be written"):
        feedback.add(photo, "run", {"label": "Moss", "probability": 0.5}, "Moss")


def test_a_photo_of_no_class_is_kept_beside(listening: Server, kept: Path, photo: bytes) -> None:
    _, said = told(listening, photo)
    assert (kept / str(said["file"])).parent == kept / "other"


@pytest.mark.parametrize(
    ("body", "query", "message"),
    [
        (b"no photo", "?right=Amber", "not an image file"),
        (None, "?right=Poodle", "right=Poodle: the model has no such class"),
        (None, "?right=../../Amber", "right=../../Amber: the model has no such class"),
    ],
)
def test_nothing_else_is_written(
    listening: Server, kept: Path, photo: bytes, body: bytes | None, query: str, message: str
) -> None:
    before = {path for path in kept.parent.rglob("*") if path.is_file()}
    status, said = told(listening, body or photo, query)
    assert status == 400
    assert said["error"]["message"] == message  # type: ignore[index]
    assert {path for path in kept.parent.rglob("*") if path.is_file()} == before


def test_a_server_without_a_folder_keeps_nothing(server: Server, photo: bytes) -> None:
    status, said = told(server, photo, "?right=Amber")
    assert status == 404
    assert "start it with deploy.feedback=FOLDER" in said["error"]["message"]  # type: ignore[index]
    assert json.loads(server.request("GET", "/models").data)["feedback"] is False
