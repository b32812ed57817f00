"""TrainEvalGap: the model knows the train photos, and is worse than chance on the valid photos."""

import math
from dataclasses import dataclass
from typing import ClassVar

from sagehound.debugger.epoch_scores import Epoch
from sagehound.debugger.observation import Step
from sagehound.debugger.rules.epoch_rule import EpochRule
from sagehound.debugger.rules.rule import Finding, parameter


@dataclass
class TrainEvalGap(EpochRule):
    """The valid loss exceeds ``ratio`` x ln(classes) while the train loss is below ln(classes).

    Judged in the first ``epochs`` epochs. Overfitting takes longer, so train and valid photos are probably read,
    labelled or computed differently.
    """

    name: ClassVar[str] = "TrainEvalGap"
    needs: ClassVar[tuple[str, ...]] = ("losses", "labels", "predictions")

    ratio: float = parameter(1.1, unit="ln(classes)")
    epochs: int = parameter(3, unit="epochs")
    _classes: int = 0

    def on_step(self, step: Step) -> Finding | None:
        """Count the classes, and judge the epoch that ends before this step."""
        logits = next(iter(step.of("predictions").values()), None)
        self._classes = logits.values.shape[1] if logits is not None else self._classes
        return super().on_step(step)

    def on_epoch(self, epoch: Epoch) -> Finding | None:
        """Compare the losses."""
        chance = math.log(max(self._classes, 2))
        if epoch.number > self.epochs or epoch.train.loss >= chance or epoch.valid.loss <= self.ratio * chance:
            return None
        if epoch.valid.top1 > max(1.5 / max(self._classes, 2), 0.25 * epoch.train.top1):
            return None  # no more mistakes than overfitting explains
        return self.found(
            epoch.last,
            "valid loss",
            epoch.valid.loss,
            self.ratio * chance,
            f"after {epoch.number} epochs {epoch.train.top1:.0%} of the train photos are right, and "
            f"{epoch.valid.top1:.0%} of the valid photos",
            "train and valid photos differ in their labels or in how they are prepared",
        )
