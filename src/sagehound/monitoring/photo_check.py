"""Compares photos with a model's baseline, and writes monitor.json, monitor.csv and monitor.html."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sagehound.artifact.archive import opened
from sagehound.errors import InputError
from sagehound.monitoring import baseline as baselines
from sagehound.monitoring import drift, drift_page
from sagehound.monitoring.baseline import Baseline
from sagehound.monitoring.drift import Comparison, Distances
from sagehound.monitoring.feature_network import FeatureNetwork
from sagehound.monitoring.photo_sources import Arrived, of_folder
from sagehound.monitoring.sample import sample_of
from sagehound.monitoring.window import Window, take
from sagehound.storage.atomic import write_csv, write_json, write_text

JSON, TABLE, PAGE = "monitor.json", "monitor.csv", "monitor.html"
_COLUMNS = [
    *("photo", "time", "prediction", "probability", "brightness", "contrast", "sharpness", "width", "height"),
    *("distance", "farther_than", "error"),
]


@dataclass(frozen=True)
class DriftCheck:
    """The result of a comparison.

    Attributes:
        baseline: of the model, or made from a folder.
        window: the photos that were compared.
        classes: of the model.
        comparisons: one for each property.
        distances: of the photos of both.
        alpha: the probability of a false alarm, of all tests together.
    """

    baseline: Baseline
    window: Window
    classes: list[str]
    comparisons: list[Comparison]
    distances: Distances
    alpha: float

    @property
    def changes(self) -> list[str]:
        """What has changed, in words; empty without drift."""
        return [one.text for one in self.comparisons if one.drift]

    @property
    def too_few(self) -> str:
        """A sentence if one of the samples is small; empty otherwise."""
        sizes = {"the baseline": len(self.baseline.sample), "the window": len(self.window.photos)}
        few = [f"{where} has {photos} photos" for where, photos in sizes.items() if photos < drift.FEW]
        return f"{' and '.join(few)}: only large changes are found" if few else ""

    def write(self, folder: Path) -> None:
        """Write monitor.json, monitor.csv and monitor.html.

        Raises:
            SagehoundError: the disk is full.
        """
        write_csv(folder / TABLE, _COLUMNS, self._rows())
        write_text(folder / PAGE, drift_page.page(self))
        write_json(folder / JSON, self._summary())

    def _summary(self) -> dict[str, Any]:
        window = self.window
        return {
            "drift": bool(self.changes),
            "changes": self.changes,
            "alpha": self.alpha,
            "photos": {
                "window": len(window.photos),
                "baseline": len(self.baseline.sample),
                "unreadable": len(window.unreadable),
                "repeated": window.repeated,
            },
            "baseline": self.baseline.about,
            "tests": [asdict(one) for one in self.comparisons],
        }

    def _rows(self) -> list[list[Any]]:
        window, apart = self.window, self.distances
        rows: list[list[Any]] = []
        for photo, p, distance, share in zip(
            window.photos, window.probabilities, apart.window, apart.share_below, strict=True
        ):
            m = photo.measures
            numbers = [f"{m.brightness:.4f}", f"{m.contrast:.4f}", f"{m.sharpness:.4f}", m.width, m.height]
            best = [self.classes[int(p.argmax())], f"{p.max():.6f}"]
            rows.append([photo.name, photo.time, *best, *numbers, f"{distance:.4f}", f"{share:.4f}", ""])
        empty = [""] * (len(_COLUMNS) - 3)
        return rows + [[one.name, one.time, *empty, reason] for one, reason in window.unreadable]


def check_photos(
    model: str | Path,
    photos: Iterable[Arrived],
    *,
    most: int = 200,
    alpha: float = 0.01,
    seed: int = 0,
    baseline: Path | None = None,
) -> DriftCheck:
    """Compare photos with those of a model's training.

    Args:
        model: a run, a model.tar.gz or an unpacked one.
        photos: of ``photo_sources``.
        most: the first so many different photos are compared.
        alpha: probability of a false alarm, of all tests together.
        seed: of the permutations and of the baseline's photos.
        baseline: a folder of photos; None: the model's own baseline, photos of the training's valid split.

    Raises:
        InputError: there is no such model, it has no baseline, or fewer than two photos can be read.
    """
    with opened(model) as folder:
        network = FeatureNetwork(folder)
        known = Baseline.read(folder) if baseline is None else of_photos(network, baseline, seed)
    if known.projection.signs.shape[0] != network.features or known.sample.predicted.max() >= len(network.card.classes):
        raise InputError(f"the model's {baselines.NAME} belongs to another model; {baselines.HINT}")
    window = take(network, photos, most)
    sample = sample_of(known.project(window.features), window.probabilities, [p.measures for p in window.photos])
    comparisons = drift.compare(known, sample, network.card.classes, alpha, seed)
    return DriftCheck(known, window, network.card.classes, comparisons, drift.distances(known, sample), alpha)


def of_photos(network: FeatureNetwork, folder: Path, seed: int = 0) -> Baseline:
    """A baseline of photos in a folder, at random.

    Raises:
        InputError: fewer than two can be read.
    """
    taken = take(network, of_folder(folder, seed, "monitor.baseline"), baselines.MOST)
    measures = [photo.measures for photo in taken.photos]
    sample = partial(sample_of, probabilities=taken.probabilities, photos=measures)
    return baselines.make(taken.features, sample, {"folder": str(folder), "photos": len(measures)})
