"""The page in a real browser: Debian's chromium, without a window."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
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
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"


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
    for target in (page.locator("#drop"), page.locator("summary")):
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
    pairs = [(style(s, "color"), paper) for s in ("body", "dt", "caption", "#status", "a", "h3")]
    pairs.append((style("td", "color"), style(".bar", "backgroundColor")))
    for a, b in pairs:
        assert (max(a, b) + 0.05) / (min(a, b) + 0.05) >= 4.5
    page.close()


def test_the_description_works_without_any_other_address(browser: Browser, server: Server) -> None:
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.url + "/docs")
    expect(page.get_by_text("/invocations").first).to_be_visible()
    assert [url for url in asked if not url.startswith((server.url, "data:"))] == []
    page.close()
