"""Freezes parts of the model and sets their learning rates: head, gradual or full."""

from typing import Any

from timm.optim import param_groups_layer_decay
from torch import nn

from sagehound.config import Finetune, Optimizer

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def is_frozen(finetune: Finetune, epoch: int) -> bool:
    """Whether the backbone is frozen in this epoch (from 0)."""
    return bool(finetune.name == "head" or (finetune.name == "gradual" and epoch < finetune.head_epochs))


def augments(finetune: Finetune, epoch: int) -> bool:
    """Whether photos are augmented in this epoch (from 0): not in the head phase of ``gradual``."""
    return not (finetune.name == "gradual" and is_frozen(finetune, epoch))


def set_modes(backbone: nn.Module, frozen: bool, freeze_norm: bool) -> None:
    """Keep frozen parts in evaluation mode: BatchNorm statistics stay the pretrained ones, no dropout."""
    if frozen:
        backbone.eval()
    elif freeze_norm:
        for module in backbone.modules():
            if isinstance(module, _NORMS):
                module.eval()


def parameter_groups(
    backbone: nn.Module,
    head: nn.Module,
    finetune: Finetune,
    optimizer: Optimizer,
    *,
    pretrained: bool = True,
    solved: bool = False,
) -> list[dict[str, Any]]:
    """Groups for an optimizer with ``lr`` and ``weight_decay``.

    The head learns at ``optimizer.lr``, the backbone's last layer at ``finetune.backbone_lr`` of it, and each layer
    further from the head at ``finetune.layer_decay`` of the next (Howard and Ruder 2018, discriminative fine-tuning).
    Biases and normalisation layers are not decayed. A backbone without pretrained weights has the head's learning rate.
    A head that is solved already has the rate of the backbone's last layer (Kumar et al. 2022, LP-FT).
    """
    decay, lr = optimizer.weight_decay, optimizer.lr
    slower, layer_decay = (finetune.backbone_lr, finetune.layer_decay) if pretrained else (1, 1)
    of_head = lr * slower if solved else lr
    plain = [p for p in head.parameters() if p.ndim <= 1]
    groups = [
        {"params": [p for p in head.parameters() if p.ndim > 1], "lr": of_head, "weight_decay": decay},
        {"params": plain, "lr": of_head, "weight_decay": 0.0},
    ]
    if finetune.name == "head":
        return groups
    for group in param_groups_layer_decay(backbone, weight_decay=decay, layer_decay=layer_decay):
        share = slower * group["lr_scale"]
        groups.append({"params": group["params"], "lr": lr * share, "weight_decay": group["weight_decay"]})
    return groups
