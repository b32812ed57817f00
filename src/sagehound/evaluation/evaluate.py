"""Evaluates a trained model: predicts every photo once and scores the predictions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from sagehound import metrics
from sagehound.data.datamodule import PhotoDataModule
from sagehound.data.folders import SPLITS
from sagehound.data.photo_set import PhotoSet
from sagehound.evaluation import bootstrap
from sagehound.evaluation.calibration import fit_temperature
from sagehound.evaluation.tables import Predictions, describe_interval, wilson
from sagehound.inference.network import Unknown, features_of
from sagehound.models.backbone import without_tf32
from sagehound.models.classifier import Classifier
from sagehound.system import console


@torch.inference_mode()
def predict(model: Classifier, photos: PhotoDataModule, device: torch.device) -> dict[str, Predictions]:
    """Predict every photo of every split in 32 bits, and set the model's score of unknown photos.

    Train photos with cached features use these, which may have fewer bits.
    """
    model = model.to(device).eval()
    predictions = {}
    with without_tf32():
        means = torch.zeros(len(model.classes), features_of(model.backbone), device=device)
        for split in SPLITS:
            batches = photos.evaluation_dataloader(split)
            logits, labels, unknown = [], [], []
            for x, y in console.track(batches, f"Predicting {split} batches", len(batches)):
                features = model.embed(x.to(device, non_blocking=True)).float()
                logits.append(model.head(features).float().cpu())
                labels.append(y)
                if split == "train":
                    means.index_add_(0, y.to(device), F.normalize(features))
                else:
                    assert model.unknown is not None
                    unknown.append(model.unknown(features).cpu())
            if split == "train":
                model.unknown = Unknown(means)
            predictions[split] = Predictions(
                photos.photos.split(split),
                torch.cat(labels).numpy(),
                torch.cat(logits).numpy(),
                unknown=torch.cat(unknown).numpy() if unknown else None,
            )
    return predictions


@torch.inference_mode()
def predict_split(model: Classifier, photos: PhotoDataModule, split: str, device: torch.device) -> Predictions:
    """Predict every photo of one split, as ``predict`` does, without scores of unknown photos."""
    model = model.to(device).eval()
    logits, labels = [], []
    with without_tf32():
        for x, y in photos.evaluation_dataloader(split):
            logits.append(model.head(model.embed(x.to(device, non_blocking=True)).float()).float().cpu())
            labels.append(y)
    return Predictions(photos.photos.split(split), torch.cat(labels).numpy(), torch.cat(logits).numpy())


def calibrated(predictions: dict[str, Predictions]) -> dict[str, Predictions]:
    """The predictions of every split with the temperature that fits the valid photos."""
    valid = predictions["valid"]
    temperature = fit_temperature(valid.logits, valid.labels)
    return {split: replace(p, temperature=temperature) for split, p in predictions.items()}


def without_leaks(photos: PhotoSet, test: Predictions) -> dict[str, Any]:
    """Scores of the test photos whose scene is not in train or valid: top1, top1_interval, photos, leaked.

    Empty if no photo leaked; without top1 and its interval if all leaked.
    """
    leaked = photos.leaked()
    if not leaked:
        return {}
    scene = {p.file: number for number, p in zip(photos.scenes(), photos.photos, strict=True)}
    clean = np.array([p.file not in leaked for p in test.photos])
    scores: dict[str, Any] = {"photos": int(clean.sum()), "leaked": len(leaked)}
    if clean.any():
        scenes = len({scene[p.file] for p in test.photos if p.file not in leaked})
        top1 = float(test.correct[clean].mean())
        scores |= {"top1": round(top1, 6), "top1_interval": _interval(top1, scenes)}
    return scores


def tell_leaks(scores: dict[str, Any]) -> None:
    """Print the result of ``without_leaks`` in one line."""
    if scores:
        low, high = scores.get("top1_interval", (0, 0))
        rest = (
            f"without them {scores['top1']:.1%} ({describe_interval((low, high))})"
            if "top1" in scores
            else "no other is left"
        )
        console.warn(
            f"test photos with a copy, near-duplicate or photo of their group in train or valid: {scores['leaked']} of "
            f"{scores['leaked'] + scores['photos']}, so the test accuracy is too high; {rest} (see audit.json)"
        )


def score(p: Predictions, scenes: Sequence[int] | None = None, split: str | None = None) -> dict[str, Any]:
    """The metrics of one split (``metrics.METRICS``), the 95 % interval of each, such as top1_interval, and photos.

    An interval is a list [low, high]: of top1 and top5 by Wilson (1927), of the others by ``bootstrap.intervals``; the
    train split has top1_interval only. Intervals count scenes, because near-duplicates and photos of one group are
    right or wrong together (Kish 1965, with a correlation of 1 within a scene).

    top5 is the share of photos whose label is among the five most probable classes. macro_f1 is the mean F1 of the
    classes. ece is the expected calibration error of the probabilities after temperature scaling, ece_uncalibrated the
    one before. loss is the cross entropy before it, as in the curves. All values except loss and photos are between 0
    and 1.

    Args:
        p: the predictions.
        scenes: the number of each photo's scene; None: every photo is its own.
        split: its metrics only; None: all metrics.
    """
    logits, labels = torch.from_numpy(p.logits), torch.from_numpy(p.labels)
    values = metrics.final(logits, labels, split, p.temperature)
    different = len(p.labels) if scenes is None else len(set(scenes))
    by_name: dict[str, list[float]] = {
        name: _interval(values[name], different) for name in ("top1", "top5") if name in values
    }
    if split == "train":
        by_name = {"top1": by_name["top1"]}
    else:
        by_name |= bootstrap.intervals(p, scenes)
    scores: dict[str, Any] = {}
    for name, value in values.items():
        scores[name] = value
        if name in by_name:
            scores[f"{name}_interval"] = by_name[name]
    if "ece" in scores:
        scores["ece_uncalibrated"] = metrics.final(logits, labels, split)["ece"]
    return scores | {"photos": len(p.labels)}


def _interval(top1: float, scenes: int) -> list[float]:
    return [round(share, 6) for share in wilson(top1 * scenes, scenes)]
