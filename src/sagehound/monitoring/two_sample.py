"""Tests whether two samples come from one distribution, and the correction for several tests."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from sagehound.monitoring.sample import Floats

ROUNDS = 9_999  # permutations; the smallest p value is 1 / 10,000
_AT_ONCE = 1_000
_TIE = 1e-9  # relative difference of equal statistics, by rounding

Doubles = npt.NDArray[np.float64]
Statistic = Callable[[Doubles], Doubles]  # rows with 1 for photos of the first sample, r x (n + m), to r numbers


def mmd(a: Floats, b: Floats, seed: int) -> tuple[float, float]:
    """Maximum mean discrepancy of two samples, n x d and m x d, with its p value by permutation.

    The squared statistic (biased, V-statistic) of Gretton et al., "A kernel two-sample test", JMLR 13 (2012), equation
    5, with the kernel exp(-distance^2 / (2 s^2)), where s is the median distance of the pooled photos (section 8).
    """
    squares = _squared_distances(np.concatenate([a, b]).astype(np.float64))
    upper = squares[np.triu_indices(len(squares), 1)]
    width = float(np.median(upper)) or float(upper.mean()) or 1.0
    kernel = np.exp(-squares / (2 * width))

    def statistic(first: Doubles) -> Doubles:
        weights = first / len(a) - (1 - first) / len(b)
        return np.asarray(((weights @ kernel) * weights).sum(1))

    return _by_permutation(statistic, len(a), len(b), seed)


def chi_square(a: npt.NDArray[np.int32], b: npt.NDArray[np.int32], seed: int) -> tuple[float, float]:
    """Pearson's chi-square of the classes of two samples, n and m, with its p value by permutation.

    Pearson, Philosophical Magazine 50 (1900). The permutation makes the p value right for rare classes too.
    """
    pooled = np.concatenate([a, b])
    of_class = (pooled[:, None] == np.unique(pooled)).astype(np.float64)
    shares = of_class.mean(0)

    def statistic(first: Doubles) -> Doubles:
        in_a = first @ of_class
        off = np.square(in_a - len(a) * shares)
        return np.asarray((off / (len(a) * shares) + off / (len(b) * shares)).sum(1))

    return _by_permutation(statistic, len(a), len(b), seed)


def kolmogorov_smirnov(a: Floats, b: Floats) -> tuple[float, float]:
    """The largest difference of two empirical distribution functions, with its exact p value (scipy's ks_2samp).

    Hodges, "The significance probability of the Smirnov two-sample test", Arkiv foer Matematik 3 (1958). Equal values,
    such as photos of one size, make it conservative.
    """
    from scipy.stats import ks_2samp  # takes a second to import

    result = ks_2samp(a, b)
    return float(result.statistic), float(min(result.pvalue, 1.0))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values: if all samples agree, the probability that any is at most alpha is at most alpha.

    Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statistics 6 (1979).
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min((len(p_values) - rank) * p_values[i], 1.0))
        adjusted[int(i)] = largest
    return adjusted


def neighbour_distance(photos: Floats, baseline: Floats, k: int = 5, *, same: bool = False) -> Doubles:
    """Distance of each photo, n x d, to its k-th nearest one of the baseline, m x d; n.

    Args:
        photos: projected features.
        baseline: projected features.
        k: the neighbour's rank, at most m.
        same: ``photos`` are the baseline; a photo is not its own neighbour.
    """
    pooled = np.concatenate([photos, baseline]).astype(np.float64)
    distances = np.sqrt(_squared_distances(pooled)[: len(photos), len(photos) :])
    if same:
        np.fill_diagonal(distances, np.inf)
    rank = min(k, len(baseline) - same) - 1
    return np.asarray(np.partition(distances, rank, axis=1)[:, rank])


def _squared_distances(rows: Doubles) -> Doubles:
    norms = np.square(rows).sum(1)
    return np.asarray(np.maximum(norms[:, None] + norms[None] - 2 * rows @ rows.T, 0))


def _by_permutation(statistic: Statistic, n: int, m: int, seed: int) -> tuple[float, float]:
    """The statistic of two samples, and the share of permutations whose statistic is as large.

    One is added to both counts, so that p is never 0: Phipson and Smyth, "Permutation p-values should never be zero",
    Stat. Appl. Genet. Mol. Biol. 9 (2010).
    """
    observed = float(statistic(np.repeat([[1.0, 0.0]], [n, m], axis=1))[0])
    least = observed - _TIE * abs(observed)
    as_large = sum(int((statistic(first) >= least).sum()) for first in _permutations(n, m, seed))
    return observed, (as_large + 1) / (ROUNDS + 1)


def _permutations(n: int, m: int, seed: int) -> Iterator[Doubles]:
    """``ROUNDS`` rows with n ones and m zeros in random order, ``_AT_ONCE`` at a time."""
    rng = np.random.default_rng(seed)
    row = np.repeat([1.0, 0.0], [n, m])
    for begun in range(0, ROUNDS, _AT_ONCE):
        yield rng.permuted(np.tile(row, (min(_AT_ONCE, ROUNDS - begun), 1)), axis=1)
