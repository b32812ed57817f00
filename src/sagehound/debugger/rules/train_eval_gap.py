"""TrainEvalGap: the model knows the train photos, and is worse than chance on the valid photos."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

from sagehound.debugger.epoch_scores import Epoch, EpochScores
from sagehound.debugger.observation import Step
from sagehound.debugger.rules.rule import Finding, Rule, parameter


@dataclass
class TrainEvalGap(Rule):
    """The valid loss exceeds ``ratio`` x ln(classes) while the train loss is below ln(classes).

    Overfitting takes many epochs; this shows within ``epochs``. So train and valid photos are read, labelled or
    computed differently.
    """

    name: ClassVar[str] = "TrainEvalGap"
    needs: ClassVar[tuple[str, ...]] = ("losses", "labels", "predictions")

    ratio: float = parameter(1.1, unit="ln(classes)")
    epochs: int = parameter(3, unit="epochs")
    _epochs: EpochScores = field(default_factory=EpochScores)
    _classes: int = 0

    def on_step(self, step: Step) -> Finding | None:
        """Compare the losses when an epoch has ended."""
        logits = next(iter(step.of("predictions").values()), None)
        self._classes = logits.values.shape[1] if logits is not None else self._classes
        ended = self._epochs.add(step)
        return self._check(ended) if ended else None

    def on_end(self) -> Finding | None:
        """Compare the losses of the last epoch."""
        ended = self._epochs.end()
        return self._check(ended) if ended else None

    def _check(self, epoch: Epoch) -> Finding | None:
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
