"""Overtraining: training continues though the loss no longer falls."""

from dataclasses import dataclass, field
from typing import ClassVar

from sagehound.debugger.epoch_scores import Epoch
from sagehound.debugger.rules.epoch_rule import EpochRule
from sagehound.debugger.rules.rule import Finding, parameter


@dataclass
class Overtraining(EpochRule):
    """Neither loss has fallen by ``delta`` for ``patience_train`` or ``patience_validation`` epochs."""

    name: ClassVar[str] = "Overtraining"
    needs: ClassVar[tuple[str, ...]] = ("losses",)

    patience_train: int = parameter(5, 10_000, unit="epochs")
    patience_validation: int = parameter(10, 30, unit="epochs")
    delta: float = parameter(0.01, unit="loss")
    _lowest: list[float] = field(default_factory=lambda: [float("inf")] * 2)
    _waiting: list[int] = field(default_factory=lambda: [0, 0])

    def on_epoch(self, epoch: Epoch) -> Finding | None:
        """Compare the losses."""
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
