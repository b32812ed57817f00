"""Chooses thresholds on the valid photos: of unknown photos, and of sets of classes."""

import math
from typing import Any

import numpy as np

from sagehound.evaluation.tables import Floats, Labels, Predictions
from sagehound.inference.thresholds import Thresholds

KNOWN = 0.95  # share of the valid photos that are called known
COVERAGES = (0.8, 0.9, 0.95, 0.99)


def fit(valid: Predictions) -> dict[str, Any]:
    """The entries ``unknown`` and ``sets`` of model.json; empty without valid photos."""
    if not len(valid.labels):
        return {}
    # rounded so that the photo that gave a threshold stays on its side
    sets = {f"{coverage:g}": math.floor(set_threshold(valid, coverage) * 1e6) / 1e6 for coverage in COVERAGES}
    if valid.unknown is None:
        return {"sets": sets}
    threshold = math.ceil(unknown_threshold(valid.unknown) * 1e6) / 1e6
    return {"unknown": {"threshold": threshold, "known": KNOWN}, "sets": sets}


def unknown_threshold(scores: Floats, known: float = KNOWN) -> float:
    """The score that a share ``known`` of photos like these, n, does not exceed, by the conformal quantile."""
    rank = min(math.ceil((len(scores) + 1) * known), len(scores))
    return float(np.sort(scores)[rank - 1])


def set_threshold(valid: Predictions, coverage: float) -> float:
    """The least probability of a class in a set that holds the label of a share ``coverage`` of photos like these.

    The LAC method: Sadinle, Lei and Wasserman, "Least ambiguous set-valued classifiers with bounded error levels",
    JASA 114 (2019), with the conformal quantile of n photos. It gives the smallest sets on average. With too few photos
    for the coverage it is 0, so that a set holds every class.
    """
    of_label = valid.probabilities[np.arange(len(valid.labels)), valid.labels]
    rank = math.ceil((len(of_label) + 1) * coverage)
    return float(np.sort(of_label)[-rank]) if rank <= len(of_label) else 0.0


def measured(thresholds: dict[str, Any], test: Predictions) -> dict[str, Any]:
    """The thresholds with what they do on the test photos, for metrics.json.

    Of ``sets`` by coverage the share of photos whose set holds the label and the mean size of a set, of ``unknown`` the
    share of the photos that are called known.
    """
    if not thresholds or not len(test.labels):
        return {}
    given = Thresholds.read(thresholds)
    sets = {}
    for coverage in given.sets:
        holds, size = coverage_and_size(test.probabilities, test.labels, given, float(coverage))
        sets[coverage] = {"coverage": round(holds, 6), "size": round(size, 6)}
    if given.unknown is None or test.unknown is None:
        return {"sets": sets}
    known = float((test.unknown <= given.unknown).mean())
    return {"unknown": thresholds["unknown"] | {"test_known": round(known, 6)}, "sets": sets}


def coverage_and_size(
    probabilities: Floats, labels: Labels, thresholds: Thresholds, coverage: float
) -> tuple[float, float]:
    """The share of photos whose set holds the label, and the mean number of classes in a set."""
    chosen = [thresholds.set_of(row, coverage) for row in probabilities]
    holds = [label in classes for label, classes in zip(labels, chosen, strict=True)]
    return float(np.mean(holds)), float(np.mean([len(classes) for classes in chosen]))
