"""Tests whether two samples come from one distribution."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from sagehound.monitoring.sample import Floats

ROUNDS = 9_999  # permutations; the smallest p value is 1 / 10,000
_AT_ONCE = 1_000
_TIE = 1e-9, 1e-12  # relative and absolute difference of equal statistics, by rounding

Doubles = npt.NDArray[np.float64]
# r rows with 1 for each photo of the first sample and 0 for each of the second, r x (n + m), to r numbers
Statistic = Callable[[Doubles], Doubles]


def mmd(a: Floats, b: Floats) -> Statistic:
    """Maximum mean discrepancy of two samples, n x d and m x d, squared.

    The biased statistic of Gretton et al., "A kernel two-sample test", JMLR 13 (2012), equation 5, with the kernel
    exp(-distance^2 / (2 s^2)), where s is the median distance of the pooled photos (section 8).
    """
    squares = _squared_distances(np.concatenate([a, b]).astype(np.float64))
    upper = squares[np.triu_indices(len(squares), 1)]
    width = float(np.median(upper)) or float(upper.mean()) or 1.0
    kernel = np.exp(-squares / (2 * width))

    def statistic(first: Doubles) -> Doubles:
        weights = first / len(a) - (1 - first) / len(b)
        return np.asarray(((weights @ kernel) * weights).sum(1))

    return statistic


def chi_square(a: npt.NDArray[np.int32], b: npt.NDArray[np.int32]) -> Statistic:
    """Pearson's chi-square of the classes of two samples, n and m: Pearson, Philosophical Magazine 50 (1900)."""
    pooled = np.concatenate([a, b])
    of_class = (pooled[:, None] == np.unique(pooled)).astype(np.float64)
    shares = of_class.mean(0)

    def statistic(first: Doubles) -> Doubles:
        in_a = first @ of_class
        off = np.square(in_a - len(a) * shares)
        return np.asarray((off / (len(a) * shares) + off / (len(b) * shares)).sum(1))

    return statistic


def kolmogorov_smirnov(a: Floats, b: Floats) -> Statistic:
    """The largest difference of the empirical distribution functions of two samples, n and m.

    Smirnov, "Table for estimating the goodness of fit of empirical distributions", Annals of Mathematical Statistics 19
    (1948). By permutation, the p value is right for equal values too, such as photos of one size.
    """
    pooled = np.concatenate([a, b])
    order = np.argsort(pooled, kind="stable")
    last = np.append(np.flatnonzero(np.diff(pooled[order])), len(pooled) - 1)  # the last one of each value

    def statistic(first: Doubles) -> Doubles:
        weights = first / len(a) - (1 - first) / len(b)
        return np.asarray(np.abs(weights[:, order].cumsum(1)[:, last]).max(1))

    return statistic


def by_permutation(statistics: Sequence[Statistic], n: int, m: int, seed: int) -> list[tuple[float, float]]:
    """Each statistic of two samples with n and m photos, and its p value.

    The p value is the share of permutations of the pooled photos whose statistic is as large. One is added to both
    counts, so that it is never 0: Phipson and Smyth, "Permutation p-values should never be zero", Stat. Appl. Genet.
    Mol. Biol. 9 (2010).
    """
    given = np.repeat([[1.0, 0.0]], [n, m], axis=1)
    observed = [float(statistic(given)[0]) for statistic in statistics]
    least = [value - _TIE[0] * abs(value) - _TIE[1] for value in observed]
    as_large = [1] * len(statistics)
    for first in _permutations(n, m, seed):
        for i, statistic in enumerate(statistics):
            as_large[i] += int((statistic(first) >= least[i]).sum())
    return [(value, count / (ROUNDS + 1)) for value, count in zip(observed, as_large, strict=True)]


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


def _permutations(n: int, m: int, seed: int) -> Iterator[Doubles]:
    """``ROUNDS`` rows with n ones and m zeros in random order, ``_AT_ONCE`` at a time."""
    rng = np.random.default_rng(seed)
    row = np.repeat([1.0, 0.0], [n, m])
    for begun in range(0, ROUNDS, _AT_ONCE):
        yield rng.permuted(np.tile(row, (min(_AT_ONCE, ROUNDS - begun), 1)), axis=1)
