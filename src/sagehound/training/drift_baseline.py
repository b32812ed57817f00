"""Makes the baseline of a trained model from its valid photos, for model.tar.gz."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch

from sagehound.data.datamodule import PhotoDataModule
from sagehound.errors import InputError
from sagehound.evaluation.tables import Predictions
from sagehound.inference.decode import file_bytes
from sagehound.inference.preprocessing import Pixels, Preprocessing
from sagehound.models.backbone import without_tf32
from sagehound.models.classifier import Classifier
from sagehound.monitoring import baseline
from sagehound.monitoring.baseline import Baseline
from sagehound.monitoring.photo_measures import PhotoMeasures, measure
from sagehound.monitoring.sample import Floats, sample_of
from sagehound.system.machine import cores

SPLIT = "valid"  # the model was not trained on these photos, although they chose the best epoch
_BATCH = 32


def files(model: Classifier, data: PhotoDataModule, valid: Predictions) -> dict[str, bytes]:
    """The baseline's file for model.tar.gz by its name; none if fewer than two valid photos can be read."""
    made = of_training(model, data, valid)
    return {} if made is None else {baseline.NAME: made.content()}


def of_training(model: Classifier, data: PhotoDataModule, valid: Predictions) -> Baseline | None:
    """The baseline of at most ``baseline.MOST`` valid photos; None if fewer than two can be read.

    Args:
        model: the trained model, on the device of the evaluation.
        data: the run's photos, with the cached features of a frozen backbone.
        valid: the model's predictions of the valid photos.
    """
    photos = data.photos.split(SPLIT)
    chosen = baseline.chosen(len(photos))
    root, preprocessing = data.photos.root, data.preprocessing
    with ThreadPoolExecutor(cores()) as pool:
        measured = list(pool.map(lambda i: _measured(root / photos[i].file, preprocessing), chosen))
    good = [(i, *one) for i, one in zip(chosen, measured, strict=True) if one is not None]
    if len(good) < 2:
        return None
    rows = [i for i, _, _ in good]
    if data.head_alone:
        assert data.features
        features = np.asarray(data.features.centre[SPLIT]([(0, i) for i in rows]), np.float32)
    else:
        features = _features(model, [pixels for _, pixels, _ in good])
    sample = partial(sample_of, probabilities=valid.probabilities[rows], photos=[m for _, _, m in good])
    return baseline.make(features, sample, {"split": SPLIT, "photos": len(photos)})


def _measured(path: Path, preprocessing: Preprocessing) -> tuple[Pixels, PhotoMeasures] | None:
    try:
        return measure(file_bytes(path), preprocessing)
    except InputError:  # it was removed since the run began
        return None


@torch.inference_mode()
def _features(model: Classifier, photos: list[Pixels]) -> Floats:
    """The backbone's features of photos, n x f, in 32 bits."""
    device, parts = next(model.parameters()).device, []
    model.eval()
    with without_tf32():
        for begun in range(0, len(photos), _BATCH):
            batch = torch.from_numpy(np.stack(photos[begun : begun + _BATCH])).permute(0, 3, 1, 2)
            parts.append(model.features(model.normalise(batch.to(device))).float().cpu().numpy())
    return np.concatenate(parts)
