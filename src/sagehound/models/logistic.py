"""Multinomial logistic regression with an L2 penalty, whose strength cross-validation chooses."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# of the penalty, from strong to weak; the features have a mean variance of 1
STRENGTHS = tuple(float(s) for s in np.logspace(3, -3, 13))
FOLDS = 5
_MOST_ROWS = 10_000  # of the cross-validation; more take minutes
_STEPS = 200  # of L-BFGS at most; a start near the solution needs about 20
_PATIENCE = 2  # weaker penalties that are tried after the best one


@dataclass(frozen=True)
class Solution:
    """A linear layer, and how its penalty was chosen."""

    weight: Tensor  # c x f
    bias: Tensor  # c
    strength: float  # of the penalty
    losses: dict[float, float]  # by strength: mean cross entropy of rows that were left out


def solve(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
    groups: Sequence[int] | None = None,
    seed: int = 0,
) -> Solution:
    """The linear layer with the lowest sum of cross entropies plus strength / 2 times the sum of squared weights.

    The objective is convex, so there is no learning rate and no number of epochs. The penalty applies to features with
    a mean of 0 and a mean variance of 1, and not to the bias. The strength has the lowest cross entropy in a
    cross-validation with ``FOLDS`` folds, on 10,000 rows at most.

    Args:
        features: n x f.
        labels: n, from 0 to ``classes`` - 1.
        classes: how many.
        weights: of each row in the loss, n; None: 1.
        smoothing: share of each label that is spread over all classes.
        groups: rows of one group are in one fold, n; None: each row is its own.
        seed: of the folds.
    """
    weights = torch.ones(len(labels)) if weights is None else weights
    variance, mean = torch.var_mean(features, 0, correction=0)
    scale = variance.mean().sqrt().clamp(min=1e-12)  # one for all: a scale for each feature made the loss higher
    targets = F.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes
    rows, basis = _rotated((features - mean) / scale)
    losses = _cross_validate(rows, targets, labels, weights, folds_of(labels.tolist(), groups, seed))
    strength = min(losses, key=lambda s: losses[s])
    best = _minimise(rows, targets, weights, strength)
    weight = ((best[:-1] if basis is None else basis @ best[:-1]) / scale).T.contiguous()
    return Solution(weight, best[-1] - weight @ mean, strength, losses)


def folds_of(labels: Sequence[int], groups: Sequence[int] | None, seed: int) -> list[int]:
    """The fold of each row, n: groups stay together, and each class is spread evenly."""
    groups = range(len(labels)) if groups is None else groups
    class_of = dict(zip(groups, labels, strict=True))
    names = np.random.default_rng(seed).permutation(sorted(class_of)).tolist()
    names.sort(key=lambda g: class_of[g])  # stable, so the order within a class stays random
    fold = {g: i % FOLDS for i, g in enumerate(names)}
    return [fold[g] for g in groups]


def _cross_validate(
    rows: Tensor, targets: Tensor, labels: Tensor, weights: Tensor, folds: Sequence[int]
) -> dict[float, float]:
    """By strength, the mean cross entropy of rows that were left out. It ends after ``_PATIENCE`` worse strengths."""
    keep = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:_MOST_ROWS].sort().values
    rows, targets, labels, weights, fold = (t[keep] for t in (rows, targets, labels, weights, torch.tensor(folds)))
    parts = [fold == k for k in sorted(set(fold.tolist()))]
    starts: list[Tensor | None] = [None] * len(parts)
    losses: dict[float, float] = {}
    for strength in STRENGTHS:
        total = 0.0
        for i, out in enumerate(parts):  # without weight instead of without copies: all folds share the rows
            starts[i] = start = _minimise(rows, targets, weights * ~out, strength, starts[i])
            left_out = F.cross_entropy(_logits(rows[out], start), labels[out], reduction="none")
            total += float((left_out * weights[out]).sum())
        losses[strength] = total / float(weights.sum())
        best = min(losses, key=lambda s: losses[s])
        if len(losses) > list(losses).index(best) + _PATIENCE:
            break
    return losses


def _minimise(rows: Tensor, targets: Tensor, weights: Tensor, strength: float, start: Tensor | None = None) -> Tensor:
    """The solution, f + 1 x c; the last row is the bias."""
    total = weights.sum().clamp(min=1e-12)
    zeros = torch.zeros(rows.shape[1] + 1, targets.shape[1])
    solution = (zeros if start is None else start.clone()).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [solution], max_iter=_STEPS, tolerance_grad=1e-5, tolerance_change=1e-8, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        losses = F.cross_entropy(_logits(rows, solution), targets, reduction="none")
        value: Tensor = (losses @ weights + strength / 2 * solution[:-1].square().sum()) / total
        value.backward()
        return value

    optimizer.step(objective)
    return solution.detach()


def _logits(rows: Tensor, solution: Tensor) -> Tensor:
    return rows @ solution[:-1] + solution[-1]


def _rotated(rows: Tensor) -> tuple[Tensor, Tensor | None]:
    """Fewer columns, if there are fewer rows than columns, and the basis that rotates a solution back.

    The penalty does not change under rotation, and the solution is a combination of the rows.
    """
    if len(rows) >= rows.shape[1]:
        return rows, None
    basis, triangle = torch.linalg.qr(rows.T)
    return triangle.T.contiguous(), basis
