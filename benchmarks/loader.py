"""Reading photos, nothing else: our loader from files and from its caches beside ImageFolder.

python benchmarks/loader.py [--data PATH] [--rounds 3] [--larger 900]

Photos a second, each way in turn: centre crops (augment=none) and random crops, mirrored (augment=light), of the photos
as they are and of the same photos with sides 1.5 times as long, which are about as large as those of dogImages. The
plain side is ImageFolder, torchvision's transforms and a DataLoader worker a core; it hands over normalised floats,
ours bytes, which a run normalises on its device, a batch at a time.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common import Row, against, config, multiply, parser, scratch, show, training_photos

from sagehound.inference.preprocessing import Preprocessing
from sagehound.system.imports import importing
from sagehound.system.machine import tune_allocator

with importing():
    from plain import make_loader

KINDS = {"none": 2, "jpeg": 2, "memmap": 8}  # and what is promised
TO = Preprocessing((224, 224), 256, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def measure(arguments: list[str] | None = None) -> list[Row]:
    """The rows of the photos as they are, and larger."""
    p = parser(__doc__)
    p.add_argument("--larger", type=int, default=900, help="number of the larger photos")
    a = p.parse_args(arguments)
    tune_allocator()
    with scratch() as folder:
        large = multiply(a.data, folder / "large", a.larger, scale=1.5)
        return [row for data in (a.data, large) for row in in_turn(data, folder / f"cache-{data.name}", a.rounds)]


def in_turn(data: Path, cache: Path, rounds: int) -> list[Row]:
    """The rows of one folder of photos."""
    photos = sum(1 for _ in (data / "train").glob("*/*"))
    size = sum(f.stat().st_size for f in (data / "train").glob("*/*")) / photos / 1000
    workers = len(os.sched_getaffinity(0))
    rows = []
    for augment in ("none", "light"):
        ways: dict[str, Iterable[Any]] = {}
        for kind in KINDS:
            given = ("data=folder", f"data.root={data}", f"data.cache={kind}", f"cache.dir={cache}")
            ways[kind] = training_photos(config(*given, f"augment={augment}"), TO)
        ways["plain"] = make_loader(data / "train", 64, workers, train=augment == "light")
        speed: dict[str, list[float]] = {name: [] for name in ways}
        for name in ("jpeg", "memmap"):
            seconds(ways[name])  # builds the cache
        for _ in range(rounds):
            for name, way in ways.items():
                speed[name].append(photos / seconds(way))
        what = f"{'centre' if augment == 'none' else 'random'} crops of photos of {size:.0f} KB"
        for name, promised in KINDS.items():
            source = "from files" if name == "none" else f"from data.cache={name}"
            rows.append(against(f"{what} {source}", speed[name], speed["plain"], "/s", promised, more=True))
            if augment == "light":
                rows[-1].promised = "-"
    return rows


def seconds(loader: Iterable[Any]) -> float:
    """Of one pass."""
    start = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - start


if __name__ == "__main__":
    show(measure())
