"""Leave-one-out scores of the classes by ridge regression on features, in closed form."""

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

STRENGTH_PER_PHOTO = 0.01  # of the ridge penalty; see leave_one_out


def leave_one_out(
    features: Array,
    labels: Array,
    classes: int,
    *,
    strength: float | None = None,
    scenes: Sequence[int] | None = None,
) -> Array:
    """Scores of each class for each photo, n x c, from a ridge regression on the other photos.

    The leave-one-out prediction has a closed form (Allen 1974, PRESS): y - r / (1 - h), with the residual r and the
    leverage h of the photo in the fit on all photos. For a scene of several photos, h is the block of the hat matrix.
    The system is solved in n or in f dimensions, whichever are fewer. 10,000 photos with 1,280 features take 2 s on two
    cores.

    Args:
        features: n x f.
        labels: n, from 0.
        classes: c.
        strength: of the ridge penalty; the features of a photo have norm 1. None: 0.01 n. With 5 % wrong labels, the
            largest margins were wrong labels in 88 % of the cases with a strength of 1 and in 91 % with 0.01 n (900
            photos of ten breeds).
        scenes: n numbers; photos of one scene, such as copies, are left out together. None: each photo is a scene.
    """
    x = normalised(features, features)
    y, shares = targets(labels, classes)
    if strength is None:
        strength = STRENGTH_PER_PHOTO * len(x)
    left, right = _hat_factors(x, strength)
    residual = y - left @ (right.T @ y)
    leverage = np.clip((left * right).sum(1), 0, 1 - 1e-6)[:, None]
    scores = y - residual / (1 - leverage)
    for i in _shared_scenes(scenes):
        block = np.eye(len(i)) - left[i] @ right[i].T + 1e-6 * np.eye(len(i))
        scores[i] = y[i] - np.linalg.solve(block, residual[i])
    return np.asarray(shares + scores)


def _hat_factors(x: Array, strength: float) -> tuple[Array, Array]:
    """Two factors, each n x min(n, f), whose product (left @ right.T) is the hat matrix of the ridge regression."""
    from scipy.linalg import cho_factor, cho_solve  # takes 0.1 s to import

    n, f = x.shape
    gram = x @ x.T if n <= f else x.T @ x
    factor = cho_factor(gram + strength * np.eye(len(gram)), overwrite_a=True, check_finite=False)
    if n <= f:
        return np.asarray(cho_solve(factor, gram, check_finite=False).T), np.eye(n)
    return np.asarray(cho_solve(factor, x.T, check_finite=False).T), x


def _shared_scenes(scenes: Sequence[int] | None) -> list[Array]:
    """The indices of the photos of each scene with several photos."""
    if scenes is None:
        return []
    order = np.argsort(scenes, kind="stable")
    _, starts = np.unique(np.asarray(scenes)[order], return_index=True)
    return [group for group in np.split(order, starts[1:]) if len(group) > 1]


def normalised(features: Array, reference: Array) -> Array:
    """Features minus the mean of the reference's, each with norm 1."""
    x = (features - reference.mean(0)).astype(np.float64)
    return np.asarray(x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-12))


def targets(labels: Array, classes: int) -> tuple[Array, Array]:
    """Each label as 1 among zeros, n x c, minus the share of each class, c; and these shares."""
    one_hot = np.eye(classes)[labels]
    shares = one_hot.mean(0)
    return one_hot - shares, shares


def margins(scores: Array, labels: Array) -> tuple[Array, Array]:
    """The highest-scoring other class of each photo, n, and its score minus the label's, n."""
    rows = np.arange(len(labels))
    others = scores.copy()
    others[rows, labels] = -np.inf
    best = others.argmax(1)
    return best, others[rows, best] - scores[rows, labels]
