"""Predictions, and the tables that are made from them. Imports no torch."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sagehound.data.folders import SPLITS, Photo
from sagehound.storage.atomic import write_csv

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

# one entry an epoch, in order: epoch (from 1), train_loss, train_top1, valid_loss, valid_top1, ... (history.COLUMNS)
Epochs = list[dict[str, float]]

_Z95 = 1.959963984540054  # the normal distribution's 97.5 % quantile


@dataclass(frozen=True)
class Predictions:
    """The model's predictions for the photos of one split."""

    photos: list[Photo]
    labels: Labels  # b
    logits: Floats  # b x c, as the model computes them
    temperature: float = 1.0  # see calibration.fit_temperature
    unknown: Floats | None = None  # b, the scores of ``inference.network.Unknown``; None for train photos

    @property
    def probabilities(self) -> Floats:
        """Softmax of the logits divided by the temperature, b x c."""
        return np.asarray(softmax(self.logits / np.float32(self.temperature)), np.float32)

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """The most probable class of each photo, b."""
        return np.asarray(self.logits.argmax(1))

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether each prediction is the label, b."""
        return np.asarray(self.predicted == self.labels)


def softmax(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Softmax of each row, b x c."""
    e = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


def describe_weights(alpha: float, epoch: int) -> str:
    """The weights of a fine-tuned model in words.

    Args:
        alpha: share of the fine-tuned weights; the rest are those of the solved head at the start.
        epoch: of the fine-tuned weights.
    """
    if alpha in (0, 1):
        return f"epoch {epoch}" if alpha else "the solved head"
    return f"{alpha:.0%} of the way from the solved head to epoch {epoch}"


def write_predictions(path: Path, classes: list[str], predictions: dict[str, Predictions]) -> None:
    """Write predictions.csv: file, split, label, prediction, probability, top5 (class:probability)."""
    rows = []
    for p in predictions.values():
        probabilities = p.probabilities
        top = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
        for photo, row, best in zip(p.photos, probabilities, top, strict=True):
            top5 = ";".join(f"{classes[i]}:{row[i]:.4f}" for i in best)
            rows.append([photo.file, photo.split, photo.label, classes[best[0]], f"{row[best[0]]:.6f}", top5])
    write_csv(path, ["file", "split", "label", "prediction", "probability", "top5"], rows)


@dataclass(frozen=True)
class ClassScore:
    """The scores of one class on the test photos."""

    name: str
    counts: dict[str, int]  # photos in train, valid and test
    correct: int  # test photos that were predicted correctly
    predicted: int  # test photos of any class that were predicted as this class

    @property
    def accuracy(self) -> float | None:
        """Share of the class's test photos that were predicted correctly (recall); None without test photos."""
        return self.correct / self.counts["test"] if self.counts["test"] else None

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy."""
        return wilson(self.correct, self.counts["test"])

    @property
    def precision(self) -> float | None:
        """Share of the predictions of this class that are correct; None without predictions."""
        return self.correct / self.predicted if self.predicted else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None without photos and predictions."""
        total = self.counts["test"] + self.predicted
        return 2 * self.correct / total if total else None


def wilson(successes: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of ``n`` independent trials: the score interval of Wilson (1927), between 0 and 1.

    Without a trial: (0, 1).
    """
    if not n:
        return 0.0, 1.0
    share, z2 = successes / n, _Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # the formula gives exactly 0 and 1 at the ends, floating point does not
    return 0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half


def describe_interval(interval: Sequence[float]) -> str:
    """An interval of shares as text, in percent: 84.9 to 94.4."""
    low, high = interval
    return f"{100 * low:.1f} to {100 * high:.1f}"


def per_class(classes: list[str], predictions: dict[str, Predictions]) -> list[ClassScore]:
    """The score of every class, in the order of the model's outputs."""
    counts = {split: Counter(predictions[split].labels.tolist()) for split in SPLITS}
    correct = Counter(predictions["test"].labels[predictions["test"].correct].tolist())
    predicted = Counter(predictions["test"].predicted.tolist())
    return [
        ClassScore(name, {s: counts[s][i] for s in SPLITS}, correct[i], predicted[i]) for i, name in enumerate(classes)
    ]


def write_per_class(path: Path, scores: list[ClassScore]) -> None:
    """Write per_class.csv: the scores of each class on the test photos; a share of no photos is empty.

    Columns: class, train, valid, test, correct, accuracy, its 95 % interval (low, high), precision, recall, f1.
    """
    rows = []
    for s in scores:
        interval = s.interval if s.counts["test"] else (None, None)
        shares = [s.accuracy, *interval, s.precision, s.accuracy, s.f1]
        rows.append([s.name, *(s.counts[split] for split in SPLITS), s.correct, *map(_share, shares)])
    columns = ["accuracy", "accuracy_low", "accuracy_high", "precision", "recall", "f1"]
    write_csv(path, ["class", *SPLITS, "correct", *columns], rows)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def confusion(p: Predictions) -> npt.NDArray[np.int64]:
    """Counts, c x c: row the label, column the prediction."""
    c = p.logits.shape[1]
    return np.bincount(p.labels * c + p.predicted, minlength=c * c).reshape(c, c)


def most_confused(counts: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """(label, prediction) of every confused pair in counts, c x c: most photos first, then the larger share."""
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    wrong = [(int(i), int(j)) for i, j in zip(*np.nonzero(counts), strict=True) if i != j]
    return sorted(wrong, key=lambda pair: (-counts[pair], -share[pair], pair))


def write_confusions(path: Path, classes: list[str], counts: npt.NDArray[np.int64]) -> None:
    """Write confusions.csv: label, prediction, photos, share (of the label's test photos); most photos first."""
    rows = [
        [classes[i], classes[j], int(counts[i, j]), f"{counts[i, j] / counts[i].sum():.4f}"]
        for i, j in most_confused(counts)
    ]
    write_csv(path, ["label", "prediction", "photos", "share"], rows)
