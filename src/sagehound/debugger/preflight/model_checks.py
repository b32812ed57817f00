"""Checks of the loss, the weights and the first steps."""

import math
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional as F

from sagehound.debugger.preflight.setting import Setting, eval_mode, finding, restored, spread, training_mode
from sagehound.debugger.rules.rule import Finding
from sagehound.inference.preprocessing import Preprocessing
from sagehound.models.backbone import data_config

_SECONDS = 4.0  # for the steps on one batch
_STEPS = 30


def loss_function(s: Setting) -> Iterator[Finding]:
    """The loss rewards right predictions, falls close to zero for them, and is large for wrong ones."""
    labels = torch.arange(s.classes, device=s.model.device)
    logits = torch.zeros(s.classes, s.classes, device=s.model.device, requires_grad=True)
    loss = s.model.loss(logits, labels).mean()
    (slope,) = torch.autograd.grad(loss, logits, allow_unused=True)
    own = 0.0 if slope is None else float(slope.diagonal().mean())
    right = float(s.model.loss(20 * F.one_hot(labels, s.classes).float(), labels).mean().detach())
    wrong = float(s.model.loss(-20 * F.one_hot(labels, s.classes).float(), labels).mean().detach())
    mine = "drop loss._target_" if not isinstance(s.model.given_loss, str) else ""
    override = "loss=cross_entropy" if mine else ""
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
            "backbone.pretrained=true",
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
            "head.hidden=[]",
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


def one_batch(s: Setting) -> Iterator[Finding]:
    """Steps on one batch reduce its loss, change the parameters that should learn, and no others."""
    with restored(s.model, s.optimizer), training_mode(s.model):
        before = {name: p.detach().clone() for name, p in s.model.named_parameters()}
        losses = _fit(s)
        changed = {name for name, p in s.model.named_parameters() if not torch.equal(p, before[name])}
    groups = {id(p) for group in s.optimizer.param_groups for p in group["params"]}
    frozen = s.model.frozen
    should = {
        name
        for name, p in s.model.named_parameters()
        if name.startswith("head.") or (p.requires_grad and not frozen and not name.startswith("head."))
    }
    missing = sorted(name for name in should if id(dict(s.model.named_parameters())[name]) not in groups)
    still = sorted(should - changed)
    if (still and len(still) > 0.5 * len(should)) or missing:
        names = missing or still
        yield finding(
            "FrozenParameters",
            names[0],
            len(names),
            0,
            f"{len(names)} of {len(should)} parameters that should learn do not change",
            "they are not given to the optimizer" if missing else "their gradient or learning rate is zero",
            "optimizer=adamw",
        )
    if extra := sorted(changed - should):
        yield finding(
            "UnintendedUpdates",
            extra[0],
            len(extra),
            0,
            f"{len(extra)} parameters that should stay fixed change",
            "the optimizer has parameters of the frozen backbone",
            "optimizer=adamw",
        )
    yield from _judge_losses(s, losses)


def _judge_losses(s: Setting, losses: list[float]) -> Iterator[Finding]:
    lr, first, last = s.model.optimizer.lr, losses[0], min(losses[-3:])
    if not math.isfinite(losses[-1]) or max(losses[1:], default=first) > 3 * max(first, s.chance):
        yield finding(
            "LearningRateTooHigh",
            "loss of one batch",
            max(losses),
            3 * max(first, s.chance),
            f"in {len(losses) - 1} steps on one batch the loss goes from {first:.3g} to {max(losses):.3g}",
            "the learning rate is too high",
            f"optimizer.lr={min(lr / 10, 0.002):.3g}",
        )
    elif len(losses) > 10 and last > 0.8 * first > 0.2 * s.chance:
        yield finding(
            "LearningRateTooLow",
            "loss of one batch",
            last / first,
            0.8,
            f"in {len(losses) - 1} steps on one batch the loss only goes from {first:.3g} to {last:.3g}",
            "the learning rate is too low, or the gradient does not reach the weights",
            f"optimizer.lr={max(10 * lr, 0.002):.3g}",
        )


def _fit(s: Setting) -> list[float]:
    """The losses of up to 30 steps on one batch, at the peak of the schedule."""
    rates = [group["lr"] for group in s.optimizer.param_groups]
    for group in s.optimizer.param_groups:
        group["lr"] = group.get("initial_lr", group["lr"])
    step = type(s.optimizer).step  # the class's own: the schedule counts the calls of the object's
    losses: list[float] = []
    x, targets, end = s.inputs(s.batch), s.batch[1], time.monotonic() + _SECONDS
    try:
        while len(losses) <= _STEPS and (time.monotonic() < end or len(losses) < 3):
            s.optimizer.zero_grad()
            loss = s.model.loss(s.model.classify(x), targets).mean()
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                break
            loss.backward()
            step(s.optimizer)
    finally:
        s.optimizer.zero_grad()
        for group, rate in zip(s.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
    return losses
