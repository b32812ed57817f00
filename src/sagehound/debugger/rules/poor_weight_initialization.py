"""PoorWeightInitialization: the first weights make learning hard."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from sagehound.debugger.observation import Step
from sagehound.debugger.rules.rule import Finding, Rule, parameter


@dataclass
class PoorWeightInitialization(Rule):
    """In the first ``steps`` steps, activations, gradients or the loss show bad initial weights.

    Activations: the largest variance of a layer's inputs is ``activation_inputs_threshold`` times the smallest.
    Gradients: the 5th and the 95th percentile of a gradient are closer than ``distribution_range``. Loss: it has not
    fallen for ``patience`` steps. AWS's defaults fire on a pretrained resnet. The calibrated rule looks at the loss
    alone: the first is above ``loss_ratio`` x ln(classes). A model that has learned nothing has the loss ln(classes).
    """

    name: ClassVar[str] = "PoorWeightInitialization"
    needs: ClassVar[tuple[str, ...]] = ("losses",)

    activation_inputs_threshold: float = parameter(10.0, math.inf, unit="ratio of variances")
    distribution_range: float = parameter(0.001, 0.0, unit="difference of percentiles")
    patience: int = parameter(5, 10_000, unit="steps")
    steps: int = parameter(10, 2, unit="steps")
    loss_ratio: float = parameter(math.inf, 2.0, unit="ln(classes)")
    _losses: list[float] = field(default_factory=list)

    def on_step(self, step: Step) -> Finding | None:
        """Check the tensors of the first steps."""
        if not step.is_training or step.number >= self.steps:
            return None
        if step.loss is not None and math.isfinite(step.loss):
            self._losses.append(step.loss)
        return self._activations(step) or self._gradients(step) or self._loss(step)

    def _activations(self, step: Step) -> Finding | None:
        inputs = {} if math.isinf(self.activation_inputs_threshold) else step.of("relu_input")
        variances = {name: tensor.statistic("variance") for name, tensor in inputs.items()}
        if len(variances) < 2:
            return None
        name = max(variances, key=variances.__getitem__)
        ratio = variances[name] / max(min(variances.values()), 1e-12)
        if ratio <= self.activation_inputs_threshold:
            return None
        return self._found(
            step, name, ratio, self.activation_inputs_threshold, "variances of the layers' inputs differ"
        )

    def _gradients(self, step: Step) -> Finding | None:
        if not self.distribution_range:
            return None
        for name, tensor in step.of("gradients").items():
            low, high = np.percentile(tensor.values, [5, 95])
            if high - low < self.distribution_range:
                return self._found(
                    step, name, high - low, self.distribution_range, "the gradient's values are all alike"
                )
        return None

    def _loss(self, step: Step) -> Finding | None:
        classes = self.facts.classes or self._classes(step)
        if self._losses and classes:
            limit = self.loss_ratio * math.log(max(classes, 2))
            if self._losses[0] > limit:
                return self._found(step, "train loss", self._losses[0], limit, "the first loss is too high")
        if len(self._losses) > self.patience and min(self._losses[1:]) >= self._losses[0]:
            return self._found(step, "train loss", self._losses[-1], self._losses[0], "the loss has not fallen")
        return None

    @staticmethod
    def _classes(step: Step) -> int:
        logits = next(iter(step.of("predictions").values()), None)
        return logits.values.shape[-1] if logits is not None else 0

    def _found(self, step: Step, name: str, value: float, limit: float, what: str) -> Finding:
        return self.found(
            step,
            name,
            value,
            limit,
            f"{what}: {value:.3g}, limit {limit:.3g}",
            "the initial weights are too large, too small, or all alike",
            "head.hidden=[]",
        )
