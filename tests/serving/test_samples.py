"""GET /models/NAME/samples/K, and the page's row of photos to try; also of archives that anybody made."""

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from helpers import Server
from PIL import Image
from playwright.sync_api import Browser, expect

from sagehound.artifact.archive import unpack

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>fetch("/ping")</script></svg>'


@pytest.fixture(scope="module")
def model(run: Path, run_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked model with two samples, a Slate and an Amber."""
    folder = tmp_path_factory.mktemp("samples") / "model"
    unpack(run / "model.tar.gz", folder)
    (folder / "samples").mkdir()
    for number, label in enumerate(("002.Slate", "001.Amber")):
        shutil.copy(min((run_photos / "test" / label).iterdir()), folder / f"samples/{number:02}.jpg")
    claim(folder, 2)
    return folder


def claim(folder: Path, samples: object) -> None:
    """Let model.json say how many samples there are."""
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | {"samples": samples}))


@contextmanager
def loaded(server: Server, folder: Path) -> Iterator[str]:
    """The model, loaded under a name of its own."""
    name = "sampled"
    body = json.dumps({"model_name": name, "url": str(folder)}).encode()
    assert server.request("POST", "/models", body, Content_Type="application/json").status == 200
    try:
        yield name
    finally:
        assert server.request("DELETE", f"/models/{name}").status == 200


def test_a_sample_is_a_jpeg_of_the_archive(server: Server, model: Path) -> None:
    with loaded(server, model) as name:
        answer = server.request("GET", f"/models/{name}/samples/1")
        assert answer.headers["Content-Type"] == "image/jpeg"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.data == (model / "samples/01.jpg").read_bytes()
        with Image.open(io.BytesIO(answer.data)) as image:
            assert image.format == "JPEG"
        missing = server.request("GET", f"/models/{name}/samples/2")
        assert (missing.status, missing.json()["error"]["code"]) == (404, "no_sample")
    assert server.request("GET", "/models/run/samples/0").status == 404, "it was trained without"
    assert server.request("GET", "/models/nobody/samples/0").status == 404


@pytest.mark.parametrize("number", ["-1", "24", "1e9", "../model.json", "..%2fmodel.json", "00.jpg", "0%00"])
def test_an_address_leads_to_no_other_file(server: Server, model: Path, number: str) -> None:
    with loaded(server, model) as name:
        answer = server.request("GET", f"/models/{name}/samples/{number}")
        assert answer.status in (400, 404)
        assert answer.headers["Content-Type"] == "application/json"


def test_samples_of_a_hostile_archive_are_refused(server: Server, model: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    shutil.copytree(model, evil)
    outside = tmp_path / "secret.jpg"
    shutil.copy(model / "samples/00.jpg", outside)
    samples = evil / "samples"
    (samples / "02.jpg").write_bytes(SVG)
    (samples / "03.jpg").write_bytes(b"<html><script>alert(1)</script>")
    (samples / "04.jpg").symlink_to(outside)
    (samples / "05.jpg").mkdir()
    (samples / "06.jpg").write_bytes((model / "samples/00.jpg").read_bytes() + bytes(2**20))
    (samples / "07.jpg").write_bytes(b"")
    with loaded(server, evil) as name:
        for number in range(2, 8):
            assert server.request("GET", f"/models/{name}/samples/{number}").status == 404, number
        shutil.move(samples, tmp_path / "elsewhere")
        samples.symlink_to(tmp_path / "elsewhere")
        assert server.request("GET", f"/models/{name}/samples/0").status == 404, "the folder is a link"


@pytest.mark.slow
def test_the_page_classifies_a_sample_by_a_click_or_by_keyboard(browser: Browser, server: Server, model: Path) -> None:
    with loaded(server, model) as name:
        page = browser.new_page(viewport={"width": 360, "height": 740}, bypass_csp=True)
        page.goto(server.url)
        row = page.get_by_role("list", name="Or try one of these photos:")
        expect(page.locator("#card")).to_contain_text("test_resnet")
        expect(row).to_be_hidden()  # the first model has none
        page.locator("#models").select_option(name)
        expect(row.get_by_role("button")).to_have_count(2)
        assert row.locator("img").first.evaluate("i => i.decode().then(() => i.naturalWidth)") == 64
        row.get_by_role("button", name="Sample photo 1").click()
        expect(page.locator("#answers h3").first).to_have_text("sample-1.jpg")
        expect(page.locator("#answers tbody tr").first).to_contain_text("Slate")
        row.get_by_role("button", name="Sample photo 2").press("Enter")
        expect(page.locator("#answers > li").first.locator("tbody tr").first).to_contain_text("Amber")
        problems = Axe().run(page)
        assert problems.violations_count == 0, problems.generate_report()
        page.close()


def test_many_samples_do_not_widen_the_page_on_a_phone(
    browser: Browser, server: Server, model: Path, tmp_path: Path
) -> None:
    shutil.copytree(model, tmp_path / "many")
    for number in range(2, 6):
        shutil.copy(model / "samples/00.jpg", tmp_path / f"many/samples/{number:02}.jpg")
    claim(tmp_path / "many", 6)
    with loaded(server, tmp_path / "many") as name:
        page = browser.new_page(viewport={"width": 360, "height": 740})
        page.goto(server.url)
        page.locator("#models").select_option(name)
        expect(page.locator(".samples button")).to_have_count(6)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        page.close()


@pytest.mark.parametrize("claimed", [10**9, -1, "2", [1], 1.5])
def test_whatever_model_json_claims_the_page_works(
    browser: Browser, server: Server, model: Path, tmp_path: Path, claimed: object
) -> None:
    shutil.copytree(model, tmp_path / "odd")
    (tmp_path / "odd/samples/01.jpg").write_bytes(SVG)
    claim(tmp_path / "odd", claimed)
    with loaded(server, tmp_path / "odd") as name:
        page = browser.new_page()
        page.goto(server.url)
        page.locator("#models").select_option(name)
        expect(page.locator("#card")).to_contain_text(name)
        expect(page.locator(".samples button")).to_have_count(1 if claimed == 10**9 else 0)
        page.close()
