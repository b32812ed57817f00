"""What a trained model is worth: every photo is predicted once and scored."""

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
)

from sagehound import console
from sagehound.classifier import Classifier
from sagehound.data.datamodule import PhotoDataModule
from sagehound.data.folders import SPLITS
from sagehound.data.photos import PhotoSet
from sagehound.tables import Predictions, describe_interval, wilson


@torch.inference_mode()
def predict(model: Classifier, photos: PhotoDataModule, device: torch.device) -> dict[str, Predictions]:
    """Predict every photo of every split, in 32 bits whatever precision was trained in.

    Of train photos whose features are kept, those are used, which may have been computed in fewer bits.
    """
    model = model.to(device).eval()
    found = {}
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # whose 10 bits would be seen in probabilities
        for split in SPLITS:
            batches = photos.evaluation_dataloader(split)
            logits, labels = [], []
            for x, y in console.track(batches, f"Predicting {split} batches", len(batches)):
                logits.append(model(x.to(device, non_blocking=True)).float().cpu())
                labels.append(y)
            found[split] = Predictions(photos.photos.split(split), torch.cat(labels).numpy(), torch.cat(logits).numpy())
    return found


def without_leaks(photos: PhotoSet, test: Predictions) -> dict[str, Any]:
    """top1, top1_interval and photos of the test photos of whose scene train and valid hold none; and how many leaked.

    Empty if no photo leaked; without top1 and its interval if all did.
    """
    leaked = photos.leaked()
    if not leaked:
        return {}
    scene = {p.file: number for number, p in zip(photos.scenes(), photos.photos, strict=True)}
    clean = np.array([p.file not in leaked for p in test.photos])
    found: dict[str, Any] = {"photos": int(clean.sum()), "leaked": len(leaked)}
    if clean.any():
        scenes = len({scene[p.file] for p in test.photos if p.file not in leaked})
        top1 = float(test.right[clean].mean())
        found |= {"top1": round(top1, 6), "top1_interval": _interval(top1, scenes)}
    return found


def tell_leaks(found: dict[str, Any]) -> None:
    """Print what ``without_leaks`` found, in one line."""
    if found:
        low, high = found.get("top1_interval", (0, 0))
        rest = (
            f"without them {found['top1']:.1%} ({describe_interval((low, high))})"
            if "top1" in found
            else "no other is left"
        )
        console.warn(
            f"test photos with a copy, near-duplicate or photo of their group in train or valid: {found['leaked']} of "
            f"{found['leaked'] + found['photos']}, which flatters the test accuracy; {rest} (see audit.json)"
        )


def score(p: Predictions, scenes: int | None = None) -> dict[str, Any]:
    """top1, top1_interval, top5, macro_f1, loss, ece and photos of one split; all but loss and photos between 0 and 1.

    top1_interval is the 95 % interval of top1, a list [low, high] (Wilson 1927). It counts scenes, as near-duplicates
    and photos of one group are right or wrong together (Kish 1965, with a correlation of 1 within a scene). top5 counts
    the label among the five most probable classes (or all, where there are fewer). macro_f1 is the mean of the classes'
    F1. ece is the expected calibration error over 15 bins of confidence (Guo et al. 2017).

    Args:
        p: the predictions.
        scenes: how many different scenes they are of; None: every photo is one.
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
    top1, *others = ((name, round(float(value), 6)) for name, value in found.items())
    interval = _interval(float(p.right.mean()), len(labels) if scenes is None else scenes)
    return dict([top1, ("top1_interval", interval), *others, ("photos", len(labels))])


def _interval(top1: float, scenes: int) -> list[float]:
    return [round(share, 6) for share in wilson(top1 * scenes, scenes)]
