"""Makes the pictures of README and docs from a real run: `make pictures`, in about two minutes.

It needs chromium, and the weights of ``efficientnet_lite0`` (the extra ``demo``). The photos are drawn ones.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

matplotlib.use("agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs/pictures"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BLUE, GREY, GREEN = "#00796b", "#9e9e9e", "#e0f2f1"
STEPS = [  # the flow of data: what goes in, what is done with it
    ("your photos", "folders, tables, archives"),
    ("data", "audit, splits, batches"),
    ("models", "features cached once, head"),
    ("training", "fit, checkpoints, resume"),
    ("evaluation", "scores, tables, plots"),
    ("artifact", "model.tar.gz, verified"),
    ("serving", "HTTP, batch predictions"),
]


def main() -> None:
    """Train, serve, look, draw."""
    if not CHROMIUM:
        sys.exit("pictures need chromium: apt-get install chromium")
    PICTURES.mkdir(exist_ok=True)
    flow(PICTURES / "flow.svg")
    speed(PICTURES / "speed.png")
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = Path(temporary)
        train(folder)
        run = folder / "outputs/run"
        shrink(run / "plots/worst_mistakes.png", PICTURES / "worst_mistakes.png", 1000, height=0.53)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        serving_page(browser, folder, PICTURES / "serving.png")
        tensorboard(browser, folder / "outputs", PICTURES / "tensorboard.png")
        browser.close()
    for picture in sorted(PICTURES.iterdir()):
        print(f"{picture.relative_to(ROOT)}  {picture.stat().st_size / 1000:.0f} KB")


def train(folder: Path) -> None:
    """A run of ten epochs on few drawn photos, so that there are mistakes to show."""
    given = ["data=demo", "backbone=efficientnet_lite0", "trainer.max_epochs=10", "hydra.run.dir=outputs/run"]
    subprocess.run([sys.executable, str(ROOT / "train.py"), *given], cwd=folder, check=True)


def serving_page(browser: Browser, folder: Path, path: Path) -> None:
    """The page of the server, after a photo was chosen about which the model is in doubt, and what it looked at."""
    (photo,) = (folder / "data/demo/test").glob("*/Freckled_harrier_00000.jpg")
    with started(["launch.py", "deploy=local", "deploy.port=0", "model=outputs/run"], folder) as url:
        page = browser.new_page(viewport={"width": 760, "height": 830}, device_scale_factor=1.5)
        page.goto(url)
        page.get_by_label("Choose photos").set_input_files(photo)
        page.get_by_role("button", name="What did it look at?").first.click()
        page.locator("canvas:visible").wait_for()
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=path)
        page.close()
    shrink(path, path, 1140)


def tensorboard(browser: Browser, outputs: Path, path: Path) -> None:
    """TensorBoard's curves, train and valid in one chart."""
    with started(["-m", "tensorboard.main", "--logdir", outputs.name, "--port", "0"], outputs.parent) as url:
        page = browser.new_page(viewport={"width": 1300, "height": 580})
        page.goto(f"{url}#custom_scalars")
        page.wait_for_timeout(8000)  # the charts are drawn with an animation
        page.screenshot(path=path)
        page.close()
    shrink(path, path, 1300)


@contextmanager
def started(command: list[str], folder: Path) -> Iterator[str]:
    """Run a server of ours or TensorBoard; yields its address."""
    script = [str(ROOT / command[0])] if command[0].endswith(".py") else [command[0]]
    process = subprocess.Popen(
        [sys.executable, *script, *command[1:]],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://[\w.:]+/?", line):
                yield found.group()
                return
        raise RuntimeError(f"{command[0]} did not start")
    finally:
        process.terminate()
        process.wait()


def shrink(source: Path, target: Path, width: int, height: float = 1.0) -> None:
    """Save the upper ``height`` (a share) of a picture with at most ``width`` pixels and 128 colours."""
    with Image.open(source) as image:
        picture = image.convert("RGB").crop((0, 0, image.width, round(image.height * height)))
    if picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    picture.quantize(128).save(target, optimize=True)


def flow(path: Path) -> None:
    """The way of the data, from photos to a served model."""
    figure, axes = plt.subplots(figsize=(12, 1.7))
    axes.axis("off")
    for i, (name, about) in enumerate(STEPS):
        box = {"boxstyle": "round,pad=0.5", "facecolor": GREEN if i else "white", "edgecolor": BLUE}
        axes.text(i, 0.62, name, ha="center", va="center", fontsize=12, bbox=box)
        axes.text(i, 0.1, about.replace(", ", ",\n"), ha="center", va="center", fontsize=8.5, color="#555555")
        if i:
            axes.annotate("", (i - 0.36, 0.62), (i - 0.64, 0.62), arrowprops={"arrowstyle": "->", "color": BLUE})
    axes.set(xlim=(-0.6, len(STEPS) - 0.4), ylim=(-0.2, 1))
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def speed(path: Path) -> None:
    """Seconds of the table in README, read from it, on a logarithmic scale."""
    rows = re.findall(r"^\| ([^|]+) \| ([\d.,]+) s \| ([\d.,]+) s \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    figure, axes = plt.subplots(figsize=(8, 2.6))
    for i, (name, ours, plain) in enumerate(reversed(rows)):
        seconds = [float(text.replace(",", "")) for text in (ours, plain)]
        axes.barh([i + 0.2, i - 0.2], seconds, 0.36, color=[BLUE, GREY])
        for y, value in zip((i + 0.2, i - 0.2), seconds, strict=True):
            axes.text(value * 1.05, y, f"{value:,.0f} s", va="center", fontsize=9)
        axes.text(0.9, i, name, ha="right", va="center", fontsize=9)
    axes.set(xscale="log", xlim=(1, 15000), yticks=[], xlabel="seconds (logarithmic)")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(
        [plt.Rectangle((0, 0), 1, 1, color=color) for color in (BLUE, GREY)],
        ["Sagehound", "plain script"],
        frameon=False,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=2,
        fontsize=9,
    )
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
