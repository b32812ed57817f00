"""ExplodingTensor: a tensor holds NaN or infinity."""

import math
from dataclasses import dataclass
from typing import ClassVar

from sagehound.debugger.observation import Step
from sagehound.debugger.rules.rule import Finding, Rule, parameter, smaller_lr


@dataclass
class ExplodingTensor(Rule):
    """A tensor of any collection holds NaN or, unless ``only_nan``, infinity."""

    name: ClassVar[str] = "ExplodingTensor"
    needs: ClassVar[tuple[str, ...]] = ("losses",)

    only_nan: bool = parameter(False)
    _steps: int = 0

    def on_step(self, step: Step) -> Finding | None:
        """Check every tensor of the step; a maximum or minimum that is not finite shows it."""
        self._steps += 1
        for collection in sorted({*step.tensors} - {"labels"}):
            for name, tensor in step.of(collection).items():
                value = max(tensor.statistic("max"), -tensor.statistic("min"))  # numpy's are NaN if any value is
                if math.isnan(value) or (math.isinf(value) and not self.only_nan):
                    return self._finding(step, name, value)
        return None

    def _finding(self, step: Step, name: str, value: float) -> Finding:
        first = self._steps <= 1
        return self.found(
            step,
            name,
            value,
            math.inf,
            f"{name} holds {'NaN' if math.isnan(value) else 'infinity'}, so the weights are useless from this step on",
            "a photo or a transform of your own yields numbers that are not finite"
            if first
            else "the learning rate is too high, or half precision overflows",
            "trainer.precision=32-true" if first else smaller_lr(self.facts),
        )
