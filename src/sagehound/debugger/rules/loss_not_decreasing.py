"""LossNotDecreasing: the training loss does not fall."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

from sagehound.debugger.observation import Step
from sagehound.debugger.rules.rule import Finding, Rule, parameter


@dataclass
class LossNotDecreasing(Rule):
    """The training loss has fallen by less than ``diff_percent`` over ``num_steps`` steps, or has risen.

    AWS compares two single steps, every ``num_steps``, to the end of the training. The calibrated rule compares the
    means of the first and the last third of ``num_steps`` steps, once, at the beginning, if the loss is above
    ``floor`` x ln(classes): a model that is right cannot become much better.
    """

    name: ClassVar[str] = "LossNotDecreasing"
    needs: ClassVar[tuple[str, ...]] = ("losses",)

    num_steps: int = parameter(10, 15, unit="steps")
    diff_percent: float = parameter(0.1, 1.0, unit="percent")
    increase_threshold_percent: float = parameter(5.0, 10.0, unit="percent")
    is_repeated: bool = parameter(True, False)
    floor: float = parameter(0.0, 0.5, unit="ln(classes)")
    _losses: list[float] = field(default_factory=list)

    def on_step(self, step: Step) -> Finding | None:
        """Compare the losses when there are enough of them."""
        if not step.is_training or step.loss is None or not math.isfinite(step.loss):
            return None
        if len(self._losses) > self.num_steps and not self.is_repeated:
            return None
        self._losses.append(step.loss)
        if len(self._losses) <= self.num_steps:
            return None
        before, after = self._compared()
        if self.is_repeated:
            self._losses = self._losses[-1:]
        fell = 100 * (before - after) / max(abs(before), 1e-12)
        if fell >= self.diff_percent or after < self.floor * math.log(max(self.facts.classes or 2, 2)):
            return None
        return self.found(
            step,
            "train loss",
            fell,
            self.diff_percent,
            f"in {self.num_steps} steps the train loss went from {before:.3g} to {after:.3g}",
            "the learning rate is much too high"
            if -fell > self.increase_threshold_percent
            else "the learning rate is too low, the labels do not fit the photos, or the weights are not trained",
            f"optimizer.lr={self.facts.lr / 10:.3g}"
            if self.facts.lr and -fell > self.increase_threshold_percent
            else (f"optimizer.lr={self.facts.lr * 10:.3g}" if self.facts.lr else ""),
        )

    def _compared(self) -> tuple[float, float]:
        if self.is_repeated:
            return self._losses[0], self._losses[-1]
        third = max(self.num_steps // 3, 1)
        return sum(self._losses[:third]) / third, sum(self._losses[-third:]) / third
