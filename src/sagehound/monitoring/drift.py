"""Compares a sample with the baseline: which properties of the photos have changed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sagehound.evaluation.significance import holm
from sagehound.monitoring import two_sample
from sagehound.monitoring.baseline import Baseline
from sagehound.monitoring.sample import MEASURES, Sample
from sagehound.monitoring.two_sample import Doubles

NEIGHBOUR = 5  # distances are to the fifth nearest photo of the baseline
FEW = 30  # photos; with fewer, only large changes are found

# words for a larger and a smaller median, and the number's name and format
_WORDS = {
    "confidence": ("the model is surer than", "the model is less sure than", "probability of the prediction", ".2f"),
    "brightness": ("photos are brighter than", "photos are darker than", "brightness", ".2f"),
    "contrast": ("photos have more contrast than", "photos have less contrast than", "contrast", ".2f"),
    "sharpness": ("photos are sharper than", "photos are blurrier than", "sharpness", ".3f"),
    "width": ("photos are wider than", "photos are narrower than", "width in pixels", ",.0f"),
    "height": ("photos are taller than", "photos are shorter than", "height in pixels", ",.0f"),
}


@dataclass(frozen=True)
class Comparison:
    """One test of the window against the baseline.

    Attributes:
        name: features, predictions, or one of ``MEASURES``.
        test: mmd, chi_square or kolmogorov_smirnov.
        statistic: of the test.
        p: its p value.
        adjusted: the p value, adjusted for all tests by Holm's method.
        drift: whether the adjusted p value is at most alpha.
        baseline, window: median of the property; of the distances for features; null for predictions.
        text: what has changed, in words; empty without drift.
    """

    name: str
    test: str
    statistic: float
    p: float
    adjusted: float
    drift: bool
    baseline: float | None
    window: float | None
    text: str


@dataclass(frozen=True)
class Distances:
    """Distance of each photo to its fifth nearest photo of the baseline; 1 is the median between those.

    Attributes:
        window: n.
        baseline: of the photos of the baseline, m, without themselves.
    """

    window: Doubles
    baseline: Doubles

    @property
    def share_below(self) -> Doubles:
        """For each photo of the window, the share of the baseline's photos with a smaller distance, n."""
        return np.searchsorted(np.sort(self.baseline), self.window) / len(self.baseline)


def distances(baseline: Baseline, window: Sample) -> Distances:
    """The distances of both samples."""
    known = baseline.sample.features
    between = two_sample.neighbour_distance(known, known, NEIGHBOUR, same=True)
    to_it = two_sample.neighbour_distance(window.features, known, NEIGHBOUR)
    unit = float(np.median(between)) or 1.0  # 0 if the baseline repeats one photo
    return Distances(to_it / unit, between / unit)


def compare(
    baseline: Baseline, window: Sample, classes: Sequence[str], alpha: float = 0.01, seed: int = 0
) -> list[Comparison]:
    """Test every property. If both samples come from one distribution, any drift is found with at most ``alpha``.

    Args:
        baseline: m photos.
        window: n photos, projected as the baseline's.
        classes: names of the model's classes.
        alpha: probability of a false alarm, of all tests together.
        seed: of the permutations.
    """
    known, apart = baseline.sample, distances(baseline, window)
    tests = {
        "features": ("mmd", two_sample.mmd(known.features, window.features)),
        "predictions": ("chi_square", two_sample.chi_square(known.predicted, window.predicted)),
    } | {
        name: ("kolmogorov_smirnov", two_sample.kolmogorov_smirnov(known.measures[name], window.measures[name]))
        for name in MEASURES
    }
    results = two_sample.by_permutation([test for _, test in tests.values()], len(known), len(window), seed)
    adjusted = holm([p for _, p in results])
    comparisons = []
    for (name, (test, _)), (statistic, p), whole in zip(tests.items(), results, adjusted, strict=True):
        if name == "features":
            medians: tuple[float | None, float | None] = _medians(apart.baseline, apart.window)
            text = _features_text(apart)
        elif name == "predictions":
            medians, text = (None, None), _predictions_text(known, window, classes)
        else:
            medians = _medians(known.measures[name], window.measures[name])
            text = _measure_text(name, known.measures[name], window.measures[name])
        drift = whole <= alpha
        text = f"{text}; p{_p(whole)}" if drift else ""
        comparisons.append(Comparison(name, test, statistic, p, whole, drift, *medians, text))
    return comparisons


def _medians(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:  # type: ignore[type-arg]
    return float(np.median(a)), float(np.median(b))


def _features_text(apart: Distances) -> str:
    return (
        "photos look different to the model: their distance to the baseline is "
        f"{np.median(apart.window):.2f} times that between its photos (medians, to the fifth nearest photo)"
    )


def _predictions_text(known: Sample, window: Sample, classes: Sequence[str]) -> str:
    """The class whose share has changed most."""
    before, now = (np.bincount(s.predicted, minlength=len(classes)) / len(s) for s in (known, window))
    most = int(np.abs(now - before).argmax())
    return (
        f"the model predicts other classes than for the baseline: {classes[most]} for {now[most]:.0%} of the photos, "
        f"was {before[most]:.0%}"
    )


def _measure_text(name: str, known: np.ndarray, window: np.ndarray) -> str:  # type: ignore[type-arg]
    more, less, noun, form = _WORDS[name]
    before, now = _medians(known, window)
    place = "for the baseline" if name == "confidence" else "the baseline"
    if f"{before:{form}}" != f"{now:{form}}":
        return f"{more if now > before else less} {place}: median {noun} {now:{form}}, was {before:{form}}"
    (a, b), (c, d) = (np.quantile(values, [0.05, 0.95]) for values in (known, window))
    return f"the {noun} varies differently: 90 % are {c:{form}} to {d:{form}}, was {a:{form}} to {b:{form}}"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"={value:.3f}"
