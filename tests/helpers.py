"""Helpers for all tests: small photos, and a server in its own process."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import urllib3
from PIL import Image

from sagehound.artifact.fresh_processes import FreshProcesses
from sagehound.config import Train
from sagehound.data import demo

ROOT = Path(__file__).parent.parent

Command = Callable[..., subprocess.CompletedProcess[str]]
Compose = Callable[..., Train]


def save_photo(path: Path, colour: tuple[int, int, int], seed: int, **options: object) -> None:
    """Save a noisy 64 x 48 photo of one colour."""
    noise = np.random.default_rng(seed).normal(0, 40, (48, 64, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(path, **options)  # type: ignore[arg-type]


COLOURS = {"001.Amber": (200, 140, 40), "002.Slate": (60, 80, 120), "003.Moss": (60, 120, 50)}


def make_photos(root: Path, **counts: int) -> Path:
    """Save a split/class/photo tree with three classes of different colours."""
    for number, (name, colour) in enumerate(COLOURS.items()):
        for split_number, (split, count) in enumerate(counts.items()):
            for i in range(count):
                save_photo(root / split / name / f"{i:03}.jpg", colour, seed=1000 * number + 100 * split_number + i)
    return root


def draw_few(root: Path) -> None:
    """Draw what data=demo would draw, with half as many photos of each class."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "HELD_OUT", demo.HELD_OUT // 2)
        patch.setattr(demo, "BREEDS", tuple(replace(breed, train=breed.train // 2) for breed in demo.BREEDS))
        demo.draw(root)


def small(photos: Path, weights: Path) -> list[str]:
    """Overrides for a run of a second, without plots, whose drawing takes half of one."""
    return [*small_all(photos, weights), "results=tables"]


def small_all(photos: Path, weights: Path) -> list[str]:
    """Overrides for a run or trial of a second, with the files that it writes by default."""
    return [
        "data=folder",
        f"data.root={photos}",
        "data.batch_size=5",
        "backbone.name=test_resnet",
        f"backbone.weights={weights}",
        "trainer.max_epochs=2",
        "trainer.accelerator=cpu",
        "artifact=false",  # verifying it takes seconds
        "report=false",  # drawing it takes one
    ]


def verify_by(patch: pytest.MonkeyPatch, *ways: str) -> None:
    """Let ``train`` verify its artifact in these ways alone: each takes a process, whose imports take seconds."""
    patch.setattr(FreshProcesses.__init__, "__defaults__", (ways,))


class Server:
    """A real server in its own process."""

    def __init__(self, folder: Path, *overrides: str, files: int | None = None, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        limited = [] if files is None else ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh"]
        self.process = subprocess.Popen(
            [*limited, sys.executable, str(ROOT / "launch.py"), "deploy=local", "deploy.port=0", *overrides],
            cwd=folder,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        match = re.search(r"https?://[\d.:]+", line)
        assert match, line + self.process.communicate()[1]
        self.url = match.group()
        self._pool = urllib3.PoolManager(maxsize=40, retries=False, timeout=60, cert_reqs="CERT_NONE")

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> urllib3.BaseHTTPResponse:
        """Send a request; _ in a header's name becomes -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._pool.request(method, self.url + path, body, headers=named)

    def invoke(self, body: bytes, content_type: str = "image/jpeg", **headers: str) -> urllib3.BaseHTTPResponse:
        """Send a body to /invocations."""
        return self.request("POST", "/invocations", body, Content_Type=content_type, **headers)

    def connect(self) -> socket.socket:
        """A connection to the server, on which nothing was sent."""
        host, _, port = self.url.rpartition("/")[2].partition(":")
        return socket.create_connection((host, int(port)), timeout=30)

    def stop(self) -> tuple[int, str]:
        """Send SIGTERM; returns the exit code and stderr."""
        self.process.terminate()
        errors = self.process.communicate(timeout=60)[1]
        return self.process.returncode, errors
