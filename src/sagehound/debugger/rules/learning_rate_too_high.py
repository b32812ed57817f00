"""LearningRateTooHigh: the loss rises at once, or the predictions are extreme and wrong."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

from sagehound.debugger.observation import Step
from sagehound.debugger.rules.rule import Finding, Rule, parameter


@dataclass
class LearningRateTooHigh(Rule):
    """The mean loss of ``window`` steps exceeds ``ratio`` x the loss of the first step, and ``ratio`` x ln(classes).

    A model that gives every class the same probability has the loss ln(classes). A higher loss means that the model is
    sure and wrong.
    """

    name: ClassVar[str] = "LearningRateTooHigh"
    needs: ClassVar[tuple[str, ...]] = ("losses",)

    ratio: float = parameter(1.5, unit="ratio")
    window: int = parameter(3, unit="steps")
    _first: float = math.nan
    _last: list[float] = field(default_factory=list)

    def on_step(self, step: Step) -> Finding | None:
        """Compare the mean of the last losses."""
        if not step.is_training or step.loss is None:
            return None
        if math.isnan(self._first):
            self._first = step.loss
            return None
        self._last = [*self._last, step.loss][-self.window :]
        mean = sum(self._last) / len(self._last)
        limit = self.ratio * max(self._first, math.log(max(self.facts.classes or 2, 2)))
        if len(self._last) < self.window or not mean > limit:
            return None
        return self.found(
            step,
            "train loss",
            mean,
            limit,
            f"the train loss rose from {self._first:.3g} to {mean:.3g}",
            "the learning rate is too high",
            f"optimizer.lr={min(self.facts.lr / 10, 0.002):.3g}" if self.facts.lr else "",
        )
