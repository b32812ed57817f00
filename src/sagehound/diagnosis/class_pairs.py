"""Pairs of classes that the features cannot tell apart."""

from typing import NamedTuple

import numpy as np

from sagehound.diagnosis.leave_one_out import Array
from sagehound.evaluation.tables import wilson

INSEPARABLE = 0.2  # lower limit of the error between two classes


class ClassPair(NamedTuple):
    """Two classes that cannot be told apart."""

    a: int
    b: int
    error: float  # share of their photos that score higher for the other of the two; 0.5 is chance
    photos: int  # of both


def inseparable_classes(scores: Array, labels: Array) -> list[ClassPair]:
    """Pairs of classes whose photos are often closer to the other class of the two, the worst first.

    A pair is listed if the lower limit of Wilson's 95 % interval of this share is at least 0.2.

    Args:
        scores: leave-one-out scores, n x c.
        labels: n.
    """
    classes = scores.shape[1]
    counts = np.bincount(labels, minlength=classes)
    own = scores[np.arange(len(labels)), labels][:, None]
    wrong = np.zeros((classes, classes))
    np.add.at(wrong, labels, scores > own)
    pairs = [
        ClassPair(a, b, float((wrong[a, b] + wrong[b, a]) / (counts[a] + counts[b])), int(counts[a] + counts[b]))
        for a in range(classes)
        for b in range(a + 1, classes)
        if counts[a] and counts[b]
    ]
    listed = [pair for pair in pairs if wilson(pair.error * pair.photos, pair.photos)[0] >= INSEPARABLE]
    return sorted(listed, key=lambda pair: -pair.error)
