"""The network that is served: normalisation, backbone, head and the score of unknown photos. Imports only torch."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


class Unknown(nn.Module):
    """How unlike the photos of every class a photo is: 0 like the mean of a class, 1 and more like none.

    It is 1 minus the largest cosine of the features and the mean features of a class: Snell, Swersky and Zemel,
    "Prototypical networks for few-shot learning", NeurIPS 2017, with the cosine as in Tack et al., "CSI", NeurIPS 2020.

    Args:
        prototypes: mean features of each class, c x f.
    """

    prototypes: Tensor

    def __init__(self, prototypes: Tensor) -> None:
        super().__init__()
        self.register_buffer("prototypes", F.normalize(prototypes))

    def forward(self, features: Tensor) -> Tensor:
        """The score of each photo, b, from its features, b x f."""
        return 1 - (F.normalize(features) @ self.prototypes.T).amax(1)


class ServedNetwork(nn.Module):
    """Everything after decoding: photos, uint8, b x h x w x 3, to probabilities, b x c, and unknown scores, b.

    Args:
        normalise: what the backbone expects.
        backbone: normalised photos to features, b x f.
        head: features to logits, b x c.
        unknown: the score; None: the artifact has none.
        temperature: by which the logits are divided.
    """

    def __init__(
        self,
        normalise: nn.Module,
        backbone: nn.Module,
        head: nn.Module,
        unknown: Unknown | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.normalise, self.backbone, self.head, self.unknown = normalise, backbone, head, unknown
        self.temperature = temperature

    def forward(self, photos: Tensor) -> tuple[Tensor, ...]:
        """Probabilities and unknown scores of one batch; without ``unknown`` only the probabilities."""
        features = self.backbone(self.normalise(photos.permute(0, 3, 1, 2)))
        probabilities = (self.head(features) / self.temperature).softmax(1)
        return (probabilities,) if self.unknown is None else (probabilities, self.unknown(features))
