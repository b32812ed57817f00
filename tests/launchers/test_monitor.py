"""`python launch.py monitor=local`: photos and captured requests compared with the baseline of a model."""

import base64
import csv
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers import Command, make_photos
from PIL import Image, ImageEnhance

from sagehound.artifact import archive
from sagehound.artifact.archive import opened
from sagehound.monitoring.baseline import NAME
from sagemaker_emulator.hosting.data_capture import capture
from sagemaker_emulator.web import Request

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def changed(source: Path, target: Path, change: Callable[[Image.Image], Image.Image]) -> Path:
    """The photos of a folder, changed."""
    for file in sorted(source.rglob("*.jpg")):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            change(image).save(place)
    return target


def darker(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(0.4)


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "monitor.json").read_text())  # type: ignore[no-any-return]


def test_test_photos_have_not_changed(launch: Command, run: Path, run_photos: Path, tmp_path: Path) -> None:
    done = launch("monitor=local", f"model={run}", f"data.root={run_photos / 'test'}", "hydra.run.dir=out")
    assert (done.returncode, done.stdout.count("no drift: 12 photos")) == (0, 1), done.stderr + done.stdout
    assert "the baseline has 9 photos and the window has 12 photos: only large changes are found" in done.stdout
    found = summary(tmp_path / "out")
    assert found["drift"] is False
    assert found["changes"] == []
    assert found["photos"] == {"window": 12, "baseline": 9, "unreadable": 0, "repeated": 0}
    assert found["baseline"] == {"split": "valid", "photos": 9}
    assert [one["name"] for one in found["tests"]] == [
        *("features", "predictions", "confidence", "brightness", "contrast", "sharpness", "width", "height")
    ]
    rows = list(csv.DictReader((tmp_path / "out/monitor.csv").open()))
    assert {row["photo"] for row in rows} == {
        f.relative_to(run_photos / "test").as_posix() for f in run_photos.glob("test/*/*")
    }
    assert {(row["width"], row["height"], row["error"]) for row in rows} == {("64", "48", "")}
    assert all(0.5 < float(row["distance"]) < 2 for row in rows)
    page = (tmp_path / "out/monitor.html").read_text()
    assert page.count("data:image/jpeg") == 12
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page), "no outside address"


@pytest.mark.slow
def test_dark_photos_are_named_and_can_fail_the_command(
    launch: Command, run: Path, run_photos: Path, tmp_path: Path
) -> None:
    dark = changed(run_photos / "test", tmp_path / "dark", darker)
    arguments = ["monitor=local", f"model={run}", f"data.root={dark}"]
    done = launch(*arguments, "hydra.run.dir=out")
    assert done.returncode == 0, done.stderr
    text = r"warning: photos are darker than the baseline: median brightness 0\.\d\d, was 0\.\d\d; p<0\.001"
    assert re.search(text, done.stdout), done.stdout
    found = summary(tmp_path / "out")
    assert found["drift"] is True
    assert {one["name"] for one in found["tests"] if one["drift"]} >= {"features", "brightness"}
    assert not {one["name"] for one in found["tests"] if one["drift"]} & {"width", "height"}
    assert all(bool(one["text"]) == one["drift"] for one in found["tests"])
    failed = launch(*arguments, "monitor.fail=true", "hydra.run.dir=failed")
    assert failed.returncode == 3
    assert re.fullmatch(r"sagehound: the photos of .*dark have changed: .*\n", failed.stderr)
    assert summary(tmp_path / "failed") == found, "the same photos give the same result"


@pytest.mark.slow
def test_the_page_is_accessible_on_a_telephone(
    launch: Command, run: Path, run_photos: Path, tmp_path: Path, browser: "Browser"
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    dark = changed(run_photos / "test", tmp_path / "dark", darker)
    launch("monitor=local", f"model={run}", f"data.root={dark}", "hydra.run.dir=out")
    page = browser.new_page(viewport={"width": 360, "height": 800})
    page.goto((tmp_path / "out/monitor.html").as_uri())
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.get_by_text("photos are darker than the baseline").is_visible()
    page.close()


def test_larger_photos_are_named(launch: Command, run: Path, run_photos: Path, tmp_path: Path) -> None:
    large = changed(run_photos / "test", tmp_path / "large", lambda image: image.resize((96, 48)))
    done = launch("monitor=local", f"model={run}", f"data.root={large}")
    assert "warning: photos are wider than the baseline: median width in pixels 96, was 64; p<0.001" in done.stdout


@pytest.fixture
def old(run: Path, tmp_path: Path) -> Path:
    """An archive as an older Sagehound wrote it."""
    with opened(run) as folder:
        files = {f.relative_to(folder).as_posix(): f for f in folder.rglob("*") if f.is_file()}
        del files[NAME]
        archive.pack(files, tmp_path / "old.tar.gz")
    return tmp_path / "old.tar.gz"


@pytest.mark.slow
def test_an_older_model_takes_a_baseline_of_photos(
    launch: Command, old: Path, run_photos: Path, tmp_path: Path
) -> None:
    arguments = ["monitor=local", f"model={old}", f"data.root={run_photos / 'test'}", "hydra.run.dir=out"]
    done = launch(*arguments)
    assert done.returncode == 3
    assert done.stderr == (
        f"sagehound: the model has no {NAME}: an older Sagehound wrote it; make one from photos like those of the "
        "training: monitor.baseline=FOLDER\n"
    )
    assert not list((tmp_path / "out").iterdir())
    done = launch(*arguments, f"monitor.baseline={run_photos / 'valid'}")
    assert done.returncode == 0, done.stderr
    assert summary(tmp_path / "out")["baseline"] == {"folder": str(run_photos / "valid"), "photos": 9}
    assert summary(tmp_path / "out")["drift"] is False


class Folder:
    """Writes captures into a folder instead of S3."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, uri: str, content: bytes) -> None:
        path = self.root / uri.removeprefix("s3://bucket/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def captured(root: Path, bodies: list[tuple[str, bytes]], **types: list[str]) -> Path:
    """Requests as the emulator's endpoints capture them."""
    config = {
        "InitialSamplingPercentage": 100,
        "DestinationS3Uri": "s3://bucket",
        "CaptureOptions": [{"CaptureMode": "Input"}],
        "CaptureContentTypeHeader": types,
    }
    for media, body in bodies:
        time.sleep(0.002)  # the files' names have the time in milliseconds
        call = Request("POST", "/", {}, {"Content-Type": media}, body)
        capture(Folder(root), config, "dogs", "AllTraffic", call, ({"Content-Type": "application/json"}, b"{}"))  # type: ignore[arg-type]
    return root


@pytest.mark.slow
def test_captured_requests_newest_first(launch: Command, run: Path, run_photos: Path, tmp_path: Path) -> None:
    dark = changed(run_photos / "test", tmp_path / "dark", darker)
    photos = [f.read_bytes() for f in [*sorted(run_photos.rglob("test/*/*")), *sorted(dark.rglob("*.jpg"))]]
    several = json.dumps({"instances": [base64.b64encode(p).decode() for p in photos[:6]]}).encode()
    bodies = [("application/json", several), *(("image/jpeg", photo) for photo in photos[6:])]
    bodies += [("image/jpeg", photos[-1]), ("image/jpeg", b"no photo")]
    root = captured(tmp_path / "captured", bodies, JsonContentTypes=["application/json"])
    done = launch("monitor=local", f"model={run}", f"monitor.captured={root}", "hydra.run.dir=all")
    assert done.returncode == 0, done.stderr
    assert summary(tmp_path / "all")["photos"] == {"window": 24, "baseline": 9, "unreadable": 1, "repeated": 1}
    assert "warning: 1 photos could not be read; monitor.csv says why" in done.stdout
    rows = list(csv.DictReader((tmp_path / "all/monitor.csv").open()))
    assert rows[-1]["error"] == "not an image file"
    assert sum(row["photo"].endswith("/0") for row in rows) == 1
    assert all(row["time"].endswith("Z") for row in rows)
    done = launch("monitor=local", f"model={run}", f"monitor.captured={root}", "monitor.window=12", "hydra.run.dir=new")
    assert "12 photos" in done.stdout
    assert "photos are darker than the baseline" in done.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no \.jsonl file of captured requests lies in it or below"),
        ('{"captureData": {"endpointOutput": {}}, "eventMetadata": {"eventId": 1, "inferenceTime": "t"}}',
         r"its captures hold no requests; capture the input of the endpoint too \(CaptureMode Input\)"),
        ("[]", r"a\.jsonl, line 1: not a captured request \(TypeError: .*\); remove the file, or give the folder"),
        ('{"captureData": {"endpointInput": {"data": "?", "encoding": "BASE64"}},'
         ' "eventMetadata": {"eventId": 1, "inferenceTime": "t"}}', r"a\.jsonl, line 1: not a captured request"),
    ],
)  # fmt: skip
def test_a_folder_without_captured_requests(
    launch: Command, run: Path, tmp_path: Path, content: str | None, message: str
) -> None:
    (tmp_path / "captured").mkdir()
    if content is not None:
        (tmp_path / "captured/a.jsonl").write_text(content)
    done = launch("monitor=local", f"model={run}", "monitor.captured=captured")
    assert done.returncode == 3
    assert re.search(message, done.stderr), done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.root=x"], "monitor takes one model, not 0: give model=RUN"),
        (["model=[a,b]", "data.root=x"], "monitor takes one model, not 2: give model=RUN"),
        (["monitor=sagemaker", "model=a"], "give monitor.captured=s3://BUCKET/PREFIX"),
        (
            ["monitor=sagemaker", "model=a", "monitor.captured=s3://b/c", "monitor.baseline=d"],
            "monitor.baseline is a folder of this machine: drop it, or choose monitor=local",
        ),
        (["model=a", "data.root=x", "monitor.window=1"], "monitor.window=1: must be at least 2"),
        (["model=a", "data.root=x", "monitor.alpha=0"], "monitor.alpha=0.0: must be at least 0.001"),
    ],
)
def test_settings_that_contradict(launch: Command, arguments: list[str], message: str) -> None:
    done = launch(*(["monitor=local"] if arguments[0] != "monitor=sagemaker" else []), *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_folder_that_is_missing_or_has_no_photo(launch: Command, run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (["data.root=nowhere"], "data.root=nowhere: no such folder or photo (from "),
        (["data.root=empty"], "data.root=empty: no photo lies in it or below"),
        (["data.root=empty", "monitor.baseline=gone"], "monitor.baseline=gone: no such folder or photo (from "),
        (["monitor.captured=gone"], "monitor.captured=gone: no such folder (from "),
    ):
        done = launch("monitor=local", f"model={run}", *arguments)
        assert done.returncode == 3
        assert done.stderr.startswith(f"sagehound: {message}"), done.stderr


def test_too_few_photos(launch: Command, run: Path, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", train=1)
    for file in sorted((tmp_path / "photos").rglob("*.jpg"))[1:]:
        file.write_bytes(b"")
    done = launch("monitor=local", f"model={run}", "data.root=photos")
    assert done.returncode == 3
    assert "1 photos can be read, and two are the least; the first: " in done.stderr
    assert "empty file" in done.stderr
