"""Overtraining: training continues though the loss no longer falls."""

from dataclasses import dataclass, field
from typing import ClassVar

from sagehound.debugger.epoch_scores import Epoch, EpochScores
from sagehound.debugger.observation import Step
from sagehound.debugger.rules.rule import Finding, Rule, parameter


@dataclass
class Overtraining(Rule):
    """Neither loss has fallen by ``delta`` for ``patience_train`` or ``patience_validation`` epochs."""

    name: ClassVar[str] = "Overtraining"
    needs: ClassVar[tuple[str, ...]] = ("losses",)

    patience_train: int = parameter(5, 10_000, unit="epochs")
    patience_validation: int = parameter(10, 30, unit="epochs")
    delta: float = parameter(0.01, unit="loss")
    _epochs: EpochScores = field(default_factory=EpochScores)
    _lowest: list[float] = field(default_factory=lambda: [float("inf")] * 2)
    _waiting: list[int] = field(default_factory=lambda: [0, 0])

    def on_step(self, step: Step) -> Finding | None:
        """Compare the losses when an epoch has ended."""
        ended = self._epochs.add(step)
        return self._check(ended) if ended else None

    def on_end(self) -> Finding | None:
        """Compare the losses of the last epoch."""
        ended = self._epochs.end()
        return self._check(ended) if ended else None

    def _check(self, epoch: Epoch) -> Finding | None:
        limits = (self.patience_train, self.patience_validation)
        for i, (loss, limit) in enumerate(zip((epoch.train.loss, epoch.valid.loss), limits, strict=True)):
            improved = loss < self._lowest[i] - self.delta
            self._lowest[i] = min(self._lowest[i], loss)
            self._waiting[i] = 0 if improved else self._waiting[i] + 1
            if self._waiting[i] >= limit:
                kind = "valid" if i else "train"
                return self.found(
                    epoch.last,
                    f"{kind} loss",
                    self._waiting[i],
                    limit,
                    f"the {kind} loss has not fallen by {self.delta:g} for {self._waiting[i]} epochs",
                    "more epochs than these photos need",
                    "trainer.patience=5",
                )
        return None
