"""Logistic regression without a learning rate."""

import numpy as np
import torch
from torch.nn import functional as F

from sagehound.models import logistic


def photos(n: int = 60, features: int = 6, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Features around a mean of each class, n x f, and labels, n."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % classes
    means = 0.7 * torch.randn(classes, features, generator=random)
    return 5 + means[labels] + torch.randn(n, features, generator=random), labels


def gradients(x: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, found: logistic.Solution) -> list[float]:
    """The largest gradient of the objective at a solution, for weight and bias, computed on the raw features."""
    weight, bias = found.weight.clone().requires_grad_(), found.bias.clone().requires_grad_()
    scale = x.var(0, correction=0).mean().sqrt()
    losses = F.cross_entropy(x @ weight.T + bias, labels, reduction="none")
    objective = (losses @ weights + found.strength / 2 * (weight * scale).square().sum()) / weights.sum()
    return [float(g.abs().max()) for g in torch.autograd.grad(objective, [weight, bias])]


def test_the_gradient_is_zero_at_the_solution() -> None:
    x, labels = photos()
    weights = torch.linspace(0.5, 2, len(x))
    found = logistic.solve(x, labels, 3, weights=weights)
    assert max(gradients(x, labels, weights, found)) < 1e-3
    assert max(gradients(x, labels, torch.ones(len(x)), found)) > 5e-3  # without the weights it is no solution


def test_fewer_photos_than_features_have_the_same_solution() -> None:
    x, labels = photos(n=12, features=40)
    found = logistic.solve(x, labels, 3)
    assert max(gradients(x, labels, torch.ones(12), found)) < 1e-3


def test_the_strength_has_the_lowest_cross_validated_loss() -> None:
    x, labels = photos()
    found = logistic.solve(x, labels, 3)
    assert found.losses[found.strength] == min(found.losses.values())
    noise = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
    assert logistic.solve(noise, labels, 3).strength > found.strength  # noise needs a stronger penalty


def test_groups_stay_in_one_fold_and_classes_are_spread() -> None:
    labels, groups = [0] * 20 + [1] * 20, [i // 2 for i in range(40)]
    folds = logistic.folds_of(labels, groups, seed=0)
    assert all(folds[i] == folds[i + 1] for i in range(0, 40, 2))
    for k in range(logistic.FOLDS):
        assert np.bincount([label for label, fold in zip(labels, folds, strict=True) if fold == k]).tolist() == [4, 4]
