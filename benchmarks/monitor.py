"""How often changed photos are found by monitor=local, and how often unchanged ones raise a false alarm.

python benchmarks/monitor.py [--data PATH] [--weights FILE] [--windows N] [--resplits N]

Trains two heads: on all breeds, and on the first half of them. Windows are drawn at random from held-out photos, each
photo once. Different windows share photos. Re-splits divide all valid and test photos, which the model was not trained
on, into a new baseline and a window.
"""

import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from common import ROOT, machine, parser, scratch, train
from PIL import Image, ImageEnhance, ImageFilter

from sagehound.artifact.archive import opened
from sagehound.inference.decode import read_photo
from sagehound.monitoring import drift
from sagehound.monitoring.baseline import Baseline
from sagehound.monitoring.feature_network import FeatureNetwork
from sagehound.monitoring.photo_sources import Arrived
from sagehound.monitoring.sample import MEASURES, Sample, sample_of
from sagehound.monitoring.window import take

Change = Callable[[Image.Image], Image.Image]

LARGE: dict[str, Change] = {
    "half the brightness": lambda i: ImageEnhance.Brightness(i).enhance(0.5),
    "Gaussian blur, 2 pixels": lambda i: i.filter(ImageFilter.GaussianBlur(2)),
}
SMALL: dict[str, Change] = {
    "0.8 of the brightness": lambda i: ImageEnhance.Brightness(i).enhance(0.8),
    "Gaussian blur, 1 pixel": lambda i: i.filter(ImageFilter.GaussianBlur(1)),
    "half the size": lambda i: i.resize((i.width // 2, i.height // 2)),
    "only encoded again": lambda i: i,
}


def encoded(path: Path, change: Change) -> bytes:
    """A photo's file after a change."""
    content = io.BytesIO()
    change(read_photo(path)).save(content, "JPEG", quality=95)
    return content.getvalue()


def files(root: Path, splits: Sequence[str]) -> list[Path]:
    """The photos of some splits, in order."""
    return sorted(file for split in splits for file in (root / split).glob("*/*") if file.is_file())


def half(data: Path, folder: Path) -> list[str]:
    """Link the first half of the classes into ``folder``; returns the names of the other classes."""
    names = sorted(d.name for d in (data / "train").iterdir())
    for split in ("train", "valid", "test"):
        (folder / split).mkdir(parents=True)
        for name in names[: len(names) // 2]:
            (folder / split / name).symlink_to(data / split / name)
    return names[len(names) // 2 :]


def measured(model: Path, photos: Sequence[tuple[str, bytes]]) -> tuple[Baseline, Sample, list[str]]:
    """The baseline of a model, the numbers of some photos as the command measures them, and the classes."""
    with opened(model) as folder:
        network, baseline = FeatureNetwork(folder), Baseline.read(folder)
        taken = take(network, [Arrived(*one) for one in photos], len(photos))
    features = baseline.project(taken.features)
    sample = sample_of(features, taken.probabilities, [photo.measures for photo in taken.photos])
    return baseline, sample, network.card.classes


def count(baseline: Baseline, photos: Sample, classes: list[str], size: int, windows: int) -> tuple[int, Counter[str]]:
    """The number of windows with drift, and the properties that changed in them."""
    found, properties = 0, Counter[str]()
    for number in range(windows):
        window = part(photos, np.random.default_rng([size, number]).permutation(len(photos))[:size])
        changed = [one.name for one in drift.compare(baseline, window, classes) if one.drift]
        found += bool(changed)
        properties.update(changed)
    return found, properties


def several(what: str, baseline: Baseline, photos: Sample, classes: list[str], windows: int) -> None:
    """Print a line of the table for windows of several sizes."""
    for size in sorted({min(size, len(photos)) for size in (25, 50, 100, 200)}):
        once = 1 if size == len(photos) else windows  # all photos are one window
        found, properties = count(baseline, photos, classes, size, once)
        named = ", ".join(f"{name} {n}" for name, n in properties.most_common()) or "-"
        print(f"| {what} | {size} | {found} of {once} | {named} |", flush=True)


def changes(model: Path, photos: Sequence[Path], those: dict[str, Change], windows: int) -> None:
    """Print the lines of changed photos."""
    for what, change in those.items():
        several(what, *measured(model, [(file.name, encoded(file, change)) for file in photos]), windows)


def resplits(baseline: Baseline, photos: Sample, classes: list[str], rounds: int) -> Counter[str]:
    """How often each property raises a false alarm (``any``: at least one) if baseline and window are one set."""
    alarms = Counter[str]()
    for number in range(rounds):
        order = np.random.default_rng(number).permutation(len(photos))
        a, b = order[: len(order) // 2], order[len(order) // 2 :]
        known = Baseline(part(photos, a), baseline.projection, baseline.scale, {})
        changed = [c.name for c in drift.compare(known, part(photos, b), classes, seed=number) if c.drift]
        alarms.update(changed + ["any"] * bool(changed))
    return alarms


def part(sample: Sample, rows: np.ndarray) -> Sample:  # type: ignore[type-arg]
    """Some photos of a sample."""
    measures = {name: sample.measures[name][rows] for name in MEASURES}
    return Sample(sample.features[rows], sample.predicted[rows], measures)


def main() -> None:
    """Train, and print the tables."""
    arguments = parser(__doc__)
    arguments.add_argument("--windows", type=int, default=20)
    arguments.add_argument("--resplits", type=int, default=100)
    a = arguments.parse_args()
    data = a.data if a.data.is_absolute() else ROOT / a.data
    with scratch() as folder:
        given = [f"backbone.name={a.backbone}", f"backbone.weights={a.weights}", "finetune=head", "report=false"]
        others = half(data, folder / "half")
        for root, run in ((data, "all"), (folder / "half", "five")):
            train(root, folder / "cache", folder / run, *given, "trainer.max_epochs=10")
        print(f"\n{machine()}\n\n| photos | window | drift | properties that changed |\n|---|---|---|---|")
        test = files(data, ["test"])
        clean = [(file.name, file.read_bytes()) for file in test]
        whole = measured(folder / "all", clean)
        several("test photos, unchanged", *whole, a.windows)
        changes(folder / "all", test, LARGE, a.windows)
        strange = [f for f in files(data, ["train", "valid", "test"]) if f.parent.name in others]
        photos = [(str(file), file.read_bytes()) for file in strange]
        several("breeds that are no classes", *measured(folder / "five", photos), a.windows)
        held_out = [(str(file), file.read_bytes()) for file in files(data, ["valid", "test"])]
        alarms = resplits(*measured(folder / "all", held_out), a.resplits)
        print(f"re-splits of {len(held_out)} valid and test photos: {a.resplits}, false alarms: {dict(alarms)}")
        changes(folder / "all", test, SMALL, a.windows)
        several("unchanged, five times as many windows", *whole, 5 * a.windows)


if __name__ == "__main__":
    main()
