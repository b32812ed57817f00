"""The page in a real browser: Debian's chromium, without a window."""

import base64
import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from helpers import Server
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """The page, opened on a phone; afterwards: no request went to another address, and no script failed."""
    opened = browser.new_page(viewport={"width": 360, "height": 740})
    asked: list[str] = []
    failures: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: failures.append(str(error)))
    opened.goto(server.url)
    yield opened
    opened.close()
    assert [url for url in asked if not url.removeprefix("blob:").startswith((server.url, "data:"))] == []
    assert failures == []


@pytest.fixture
def slate(run_photos: Path) -> Path:
    return min((run_photos / "test/002.Slate").iterdir())


def test_chosen_photos_get_five_classes_with_bars_and_the_time(page: Page, slate: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    page.get_by_label("Choose photos").set_input_files([slate, broken])
    newest, first = page.locator("#answers > li").nth(0), page.locator("#answers > li").nth(1)
    expect(first.get_by_role("heading")).to_have_text(slate.name)
    rows = first.locator("tbody tr")
    expect(rows).to_have_count(3)  # as many as there are classes
    expect(rows.nth(0)).to_contain_text("Slate")
    shares = [float(text.rstrip(" %")) for text in rows.locator("td:last-child").all_inner_texts()]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.3)
    widths = [bar.bounding_box() for bar in rows.locator(".bar").all()]
    row = rows.nth(0).bounding_box()
    assert row is not None
    for width, share in zip(widths, shares, strict=True):
        assert width is not None
        assert width["width"] == pytest.approx(row["width"] * share / 100, rel=0.35, abs=3)
    expect(first.locator("caption")).to_contain_text("ms")
    assert first.locator("img").evaluate("image => image.complete && image.naturalWidth") == 64
    expect(newest.get_by_role("alert")).to_have_text("not an image file")


@pytest.mark.parametrize(
    ("suffix", "is_drawn"), [(".tif", False), (".avif", True), (".jp2", False)], ids=["TIFF", "AVIF", "JPEG 2000"]
)
def test_every_type_that_the_server_reads_gets_an_answer(
    page: Page, slate: Path, tmp_path: Path, suffix: str, is_drawn: bool
) -> None:
    given = tmp_path / f"given{suffix}"
    with Image.open(slate) as photo:
        photo.save(given)
    offered = (page.get_by_label("Choose photos").get_attribute("accept") or "").split(",")
    assert {"image/*", ".heic", ".heif", ".avif", ".jp2", ".tif"} <= set(offered)
    content = base64.b64encode(given.read_bytes()).decode()
    page.evaluate(TRANSFER, [content, "drop", given.name, ""])
    answer = page.locator("#answers > li").first
    expect(answer.locator("tbody tr").first).to_contain_text("Slate")
    expect(answer.locator("img")).to_have_count(int(is_drawn))
    placeholder = answer.get_by_text("No preview")
    expect(placeholder).to_have_count(int(not is_drawn))
    if not is_drawn:
        box = placeholder.bounding_box()
        assert box is not None
        assert box["height"] >= 44
    expect(answer.get_by_role("alert")).to_have_count(0)


def test_the_models_card_is_shown(page: Page) -> None:
    card = page.locator("#card")
    expect(card).to_contain_text("test_resnet")
    expect(card).to_contain_text(re.compile(r"of 12 photos, 95 % interval \d+\.\d % to \d+\.\d %"))
    expect(card).to_contain_text("24 photos of 3 classes")
    page.get_by_text("3 classes", exact=True).click()
    expect(page.locator("#classes li")).to_have_text(["Amber", "Moss", "Slate"])


TRANSFER = """([content, kind, name, type]) => {
    const bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type }));
    const options = { bubbles: true, cancelable: true };
    document.body.dispatchEvent(kind === "drop"
        ? new DragEvent("drop", { ...options, dataTransfer: transfer })
        : new ClipboardEvent("paste", { ...options, clipboardData: transfer }));
}"""


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_photos_may_be_dropped_or_pasted(page: Page, slate: Path, kind: str) -> None:
    expect(page.locator("#card")).to_contain_text("test_resnet")
    page.evaluate(TRANSFER, [base64.b64encode(slate.read_bytes()).decode(), kind, slate.name, "image/jpeg"])
    expect(page.locator("#answers tbody tr").first).to_contain_text("Slate")


def test_it_works_by_keyboard_and_tells_a_screen_reader(page: Page, slate: Path) -> None:
    page.on("filechooser", lambda _: None)  # the browser is told to hand it over, which takes a moment
    page.keyboard.press("Tab")
    chooser_label = page.evaluate("document.activeElement.labels[0].innerText")
    assert chooser_label.startswith("Choose photos")
    outline = page.locator("#drop").evaluate("e => getComputedStyle(e).outlineStyle")
    assert outline == "solid", "the focus is seen"
    with page.expect_file_chooser() as chosen:
        page.keyboard.press("Space")
    chosen.value.set_files(slate)
    expect(page.get_by_role("status")).to_contain_text(f"{slate.name}: Slate, ")
    expect(page.get_by_role("list", name="Results, newest first").get_by_role("listitem")).to_have_count(1)
    expect(page.get_by_role("columnheader", name="Probability")).to_have_count(1)
    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.innerText").split("\n")[0])
    assert reached == [
        "Use the camera",
        "Save the results as CSV",
        "What did it look at?",
        "3 classes",
        "Use it from a program",
        "Model card",
    ]


@pytest.mark.slow
def test_a_photo_that_is_chosen_before_the_models_are_listed_waits(
    browser: Browser, server: Server, slate: Path
) -> None:
    opened = browser.new_page()
    held: list[Route] = []
    opened.route("**/models", lambda route: held.append(route))
    opened.goto(server.url, wait_until="load")
    opened.get_by_label("Choose photos").set_input_files(slate)
    opened.wait_for_timeout(300)  # ms
    for route in held:
        route.continue_()
    expect(opened.locator("#answers tbody tr").first).to_contain_text("Slate")
    opened.close()


def test_a_phone_scrolls_in_one_direction_only_and_targets_are_large(page: Page, slate: Path) -> None:
    page.get_by_label("Choose photos").set_input_files(slate)
    expect(page.locator("#answers tbody tr").first).to_contain_text("Slate")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for target in (page.locator("#drop"), *page.locator("summary").all(), *page.locator("button:visible").all()):
        box = target.bounding_box()
        assert box is not None
        assert box["height"] >= 44


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser: Browser, server: Server, slate: Path, scheme: str) -> None:
    """WCAG 2.2, 1.4.3: contrast of 4.5 at least; also of a class's name on its bar."""
    page = browser.new_page(color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(server.url)
    page.get_by_label("Choose photos").set_input_files(slate)
    expect(page.locator("#answers tbody tr").first).to_contain_text("Slate")

    def luminance(css: str) -> float:
        parts = page.evaluate(
            """css => { const c = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
                c.fillStyle = css; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data] }""",
            css,
        )
        linear = [v / 255 / 12.92 if v / 255 <= 0.04045 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in parts[:3]]
        return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    def style(selector: str, name: str) -> float:
        return luminance(page.locator(selector).first.evaluate(f"e => getComputedStyle(e).{name}"))

    paper = style("body", "backgroundColor")
    pairs = [(style(s, "color"), paper) for s in ("body", "dt", "caption", "#status", "a", "h3", "button", ".note")]
    pairs.append((style("td", "color"), style(".bar", "backgroundColor")))
    for a, b in pairs:
        assert (max(a, b) + 0.05) / (min(a, b) + 0.05) >= 4.5
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (360, "dark")])
def test_axe_finds_nothing(browser: Browser, server: Server, slate: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True)  # type: ignore[arg-type]
    page.goto(server.url)
    page.get_by_label("Choose photos").set_input_files(slate)
    page.get_by_role("button", name="What did it look at?").click()
    expect(page.locator("canvas")).to_be_visible()
    page.get_by_text("Use it from a program").click()
    page.get_by_text("3 classes", exact=True).click()
    problems = Axe().run(page)
    assert problems.violations_count == 0, problems.generate_report()
    page.close()


@pytest.mark.slow
def test_the_description_works_without_any_other_address(browser: Browser, server: Server) -> None:
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.url + "/docs")
    expect(page.get_by_text("/invocations").first).to_be_visible()
    assert [url for url in asked if not url.startswith((server.url, "data:"))] == []
    page.close()


def test_the_part_that_the_model_sees_is_bright(page: Page, tmp_path: Path) -> None:
    """The server resizes the short side to the model's resize and crops the centre."""
    wide = tmp_path / "wide.jpg"
    Image.new("RGB", (400, 100), (60, 80, 120)).save(wide)
    page.get_by_label("Choose photos").set_input_files(wide)
    expect(page.locator("#answers tbody tr").first).to_be_visible()
    sees = page.evaluate("async () => (await (await fetch('/models/run')).json()).card.preprocessing")
    frame, seen = page.locator(".frame").bounding_box(), page.locator(".seen").bounding_box()
    assert frame is not None
    assert seen is not None
    (height, width), resize = sees["size"], sees["resize"]
    assert seen["width"] / frame["width"] == pytest.approx(width * 100 / (resize * 400), abs=0.01)
    assert seen["height"] / frame["height"] == pytest.approx(height / resize, abs=0.03)
    middle = (seen["x"] + seen["width"] / 2) - (frame["x"] + frame["width"] / 2)
    assert abs(middle) < 1
    expect(page.get_by_text("The model sees the bright part.")).to_be_visible()


def test_what_it_looked_at_is_drawn_and_hidden_again(page: Page, slate: Path) -> None:
    page.get_by_label("Choose photos").set_input_files(slate)
    button = page.get_by_role("button", name="What did it look at?")
    button.click()
    canvas = page.locator(".seen canvas")
    expect(canvas).to_be_visible()
    expect(page.get_by_text("Yellow places speak for Slate")).to_be_visible()
    strongest = canvas.evaluate("c => Math.max(...c.getContext('2d').getImageData(0, 0, 7, 7).data)")
    assert strongest == 255
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    expect(canvas).to_be_hidden()


def test_a_doubtful_photo_is_not_called_by_a_class_alone(page: Page, slate: Path) -> None:
    card = {
        "classes": ["one_dog", "b", "c"],
        "preprocessing": {"size": [8, 8], "resize": 8},
        "unknown": {},
        "sets": {"0.9": 0.1},
    }
    said = {
        "label": "one_dog",
        "probability": 0.5,
        "top": [{"label": "one_dog", "probability": 0.5}],
        "set": ["one_dog", "c"],
    }
    asked: list[str] = []

    def reply(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(json={"card": card} if route.request.method == "GET" else said)

    page.route("**/models/*", reply)
    page.route("**/invoke?*", reply)
    page.reload()
    page.get_by_label("Choose photos").set_input_files(slate)
    expect(page.get_by_text("Unsure: one dog or c.")).to_be_visible()
    said["unknown"] = True
    page.get_by_label("Choose photos").set_input_files(slate)
    expect(page.get_by_text("It may be none of its classes")).to_be_visible()
    assert "unknown=1&coverage=0.9" in asked[-1]


def test_results_are_saved_for_a_spreadsheet_that_runs_nothing(page: Page, slate: Path, tmp_path: Path) -> None:
    odd = tmp_path / '=cmd("a"),b.jpg'
    odd.write_bytes(slate.read_bytes())
    page.get_by_label("Choose photos").set_input_files([slate, odd])
    expect(page.locator("#answers tbody tr")).to_have_count(6)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save the results as CSV").click()
    head, first, second = csv.reader(saved.value.path().read_text().splitlines())
    assert head == ["file", "label", "probability"]
    assert first[:2] == [slate.name, "Slate"]
    assert second[:2] == ["'" + odd.name, "Slate"]


def test_the_programs_of_the_page_work(page: Page, slate: Path, tmp_path: Path) -> None:
    page.get_by_text("Use it from a program").click()
    (tmp_path / "dog.jpg").write_bytes(slate.read_bytes())
    program, command = page.locator("#python").inner_text(), page.locator("#curl").inner_text()
    for call in ([sys.executable, "-c", program], ["sh", "-c", command]):
        done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert "Slate" in done.stdout, done.stderr
    page.get_by_role("button", name="Copy the curl command").click()
    expect(page.get_by_role("button", name=re.compile("Copied|Selected"))).to_be_visible()


@pytest.mark.slow
def test_users_tell_the_right_class(browser: Browser, run: Path, slate: Path, tmp_path: Path) -> None:
    server = Server(tmp_path / "server", f"model={run}", f"deploy.feedback={tmp_path}/kept")
    page = browser.new_page()
    page.goto(server.url)
    for number, choice in enumerate(("Amber", "none of them", None), 1):
        page.get_by_label("Choose photos").set_input_files(slate)
        expect(page.locator("#answers > li")).to_have_count(number)
        answer = page.locator("#answers > li").first
        if choice:
            answer.get_by_label("No, it is").press("ArrowDown")  # chooses, and saves nothing
            answer.get_by_label("No, it is").select_option(label=choice)
            answer.get_by_role("button", name="Save").click()
        else:
            answer.get_by_role("button", name="This is right").click()
        expect(answer.get_by_text("Thank you: saved as")).to_be_visible()
    page.close()
    server.stop()
    lines = [json.loads(line) for line in (tmp_path / "kept/feedback.jsonl").read_text().splitlines()]
    assert [(line["label"], line["right"]) for line in lines] == [("Slate", r) for r in ("Amber", None, "Slate")]
    files = list((tmp_path / "kept").rglob("*.jpeg"))
    assert files == [tmp_path / "kept" / lines[-1]["file"]], "the last class counts"
    assert files[0].read_bytes() == slate.read_bytes()


def test_a_photo_is_taken_with_the_camera(page: Page) -> None:
    page.get_by_role("button", name="Use the camera").click()
    page.locator("video").evaluate("v => v.videoWidth || new Promise(done => (v.onloadedmetadata = () => done(1)))")
    page.get_by_role("button", name="Take the photo").click()
    expect(page.locator("#answers tbody tr").first).to_be_visible()
    expect(page.locator("#answers h3")).to_have_text("camera.jpg")
    assert page.evaluate("document.querySelector('video').srcObject") is None, "the camera is off"
