"""What is frozen when, and how fast each part learns: head, gradual or full."""

from typing import Any

from omegaconf import DictConfig
from timm.optim import param_groups_layer_decay
from torch import nn

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def is_frozen(finetune: DictConfig, epoch: int) -> bool:
    """Whether the backbone rests in this epoch (from 0)."""
    return bool(finetune.name == "head" or (finetune.name == "gradual" and epoch < finetune.head_epochs))


def freeze(backbone: nn.Module, frozen: bool) -> None:
    """Let the backbone's weights rest or learn."""
    for parameter in backbone.parameters():
        parameter.requires_grad = not frozen


def set_modes(backbone: nn.Module, frozen: bool, freeze_norm: bool) -> None:
    """Keep what rests in evaluation mode: BatchNorm statistics stay the pretrained ones, nothing drops out."""
    if frozen:
        backbone.eval()
    elif freeze_norm:
        for module in backbone.modules():
            if isinstance(module, _NORMS):
                module.eval()


def parameter_groups(
    backbone: nn.Module, head: nn.Module, finetune: DictConfig, optimizer: DictConfig
) -> list[dict[str, Any]]:
    """Groups for torch.optim with ``lr`` and ``weight_decay``.

    The head learns at ``optimizer.lr``, the backbone's last layer at ``finetune.backbone_lr`` of it, and each layer
    further from the head at ``finetune.layer_decay`` of the next (Howard and Ruder 2018, discriminative fine-tuning).
    Biases and normalisation layers are not decayed.
    """
    decay, lr = optimizer.weight_decay, optimizer.lr
    plain = [p for p in head.parameters() if p.ndim <= 1]
    groups = [
        {"params": [p for p in head.parameters() if p.ndim > 1], "lr": lr, "weight_decay": decay},
        {"params": plain, "lr": lr, "weight_decay": 0.0},
    ]
    if finetune.name == "head":
        return groups
    for group in param_groups_layer_decay(backbone, weight_decay=decay, layer_decay=finetune.layer_decay):
        share = finetune.backbone_lr * group["lr_scale"]
        groups.append({"params": group["params"], "lr": lr * share, "weight_decay": group["weight_decay"]})
    return groups
