"""What a model said of photos, and the tables that are written from it. Imports no torch."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sagehound.data.folders import SPLITS, Photo
from sagehound.files import write_text
from sagehound.spreadsheet import csv_line

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Predictions:
    """What the model says of the photos of one split."""

    photos: list[Photo]
    labels: npt.NDArray[np.int64]  # b
    logits: Floats  # b x c

    @property
    def probabilities(self) -> Floats:
        """Softmax of the logits, b x c."""
        e = np.exp(self.logits - self.logits.max(1, keepdims=True))
        return np.asarray(e / e.sum(1, keepdims=True), np.float32)

    @property
    def answers(self) -> npt.NDArray[np.int64]:
        """The most probable class of each photo, b."""
        return np.asarray(self.logits.argmax(1))

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether each answer is the label, b."""
        return np.asarray(self.answers == self.labels)


def write_predictions(path: Path, classes: list[str], found: dict[str, Predictions]) -> None:
    """predictions.csv: file, split, label, prediction, probability, top5 (class:probability, most probable first)."""
    rows = []
    for p in found.values():
        probabilities = p.probabilities
        top = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
        for photo, row, best in zip(p.photos, probabilities, top, strict=True):
            top5 = ";".join(f"{classes[i]}:{row[i]:.4f}" for i in best)
            rows.append([photo.file, photo.split, photo.label, classes[best[0]], f"{row[best[0]]:.6f}", top5])
    write_csv(path, ["file", "split", "label", "prediction", "probability", "top5"], rows)


@dataclass(frozen=True)
class ClassScore:
    """How one class did on the test photos."""

    name: str
    counts: dict[str, int]  # photos in train, valid and test
    correct: int  # test photos answered right

    @property
    def accuracy(self) -> float | None:
        """Share of the test photos answered right; None where there are none."""
        return self.correct / self.counts["test"] if self.counts["test"] else None


def per_class(classes: list[str], found: dict[str, Predictions]) -> list[ClassScore]:
    """The score of every class, in the order of the model's outputs."""
    counts = {split: Counter(found[split].labels.tolist()) for split in SPLITS}
    correct = Counter(found["test"].labels[found["test"].right].tolist())
    return [ClassScore(name, {s: counts[s][i] for s in SPLITS}, correct[i]) for i, name in enumerate(classes)]


def write_per_class(path: Path, scores: list[ClassScore]) -> None:
    """per_class.csv: class, train, valid, test, correct, accuracy (of the test photos; empty where there are none)."""
    rows = [
        [s.name, *(s.counts[split] for split in SPLITS), s.correct, "" if s.accuracy is None else f"{s.accuracy:.4f}"]
        for s in scores
    ]
    write_csv(path, ["class", *SPLITS, "correct", "accuracy"], rows)


def confusion(p: Predictions) -> npt.NDArray[np.int64]:
    """Counts, c x c: row the label, column the answer."""
    c = p.logits.shape[1]
    return np.bincount(p.labels * c + p.answers, minlength=c * c).reshape(c, c)


def write_csv(path: Path, columns: list[str], rows: list[list[Any]]) -> None:
    """Write a table, atomically; see ``csv_line``."""
    write_text(path, b"".join(csv_line(row) for row in [columns, *rows]).decode())
