"""Keys for the model: backbone, head and fine-tuning."""

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

    name: str = key("a name of timm.list_models(), with or without a weights tag, such as resnet34 or resnet34.tv_in1k")
    pretrained: bool = key("start from ImageNet weights, which timm downloads once; false: random weights", True)
    weights: str | None = key(
        "weights file to use instead: PATH.safetensors, PATH.pth, s3://BUCKET/KEY or pkg://package/path", None
    )

    def conflicts(self, cfg: "Train") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        if self.weights and not self.pretrained:
            yield f"backbone.weights={self.weights} contradicts backbone.pretrained=false: drop one of them"


@dataclass
class Head:
    """The layers that start from random weights."""

    hidden: list[int] = key("widths of the hidden layers; []: one linear layer; [512,256]: three", [], at_least=1)
    dropout: float = key("share of the inputs dropped before each layer", 0.0, at_least=0, below=1)


@dataclass
class Finetune:
    """Which part of the model is trained, and how fast."""

    name: str = key(
        "layers to train; head: only the head; gradual: the head, later all; full: all layers",
        MISSING,
        choices=("head", "gradual", "full"),
    )
    head_epochs: int = key("epochs before the backbone is unfrozen; for finetune=gradual", 0, at_least=0)
    backbone_lr: float = key(
        "learning rate of the backbone's last layer, and of a head that was solved before, as a multiple of "
        "optimizer.lr",
        0.1,
        above=0,
    )
    layer_decay: float = key(
        "factor by which the learning rate falls from each layer to the one before it", 0.8, above=0, at_most=1
    )
    freeze_norm: bool = key(
        "keep the pretrained BatchNorm statistics while the backbone is fine-tuned; better with few photos", True
    )
    start: str = key(
        "head from which gradual and full start; solved: on cached features, as with solver=auto, and at the end the "
        "weights are interpolated with it (see training.md); random: an untrained head",
        "solved",
        choices=("solved", "random"),
    )
    solver: str | None = key(
        "auto: for finetune=head, solve the head on cached features, without a learning rate and epochs; null: the "
        "optimizer trains it",
        None,
        choices=("auto",),
    )

    def conflicts(self, cfg: "Train") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        epochs = cfg.trainer.max_epochs
        if self.name == "head" and not cfg.backbone.pretrained:
            yield (
                "finetune=head contradicts backbone.pretrained=false: a frozen backbone with random weights gives no "
                "useful features; choose finetune=full, or give weights"
            )
        if self.name == "gradual" and not 0 < self.head_epochs < epochs:
            yield (
                f"finetune.head_epochs={self.head_epochs}: with finetune=gradual it must be between 1 and "
                f"trainer.max_epochs - 1 = {epochs - 1}"
            )
        if self.solver and (why := self._unsolvable(cfg)):
            yield f"finetune.solver={self.solver} cannot solve {why}: drop one of them"
        if self.name != "gradual" and self.head_epochs:
            yield f"finetune.head_epochs works only with finetune=gradual, not finetune={self.name}: drop it"

    def no_start(self, cfg: "Train") -> str | None:
        """The first setting with which the head that fine-tuning starts from cannot be solved."""
        loss = cfg.loss._target_ or cfg.loss.name
        return _first_set(
            {
                f"head.hidden={cfg.head.hidden}": cfg.head.hidden,
                f"loss={loss}": loss != "cross_entropy",
                f"features.views={cfg.features.views}": cfg.features.views,
                "features.cache=false": not cfg.features.cache,
            }
        )

    def _unsolvable(self, cfg: "Train") -> str | None:
        """The first setting with which the head is no convex problem on one feature vector per photo."""
        augment = cfg.augment
        refused: dict[str, object] = {
            f"finetune={self.name}": self.name != "head",
            f"head.dropout={cfg.head.dropout:g}": cfg.head.dropout,
            f"augment.mixup={augment.mixup:g}": augment.mixup,
            f"augment.cutmix={augment.cutmix:g}": augment.cutmix,
            "photos that are augmented in every epoch (augment=none turns it off)": augment.changes_photos,
        }
        return _first_set(refused) or self.no_start(cfg)


def _first_set(settings: dict[str, object]) -> str | None:
    return next((setting for setting, is_set in settings.items() if is_set), None)
