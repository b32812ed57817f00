"""The accuracy that subsets of the photos reach, and how much more photos would add."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sagehound.diagnosis.leave_one_out import Array, leave_one_out

MORE = 25  # photos a class that the gain is given for
_MOST = 4000  # photos: four sizes with eight, four, two and one draws of them
_PARTS = (8, 4, 2, 1)  # each draw has one of so many equal parts of the photos
_FEWEST = 4  # photos of a class in a draw, on average
_RESAMPLES = 200
_EXPONENTS = (0.5, 1.0)  # of the error's fall


@dataclass(frozen=True)
class LearningCurve:
    """Accuracy by number of photos.

    Attributes:
        points: photos, photos_per_class and top1, the leave-one-out accuracy on draws of so many photos.
        gain: accuracy that ``MORE`` photos a class would add, from 0 to 1; None if there are fewer than two points.
        interval: in which the gain lies with 95 %; None if there is no gain.
    """

    points: list[dict[str, Any]]
    gain: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def sentence(self) -> str:
        """The gain in one sentence; empty if it is unknown."""
        if self.gain is None or self.interval is None:
            return ""
        low, high = self.interval
        if high < 0.0005:
            return f"{MORE} more photos a class: no gain to expect"
        return f"{MORE} more photos a class: about +{100 * self.gain:.1f} points ({100 * low:.1f} to {100 * high:.1f})"


def learning_curve(features: Array, labels: Array, classes: int) -> LearningCurve:
    """Leave-one-out accuracy on an eighth, a quarter, half and all of the photos.

    Each size uses every photo once, in disjoint draws with equal shares of the classes. The error is a + b m^-p of the
    number m of photos a class (Hestness et al. 2017, "Deep learning scaling is predictable, empirically"), by least
    squares. Four sizes cannot tell p, so the gain is the mean of those with p = 1/2 and p = 1, and the interval, a
    bootstrap over the photos, covers both.

    Args:
        features: n x f; of more than 4,000 photos, 4,000 are used.
        labels: n, from 0.
        classes: c.
    """
    chosen = np.random.default_rng(0).permutation(len(labels))[:_MOST]
    chosen = chosen[np.argsort(labels[chosen], kind="stable")]  # every k-th photo then has equal shares of the classes
    x, y = features[chosen], labels[chosen]
    parts = [k for k in _PARTS if len(y) >= k * _FEWEST * classes]
    per_class = np.array([len(y) / k / classes for k in parts])
    right = np.array([_right(x, y, classes, k) for k in parts])
    points = [
        {"photos": len(y) // k, "photos_per_class": round(float(m), 1), "top1": round(float(of_size.mean()), 4)}
        for k, m, of_size in zip(parts, per_class, right, strict=True)
    ]
    if len(parts) < 2:
        return LearningCurve(points)
    rng = np.random.default_rng(0)
    draws = [right[:, rng.integers(0, len(y), len(y))] for _ in range(_RESAMPLES)]
    gains = [gain for draw in draws for gain in _gains(per_class, draw)]
    low, high = np.quantile(gains, [0.025, 0.975])
    return LearningCurve(points, float(np.mean(_gains(per_class, right))), (float(low), float(high)))


def _right(x: Array, y: Array, classes: int, parts: int) -> Array:
    """Whether each photo is right by the other photos of its draw, n."""
    right = np.zeros(len(y), bool)
    for start in range(parts):
        draw = slice(start, None, parts)
        right[draw] = leave_one_out(x[draw], y[draw], classes).argmax(1) == y[draw]
    return right


def _gains(per_class: Array, right: Array) -> list[float]:
    """The accuracy that ``MORE`` photos a class add to all photos, for each exponent.

    Args:
        per_class: photos a class of each size, k; the last one is all of them.
        right: whether each photo is right at each size, k x n.
    """
    errors = 1 - right.mean(1)
    m = per_class[-1]
    return [max(float(np.polyfit(per_class**-p, errors, 1)[0]), 0) * (m**-p - (m + MORE) ** -p) for p in _EXPONENTS]
