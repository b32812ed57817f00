"""Checks of the loss, the weights and the first steps."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sagehound.debugger.preflight.setting import Setting, eval_mode, finding, spread
from sagehound.debugger.rules.rule import Finding
from sagehound.inference.preprocessing import Preprocessing
from sagehound.models.backbone import data_config


def loss_function(s: Setting) -> Iterator[Finding]:
    """The loss rewards right predictions, falls close to zero for them, and is large for wrong ones."""
    labels = torch.arange(s.classes, device=s.model.device)
    logits = torch.zeros(s.classes, s.classes, device=s.model.device, requires_grad=True)
    loss = s.model.loss(logits, labels).mean()
    (slope,) = torch.autograd.grad(loss, logits, allow_unused=True)
    own = 0.0 if slope is None else float(slope.diagonal().mean())
    right = float(s.model.loss(20 * F.one_hot(labels, s.classes).float(), labels).mean().detach())
    wrong = float(s.model.loss(-20 * F.one_hot(labels, s.classes).float(), labels).mean().detach())
    override = "loss._target_=null" if not isinstance(s.model.given_loss, str) else ""
    if own > 0 or wrong < right:
        yield finding(
            "WrongLoss",
            "loss",
            right,
            wrong,
            f"the loss is {right:.3g} for right predictions and {wrong:.3g} for wrong ones",
            "the loss has the wrong sign",
            override,
        )
    elif own == 0:
        yield finding(
            "WrongLoss",
            "loss",
            own,
            0,
            "the loss does not depend on the predictions or the labels",
            "the loss is computed from something else, or detached from the graph",
            override,
        )
    elif right > 0.3 * s.chance and not s.model.label_smoothing:
        yield finding(
            "WrongLoss",
            "loss",
            right,
            0.3 * s.chance,
            f"even for right and sure predictions the loss is {right:.3g}",
            "the loss applies softmax to its input, which it already is: give it logits",
            override,
        )


def first_loss(s: Setting) -> Iterator[Finding]:
    """The first cross entropy is near ln(classes)."""
    with torch.no_grad(), eval_mode(s.model):
        logits = s.model.classify(s.inputs(s.batch)).float()
    if not torch.isfinite(logits).all():
        yield finding(
            "ExplodingTensor",
            "logits",
            math.nan,
            math.inf,
            "the first predictions are not finite",
            "the weights or the photos hold NaN or infinity",
            s.without_callback,
        )
        return
    loss = float(F.cross_entropy(logits, s.batch[1]))
    if loss > 2.5 * s.chance:
        yield finding(
            "PoorWeightInitialization",
            "loss",
            loss,
            2.5 * s.chance,
            f"the first loss is {loss:.3g}; a model that knows nothing has {s.chance:.3g}",
            "the initial weights of the head are too large, or the photos are not prepared as the backbone expects",
            s.without_callback or "head.hidden=[]",
        )


def backbone_weights(s: Setting) -> Iterator[Finding]:
    """The backbone has pretrained weights, and different photos have different features."""
    if not s.model.pretrained:
        photos = len(s.data.photos.split("train"))
        if photos < 20_000:
            yield finding(
                "RandomBackbone",
                "backbone",
                photos,
                20_000,
                f"the backbone starts from random weights, and there are {photos} train photos",
                "backbone.pretrained=false",
                "backbone.pretrained=true",
            )
        return
    norms = [m for m in s.model.backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    fresh = [m for m in norms if _is_untrained(m)]
    if fresh:
        yield finding(
            "RandomBackbone",
            "backbone",
            len(fresh),
            0,
            f"{len(fresh)} of {len(norms)} normalisation layers of the backbone were never trained",
            "its weights were not loaded, or only in part",
            "backbone.weights=null",
        )
        return
    batch = s.data.features.centre["train"]([(0, i) for i in spread(s.data, 64)]) if s.data.features else None
    if batch is not None:
        variation = float(np.median(batch.std(0) / (np.abs(batch).mean(0) + 1e-12)))
        if variation < 0.01:
            yield finding(
                "ConstantFeatures",
                "features",
                variation,
                0.01,
                "the backbone gives all photos nearly the same features",
                "its weights are not those of a trained network, or the photos are all alike",
                "backbone.pretrained=true",
            )


def _is_untrained(norm: nn.Module) -> bool:
    """Whether a BatchNorm has the statistics with which it starts: mean 0 and variance 1."""
    mean, variance = norm.running_mean, norm.running_var
    if not isinstance(mean, Tensor) or not isinstance(variance, Tensor):
        return False
    return not mean.any() and bool((variance == 1).all())


def normalisation(s: Setting) -> Iterator[Finding]:
    """Photos are normalised as the backbone's weights expect."""
    expected, given = Preprocessing.of_weights(data_config(s.model.backbone)), s.model.preprocessing
    worst = max(abs(a - b) for a, b in zip([*expected.mean, *expected.std], [*given.mean, *given.std], strict=True))
    if worst > 0.01:
        yield finding(
            "WrongNormalisation",
            "mean and std",
            worst,
            0.01,
            f"photos are normalised with {list(given.mean)} and {list(given.std)}; the backbone expects "
            f"{list(expected.mean)} and {list(expected.std)}",
            "preprocessing= of another backbone was given",
        )


def head_weights(s: Setting) -> Iterator[Finding]:
    """The head's weights are finite, not all zero, and its hidden layers are alive."""
    for name, parameter in s.model.head.named_parameters():
        if not torch.isfinite(parameter).all():
            yield finding(
                "ExplodingTensor",
                f"head.{name}",
                math.nan,
                math.inf,
                f"the first weights head.{name} are not finite",
                "something has changed them before the training",
                s.without_callback,
            )
            return
        if len(s.model.head) > 1 and parameter.ndim > 1 and not parameter.any():
            yield finding(
                "AllZero",
                f"head.{name}",
                100,
                100,
                f"the first weights head.{name} are all zero, so no gradient reaches the layers before them",
                "something has changed them before the training",
                s.without_callback,
            )
            return
    with torch.no_grad(), eval_mode(s.model):
        x = s.inputs(s.batch)
        x = x if x.ndim == 2 else s.model.features(x)
        for index, layer in enumerate(s.model.head):
            dead = float((x <= 0).all(0).float().mean()) if isinstance(layer, nn.ReLU) else 0.0
            if dead > 0.95:
                yield finding(
                    "DeadRelu",
                    f"head.{index}",
                    100 * dead,
                    95,
                    f"{dead:.0%} of the neurons of head.{index} give zero for every photo",
                    "their first biases are far below zero",
                    s.without_callback,
                )
                return
            x = layer(x)
