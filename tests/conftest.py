"""Small photos, a small backbone with weights, and the two ways in: the library's train() and the real command."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run side by side; before torch is imported

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

ROOT = Path(__file__).parent.parent

Command = Callable[..., subprocess.CompletedProcess[str]]
Compose = Callable[..., DictConfig]


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

    def composed(*overrides: str) -> DictConfig:
        import sagehound.command  # noqa: F401 - registers the schema

        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return compose("train", overrides=[*small(photos, weights), *overrides])

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
    ]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run `python train.py ...` in an empty folder, as a user would."""

    def run(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
