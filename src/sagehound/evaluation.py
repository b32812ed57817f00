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
from sagehound.data.datamodule import PhotoModule
from sagehound.data.folders import SPLITS
from sagehound.data.photos import PhotoSet
from sagehound.tables import Predictions, wilson


@torch.inference_mode()
def predict(model: Classifier, photos: PhotoModule, device: torch.device) -> dict[str, Predictions]:
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


def tell_leaks(photos: PhotoSet, test: Predictions) -> None:
    """Name the test photos of which train holds a copy or a near-duplicate, and the accuracy without them."""
    leaked = photos.leaked("test")
    if not leaked:
        return
    clean = np.array([p.file not in leaked for p in test.photos])
    rest = f"; test accuracy without them: {test.right[clean].mean():.1%}" if clean.any() else ""
    console.warn(
        f"test photos with a copy or near-duplicate in train, which flatter the test accuracy: {len(leaked)} of "
        f"{len(test.photos)}{rest} (audit.json lists them)"
    )


def score(p: Predictions) -> dict[str, Any]:
    """top1, top1_interval, top5, macro_f1, loss, ece and photos of one split; all but loss and photos between 0 and 1.

    top1_interval is the 95 % interval of top1, a list [low, high] (Wilson 1927). top5 counts the label among the five
    most probable classes (or all, where there are fewer). macro_f1 is the mean of the classes' F1. ece is the expected
    calibration error over 15 bins of confidence (Guo et al. 2017).
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
    interval = [round(share, 6) for share in wilson(int(p.right.sum()), len(labels))]
    return dict([top1, ("top1_interval", interval), *others, ("photos", len(labels))])
