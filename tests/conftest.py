"""Fixtures: small photos, weights of a small backbone, a composed config, a finished run, and the real commands."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run in parallel; set before torch is imported

import gc
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import forked
import pytest
from helpers import ROOT, Command, Compose, Server, make_photos, small, small_all
from hydra import compose, initialize_config_dir

from sagehound.config import Train, is_registered, register, registered, typed
from sagehound.storage.atomic import locked

if TYPE_CHECKING:
    from playwright.sync_api import Browser

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it


LONG = (
    "test_notebooks.py",
    "test_guides.py",
    "test_sdks.py",
    "test_workflow.py",
    "test_pipeline_export.py",
)  # tests of a minute each


def pytest_collection_finish() -> None:
    """Exclude what the imports have created from garbage collection, which takes 7 % of the tests' time otherwise."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest tests come first, so that all workers end together, and the modules that need ``run`` last.

    One worker trains that run meanwhile, and few wait for it.
    """
    needed = {item.path for item in items if "run" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: (item.path in needed, item.path.name not in LONG))


@pytest.fixture(autouse=True)
def _isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own, and the schema of train.py, whatever the last test registered."""
    if not is_registered() or registered() is not Train:
        register()
    forked.begin_test()
    monkeypatch.setenv("SAGEHOUND_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photos and weights, if this machine has one."""
    folder = os.environ.get("SAGEHOUND_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no real photos: set SAGEHOUND_TEST_DATA to a folder with woof10, odd and weights in it")
    return Path(folder)


FAKE_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Chromium, without a window."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not program:
        pytest.skip("no chromium: apt-get install chromium")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=30_000)  # ms; a machine may be busy
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", *FAKE_CAMERA])
        yield started
        started.close()


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
    """Compose the real config for a run that takes seconds; overrides may change any key."""

    def composed(*overrides: str) -> Train:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config: Train = typed(compose("train", overrides=[*small(photos, weights), *overrides]))
            return config

    return composed


@pytest.fixture(scope="session")
def run(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the real command with its model.tar.gz; trained once for all workers of a test session."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "run"
    with locked(folder.with_suffix(".lock")):
        if not (folder / "model.tar.gz").exists():
            photos = make_photos(folder.with_name("run-photos"), train=8, valid=3, test=4)
            overrides = [
                *small_all(photos, weights),
                "artifact=true",
                "finetune=full",
                "finetune.start=random",
                "optimizer.lr=0.01",
                "trainer.max_epochs=4",
            ]
            environment = os.environ | {"SAGEHOUND_CACHE": str(folder.with_name("run-cache"))}
            subprocess.run(
                [sys.executable, str(ROOT / "train.py"), *overrides, f"hydra.run.dir={folder}"],
                env=environment,
                check=True,
                stdout=subprocess.DEVNULL,
            )
    return folder


@pytest.fixture(scope="session")
def run_photos(run: Path) -> Path:
    """The photos of ``run``: 3 classes of 8 train, 3 valid and 4 test photos."""
    return run.with_name("run-photos")


@pytest.fixture(scope="session")
def server(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the model of ``run``."""
    started = Server(tmp_path_factory.mktemp("server"), f"model={run}")
    yield started
    code, errors = started.stop()
    assert (code, errors) == (143, ""), "it ran until the end without errors"


@pytest.fixture(scope="session")
def photo(run_photos: Path) -> bytes:
    """A test photo's file."""
    return next(iter(sorted((run_photos / "test/002.Slate").iterdir()))).read_bytes()


@pytest.fixture
def launch(tmp_path: Path) -> Command:
    """Run `python launch.py ...` in an empty folder, as a user would."""
    return lambda *arguments, timeout=300: forked.run(ROOT / "launch.py", tmp_path, arguments, timeout)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run `python train.py ...` in an empty folder, as a user would."""

    return lambda *arguments, timeout=300: forked.run(ROOT / "train.py", tmp_path, arguments, timeout)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The script `sagehound` as an installer writes it."""
    path = tmp_path / "bin/sagehound"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\nfrom sagehound.cli.main import main\nmain()\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def sagehound(program: Path, tmp_path: Path) -> Command:
    """Run `sagehound ...` in an empty folder, as a user would."""
    return lambda *arguments, timeout=300: forked.run(program, tmp_path, arguments, timeout)
