"""Faulty parts of a user: losses, optimizers, transforms and callbacks; named by ``_target_``."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import Tensor, nn, optim
from torch.nn import functional as F


class WrongSign(nn.Module):
    """The negative cross entropy."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Losses, b."""
        return -F.cross_entropy(logits, targets, reduction="none")


class SoftmaxTwice(nn.Module):
    """Cross entropy of probabilities."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Losses, b."""
        return F.cross_entropy(logits.softmax(1), targets, reduction="none")


class Detached(nn.Module):
    """A loss without a gradient into the model, but with one."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.ones((), requires_grad=True)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Losses, b."""
        return self.scale * F.cross_entropy(logits.detach(), targets, reduction="none")


class NextLabel(nn.Module):
    """Cross entropy of labels that are shifted by one."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Losses, b."""
        return F.cross_entropy(logits, (targets + 1) % logits.shape[1], reduction="none")


class OnlyBiases(optim.AdamW):
    """An optimizer that is given biases alone."""

    def __init__(self, params: Any, lr: float, weight_decay: float = 0.0) -> None:  # noqa: ANN401
        super().__init__([g for g in params if any(p.ndim == 1 for p in g["params"])], lr, weight_decay=weight_decay)


class ZeroRate(optim.SGD):
    """An optimizer whose learning rate is zero at once."""

    def __init__(self, params: Any, lr: float, weight_decay: float = 0.0) -> None:  # noqa: ANN401
        super().__init__([g | {"lr": 0.0} for g in params], 0.0, weight_decay=weight_decay)


class Ascent(optim.SGD):
    """Gradient ascent."""

    def __init__(self, params: Any, lr: float, weight_decay: float = 0.0) -> None:  # noqa: ANN401
        super().__init__(list(params), lr, weight_decay=weight_decay, maximize=True)


class Bgr:
    """Red and blue swapped, as by OpenCV."""

    def __call__(self, photo: Image.Image) -> Image.Image:
        """One photo."""
        return Image.fromarray(np.asarray(photo)[..., ::-1].copy())


class Black:
    """Photos scaled to 0..1 and stored as bytes."""

    def __call__(self, photo: Image.Image) -> Image.Image:
        """One photo."""
        return Image.fromarray((np.asarray(photo) / 255).astype(np.uint8))


class Dark:
    """Photos that are divided twice by their deviation."""

    def __call__(self, photo: Image.Image) -> Image.Image:
        """One photo."""
        return Image.fromarray((np.asarray(photo) * 0.2).astype(np.uint8))


class Initialise(Callback):
    """Sets the head's first weights before training.

    Args:
        how: zeros, large, dead (biases of hidden layers far below zero) or not_finite.
    """

    def __init__(self, how: str) -> None:
        self.how = how

    @torch.no_grad()
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        """Change the weights."""
        layers = [m for m in pl_module.head if isinstance(m, nn.Linear)]
        for layer in layers:
            if self.how == "zeros":
                layer.weight.zero_()
                layer.bias.zero_()
            elif self.how == "large":
                layer.weight.mul_(100)
            elif self.how == "dead" and layer is not layers[-1]:
                layer.bias.fill_(-1000)
            elif self.how == "not_finite":
                layer.weight[0, 0] = float("nan")


class Freeze(Callback):
    """Stops the gradients of everything that should learn."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        """Freeze."""
        pl_module.head.requires_grad_(False)
        for parameter in pl_module.head[-1:].parameters():
            parameter.requires_grad_(True)
        if len(pl_module.head) == 1:
            pl_module.head[0].weight.requires_grad_(False)
