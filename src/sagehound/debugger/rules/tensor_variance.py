"""TensorVariance: the variance of a tensor is too small or too large."""

import math
from dataclasses import dataclass
from typing import ClassVar

from sagehound.debugger.observation import Step
from sagehound.debugger.rules.rule import Finding, Rule, parameter


@dataclass
class TensorVariance(Rule):
    """The variance of a tensor is outside [``min_threshold``, ``max_threshold``].

    AWS has no defaults for the two, and looks at every tensor. The calibrated rule looks at the predictions: logits
    that are the same for every photo do not depend on the photo.
    """

    name: ClassVar[str] = "TensorVariance"
    needs: ClassVar[tuple[str, ...]] = ("predictions",)

    min_threshold: float = parameter(0.0, 1e-8, unit="variance")
    max_threshold: float = parameter(math.inf, unit="variance")
    start_step: int = parameter(0, 5, unit="optimizer steps")
    only_predictions: bool = parameter(False, True)

    def on_step(self, step: Step) -> Finding | None:
        """Compare each variance with the limits."""
        if not step.is_training or step.number < self.start_step:
            return None
        if self.only_predictions:
            for name, tensor in step.of("predictions").items():
                if len(tensor.values) > 1:
                    variance = float(tensor.values.var(axis=0).max())  # of each logit, over the photos
                    if finding := self._compare(step, name, variance):
                        return finding
            return None
        for collection in ("gradients", "weights", "biases", "relu_input", "predictions"):
            for name, tensor in step.of(collection).items():
                if finding := self._compare(step, name, tensor.statistic("variance")):
                    return finding
        return None

    def _compare(self, step: Step, name: str, variance: float) -> Finding | None:
        if self.min_threshold <= variance <= self.max_threshold or math.isnan(variance):
            return None
        limit = self.min_threshold if variance < self.min_threshold else self.max_threshold
        return self.found(
            step,
            name,
            variance,
            limit,
            f"the variance of {name} is {variance:.2g}"
            + (", so every photo gets the same prediction" if self.only_predictions else ""),
            "the photos are all alike, or the model does not look at them",
        )
