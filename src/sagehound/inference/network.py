"""Normalisation before a backbone, and the head after it. Imports torch and nothing else."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from sagehound.inference.preprocessing import Preprocessing


class Normalise(nn.Module):
    """Photos, uint8, b x 3 x h x w, to normalised floats, on the same device.

    Args:
        to: mean and std.
        channels_last: the memory order of the result.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing, *, channels_last: bool) -> None:
        super().__init__()
        self.order = torch.channels_last if channels_last else torch.contiguous_format
        self.register_buffer("mean", 255 * torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, photos: Tensor) -> Tensor:
        """Scale one batch."""
        return ((photos - self.mean) / self.std).contiguous(memory_format=self.order)


def features_of(backbone: nn.Module) -> int:
    """The number of features of a timm backbone without its classifier."""
    return int(backbone.head_hidden_size)  # type: ignore[arg-type]


def set_input_size(backbone: nn.Module, size: tuple[int, int]) -> None:
    """Adapt a timm backbone to photos of another height and width, in pixels.

    Position embeddings are interpolated and windows resized. Convolutions need no change.
    """
    own = backbone.pretrained_cfg["input_size"][1:]  # type: ignore[index]
    adapt = getattr(backbone, "set_input_size", None)
    if adapt and tuple(own) != tuple(size):
        adapt(img_size=tuple(size))


def make_head(features: int, hidden: list[int], classes: int, dropout: float) -> nn.Sequential:
    """Linear layers of the given widths with ReLU between them: features, b x f, to logits, b x c."""
    widths = [features, *hidden, classes]
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(widths)):
        layers += [nn.ReLU()] * bool(i) + [nn.Dropout(dropout)] * bool(dropout) + [nn.Linear(a, b)]
    return nn.Sequential(*layers)
