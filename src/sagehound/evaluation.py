"""What a trained model is worth: every photo is predicted once, and the tables are written from that."""

import csv
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
)

from sagehound import console
from sagehound.classifier import Classifier
from sagehound.data.datamodule import PhotoModule
from sagehound.data.folders import SPLITS, Photo
from sagehound.files import write_text

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
        return np.asarray(torch.from_numpy(self.logits).softmax(1).numpy(), np.float32)

    @property
    def answers(self) -> npt.NDArray[np.int64]:
        """The most probable class of each photo, b."""
        return np.asarray(self.logits.argmax(1))

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether each answer is the label, b."""
        return np.asarray(self.answers == self.labels)


@torch.inference_mode()
def predict(model: Classifier, photos: PhotoModule, device: torch.device) -> dict[str, Predictions]:
    """Predict every photo of every split, in 32 bits whatever precision was trained in.

    Of train photos whose features are kept, those are used, which may have been computed in fewer bits.
    """
    model = model.to(device).eval()
    found = {}
    for split in SPLITS:
        batches = photos.evaluation_dataloader(split)
        logits, labels = [], []
        for x, y in console.track(batches, f"Predicting {split} batches", len(batches)):
            logits.append(model(x.to(device, non_blocking=True)).float().cpu())
            labels.append(y)
        found[split] = Predictions(photos.photos.split(split), torch.cat(labels).numpy(), torch.cat(logits).numpy())
    return found


def score(p: Predictions) -> dict[str, float]:
    """top1, top5, macro_f1, loss, ece and photos of one split; all but loss and photos between 0 and 1.

    top5 counts the label among the five most probable classes (or all, where there are fewer). macro_f1 is the mean of
    the classes' F1. ece is the expected calibration error over 15 bins of confidence (Guo et al. 2017).
    """
    logits, labels = torch.from_numpy(p.logits), torch.from_numpy(p.labels)
    classes = logits.shape[1]
    found = {
        "top1": multiclass_accuracy(logits, labels, classes, average="micro"),
        "top5": multiclass_accuracy(logits, labels, classes, average="micro", top_k=min(5, classes)),
        "macro_f1": multiclass_f1_score(logits, labels, classes, average="macro"),
        "loss": F.cross_entropy(logits, labels),
        "ece": multiclass_calibration_error(logits.softmax(1), labels, classes, n_bins=15, norm="l1"),
    }
    return {name: round(float(value), 6) for name, value in found.items()} | {"photos": len(labels)}


def write_predictions(path: Path, classes: list[str], found: dict[str, Predictions]) -> None:
    """predictions.csv: file, split, label, prediction, probability, top5 (class:probability, most probable first)."""
    rows = []
    for p in found.values():
        probabilities = p.probabilities
        top = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
        for photo, row, best in zip(p.photos, probabilities, top, strict=True):
            top5 = ";".join(f"{classes[i]}:{row[i]:.4f}" for i in best)
            rows.append([photo.file, photo.split, photo.label, classes[best[0]], f"{row[best[0]]:.6f}", top5])
    _write_csv(path, ["file", "split", "label", "prediction", "probability", "top5"], rows)


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
    _write_csv(path, ["class", *SPLITS, "correct", "accuracy"], rows)


def confusion(p: Predictions) -> npt.NDArray[np.int64]:
    """Counts, c x c: row the label, column the answer."""
    c = p.logits.shape[1]
    return np.bincount(p.labels * c + p.answers, minlength=c * c).reshape(c, c)


def _write_csv(path: Path, columns: list[str], rows: list[list[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())
