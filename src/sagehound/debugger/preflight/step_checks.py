"""Checks of some steps on one batch."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from sagehound.debugger.preflight.setting import Setting, finding, restored, training_mode
from sagehound.debugger.rules.rule import Finding

_SECONDS = 3.5  # for the steps
_STEPS = 30
_FACTORS = (10, 100, 1000)  # of a learning rate that is too low


@dataclass
class _Steps:
    """Measurements of some steps on one batch."""

    losses: list[float] = field(default_factory=list)
    norm: float = 0.0  # of the first gradient
    changed: set[str] = field(default_factory=set)  # names of parameters


def one_batch(s: Setting) -> Iterator[Finding]:
    """Steps on one batch reduce its loss, change the parameters that are trained, and no others."""
    steps = _run(s, 1.0, _STEPS, _SECONDS)
    for judge in (_clipped, _frozen_parameters, _judge):
        findings = list(judge(s, steps))
        yield from findings
        if findings:  # the later ones would be its consequences
            return


def _falls(s: Setting, losses: list[float]) -> bool:
    """Whether the loss falls: by a fifth in 30 steps, and by a proportional share in fewer steps.

    Five losses or fewer are too few to judge. A first loss below a fifth of chance needs no fall.
    """
    enough = 1 - 0.2 * (len(losses) - 1) / _STEPS
    return len(losses) <= 5 or min(losses[-3:]) <= enough * losses[0] or losses[0] <= 0.2 * s.chance


def _clipped(s: Setting, steps: _Steps) -> Iterator[Finding]:
    if s.clip is None or s.clip >= 0.01 * steps.norm or _falls(s, steps.losses):
        return
    yield finding(
        "GradientClipping",
        "norm of the gradient",
        s.clip,
        0.01 * steps.norm,
        f"gradients of norm {steps.norm:.2g} are clipped to {s.clip:g}, and the loss of one batch does not fall",
        "trainer.gradient_clip is too small for this optimizer",
        "trainer.gradient_clip=1",
    )


def _frozen_parameters(s: Setting, steps: _Steps) -> Iterator[Finding]:
    parameters, changed = dict(s.model.named_parameters()), steps.changed
    in_optimizer = {id(p) for group in s.optimizer.param_groups for p in group["params"]}
    head = {name for name in parameters if name.startswith("head.")}
    backbone = {name for name, p in parameters.items() if p.requires_grad and not s.model.frozen} - head
    missing = sorted(name for name in head | backbone if id(parameters[name]) not in in_optimizer)
    still = sorted(head - changed) or (
        sorted(backbone - changed) if len(backbone - changed) > len(backbone) / 2 else []
    )
    if names := missing or still:
        yield finding(
            "FrozenParameters",
            names[0],
            len(names),
            0,
            f"{len(names)} of {len(head | backbone)} parameters that should learn do not change, such as {names[0]}",
            "they are not given to the optimizer" if missing else "their gradient or learning rate is zero",
            s.without_optimizer,
        )
    elif extra := sorted(changed - head - backbone):
        yield finding(
            "UnintendedUpdates",
            extra[0],
            len(extra),
            0,
            f"{len(extra)} parameters that should stay fixed change, such as {extra[0]}",
            "the optimizer has parameters of the frozen backbone",
            s.without_optimizer,
        )


def _judge(s: Setting, steps: _Steps) -> Iterator[Finding]:
    losses, lr = steps.losses, s.model.optimizer.lr
    first, last, most = losses[0], min(losses[-3:]), max(losses)
    if not math.isfinite(losses[-1]) or most > 3 * max(first, s.chance):
        small = _run(s, 1e-4, 5, _SECONDS / 2).losses
        if small[-1] > small[0] + 1e-7:
            yield finding(
                "WrongDirection",
                "loss of one batch",
                small[-1] - small[0],
                0,
                f"even tiny steps on one batch raise its loss from {small[0]:.6g} to {small[-1]:.6g}",
                "the optimizer maximises the loss",
                s.without_optimizer,
            )
            return
        yield finding(
            "LearningRateTooHigh",
            "loss of one batch",
            most,
            3 * max(first, s.chance),
            f"in {len(losses) - 1} steps on one batch the loss goes from {first:.3g} to {most:.3g}",
            "the learning rate is too high",
            f"optimizer.lr={min(lr / 10, 0.002):.3g}",
        )
    elif not _falls(s, losses):
        yield finding(
            "LearningRateTooLow",
            "loss of one batch",
            last / first,
            0.8,
            f"in {len(losses) - 1} steps on one batch the loss only goes from {first:.3g} to {last:.3g}",
            "the learning rate is too low",
            f"optimizer.lr={_larger(s, lr):.3g}",
        )


def _larger(s: Setting, lr: float) -> float:
    """The smallest of 10, 100 and 1000 times the learning rate at which the loss falls; 0.002 if there is none."""
    for factor in _FACTORS:
        losses = _run(s, factor, _STEPS, _SECONDS / len(_FACTORS)).losses
        if len(losses) > 5 and math.isfinite(losses[-1]) and _falls(s, losses):
            return factor * lr
    return max(_FACTORS[0] * lr, 0.002)


def _run(s: Setting, factor: float, most: int, seconds: float) -> _Steps:
    """Some steps on one batch, at a multiple of the schedule's peak; everything is restored afterwards."""
    with restored(s.model, s.optimizer), training_mode(s.model):
        before = {name: p.detach().clone() for name, p in s.model.named_parameters()}
        rates = [group["lr"] for group in s.optimizer.param_groups]
        for group in s.optimizer.param_groups:
            group["lr"] = factor * group.get("initial_lr", group["lr"])
        try:
            steps = _fit(s, most, seconds)
        finally:
            s.optimizer.zero_grad()
            for group, rate in zip(s.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        steps.changed = {name for name, p in s.model.named_parameters() if not torch.equal(p, before[name])}
    return steps


def _fit(s: Setting, most: int, seconds: float) -> _Steps:
    steps, end = _Steps(), time.monotonic() + seconds
    step = type(s.optimizer).step  # the class's own: the schedule counts the calls of the object's
    parameters = [p for group in s.optimizer.param_groups for p in group["params"]]
    x, targets = s.inputs(s.batch), s.batch[1]
    while len(steps.losses) <= most and (time.monotonic() < end or len(steps.losses) < 3):
        s.optimizer.zero_grad()
        loss = s.model.loss(s.model.classify(x), targets).mean()
        steps.losses.append(float(loss.detach()))
        if not math.isfinite(steps.losses[-1]):
            break
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, math.inf if s.clip is None else s.clip)
        steps.norm = steps.norm or float(norm)
        step(s.optimizer)
    return steps
