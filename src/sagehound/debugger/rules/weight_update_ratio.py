"""WeightUpdateRatio: the weights change too much or too little in a step."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from sagehound.debugger.observation import Array, Step
from sagehound.debugger.rules.rule import Finding, Rule, larger_lr, parameter, smaller_lr


@dataclass
class WeightUpdateRatio(Rule):
    """The norm of a weight's change, divided by its norm, is outside [``small_threshold``, ``large_threshold``].

    The change between two observed steps is divided by the number of optimizer steps between them. With
    ``num_steps`` of 1 these are neighbours, with 2 every second observed step is used.
    """

    name: ClassVar[str] = "WeightUpdateRatio"
    needs: ClassVar[tuple[str, ...]] = ("weights",)

    large_threshold: float = parameter(10.0, 1.0, unit="share of the weight's norm")
    small_threshold: float = parameter(1e-8, 1e-7, unit="share of the weight's norm")
    num_steps: int = parameter(1, unit="observed steps")
    epsilon: float = parameter(1e-9)
    _before: dict[str, tuple[int, Array]] = field(default_factory=dict)
    _count: int = 0

    def on_step(self, step: Step) -> Finding | None:
        """Compare the weights with those of an earlier step."""
        if not step.is_training or not step.of("weights"):
            return None
        finding = None
        if self._count % self.num_steps == 0:
            for name, tensor in step.of("weights").items():
                now = tensor.values
                if name in self._before and finding is None:
                    number, before = self._before[name]
                    finding = self._compare(step, name, before, now, step.number - number)
                self._before[name] = (step.number, now)
        self._count += 1
        return finding

    def _compare(self, step: Step, name: str, before: Array, now: Array, steps: int) -> Finding | None:
        change = float(np.linalg.norm(now - before)) / max(steps, 1)
        ratio = change / (float(np.linalg.norm(before)) + self.epsilon)
        if self.small_threshold <= ratio <= self.large_threshold:
            return None
        is_large = ratio > self.large_threshold
        return self.found(
            step,
            name,
            ratio,
            self.large_threshold if is_large else self.small_threshold,
            f"{name} changes by {ratio:.2g} of its norm in each step",
            "the learning rate is too high"
            if is_large
            else "the learning rate is too low, or the weight is not trained",
            (smaller_lr if is_large else larger_lr)(self.facts),
        )
