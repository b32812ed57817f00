"""Small photos, a small backbone with weights, and the two ways in: the library's train() and the real command."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run side by side; before torch is imported

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import urllib3
from hydra import compose, initialize_config_dir
from PIL import Image

from sagehound.config import Train, register, typed
from sagehound.files import locked

ROOT = Path(__file__).parent.parent

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and what they start, ignore it

Command = Callable[..., subprocess.CompletedProcess[str]]
Compose = Callable[..., Train]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGEHOUND_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photos and weights, if this machine has one."""
    folder = os.environ.get("SAGEHOUND_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no real photos: set SAGEHOUND_TEST_DATA to a folder with woof10, odd and weights in it")
    return Path(folder)


def save_photo(path: Path, colour: tuple[int, int, int], seed: int, **options: object) -> None:
    """A noisy 64 x 48 photo of one colour."""
    noise = np.random.default_rng(seed).normal(0, 40, (48, 64, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(path, **options)  # type: ignore[arg-type]


COLOURS = {"001.Amber": (200, 140, 40), "002.Slate": (60, 80, 120), "003.Moss": (60, 120, 50)}


def make_photos(root: Path, **counts: int) -> Path:
    """A split/class/photo tree of three classes that are easy to tell apart."""
    for number, (name, colour) in enumerate(COLOURS.items()):
        for split_number, (split, count) in enumerate(counts.items()):
            for i in range(count):
                save_photo(root / split / name / f"{i:03}.jpg", colour, seed=1000 * number + 100 * split_number + i)
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A fresh tree: 3 classes of 8 train, 3 valid and 4 test photos."""
    return make_photos(tmp_path / "photos", train=8, valid=3, test=4)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of timm's smallest resnet, as a file."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=7).state_dict(), path)
    return path


@pytest.fixture
def config(photos: Path, weights: Path) -> Compose:
    """Compose the real config for a run of seconds; overrides may change anything."""

    def composed(*overrides: str) -> Train:
        register()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config: Train = typed(compose("train", overrides=[*small(photos, weights), *overrides]))
            return config

    return composed


def small(photos: Path, weights: Path) -> list[str]:
    """Overrides for a run of seconds."""
    return [
        "data=folder",
        f"data.root={photos}",
        "data.batch_size=5",
        "backbone.name=test_resnet",
        f"backbone.weights={weights}",
        "trainer.max_epochs=2",
        "trainer.accelerator=cpu",
        "artifact=false",  # whose proof takes two fresh processes some seconds
    ]


@pytest.fixture(scope="session")
def run(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the real command, with its model.tar.gz; made once for all workers of a test session."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "run"
    with locked(folder.with_suffix(".lock")):
        if not (folder / "model.tar.gz").exists():
            photos = make_photos(folder.with_name("run-photos"), train=8, valid=3, test=4)
            given = [
                *small(photos, weights),
                "artifact=true",
                "finetune=full",
                "optimizer.lr=0.01",
                "trainer.max_epochs=4",
            ]
            environment = os.environ | {"SAGEHOUND_CACHE": str(folder.with_name("run-cache"))}
            subprocess.run(
                [sys.executable, str(ROOT / "train.py"), *given, f"hydra.run.dir={folder}"],
                env=environment,
                check=True,
                stdout=subprocess.DEVNULL,
            )
    return folder


@pytest.fixture(scope="session")
def run_photos(run: Path) -> Path:
    """The photos of ``run``: 3 classes of 8 train, 3 valid and 4 test photos."""
    return run.with_name("run-photos")


class Server:
    """A real server in a process of its own."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "launch.py"), "deploy=local", "deploy.port=0", *overrides],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://[\d.:]+", line)
        assert found, line + self.process.communicate()[1]
        self.url = found.group()
        self._pool = urllib3.PoolManager(maxsize=40, retries=False, timeout=60)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> urllib3.BaseHTTPResponse:
        """Send a request; a header's _ stands for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._pool.request(method, self.url + path, body, headers=named)

    def invoke(self, body: bytes, content_type: str = "image/jpeg", **headers: str) -> urllib3.BaseHTTPResponse:
        """Send a body to /invocations."""
        return self.ask("POST", "/invocations", body, Content_Type=content_type, **headers)

    def stop(self) -> tuple[int, str]:
        """SIGTERM; returns the exit code and what was printed to stderr."""
        self.process.terminate()
        errors = self.process.communicate(timeout=60)[1]
        return self.process.returncode, errors


@pytest.fixture(scope="session")
def server(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the model of ``run``."""
    started = Server(tmp_path_factory.mktemp("server"), f"model={run}")
    yield started
    code, errors = started.stop()
    assert (code, errors) == (143, ""), "it lived to the end and failed nowhere"


@pytest.fixture(scope="session")
def photo(run_photos: Path) -> bytes:
    """A test photo's file."""
    return next(iter(sorted((run_photos / "test/002.Slate").iterdir()))).read_bytes()


@pytest.fixture
def launch(tmp_path: Path) -> Command:
    """Run `python launch.py ...` in an empty folder, as a user would."""
    return lambda *arguments, timeout=300: _python("launch.py", tmp_path, arguments, timeout)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run `python train.py ...` in an empty folder, as a user would."""

    return lambda *arguments, timeout=300: _python("train.py", tmp_path, arguments, timeout)


def _python(script: str, folder: Path, arguments: tuple[str, ...], timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
