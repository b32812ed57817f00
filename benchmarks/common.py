"""What the benchmarks share: where photos are, running commands in turn, and the table."""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra import compose, initialize_config_dir
from PIL import Image

if TYPE_CHECKING:
    from sagehound.config import Train
    from sagehound.data.loader import PhotoLoader
    from sagehound.inference.preprocessing import Preprocessing

ROOT = Path(__file__).parent.parent
SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}
SHARED = ROOT.parent / "shared" / "data"


@dataclass
class Row:
    """One claim: what was measured, beside what, and what is promised."""

    claim: str
    ours: str
    plain: str
    ratio: str
    promised: str


def parser(description: str | None) -> argparse.ArgumentParser:
    """Arguments that every benchmark takes."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, default=SHARED / "woof10", help="a folder of train, valid and test photos")
    p.add_argument(
        "--weights", default=str(SHARED / "weights/mobilenetv2_100.safetensors"), help="or pkg://PACKAGE/PATH"
    )
    p.add_argument("--backbone", default="mobilenetv2_100", help="timm's name of what --weights belong to")
    p.add_argument("--rounds", type=int, default=3)
    return p


def train(data: Path, cache: Path, folder: Path, *overrides: str) -> float:
    """Run `python train.py` on a folder of photos; returns the seconds of the whole command."""
    command = [sys.executable, str(ROOT / "train.py"), "data=folder", f"data.root={data}", *overrides]
    mode = "hydra.sweep.dir" if "-m" in overrides else "hydra.run.dir"
    environment = os.environ | {"SAGEHOUND_CACHE": str(cache)}
    start = time.perf_counter()
    done = subprocess.run(
        [*command, f"{mode}={folder}"], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return seconds


def plain(data: Path, *arguments: object) -> dict[str, Any]:
    """Run plain.py; returns its line, with the seconds of the whole command as `command`."""
    command = [sys.executable, str(ROOT / "benchmarks/plain.py"), "--data", str(data), *map(str, arguments)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"command": time.perf_counter() - start}


def metrics(folder: Path) -> dict[str, Any]:
    """metrics.json of a run."""
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder."""
    with tempfile.TemporaryDirectory(prefix="sagehound-bench-") as folder:
        yield Path(folder)


def multiply(source: Path, target: Path, photos: int, scale: float = 1.0) -> Path:
    """A tree of ``photos`` photos: those of ``source`` again and again, each time with other pixels.

    Eight tenths train, a tenth valid and a tenth test, as in dogImages.

    Args:
        source: split/class/photo.
        target: a new folder.
        photos: how many.
        scale: each side is so many times as long as in ``source``.
    """
    of_split = {s: sorted(p for p in (source / s).glob("*/*") if p.is_file()) for s in SHARES}
    files = [
        (number // len(of_split[split]), of_split[split][number % len(of_split[split])])
        for split, share in SHARES.items()
        for number in range(round(photos * share))
    ]
    rng = np.random.default_rng(0)
    for turn, file in files:
        place = target / file.parent.relative_to(source)
        place.mkdir(parents=True, exist_ok=True)
        if not turn and scale == 1:
            shutil.copy(file, place)
            continue
        with Image.open(file) as image:
            size = (round(image.width * scale), round(image.height * scale))
            pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
        coarse = rng.integers(-6, 7, (size[1] // 8 + 1, size[0] // 8 + 1, 3))
        pixels += coarse.repeat(8, 0).repeat(8, 1)[: size[1], : size[0]].astype(np.int16)
        copy = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        copy.save(place / f"{file.stem}_{turn}.jpg", quality=90)
    return target


def random_weights(backbone: str, path: Path) -> Path:
    """A file of random weights."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(timm.create_model(backbone).state_dict(), path)
    return path


def config(*overrides: str) -> "Train":
    """The config that `python train.py` would make of a command line."""
    from sagehound.config import register, typed

    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg: Train = typed(compose("train", overrides=list(overrides)))
        return cfg


def training_photos(cfg: "Train", preprocessing: "Preprocessing") -> "PhotoLoader":
    """One epoch of the train photos as a run reads them, from files or from ``data.cache``."""
    from sagehound.data.datamodule import PhotoDataModule
    from sagehound.data.loader import EpochBatches
    from sagehound.data.photos import find_photos

    found = find_photos(cfg.data, Path(cfg.cache.dir))
    photos = found.split("train")
    batches = EpochBatches(len(photos), cfg.data.batch_size, 0, lambda: (0, 0), 0, 1)
    return PhotoDataModule.of(found, preprocessing, cfg.data, cfg.augment, cfg.cache).augmented(photos, batches)


def median(values: list[float]) -> float:
    """The median."""
    return statistics.median(values)


def against(
    claim: str, ours: list[float], plain: list[float], unit: str, promised: float, *, more: bool = False
) -> Row:
    """A row from values measured in turn: their medians, and the ratio of these."""
    a, b = median(ours), median(plain)
    ratio = a / b if more else b / a
    return Row(claim, f"{a:,.1f} {unit}", f"{b:,.1f} {unit}", f"{ratio:.1f} x", f"{promised:g} x")


def show(rows: list[Row]) -> None:
    """Print the table as Markdown, with the machine."""
    print(f"\n{machine()}\n")
    print("| claim | Sagehound | plain | ratio | promised |\n|---|---|---|---|---|")
    for r in rows:
        print(f"| {r.claim} | {r.ours} | {r.plain} | {r.ratio} | {r.promised} |")
    sys.stdout.flush()


def machine() -> str:
    """Date, processor, GPU, and versions."""
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    bf16 = "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "no bf16"
    cores = len(os.sched_getaffinity(0))
    return f"{time.strftime('%Y-%m-%d')}, {cores} x {model} ({bf16}), {gpu}, torch {torch.__version__}"
