"""Precision, recall and F1 of each class with intervals, and the pairs of classes that are confused most."""

from collections import Counter
from dataclasses import dataclass

from sagehound.bias.measures import Counts, Interval, ratio
from sagehound.bias.photo_rows import PhotoRows
from sagehound.evaluation.tables import wilson


@dataclass(frozen=True)
class ClassScores:
    """One class against the rest. A score without photos is None, and its interval 0 to 1."""

    name: str
    trained: int  # train photos
    counts: Counts

    @property
    def photos(self) -> int:
        """Photos of the class in the split."""
        return self.counts.tp + self.counts.fn

    @property
    def recall(self) -> float | None:
        """Share of the class's photos that are recognised."""
        return ratio(self.counts.tp, self.photos)

    @property
    def recall_interval(self) -> Interval:
        """Its 95 % interval (Wilson 1927)."""
        return wilson(self.counts.tp, self.photos)

    @property
    def precision(self) -> float | None:
        """Share of the predictions of the class that are right."""
        return ratio(self.counts.tp, self.counts.tp + self.counts.fp)

    @property
    def precision_interval(self) -> Interval:
        """Its 95 % interval (Wilson 1927)."""
        return wilson(self.counts.tp, self.counts.tp + self.counts.fp)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall."""
        return ratio(2 * self.counts.tp, 2 * self.counts.tp + self.counts.fp + self.counts.fn)

    @property
    def f1_interval(self) -> Interval:
        """Its 95 % interval.

        F1 is no share, but 2 F* / (1 + F*) of the share F* = tp / (tp + fp + fn), which grows with F1 (Hand, Christen
        and Kirielle 2021, "F*: an interpretable transformation of the F-measure", Machine Learning 110). So the bounds
        are those of Wilson's interval of F*.
        """
        low, high = wilson(self.counts.tp, self.counts.tp + self.counts.fp + self.counts.fn)
        return 2 * low / (1 + low), 2 * high / (1 + high)


@dataclass(frozen=True)
class ConfusedPair:
    """Photos of one class that are mistaken for another."""

    label: str
    prediction: str
    mistaken: int
    photos: int  # of the label

    @property
    def interval(self) -> Interval:
        """The 95 % interval of the share of the label's photos (Wilson 1927)."""
        return wilson(self.mistaken, self.photos)


def class_scores(trained: PhotoRows, tested: PhotoRows) -> list[ClassScores]:
    """The scores of every class, sorted by name."""
    number = Counter(trained.labels.tolist())
    names = sorted({*trained.classes, *tested.classes})
    return [ClassScores(n, number[n], Counts.of(tested.labels == n, tested.predictions == n)) for n in names]


def confused_pairs(tested: PhotoRows) -> list[ConfusedPair]:
    """Every pair of classes that is confused: most photos first, then the larger share of the label's photos."""
    photos = Counter(tested.labels.tolist())
    pairs = Counter(zip(tested.labels.tolist(), tested.predictions.tolist(), strict=True))
    found = [ConfusedPair(i, j, count, photos[i]) for (i, j), count in pairs.items() if i != j]
    return sorted(found, key=lambda p: (-p.mistaken, -p.mistaken / p.photos, p.label, p.prediction))
