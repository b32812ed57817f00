"""The proof of an archive: what it sends, and that it finds out faults that were planted."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from helpers import Compose, verify_by
from omegaconf import OmegaConf
from PIL import Image

import sagehound
from sagehound.artifact import archive
from sagehound.artifact.fresh_processes import FreshProcesses
from sagehound.artifact.verify import (
    MOST,
    PHOTOS,
    Expected,
    Request,
    choose,
    compare,
    make_requests,
    verify,
)
from sagehound.config import typed
from sagehound.data.folders import Photo
from sagehound.data.photo_set import PhotoSet
from sagehound.data.photos import find_photos
from sagehound.errors import SagehoundError
from sagehound.evaluation.tables import Predictions
from sagehound.training.train import train

Change = Callable[[str], str]


@pytest.fixture
def proof(run: Path, run_photos: Path, tmp_path: Path) -> Callable[..., str]:
    """Verify the archive of ``run``, one file of it changed, in one fresh process."""

    def proven(way: str, name: str = "", change: Change | None = None) -> str:
        photos = find_photos(typed(OmegaConf.load(run / "config.yaml")).data, tmp_path / "cache")
        with archive.opened(run) as folder:
            files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
            if change:
                text = files[name].read_text()
                files[name].write_text(change(text))
                assert files[name].read_text() != text
            archive.pack(files, tmp_path / "model.tar.gz")
        with FreshProcesses([way]) as fresh:
            fresh.start()
            return verify(tmp_path / "model.tar.gz", photos, predictions(run, photos), run / "predictions.csv", fresh)

    return proven


def predictions(run: Path, photos: PhotoSet) -> Predictions:
    """What predictions.csv holds of the test photos of three classes."""
    with (run / "predictions.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["split"] == "test"]
    found = [dict(pair.rsplit(":", 1) for pair in r["top5"].split(";")) for r in rows]
    probabilities = np.array([[float(p[name]) for name in photos.classes] for p in found], np.float32)
    test = photos.split("test")
    return Predictions(test, np.array(photos.labels(test)), np.log(probabilities + 1e-9))


def with_classes(change: Callable[[list[str]], list[str]]) -> Change:
    def changed(text: str) -> str:
        card = json.loads(text)
        return json.dumps(card | {"classes": change(card["classes"])})

    return changed


HANDLER = "code/sagehound/inference/handler.py"


def shifted(text: str) -> str:
    """handler.py that names the next class, in the label alone."""
    right = "photo_result(prediction.classes, probabilities, want, prediction.thresholds, score)"
    assert right in text
    shift = """

def shifted(classes, p, want):
    result = photo_result(classes, p, want)
    i = int(p.argmax())
    label = classes[(i + 1) % len(classes)]
    top = [result["top"][0] | {"label": label}, *result["top"][1:]]
    return result | {"label": label, "top": top}
"""
    return text.replace(right, "shifted(prediction.classes, probabilities, want)") + shift


def refusing(text: str) -> str:
    """handler.py that takes no image/jpeg."""
    right = "    return photos_in("
    assert right in text
    return text.replace(
        right, '    if content_type == "image/jpeg":\n        raise ValueError("no image/jpeg")\n' + right
    )


def test_a_right_archive_is_proven(proof: Callable[..., str]) -> None:
    line = proof("server")
    assert "the server classify 12 test photos as the trained model does; probabilities differ" in line


@pytest.mark.parametrize(
    ("way", "name", "change", "reason"),
    [
        ("server", "model.json", with_classes(lambda c: c[::-1]), "number 1 is Slate instead of Amber"),
        ("inference", HANDLER, shifted, r"answers are others: test.* is \w+, not \w+"),
        pytest.param("inference", HANDLER, refusing, "no image/jpeg", marks=pytest.mark.slow),
        pytest.param(
            "inference",
            "model.json",
            with_classes(lambda c: [c[1], c[0], *c[2:]]),
            "number 1 is Moss",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["reversed", "label shifted", "no image/jpeg", "two swapped"],
)
def test_a_fault_is_found_out(proof: Callable[..., str], way: str, name: str, change: Change, reason: str) -> None:
    with pytest.raises(SagehoundError, match=reason) as error:
        proof(way, name, change)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_server_that_refuses_jpeg_is_found_out(
    proof: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "source/sagehound"
    shutil.copytree(Path(sagehound.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    formats = package / "inference/request_body.py"
    text = formats.read_text()
    formats.write_text(text.replace('*("image/jpeg", ', "*("))
    assert formats.read_text() != text
    before(monkeypatch, package.parent)
    with pytest.raises(SagehoundError, match=r"the server answered image/jpeg with 415 .*content type 'image/jpeg'"):
        proof("server")


def test_without_the_serve_extra_its_functions_are_called(
    proof: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "missing").mkdir()
    text = "raise ModuleNotFoundError(\"No module named 'fastapi'\", name='fastapi')"
    (tmp_path / "missing/fastapi.py").write_text(text)
    before(monkeypatch, tmp_path / "missing")
    assert "the server's functions classify 12 test photos" in proof("server")


def before(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Processes that are started from now on import from ``folder`` first."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))


def made_up(labels: list[int], classes: int, wrong: list[int], tied: list[int]) -> Predictions:
    """Predictions that are right but for some; two classes nearly tie in others."""
    logits = np.zeros((len(labels), classes), np.float32)
    for i, label in enumerate(labels):
        logits[i, (label + 1) % classes if i in wrong else label] = 5
        if i in tied:
            logits[i, (label + 1) % classes] = 5.0001
    photos = [Photo(f"test/{label}/{i}.jpg", "test", str(label)) for i, label in enumerate(labels)]
    return Predictions(photos, np.array(labels), logits)


def test_a_photo_of_every_class_is_sent_and_no_near_tie_where_there_is_another() -> None:
    labels = [i // 4 for i in range(200)]  # 50 classes of 4
    chosen = choose(made_up(labels, 50, wrong=[4], tied=[0]))
    assert len(chosen) == 50
    assert {labels[i] for i in chosen} == set(range(50))
    assert chosen[:2] == [1, 5]
    few = choose(made_up([0] * 60 + [1] * 3, 2, wrong=[], tied=[]))
    assert len(set(few)) == PHOTOS
    many = choose(made_up(list(range(300)), 300, wrong=[], tied=[]))
    assert len(set(many)) == MOST
    assert choose(made_up([0, 1], 2, wrong=[0], tied=[1])) == [0, 1]


def answer(probabilities: dict[str, float], label: str) -> dict[str, object]:
    best = {"label": label, "probability": probabilities[label]}
    return {**best, "top": [best], "probabilities": probabilities}


def test_a_near_tie_may_fall_either_way_and_nothing_else() -> None:
    trained = np.array([[0.4001, 0.3999, 0.2]], np.float32)
    expected = Expected(["a", "b", "c"], ["x.jpg"], ["a"], ["a"], trained)
    request = Request("image/jpeg", [Path("x.jpg")], [0])
    said = {"a": 0.3999, "b": 0.4001, "c": 0.2}
    assert compare("server", [request], [[answer(said, "b")]], expected) == pytest.approx(2e-4, abs=1e-5)
    with pytest.raises(SagehoundError, match=r"x\.jpg is c, not a"):
        compare("server", [request], [[answer(said, "c")]], expected)
    with pytest.raises(SagehoundError, match=r"number 1 is b instead of a"):
        compare("server", [request], [[answer({"b": 0.4001, "a": 0.3999, "c": 0.2}, "b")]], expected)


def test_a_label_that_is_not_the_one_in_the_table_is_found_out() -> None:
    trained = np.array([[0.7, 0.2, 0.1]], np.float32)
    expected = Expected(["a", "b", "c"], ["x.jpg"], ["b"], ["b"], trained)  # predictions.csv has mixed up two classes
    with pytest.raises(SagehoundError, match=r"x\.jpg is a, not b"):
        compare(
            "server",
            [Request("image/jpeg", [Path("x.jpg")], [0])],
            [[answer({"a": 0.7, "b": 0.2, "c": 0.1}, "a")]],
            expected,
        )


def test_another_score_of_unknown_photos_is_found_out() -> None:
    trained = np.array([[0.7, 0.2, 0.1]], np.float32)
    expected = Expected(["a", "b", "c"], ["x.jpg"], ["a"], ["a"], trained, np.array([0.4], np.float32))
    request, said = Request("image/jpeg", [Path("x.jpg")], [0]), answer({"a": 0.7, "b": 0.2, "c": 0.1}, "a")
    assert compare("server", [request], [[said | {"unknown_score": 0.4005}]], expected) < 1e-6
    for other in ({"unknown_score": 0.41}, {}):
        with pytest.raises(SagehoundError, match=r"the score of an unknown photo is .* instead of 0\.400"):
            compare("server", [request], [[said | other]], expected)


@pytest.mark.slow
def test_classes_that_look_like_formulas_are_proven(
    config: Compose, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """predictions.csv has a ' before such names, the archive has none."""
    verify_by(monkeypatch, "server")
    for folder in photos.glob("*/*"):
        folder.rename(folder.with_name("-" + folder.name[4:]))
    cfg = config("artifact=true", "finetune=full", "optimizer.lr=0.01", "trainer.max_epochs=4")
    assert train(cfg, tmp_path / "run").metrics["test"]["top1"] > 0.5, "else few labels are compared"
    assert (tmp_path / "run/model.tar.gz").exists()


def test_each_format_is_sent_as_its_own_content_type(tmp_path: Path) -> None:
    files = [tmp_path / f"photo.{ending}" for ending in ("jpg", "png", "webp", "gif", "bmp", "tiff")]
    for file in files:
        Image.new("RGB", (8, 6), "red").save(file)
    requests = make_requests(files)
    own = [r.content_type for r in requests[:6]]
    assert own == ["image/jpeg", "image/png", "image/webp", *["application/x-image"] * 3]
    assert [r.photos for r in requests[:6]] == [[file] for file in files]
    others = [(r.content_type, len(r.photos)) for r in requests[6:]]
    assert others == [("application/x-image", 1)] * 4 + [("application/json", 4), ("application/jsonlines", 4)]


def test_fresh_processes_start_with_a_heads_training_and_end_with_the_run(config: Compose, tmp_path: Path) -> None:
    started: list[psutil.Process] = []

    def fail(*_: object) -> None:
        started.extend(p for p in psutil.Process().children() if "verify_worker.py" in " ".join(p.cmdline()))
        raise SagehoundError("no more")

    with pytest.raises(SagehoundError, match="no more"):
        train(config("artifact=true"), tmp_path / "run", fail)
    assert len(started) == 2
    assert not any(p.is_running() for p in started)
