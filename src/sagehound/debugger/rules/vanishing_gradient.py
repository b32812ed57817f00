"""VanishingGradient: the gradients are so small that the layers before do not learn."""

from dataclasses import dataclass
from typing import ClassVar

from sagehound.debugger.observation import Step
from sagehound.debugger.rules.rule import Finding, Rule, larger_lr, parameter


@dataclass
class VanishingGradient(Rule):
    """The mean absolute value of a gradient is below ``threshold``.

    AWS fires for any gradient at any step. In a healthy network whose last BatchNorm of each block starts at zero, 32
    of 62 gradients are exactly 0 in the first step, and a model that has learned all photos has small gradients. So
    the calibrated rule begins at ``start_step``. It requires that more than ``share`` of the gradients are below, and
    that the loss is at least ``loss``.
    """

    name: ClassVar[str] = "VanishingGradient"
    needs: ClassVar[tuple[str, ...]] = ("gradients",)

    threshold: float = parameter(1e-7, unit="mean absolute value")
    share: float = parameter(0.0, 0.5, unit="share of the gradients")
    start_step: int = parameter(0, 10, unit="optimizer steps")
    loss: float = parameter(0.0, 0.1, unit="training loss")
    _loss: float = float("inf")

    def on_step(self, step: Step) -> Finding | None:
        """Compare each gradient with the threshold."""
        if not step.is_training:
            return None
        self._loss = self._loss if step.loss is None else step.loss
        gradients = {name: g.statistic("abs_mean") for name, g in step.of("gradients").items()}
        small = [name for name, mean in gradients.items() if mean < self.threshold]
        if not small or step.number < self.start_step or self._loss < self.loss:
            return None
        if len(small) <= self.share * len(gradients):
            return None
        name = min(small, key=gradients.__getitem__)
        return self.found(
            step,
            name,
            gradients[name],
            self.threshold,
            f"{len(small)} of {len(gradients)} gradients are almost zero, so these layers do not learn",
            "layers in front of them block the gradient: dead activations, a head of zeros, or too many layers",
            larger_lr(self.facts),
        )
