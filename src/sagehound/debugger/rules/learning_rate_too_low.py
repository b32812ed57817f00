"""LearningRateTooLow: the loss falls, but so slowly that the epochs will not suffice."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from sagehound.debugger.observation import Array, Step
from sagehound.debugger.rules.rule import Finding, Rule, parameter


@dataclass
class LearningRateTooLow(Rule):
    """The weights of the head change by less than ``ratio`` of their norm in a step, and the loss has hardly fallen.

    The rule is evaluated once, after ``steps`` steps, and only if the loss is still above ``floor`` x ln(classes).
    """

    name: ClassVar[str] = "LearningRateTooLow"
    needs: ClassVar[tuple[str, ...]] = ("losses", "weights")

    ratio: float = parameter(3e-4, unit="share of the weight's norm")
    steps: int = parameter(15, unit="optimizer steps")
    fall: float = parameter(5.0, unit="percent")
    floor: float = parameter(0.5, unit="ln(classes)")
    _losses: list[float] = field(default_factory=list)
    _before: tuple[int, Array] | None = None
    _change: float = math.inf

    def on_step(self, step: Step) -> Finding | None:
        """Measure the change of the head's last weight, and the loss."""
        if not step.is_training or step.loss is None or len(self._losses) > self.steps:
            return None
        self._losses.append(step.loss)
        self._measure(step)
        if len(self._losses) <= self.steps:
            return None
        third = max(self.steps // 3, 1)
        before, after = sum(self._losses[:third]) / third, sum(self._losses[-third:]) / third
        fell = 100 * (before - after) / max(abs(before), 1e-12)
        is_low = after < self.floor * math.log(max(self.facts.classes or 2, 2))
        if self._change >= self.ratio or fell >= self.fall or is_low:
            return None
        return self.found(
            step,
            "weights of the head",
            self._change,
            self.ratio,
            f"in {self.steps} steps the train loss went from {before:.3g} to {after:.3g}; the head hardly changes",
            "the learning rate is too low",
            f"optimizer.lr={max(self.facts.lr * 100, 0.001):.3g}" if self.facts.lr else "",
        )

    def _measure(self, step: Step) -> None:
        name = max((n for n in step.of("weights") if "head." in n), default=None)
        if name is None:
            return
        now = step.of("weights")[name].values
        if self._before is not None:
            number, before = self._before
            norm = float(np.linalg.norm(before)) or 1.0
            self._change = float(np.linalg.norm(now - before)) / norm / max(step.number - number, 1)
        self._before = (step.number, now)
