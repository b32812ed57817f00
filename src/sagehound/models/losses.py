"""Training losses: one number per photo, so that photos and classes can be weighted."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sagehound.errors import ConfigError

NAMES = ("cross_entropy", "focal")

FOCAL_GAMMA = 2.0  # the best value of Lin et al. 2017


class CrossEntropy(nn.Module):
    """Cross entropy, a class weighted by ``weight``, c, and labels smoothed by ``smoothing``.

    ``offset``, c, is added to the logits, see ``adjustment``.
    """

    weight: Tensor | None
    offset: Tensor | None

    def __init__(self, weight: Tensor | None = None, smoothing: float = 0.0) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("offset", None, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Losses, b, of logits, b x c, and targets: labels, b, or probabilities, b x c."""
        return self._losses(logits if self.offset is None else logits + self.offset, targets)

    def _losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, self.weight, reduction="none", label_smoothing=self.smoothing)


class Focal(CrossEntropy):
    """Focal loss, (1 - p)^gamma times the cross entropy of each class (Lin et al. 2017)."""

    def __init__(self, gamma: float = FOCAL_GAMMA, weight: Tensor | None = None, smoothing: float = 0.0) -> None:
        super().__init__(weight, smoothing)
        self.gamma = gamma

    def _losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        classes = logits.shape[1]
        wanted = F.one_hot(targets, classes).to(logits.dtype) if targets.ndim == 1 else targets
        wanted = wanted * (1 - self.smoothing) + self.smoothing / classes
        log_p = logits.log_softmax(1)
        rest = (1 - log_p.exp()).clamp(min=torch.finfo(log_p.dtype).tiny)  # at 0 a power below 1 has no gradient
        terms = wanted * rest**self.gamma * log_p
        return -(terms if self.weight is None else terms * self.weight).sum(1)


def balanced(counts: list[int]) -> Tensor:
    """Class weights, c, that give each class the same share of the loss: n / (c x photos of the class).

    King and Zeng 2001; the average weight of a photo is 1. A class without photos has weight 0.
    """
    n = torch.tensor(counts, dtype=torch.float)
    return torch.where(n > 0, n.sum() / (len(counts) * n.clamp(min=1)), torch.zeros(()))


def adjustment(counts: list[int], tau: float) -> Tensor:
    """What is added to the logits of each class in the training loss, c: tau x ln(share of the train photos).

    A rare class needs a larger logit for the same loss, so the trained logits, without the addition, treat all classes
    as equally frequent (logit adjustment, Menon et al. 2021, arXiv 2007.07314). A class without photos counts as one.
    """
    n = torch.tensor(counts, dtype=torch.float).clamp(min=1)
    return tau * (n / n.sum()).log()


def check(
    loss: str | nn.Module,
    class_weights: str | Sequence[float] | None,
    smoothing: float,
    logit_adjustment: float | None = None,
) -> None:
    """Check the settings of a loss.

    Raises:
        ConfigError: there is no loss of this name, or the settings contradict each other.
    """
    if isinstance(loss, str) and loss not in NAMES:
        raise ConfigError(f"loss={loss}: choose from {', '.join(NAMES)}, or give a torch.nn.Module")
    if not isinstance(loss, str) and (class_weights is not None or smoothing or logit_adjustment is not None):
        raise ConfigError("a loss of your own weights classes and smooths labels itself: drop these arguments")
    if isinstance(class_weights, str) and class_weights != "balanced":
        raise ConfigError(f"class_weights={class_weights}: give balanced, or one weight a class")
    if logit_adjustment is not None and not (math.isfinite(logit_adjustment) and logit_adjustment >= 0):
        raise ConfigError(f"logit_adjustment={logit_adjustment}: give a number of at least 0; 1 is usual")
    if logit_adjustment is not None and class_weights is not None:
        raise ConfigError("logit_adjustment and class_weights both balance the classes: drop one of them")


def make(
    loss: str | nn.Module,
    class_weights: str | Sequence[float] | None,
    gamma: float,
    smoothing: float,
    classes: Sequence[str],
) -> nn.Module:
    """Make the loss. Balanced class weights are set later, when the photos are known.

    Raises:
        ConfigError: there are not as many class weights as classes.
    """
    if not isinstance(loss, str):
        return loss
    if loss not in NAMES:
        return _Missing(loss)
    weight = None
    if class_weights is not None and not isinstance(class_weights, str):
        if len(class_weights) != len(classes):
            raise ConfigError(
                f"loss.class_weights: {len(class_weights)} weights for {len(classes)} classes; give one a class, in "
                f"the order {', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}"
            )
        weight = torch.tensor(list(class_weights), dtype=torch.float)
    return Focal(gamma, weight, smoothing) if loss == "focal" else CrossEntropy(weight, smoothing)


class _Missing(nn.Module):
    """Placeholder of a custom loss: a checkpoint holds only its name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        raise ConfigError(f"the checkpoint was trained with the loss {self.name}: give it as loss=... to train further")
