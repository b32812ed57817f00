"""What cached features show about the photos: a learning curve and labels that do not follow from the photos."""

from pathlib import Path
from typing import Any

import numpy as np

from sagehound.debugger.label_check import label_scores, transfer
from sagehound.storage.atomic import write_json

NAME = "insights.json"
MARGIN = 0.4  # as in debugger.label_check: at most 1.3 % of right labels are contradicted by so much
_SHARES = (0.25, 0.5, 1.0)  # of the train photos
_DRAWS = 3  # of each share below 1
_MOST = 4000  # train photos: the time grows with the cube of their number

Array = np.ndarray[Any, Any]


def write(
    folder: Path, train: tuple[Array, Array], valid: tuple[Array, Array], files: list[str], classes: list[str]
) -> None:
    """Write insights.json: ``learning_curve`` and ``suspicious_labels``.

    ``learning_curve`` has the valid accuracy of a ridge regression on a quarter, half and all of the train photos, as
    the mean of three draws. ``suspicious_labels`` are train photos whose leave-one-out score is larger for another
    class by ``MARGIN``, the largest first. With more than 4,000 train photos, both look at 4,000 of them.

    Args:
        folder: the run's.
        train: features, n x f, and labels, n.
        valid: the same of the valid photos.
        files: the n train photos.
        classes: c names.
    """
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(files))[:_MOST]
    x, y = train[0][chosen], train[1][chosen]
    curve = []
    for share in _SHARES:
        count = max(round(share * len(x)), 2)
        draws = [rng.permutation(len(x))[:count] for _ in range(1 if share == 1 else _DRAWS)]
        top1 = [transfer(x[i], y[i], *valid, len(classes)) for i in draws]
        curve.append({"photos": count, "top1": round(float(np.mean(top1)), 4)})
    scores = label_scores(x, y, len(classes))
    best = scores.argmax(1)
    margin = scores.max(1) - scores[np.arange(len(y)), y]
    suspicious = [
        {
            "file": files[chosen[i]],
            "label": classes[y[i]],
            "suggested": classes[best[i]],
            "margin": round(float(margin[i]), 3),
        }
        for i in np.argsort(-margin)
        if margin[i] > MARGIN
    ]
    write_json(folder / NAME, {"learning_curve": curve, "suspicious_labels": suspicious})
