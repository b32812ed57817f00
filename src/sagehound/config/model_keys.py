"""Keys of the model: backbone, head and fine-tuning."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import MISSING

from sagehound.config.fields import key

if TYPE_CHECKING:
    from sagehound.config.schema import Train


@dataclass
class Backbone:
    """The pretrained part of the model."""

    name: str = key("any name of timm.list_models(), with or without a weights tag: resnet34, resnet34.tv_in1k")
    pretrained: bool = key("start from ImageNet weights, which timm fetches once, not from random weights", True)
    weights: str | None = key("a file instead of the download: PATH.safetensors, PATH.pth or pkg://package/path", None)

    def conflicts(self, cfg: "Train") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        if self.weights and not self.pretrained:
            yield f"backbone.weights={self.weights} contradicts backbone.pretrained=false: drop one of them"


@dataclass
class Head:
    """The layers that are trained from random weights."""

    hidden: list[int] = key("widths of hidden layers; [] is one linear layer, [512,256] three", [], at_least=1)
    dropout: float = key("share of inputs that are dropped before every layer", 0.0, at_least=0, below=1)


@dataclass
class Finetune:
    """Which part of the model is trained, and how fast."""

    name: str = key("the head alone; the head first, then all; or all", MISSING, choices=("head", "gradual", "full"))
    head_epochs: int = key("gradual: epochs before the backbone is unfrozen", 0, at_least=0)
    backbone_lr: float = key("learning rate of the backbone's last layer, as a share of optimizer.lr", 0.1, above=0)
    layer_decay: float = key(
        "learning rate of each layer, as a share of that of the next layer towards the head", 0.8, above=0, at_most=1
    )
    freeze_norm: bool = key(
        "keep the pretrained BatchNorm statistics while the backbone is trained: better for few photos", True
    )

    def conflicts(self, cfg: "Train") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        epochs = cfg.trainer.max_epochs
        if self.name == "head" and not cfg.backbone.pretrained:
            yield (
                "finetune=head contradicts backbone.pretrained=false: a frozen random backbone learns nothing; "
                "choose finetune=full, or give weights"
            )
        if self.name == "gradual" and not 0 < self.head_epochs < epochs:
            yield (
                f"finetune.head_epochs={self.head_epochs}: with finetune=gradual it must lie between 1 and "
                f"trainer.max_epochs - 1 = {epochs - 1}"
            )
        if self.name != "gradual" and self.head_epochs:
            yield f"finetune.head_epochs is of finetune=gradual only, not of finetune={self.name}: drop it"
