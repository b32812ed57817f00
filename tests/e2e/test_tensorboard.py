"""`tensorboard --logdir` on real runs, through its HTTP API and in Chromium."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import urllib3
from helpers import Command, small_all
from PIL import Image
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.slow

STATUSES = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]


class Board:
    """The HTTP API of a TensorBoard process."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **query: object) -> urllib3.BaseHTTPResponse:
        response = urllib3.request("GET", f"{self.url}data/{path}", fields=query)
        assert response.status == 200, path
        return response

    def hparams(self, route: str, **body: object) -> Any:  # noqa: ANN401
        response = urllib3.request(
            "POST", f"{self.url}data/plugin/hparams/{route}", json={"experimentName": "", **body}
        )
        assert response.status == 200, route
        return response.json()

    def columns(self) -> list[tuple[str, bool]]:
        """The columns of HParams in order, and whether the runs differ in each."""
        return [(info["name"], info["differs"]) for info in self.hparams("experiment")["hparamInfos"]]

    def rows(self) -> list[dict[str, Any]]:
        query = {"allowedStatuses": STATUSES, "colParams": [], "startIndex": 0, "sliceSize": 100}
        return [group["hparams"] for group in self.hparams("session_groups", **query)["sessionGroups"]]


@contextmanager
def started(folder: Path) -> Iterator[Board]:
    command = [str(Path(sys.executable).with_name("tensorboard")), "--logdir", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line)
                if match := re.search(r"TensorBoard .* at (http://\S+/)", line):
                    yield Board(match.group(1))
                    return
            raise AssertionError("".join(lines))
        finally:
            process.terminate()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1400, "height": 900})
    opened.set_default_timeout(60_000)
    yield opened
    opened.close()


def test_one_run(command: Command, photos: Path, weights: Path, tmp_path: Path, page: Page) -> None:
    done = command(*small_all(photos, weights), "profiler=local", "optimizer.lr=0.01")
    assert done.returncode == 0, done.stderr
    with started(tmp_path / "outputs") as board:
        (run,) = board.get("runs").json()
        folder = tmp_path / "outputs" / run
        tags = board.get("plugin/scalars/tags").json()[run]
        scores = {"train/loss", "train/top1", "valid/loss", "valid/top1", "valid/macro_f1"}
        assert set(tags) <= scores | {"train/loss_step", "epoch"}
        for tag in tags:
            points = board.get("plugin/scalars/scalars", tag=tag, run=run).json()
            assert len(points) >= 2, f"{tag} has several points"
        (category,) = board.get("plugin/custom_scalars/layout").json()["category"]
        charts = {chart["title"]: chart["multiline"]["tag"] for chart in category["chart"]}
        drawn = {
            title: sorted(
                name
                for tag in patterns
                for name in board.get("plugin/custom_scalars/scalars", tag=tag, run=run).json()["tag_to_events"]
            )
            for title, patterns in charts.items()
        }
        assert drawn == {
            "loss": ["train/loss", "valid/loss"],
            "top-1": ["train/top1", "valid/top1"],
            "macro F1": ["valid/macro_f1"],
        }
        images = board.get("plugin/images/tags").json()[run]
        figures = {"curves", "confusion", "accuracy_by_class_size", "worst_mistakes", "reliability"}
        assert set(images) == figures
        for name in images:
            (image,) = board.get("plugin/images/images", tag=name, run=run, sample=0).json()
            shown = Image.open(BytesIO(board.get(f"plugin/images/individualImage?{image['query']}").data))
            assert shown.size == Image.open(folder.parent / "plots" / f"{name}.png").size, "not decimated"
        assert "profile/text_summary" in board.get("plugin/text/tags").json()[run]
        (text,) = board.get("plugin/text/text", tag="profile/text_summary", run=run).json()
        assert "profile/step_ms/forward" in text["text"]
        scores = json.loads((folder.parent / "metrics.json").read_text())
        (row,) = board.rows()
        assert row["test.top1"] == scores["test"]["top1"]
        assert row["optimizer.lr"] == 0.01
        assert row["head.hidden"] == "[]"
        name, _ = board.columns()[0]
        assert row[name].endswith("optimizer.lr=0.01"), "the overrides of a single run come first"

        page.goto(board.url + "#custom_scalars")
        expect(page.get_by_text("Matches (2)")).to_have_count(2)
        page.goto(board.url + "#hparams")
        page.reload()
        expect(page.get_by_text("overrides").first).to_be_visible()


def test_a_sweep(command: Command, photos: Path, weights: Path, tmp_path: Path, page: Page) -> None:
    done = command(*small_all(photos, weights), "-m", "optimizer.lr=0.001,0.01")
    assert done.returncode == 0, done.stderr
    with started(tmp_path / "multirun") as board:
        assert len(board.get("runs").json()) == 2
        columns = board.columns()
        assert columns[0] == ("optimizer.lr", True), "swept keys come first"
        scores = {f"{split}.{name}" for split in ("valid", "test") for name in ("loss", "top1", "macro_f1")}
        assert {name for name, differs in columns if differs} <= {"optimizer.lr", *scores}, "then the scores"
        assert sorted(row["optimizer.lr"] for row in board.rows()) == [0.001, 0.01]
        page.goto(board.url + "#hparams")
        header = page.get_by_text("optimizer.lr", exact=True)
        expect(header.first).to_be_visible()
        expect(page.get_by_text("valid.loss", exact=True).first).to_be_visible()
