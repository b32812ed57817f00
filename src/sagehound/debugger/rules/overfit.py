"""Overfit: the model memorizes the train photos."""

from dataclasses import dataclass
from typing import ClassVar

from sagehound.debugger.epoch_scores import Epoch
from sagehound.debugger.rules.epoch_rule import EpochRule
from sagehound.debugger.rules.rule import Finding, parameter


@dataclass
class Overfit(EpochRule):
    """The mean valid loss exceeds the mean train loss by ``ratio_threshold``, for ``patience`` epochs.

    (valid - train) / train > ratio_threshold. AWS's default of 0.1 fires on nearly every small fine-tuning,
    because a train loss close to zero makes any ratio large. So the calibrated rule also requires that the valid
    loss is ``rise`` above its lowest value.
    """

    name: ClassVar[str] = "Overfit"
    needs: ClassVar[tuple[str, ...]] = ("losses",)

    start_step: int = parameter(0, unit="optimizer steps")
    patience: int = parameter(1, 5, unit="epochs")
    ratio_threshold: float = parameter(0.1, 1.0, unit="share of the train loss")
    rise: float = parameter(0.0, 0.3, unit="share of the lowest valid loss")
    _lowest: float = float("inf")
    _best: int = 0
    _bad: int = 0

    def on_epoch(self, epoch: Epoch) -> Finding | None:
        """Compare the losses."""
        if epoch.last is None or epoch.last.number < self.start_step:
            return None
        train, valid = epoch.train.loss, epoch.valid.loss
        if valid < self._lowest:
            self._lowest, self._best = valid, epoch.number
        ratio = (valid - train) / max(train, 1e-12)
        rise = (valid - self._lowest) / max(self._lowest, 1e-12)
        is_bad = ratio > self.ratio_threshold and (rise > self.rise or not self.rise)
        self._bad = self._bad + 1 if is_bad else 0
        if self._bad < self.patience:
            return None
        return self.found(
            epoch.last,
            "valid loss",
            ratio,
            self.ratio_threshold,
            f"the valid loss is {valid:.3g}, the train loss {train:.3g}; epoch {self._best} had the lowest valid loss",
            "the model has memorized the train photos: too few photos for so many epochs",
            "trainer.patience=3",
        )
