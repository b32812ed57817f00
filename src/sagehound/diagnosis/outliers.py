"""Photos that are unlike all others."""

import math
from typing import NamedTuple

import numpy as np

from sagehound.diagnosis.leave_one_out import Array

NEIGHBOURS = 10
FOREIGN = 1.75  # see outliers
MOST_SHARE = 0.02
_BLOCK = 2**22  # pairs that are compared at a time


class Outlier(NamedTuple):
    """A photo that is unlike all others."""

    photo: int  # its index
    distance: float  # robust z-score of its mean distance to its nearest neighbours


def outliers(features: Array) -> list[Outlier]:
    """Photos whose nearest neighbours are far away, the farthest first.

    The distance is 1 - cosine of the features, their mean subtracted, on average over the ten nearest photos. A photo
    is listed if it is above the median by 1.75 times the scaled median absolute deviation. Among 900 photos of ten
    breeds of dogs, 1 % are listed, and eight of ten photos of other animals that were added. At most 2 % are listed.

    Args:
        features: n x f.
    """
    n = len(features)
    if n <= 2 * NEIGHBOURS:
        return []
    x = features - features.mean(0)
    x = (x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-12)).astype(np.float32)
    distance = np.empty(n)
    step = max(1, _BLOCK // n)
    for start in range(0, n, step):
        rows = np.arange(start, min(start + step, n))
        cosine = x[rows] @ x.T
        cosine[np.arange(len(rows)), rows] = -np.inf
        nearest = np.partition(cosine, n - NEIGHBOURS, axis=1)[:, n - NEIGHBOURS :]
        distance[rows] = 1 - nearest.mean(1)
    median = np.median(distance)
    z = (distance - median) / max(1.4826 * float(np.median(np.abs(distance - median))), 1e-12)
    farthest = np.argsort(-z, kind="stable")[: math.ceil(MOST_SHARE * n)]
    return [Outlier(int(i), float(z[i])) for i in farthest if z[i] > FOREIGN]
