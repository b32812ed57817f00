"""Compares two models on the photos that both predicted: the difference of their accuracies, in all and by class."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sagehound.errors import InputError
from sagehound.evaluation.mcnemar import mcnemar
from sagehound.evaluation.significance import holm
from sagehound.evaluation.tables import wilson

Rows = Sequence[Mapping[str, str]]  # of predictions.csv


@dataclass(frozen=True)
class Difference:
    """Two models' accuracies on the same photos.

    Attributes:
        photos: how many.
        right: photos that each model predicts correctly.
        only: photos that only this model predicts correctly.
        p: of McNemar's exact test.
    """

    photos: int
    right: tuple[int, int]
    only: tuple[int, int]
    p: float

    @property
    def accuracies(self) -> tuple[float, float]:
        """The share of right predictions of each model."""
        return self.right[0] / self.photos, self.right[1] / self.photos

    @property
    def difference(self) -> float:
        """The second model's accuracy minus the first one's."""
        return (self.only[1] - self.only[0]) / self.photos

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference.

        Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired data",
        Statistics in Medicine 17 (1998), method 10.
        """
        first, second = self.accuracies
        (low1, high1), (low2, high2) = (wilson(right, self.photos) for right in self.right)
        phi = self._correlation()

        def distance(a: float, b: float) -> float:
            return math.sqrt(max(a * a - 2 * phi * a * b + b * b, 0))

        below = distance(second - low2, high1 - first)
        above = distance(high2 - second, first - low1)
        return self.difference - below, self.difference + above

    def _correlation(self) -> float:
        """Pearson's correlation of right predictions, if positive reduced for continuity as in method 10."""
        both = self.right[0] - self.only[0]
        neither = self.photos - both - sum(self.only)
        margins = math.prod([*self.right, *(self.photos - right for right in self.right)])
        if not margins:
            return 0.0
        cross = both * neither - self.only[0] * self.only[1]
        return (max(cross - self.photos / 2, 0) if cross > 0 else cross) / math.sqrt(margins)


def compare(a: Rows, b: Rows) -> Difference:
    """Compare two models.

    Args:
        a: rows with file, label and prediction, each photo once.
        b: those of the other model.

    Raises:
        InputError: they are not the same photos with the same labels, or there are none.
    """
    photos, only_a, only_b, p = mcnemar(a, b)
    if not photos or not len(a) == len(b) == photos:
        raise InputError(f"the runs have different photos or labels: {len(a)} and {len(b)} photos, {photos} in common")
    right = sum(row["prediction"] == row["label"] for row in a)
    return Difference(photos, (right, right - only_a + only_b), (only_a, only_b), p)


def by_class(a: Rows, b: Rows) -> dict[str, tuple[Difference, float]]:
    """The difference for the photos of each class, and its p value adjusted for several classes (Holm 1979).

    The rows are those of ``compare``, which checks them.
    """
    first, second = _by_label(a), _by_label(b)
    differences = {name: compare(rows, second[name]) for name, rows in first.items()}
    adjusted = holm([d.p for d in differences.values()])
    return {name: (d, p) for (name, d), p in zip(differences.items(), adjusted, strict=True)}


def _by_label(rows: Rows) -> dict[str, list[Mapping[str, str]]]:
    of_label: dict[str, list[Mapping[str, str]]] = {}
    for row in rows:
        of_label.setdefault(row["label"], []).append(row)
    return dict(sorted(of_label.items()))
