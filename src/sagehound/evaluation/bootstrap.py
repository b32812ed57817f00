"""Intervals of scores by the bootstrap."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from sagehound.evaluation.tables import Predictions

ROUNDS = 1_000
_BINS = 15  # of confidence, as in metrics.METRICS
_AT_ONCE = 2**22  # numbers in a matrix of rounds x photos

Doubles = npt.NDArray[np.float64]


def intervals(p: Predictions, scenes: Sequence[int] | None = None, seed: int = 0) -> dict[str, list[float]]:
    """The 95 % intervals of macro_f1, loss and ece, each [low, high].

    The basic bootstrap: Davison and Hinkley, "Bootstrap methods and their application" (1997), equation 2.10. Its
    interval is the percentiles, mirrored at the score, because resampled scores are biased: the ECE upwards, the F1
    downwards. Whole scenes are drawn, because their photos are right or wrong together.

    Few photos of a calibrated model have an ECE far above 0. So the interval of the ECE begins at 0 unless the ECE is
    above 97.5 % of those of labels that are drawn by the probabilities (Broecker and Smith, "Increasing the reliability
    of reliability diagrams", Weather and Forecasting 22, 2007), and it always holds the ECE itself.

    Args:
        p: the predictions of a split.
        scenes: the number of each photo's scene; None: every photo is its own.
        seed: of the draws.
    """
    photos = len(p.labels)
    _, scene_of = np.unique(np.arange(photos) if scenes is None else np.asarray(scenes), return_inverse=True)
    sums = _sums(p)
    observed = _scores(sums @ np.ones((photos, 1)))[:, 0]
    drawn = np.concatenate([_scores(sums @ weights) for weights in _draws(scene_of, seed)], axis=1)
    high, low = 2 * observed - np.percentile(drawn, [2.5, 97.5], axis=1)
    high[2] = max(high[2], observed[2])
    if observed[2] <= np.percentile(_ece_if_calibrated(p, scene_of, seed), 97.5):
        low[2] = 0
    most = np.array([1.0, np.inf, 1.0])
    ends = zip(low.clip(0, most), high.clip(0, most), strict=True)
    return {
        name: [round(float(a), 6), round(float(b), 6)]
        for name, (a, b) in zip(("macro_f1", "loss", "ece"), ends, strict=True)
    }


def differences(
    a: Predictions, b: Predictions, name: str, scenes: Sequence[int] | None = None, seed: int = 0
) -> Doubles:
    """The score of ``b`` minus that of ``a`` in each draw of whole scenes; both have the same photos in it.

    The paired bootstrap: Efron and Tibshirani, "An introduction to the bootstrap" (1993), chapter 8.

    Args:
        a: the predictions of a split.
        b: another model's, of the same photos.
        name: loss, top1 or macro_f1.
        scenes: the number of each photo's scene; None: every photo is its own.
        seed: of the draws.
    """
    photos = len(a.labels)
    _, scene_of = np.unique(np.arange(photos) if scenes is None else np.asarray(scenes), return_inverse=True)
    first, second = _sums(a), _sums(b)
    drawn = [_by_name(second @ weights)[name] - _by_name(first @ weights)[name] for weights in _draws(scene_of, seed)]
    return np.concatenate(drawn)


def scores(p: Predictions) -> dict[str, float]:
    """loss, top1 and macro_f1 of the predictions of a split, as ``differences`` computes them."""
    of_all = _by_name(_sums(p) @ np.ones((len(p.labels), 1)))
    return {name: round(float(value[0]), 6) for name, value in of_all.items()}


def _by_name(sums: Doubles) -> dict[str, Doubles]:
    macro_f1, loss, _ = _scores(sums)
    right = np.split(sums[2 + _BINS :], 3)[2].sum(0)
    return {"loss": loss, "top1": right / sums[0], "macro_f1": macro_f1}


def _draws(scene_of: npt.NDArray[np.int64], seed: int) -> Iterator[Doubles]:
    """How often each photo is drawn, photos x rounds, some rounds at a time."""
    rng, scenes = np.random.default_rng(seed), int(scene_of.max()) + 1
    at_once = max(1, min(ROUNDS, _AT_ONCE // len(scene_of)))
    for begun in range(0, ROUNDS, at_once):
        rounds = min(at_once, ROUNDS - begun)
        drawn = rng.integers(0, scenes, (scenes, rounds)) * rounds + np.arange(rounds)
        yield np.bincount(drawn.ravel(), minlength=scenes * rounds).reshape(scenes, rounds)[scene_of].astype(float)


def _ece_if_calibrated(p: Predictions, scene_of: npt.NDArray[np.int64], seed: int) -> Doubles:
    """The ECE of labels that are drawn by the probabilities, in each round."""
    confidence = p.probabilities.max(1).astype(np.float64)
    rng, scenes = np.random.default_rng([seed, 1]), int(scene_of.max()) + 1
    in_bin = csr_array((np.ones(len(confidence)), (_bins(confidence), np.arange(len(confidence)))))
    at_once = max(1, min(ROUNDS, _AT_ONCE // len(confidence)))
    drawn = []
    for begun in range(0, ROUNDS, at_once):
        chance = rng.random((scenes, min(at_once, ROUNDS - begun)))[scene_of]
        gaps = in_bin @ (confidence[:, None] - (chance < confidence[:, None]))
        drawn.append(np.abs(gaps).sum(0) / len(confidence))
    return np.concatenate(drawn)


def _bins(confidence: Doubles) -> npt.NDArray[np.int64]:
    return np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)


def _sums(p: Predictions) -> csr_array:
    """What each photo adds to the sums of a score: 1, its loss, its gap in a bin, and its class counts.

    Returns (2 + bins + 3 c) x photos.
    """
    photos, classes = p.logits.shape
    every, probabilities = np.arange(photos), p.probabilities
    logits = p.logits.astype(np.float64)
    loss = np.logaddexp.reduce(logits, axis=1) - logits[every, p.labels]
    confidence = probabilities.max(1).astype(np.float64)
    begun = 2 + _BINS
    rows = [0 * every, 0 * every + 1, 2 + _bins(confidence), begun + p.labels, begun + classes + p.predicted]
    values = [np.ones(photos), loss, confidence - p.correct, np.ones(photos), np.ones(photos)]
    rows.append((begun + 2 * classes + p.labels)[p.correct])
    values.append(np.ones(len(rows[-1])))
    columns = np.concatenate([*[every] * 5, every[p.correct]])
    shape = (begun + 3 * classes, photos)
    return csr_array((np.concatenate(values), (np.concatenate(rows), columns)), shape=shape)


def _scores(sums: Doubles) -> Doubles:
    """macro_f1, loss and ece of each round, 3 x rounds, from sums, (2 + bins + 3 c) x rounds."""
    photos, loss, gaps = sums[0], sums[1], sums[2 : 2 + _BINS]
    labels, predicted, right = np.split(sums[2 + _BINS :], 3)
    total = labels + predicted
    f1 = 2 * right / np.maximum(total, 1)
    macro_f1 = f1.sum(0) / (total > 0).sum(0)  # classes without photos and predictions do not count
    return np.stack([macro_f1, loss / photos, np.abs(gaps).sum(0) / photos])
