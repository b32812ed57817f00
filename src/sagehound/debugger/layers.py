"""The parts of a model that are observed: trained parameters, and layers whose activations can die or saturate."""

from collections.abc import Iterator

import lightning.pytorch as pl
from torch import nn

from sagehound.models.classifier import Classifier
from sagehound.models.relu6 import SmallReLU6

_KINDS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu",
    SmallReLU6: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
}


def trained(model: pl.LightningModule) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that are trained now, by name."""
    assert isinstance(model, Classifier)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not (model.frozen and name.startswith("backbone.")):
            yield name, parameter


def activations(model: nn.Module) -> dict[str, str]:
    """The activation layers that are observed, by name: relu, tanh or sigmoid."""
    kinds = ((name, _KINDS.get(type(module))) for name, module in model.named_modules())
    return {name: kind for name, kind in kinds if kind}
