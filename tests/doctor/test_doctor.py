"""`sagehound doctor`: its files, its page in a real browser, and a training with the choices."""

import csv
import json
import shutil
from pathlib import Path

import forked
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from helpers import COLOURS, make_photos, save_photo, small
from photo_helpers import photo_set
from PIL import Image, ImageOps
from playwright.sync_api import Browser

from sagehound.data.aligned_copies import by_alignment, correlation
from sagehound.data.duplicates import Fingerprints, fingerprint
from sagehound.doctor.photo_quality import problems
from sagehound.doctor.suspects import COLUMNS
from sagehound.inference.preprocessing import Preprocessing
from sagehound.monitoring.photo_measures import measure

WRONG = [f"train/002.Slate/wrong{i}.jpg" for i in range(3)]
COPY, DARK = "train/003.Moss/copy.jpg", "train/001.Amber/dark.jpg"


@pytest.fixture(scope="module")
def folder(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The doctor's results for photos with three wrong labels, a copy of a test photo and a dark photo."""
    here = tmp_path_factory.mktemp("doctor")
    photos = make_photos(here / "photos", train=10, valid=4, test=6)
    for i, file in enumerate(WRONG):  # amber photos in the folder of slate
        save_photo(photos / file, COLOURS["001.Amber"], seed=900 + i)
    shutil.copy(photos / "test/003.Moss/000.jpg", photos / COPY)
    save_photo(photos / DARK, (-60, -60, -60), seed=950)
    script = here / "doctor.py"
    script.write_text("from sagehound.cli.main import main\nmain()\n")
    overrides = [word for word in small(photos, weights) if word != "data=folder"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAGEHOUND_CACHE", str(here / "cache"))
        done = forked.run(script, here, ["doctor", *overrides, "hydra.run.dir=found"], 300)
    assert done.returncode == 0, done.stderr
    (here / "stdout").write_text(done.stdout)
    return here / "found"


def test_it_lists_what_is_wrong_and_drops_nothing(folder: Path) -> None:
    rows = {row["file"]: row for row in csv.DictReader((folder / "suspects.csv").open())}
    assert list(rows[COPY]) == COLUMNS
    assert {row["action"] for row in rows.values()} == {"keep"}
    for file in WRONG:
        assert ("label" in rows[file]["problems"], rows[file]["new_class"]) == (True, "Amber")
    assert "duplicate" in rows[COPY]["problems"]
    assert rows[COPY]["reason"].startswith("like test/003.Moss/000.jpg (in test)")
    assert "duplicate" not in rows.get("test/003.Moss/000.jpg", {}).get("problems", ""), "the copy in train is to drop"
    assert "dark" in rows[DARK]["problems"]
    results = json.loads((folder / "doctor.json").read_text())
    assert (results["photos"], results["suspects"]) == (65, len(rows))
    assert results["problems"]["duplicate"] == 1
    assert results["quality"]["dark"].keys() == {DARK}
    assert "small" not in results["quality"], "all photos are"
    assert {"audit.json", "splits.csv", "config.yaml"} <= {path.name for path in folder.iterdir()}
    output = (folder.parent / "stdout").read_text()
    assert f"doctor: {len(rows)} of 65 photos are suspicious" in output
    assert "65 of 65 photos are small, so none is listed for it" in output


@pytest.mark.slow
def test_the_choices_of_the_page_change_the_training(folder: Path, browser: Browser, tmp_path: Path) -> None:
    path = folder / "doctor.html"
    requests: list[str] = []
    for scheme in ("light", "dark"):
        page = browser.new_page(viewport={"width": 360, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        page.locator(".choice").first.get_by_text("relabel").click()
        results = Axe().run(page)
        assert results.violations_count == 0, results.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert [url for url in requests if not url.startswith(("data:", path.as_uri()))] == []

    def choice(file: str):  # noqa: ANN202 - Playwright's locator
        return page.locator("fieldset.choice", has_text=file)

    for file in WRONG:
        choice(file).get_by_text("relabel", exact=True).click()
    choice(COPY).get_by_text("drop", exact=True).click()
    text = choice(WRONG[0]).get_by_role("combobox")
    text.fill("Bronze")
    assert page.locator("#download").is_disabled()
    assert '"Bronze" is none' in page.locator("#chosen").inner_text()
    text.fill("Moss")
    with page.expect_download() as download:
        page.locator("#download").click()
    table = tmp_path / download.value.suggested_filename
    download.value.save_as(table)
    page.close()
    assert table.name == "suspects.csv"
    have = photo_set(folder.parent / "photos", exclude=str(table))
    label = {p.file: p.label for p in have.photos}
    assert [label[file] for file in WRONG] == ["Moss", "Amber", "Amber"]
    assert COPY not in label
    assert len(label) == 64


def test_crops_and_mirror_images_are_found(real_data: Path) -> None:
    files = sorted((real_data / "woof10/test").glob("*/*.jpg"))[:40]
    photos = [Image.open(file).convert("RGB").resize((96, 96)) for file in files]
    x = np.random.default_rng(0).normal(size=(40, 64)).astype(np.float32)
    cropped = [photo.crop((4, 6, 91, 93)) for photo in photos]
    for copies in (cropped, [ImageOps.mirror(photo) for photo in cropped]):
        both = [*photos, *copies]
        near = np.concatenate([x, x + 0.3 * np.random.default_rng(1).normal(size=x.shape).astype(np.float32)])
        pairs = by_alignment(near, Fingerprints([fingerprint(p) for p in both]), both.__getitem__)
        assert len({p.a for p in pairs if p.b == p.a + 40}) >= 38
        assert [p for p in pairs if p.b != p.a + 40] == []


def test_poor_photos_are_recognised(tmp_path: Path) -> None:
    preprocessing = Preprocessing((64, 64), 64, "bicubic", (0.5,) * 3, (0.5,) * 3)  # type: ignore[arg-type]
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    pictures = {
        "": noise,
        "dark": noise // 20 + (noise[::-1] // 30),
        "bright": 255 - noise // 20,
        "plain": np.full_like(noise, 128),
        "blurred": np.asarray(Image.fromarray(noise[:6, :6]).resize((128, 128), Image.Resampling.BICUBIC)),
        "small": noise[:20],
    }
    for problem, pixels in pictures.items():
        Image.fromarray(pixels).save(tmp_path / "photo.png")
        found = problems(measure((tmp_path / "photo.png").read_bytes(), preprocessing)[1], preprocessing.size)
        assert (problem in found) if problem else not found, (problem, found)


def test_other_objects_in_the_corner_of_a_white_page_are_no_copies() -> None:
    """Flat areas have no correlation; rounding once made it more than 1."""
    random = np.random.default_rng(0)
    white = np.full((48, 48), 255, np.uint8)
    pages = [white.copy() for _ in range(5)]
    for page in pages:
        page[:9, :9] = random.integers(0, 255, (9, 9))
    found = [correlation(a, b) for i, a in enumerate(pages) for b in pages[:i]]
    assert max(found) < 0.88
    assert correlation(white, pages[0]) == correlation(white, white) == -1
    assert 0.999 < correlation(pages[0], pages[0]) <= 1
