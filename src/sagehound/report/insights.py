"""What cached features show about the photos of a set, and insights.json with it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sagehound.diagnosis.class_pairs import inseparable_classes
from sagehound.diagnosis.learning_curve import MORE, learning_curve
from sagehound.diagnosis.leave_one_out import Array, leave_one_out
from sagehound.diagnosis.outliers import outliers
from sagehound.diagnosis.suspicious_labels import suspicious_labels
from sagehound.storage.atomic import write_json

NAME = "insights.json"
_MOST = 10_000  # photos: the leave-one-out scores take two seconds


def write(
    folder: Path, features: Array, labels: Array, files: list[str], classes: list[str], scenes: Sequence[int]
) -> None:
    """Write insights.json about the train photos; see ``of_features``.

    Args:
        folder: the run's.
        features: n x f.
        labels: n.
        files: the n photos.
        classes: c names.
        scenes: n numbers; photos of one scene are left out together.
    """
    write_json(folder / NAME, of_features(features, labels, files, classes, scenes))


def of_features(
    features: Array, labels: Array, files: list[str], classes: list[str], scenes: Sequence[int]
) -> dict[str, Any]:
    """What features show: labels, the gain of more photos, classes that are alike, and photos unlike all others.

    ``suspicious_labels``, ``inseparable_classes`` and ``outliers`` are described in ``sagehound.diagnosis``, as
    ``learning_curve`` and ``more_photos``, the accuracy that 25 more photos a class would add. Of more than 10,000
    photos, 10,000 are looked at. Arguments as in ``write``.
    """
    chosen = np.sort(np.random.default_rng(0).permutation(len(files))[:_MOST])
    x, y = features[chosen], labels[chosen]
    scores = leave_one_out(x, y, len(classes), scenes=np.asarray(scenes)[chosen].tolist())
    curve = learning_curve(x, y, len(classes))

    def about(index: int) -> dict[str, Any]:
        return {"file": files[chosen[index]], "label": classes[y[index]]}

    return {
        "learning_curve": curve.points,
        "more_photos": {
            "per_class": MORE,
            "gain": None if curve.gain is None else round(curve.gain, 4),
            "interval": curve.interval and [round(limit, 4) for limit in curve.interval],
            "sentence": curve.sentence,
        },
        "suspicious_labels": [
            about(s.photo) | {"suggested": classes[s.suggested], "margin": round(s.margin, 3)}
            for s in suspicious_labels(scores, y)
        ],
        "inseparable_classes": [
            {"classes": [classes[p.a], classes[p.b]], "error": round(p.error, 4), "photos": p.photos}
            for p in inseparable_classes(scores, y)
        ],
        "outliers": [about(o.photo) | {"distance": round(o.distance, 3)} for o in outliers(x)],
    }
