"""The tests of two samples: their p values, and their false alarms."""

from collections.abc import Callable

import numpy as np
import pytest

from sagehound.evaluation.significance import holm
from sagehound.monitoring import two_sample


def normal(seed: int, n: int, shift: float = 0.0, d: int = 8) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(n, d)) + shift).astype(np.float32)


def permuted(
    test: Callable[..., two_sample.Statistic], a: np.ndarray, b: np.ndarray, seed: int = 0
) -> tuple[float, float]:
    ((statistic, p),) = two_sample.by_permutation([test(a, b)], len(a), len(b), seed)
    return statistic, p


def test_mmd_is_the_mean_difference_of_the_kernel() -> None:
    a, b = normal(0, 5), normal(1, 4)
    pooled = np.concatenate([a, b]).astype(float)
    squares = ((pooled[:, None] - pooled[None]) ** 2).sum(2)
    k = np.exp(-squares / (2 * np.median(squares[np.triu_indices(9, 1)])))
    expected = k[:5, :5].mean() + k[5:, 5:].mean() - 2 * k[:5, 5:].mean()
    assert permuted(two_sample.mmd, a, b)[0] == pytest.approx(expected)


def test_chi_square_is_scipys() -> None:
    from scipy.stats import chi2_contingency

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, 60).astype(np.int32), rng.integers(0, 3, 90).astype(np.int32)
    table = [np.bincount(x, minlength=4) for x in (a, b)]
    expected = chi2_contingency(table, correction=False)
    statistic, p = permuted(two_sample.chi_square, a, b)
    assert statistic == pytest.approx(expected.statistic)
    assert p == pytest.approx(expected.pvalue, abs=0.002), "many photos in each class: the asymptotic p is right"


def test_a_shift_has_the_smallest_p_and_equal_samples_the_largest() -> None:
    a = normal(0, 60)
    assert permuted(two_sample.mmd, a, normal(1, 50, shift=1))[1] == 1 / (two_sample.ROUNDS + 1)
    assert permuted(two_sample.mmd, a, a)[1] == 1
    same = np.zeros(20, np.int32)
    assert permuted(two_sample.chi_square, same, same)[1] == 1


def test_kolmogorov_smirnov_is_scipys() -> None:
    from scipy.stats import ks_2samp

    a, b = normal(0, 40, d=1)[:, 0], normal(1, 30, shift=0.4, d=1)[:, 0]
    expected = ks_2samp(a, b, method="exact")
    statistic, p = permuted(two_sample.kolmogorov_smirnov, a, b)
    assert statistic == pytest.approx(expected.statistic)
    assert p == pytest.approx(expected.pvalue, abs=0.015), "within the error of 9,999 permutations"
    tied = np.repeat([1.0, 2.0], [3, 2]).astype(np.float32)
    assert permuted(two_sample.kolmogorov_smirnov, tied, tied) == (pytest.approx(0, abs=1e-12), 1)
    assert permuted(two_sample.kolmogorov_smirnov, tied, tied + 9)[1] == pytest.approx(2 / 252, abs=0.004)


def test_p_values_are_uniform_if_nothing_has_changed() -> None:
    rng = np.random.default_rng(0)
    p = [permuted(two_sample.mmd, normal(2 * i, 15), normal(2 * i + 1, 10), i)[1] for i in range(60)]
    q = [permuted(two_sample.chi_square, *rng.integers(0, 9, (2, 12)).astype(np.int32), i)[1] for i in range(60)]
    r = [permuted(two_sample.kolmogorov_smirnov, *rng.integers(0, 5, (2, 12)) * 1.0, i)[1] for i in range(60)]
    for values in (p, q, r):  # P(more than 8 of 60 below 0.05) is 0.4 %
        assert sum(value <= 0.05 for value in values) <= 8
        assert 0.35 < np.mean(values) < 0.7


def test_holm_as_in_his_paper() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]


def test_the_kth_neighbour_is_not_the_photo_itself() -> None:
    line = np.arange(6, dtype=np.float32)[:, None]
    assert two_sample.neighbour_distance(line, line, 1, same=True).tolist() == [1] * 6
    assert two_sample.neighbour_distance(line[:1], line, 3).tolist() == [2]
    assert two_sample.neighbour_distance(line[:1], line[:2], 5).tolist() == [1], "no more neighbours than photos"
