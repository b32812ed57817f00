"""SaturatedActivation: inputs of tanh or sigmoid lie where their slope is zero."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sagehound.debugger.observation import Step
from sagehound.debugger.rules.rule import Finding, Rule, parameter


@dataclass
class SaturatedActivation(Rule):
    """More than ``threshold_layer`` percent of the inputs of a tanh or sigmoid layer are outside its range."""

    name: ClassVar[str] = "SaturatedActivation"
    needs: ClassVar[tuple[str, ...]] = ("saturating_input",)

    threshold_tanh_min: float = parameter(-9.4999)
    threshold_tanh_max: float = parameter(9.4999)
    threshold_sigmoid_min: float = parameter(-23.0, -8.0)
    threshold_sigmoid_max: float = parameter(16.99999, 8.0)
    threshold_layer: float = parameter(50.0, unit="percent of the values")

    def on_step(self, step: Step) -> Finding | None:
        """Count the inputs that lie outside."""
        for name, tensor in step.of("saturating_input").items():
            is_tanh = ".tanh_input" in name
            low = self.threshold_tanh_min if is_tanh else self.threshold_sigmoid_min
            high = self.threshold_tanh_max if is_tanh else self.threshold_sigmoid_max
            outside = 100 * float(np.mean((tensor.values < low) | (tensor.values > high)))
            if outside > self.threshold_layer:
                return self.found(
                    step,
                    name,
                    outside,
                    self.threshold_layer,
                    f"{outside:.0f} % of the inputs of {name} are so large that its slope is zero",
                    "the initial weights or the learning rate are too large",
                    f"optimizer.lr={self.facts.lr / 10:.3g}" if self.facts.lr else "",
                )
        return None
