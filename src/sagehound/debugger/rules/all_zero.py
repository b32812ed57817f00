"""AllZero: a tensor consists of zeros."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sagehound.debugger.observation import Step
from sagehound.debugger.rules.rule import Finding, Rule, parameter


@dataclass
class AllZero(Rule):
    """At least ``threshold`` percent of a tensor's values are zero.

    AWS looks at every tensor. Biases, and gradients in front of a layer that starts at zero, are zero in a healthy
    training. So the calibrated rule looks at gradients, after ``start_step``, and only if all of them are zero.
    """

    name: ClassVar[str] = "AllZero"
    needs: ClassVar[tuple[str, ...]] = ("gradients",)

    threshold: float = parameter(100.0, unit="percent of the values")
    start_step: int = parameter(0, 5, unit="optimizer steps")
    only_all: bool = parameter(False, True)

    def on_step(self, step: Step) -> Finding | None:
        """Count zeros."""
        if not step.is_training or step.number < self.start_step:
            return None
        if self.only_all and (step.loss or 0.0) < 0.01:  # all photos of the step are right
            return None
        collections = ("gradients",) if self.only_all else ("gradients", "weights", "biases", "relu_input", "losses")
        tensors = [(name, t) for c in collections for name, t in step.of(c).items()]
        zeros = [(name, t) for name, t in tensors if self._zeros(t) >= self.threshold]
        if not zeros or (self.only_all and len(zeros) < len(tensors)):
            return None
        return self.found(
            step,
            zeros[0][0],
            self._zeros(zeros[0][1]),
            self.threshold,
            f"{len(zeros)} of {len(tensors)} tensors are zero, so nothing is learned from them",
            "the loss does not depend on the model's weights, or every gradient is blocked on its way",
        )

    @staticmethod
    def _zeros(tensor: object) -> float:
        statistic = tensor.statistic  # type: ignore[attr-defined]
        if statistic("min") == statistic("max") == 0:
            return 100.0
        return 100 * float(np.mean(tensor.values == 0))  # type: ignore[attr-defined]
