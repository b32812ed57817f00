"""The base class of rules that judge whole epochs."""

from dataclasses import dataclass, field

from sagehound.debugger.epoch_scores import Epoch, EpochScores
from sagehound.debugger.observation import Step
from sagehound.debugger.rules.rule import Finding, Rule


@dataclass
class EpochRule(Rule):
    """A rule that judges an epoch when it has ended."""

    _epochs: EpochScores = field(default_factory=EpochScores)

    def on_step(self, step: Step) -> Finding | None:
        """Judge the epoch that ends before this step, if one does."""
        ended = self._epochs.add(step)
        return self.on_epoch(ended) if ended else None

    def on_end(self) -> Finding | None:
        """Judge the last epoch."""
        ended = self._epochs.end()
        return self.on_epoch(ended) if ended else None

    def on_epoch(self, epoch: Epoch) -> Finding | None:
        """Judge one epoch."""
        raise NotImplementedError
