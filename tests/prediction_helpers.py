"""Predictions of a model that does not exist."""

import numpy as np

from sagehound.data.folders import Photo
from sagehound.evaluation.tables import Predictions

CLASSES = 5


def drawn(photos: int, seed: int, temperature: float = 1.0) -> Predictions:
    """Predictions of a model that is calibrated if ``temperature`` is 1."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (photos, CLASSES)).astype(np.float32)
    labels = (logits + random.gumbel(size=logits.shape)).argmax(1)
    files = [Photo(f"{i}.jpg", "test", str(label)) for i, label in enumerate(labels)]
    return Predictions(files, labels, logits, temperature)
