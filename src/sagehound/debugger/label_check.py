"""How well the labels of photos follow from their features. Needs numpy only."""

from dataclasses import dataclass

import numpy as np

from sagehound.diagnosis.leave_one_out import Array, leave_one_out, margins, normalised, targets


@dataclass(frozen=True)
class LabelCheck:
    """Leave-one-out predictions of the labels.

    Attributes:
        agreement: share of photos whose label is predicted.
        chance: share that is right if the most frequent label is always predicted.
        contradicted: share of photos for which another class is predicted by far.
        photos: how many were looked at.
    """

    agreement: float
    chance: float
    contradicted: float
    photos: int


def check_labels(
    features: Array, labels: Array, classes: int, *, strength: float = 0.1, margin: float = 0.4
) -> LabelCheck:
    """Predict each photo's label by ridge regression on the other photos.

    The leave-one-out prediction has a closed form (Allen 1974, PRESS): y - r / (1 - h), with the residual r and the
    leverage h of the photo in the fit on all photos. With 5, 10 and 20 % of the labels replaced at random,
    ``contradicted`` was 0.04 to 0.06, 0.10 and 0.13 to 0.19; with right labels at most 0.013 (two sets, two backbones).

    Args:
        features: n x f.
        labels: n, from 0.
        classes: c.
        strength: of the ridge penalty; the features of a photo have norm 1.
        margin: by how much the score of another class must exceed that of the label; scores are 1 for the label and 0
            for the others.
    """
    n = len(labels)
    _, by = margins(leave_one_out(features, labels, classes, strength=strength), labels)
    chance = np.bincount(labels, minlength=classes).max() / n
    return LabelCheck(float(np.mean(by < 0)), float(chance), float(np.mean(by > margin)), n)


def transfer(
    features: Array, labels: Array, other: Array, other_labels: Array, classes: int, *, strength: float = 0.1
) -> float:
    """Share of other photos whose labels a ridge regression on ``features`` predicts; arguments as above."""
    x, z = normalised(features, features), normalised(other, features)
    y, shares = targets(labels, classes)
    weights = np.linalg.solve(x @ x.T + strength * np.eye(len(x)), y)
    return float(np.mean((shares + z @ (x.T @ weights)).argmax(1) == other_labels))
