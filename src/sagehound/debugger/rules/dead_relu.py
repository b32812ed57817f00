"""DeadRelu: most neurons of a layer give zero for every photo."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from sagehound.debugger.observation import Step
from sagehound.debugger.rules.rule import Finding, Rule, parameter


@dataclass
class DeadRelu(Rule):
    """More than ``threshold_layer`` percent of a layer's neurons are dead.

    A neuron is a channel. It is dead if less than ``threshold_inactivity`` percent of its inputs are above zero. In
    some layers of a pretrained backbone half of the channels are unused for a given set of photos, so the calibrated
    rule requires that almost all of them are dead.
    """

    name: ClassVar[str] = "DeadRelu"
    needs: ClassVar[tuple[str, ...]] = ("relu_input",)

    threshold_inactivity: float = parameter(1.0, unit="percent of the values")
    threshold_layer: float = parameter(50.0, 95.0, unit="percent of the neurons")
    _seen: dict[str, int] = field(default_factory=dict)

    def on_step(self, step: Step) -> Finding | None:
        """Count active values, for each channel of each ReLU."""
        if not step.is_training:
            return None
        for name, tensor in step.of("relu_input").items():
            values = tensor.values
            active = (values > 0).mean(axis=tuple(i for i in range(values.ndim) if i != 1))
            dead = 100 * float(np.mean(100 * active < self.threshold_inactivity))
            if dead > self.threshold_layer:
                return self.found(
                    step,
                    name,
                    dead,
                    self.threshold_layer,
                    f"{dead:.0f} % of the neurons before {name} give zero, so the layers before it do not learn",
                    "a learning rate that is too high has pushed the biases far below zero, or the layer starts there",
                    f"optimizer.lr={self.facts.lr / 10:.3g}" if self.facts.lr else "",
                )
        return None
