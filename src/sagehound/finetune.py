"""What is frozen when, and how fast each part learns: head, gradual or full."""

import math
from typing import Any

from timm.optim import param_groups_layer_decay
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from sagehound.config import Finetune, Train

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def is_frozen(finetune: Finetune, epoch: int) -> bool:
    """Whether the backbone rests in this epoch (from 0)."""
    return bool(finetune.name == "head" or (finetune.name == "gradual" and epoch < finetune.head_epochs))


def augments(finetune: Finetune, epoch: int) -> bool:
    """Whether photos are augmented in this epoch (from 0): not while the backbone rests only for a while."""
    return not (finetune.name == "gradual" and is_frozen(finetune, epoch))


def set_modes(backbone: nn.Module, frozen: bool, freeze_norm: bool) -> None:
    """Keep what rests in evaluation mode: BatchNorm statistics stay the pretrained ones, nothing drops out."""
    if frozen:
        backbone.eval()
    elif freeze_norm:
        for module in backbone.modules():
            if isinstance(module, _NORMS):
                module.eval()


def parameter_groups(backbone: nn.Module, head: nn.Module, cfg: Train) -> list[dict[str, Any]]:
    """Groups for torch.optim with ``lr`` and ``weight_decay``.

    The head learns at ``optimizer.lr``, the backbone's last layer at ``finetune.backbone_lr`` of it, and each layer
    further from the head at ``finetune.layer_decay`` of the next (Howard and Ruder 2018, discriminative fine-tuning).
    Biases and normalisation layers are not decayed. A backbone without pretrained weights learns like the head.
    """
    decay, lr = cfg.optimizer.weight_decay, cfg.optimizer.lr
    slower, layer_decay = (cfg.finetune.backbone_lr, cfg.finetune.layer_decay) if cfg.backbone.pretrained else (1, 1)
    plain = [p for p in head.parameters() if p.ndim <= 1]
    groups = [
        {"params": [p for p in head.parameters() if p.ndim > 1], "lr": lr, "weight_decay": decay},
        {"params": plain, "lr": lr, "weight_decay": 0.0},
    ]
    if cfg.finetune.name == "head":
        return groups
    for group in param_groups_layer_decay(backbone, weight_decay=decay, layer_decay=layer_decay):
        share = slower * group["lr_scale"]
        groups.append({"params": group["params"], "lr": lr * share, "weight_decay": group["weight_decay"]})
    return groups


def make_optimizer(backbone: nn.Module, head: nn.Module, cfg: Train) -> Optimizer:
    """torch.optim's optimizer over the parameter groups; what the config leaves null is torch's default."""
    o = cfg.optimizer
    given: dict[str, Any] = {"momentum": o.momentum, "eps": o.eps, "betas": o.betas and tuple(o.betas)}
    kind: type[Optimizer] = {"adamw": AdamW, "adam": Adam, "sgd": SGD}[o.name]
    groups = parameter_groups(backbone, head, cfg)
    return kind(groups, **{key: value for key, value in given.items() if value is not None})


def rate(step: int, total: int, warmup: int, end: float) -> float:
    """Share of the peak learning rate: linear rise over ``warmup`` steps, then half a cosine down to ``end``.

    Loshchilov and Hutter 2017, without restarts; ``end=1`` keeps the rate constant.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2
