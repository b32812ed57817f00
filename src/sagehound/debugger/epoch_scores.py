"""Loss and accuracy of each epoch, from the losses, labels and predictions of its steps. Needs numpy only."""

from dataclasses import dataclass, field

import numpy as np

from sagehound.debugger.observation import Step


@dataclass
class Mean:
    """Loss and accuracy over photos."""

    photos: int = 0
    _loss: float = 0.0
    _right: float = 0.0
    has_labels: bool = True

    def add(self, step: Step) -> None:
        """Add a step's loss, and its labels and predictions if there are any."""
        if step.right is not None:
            right, n = step.right
            self._right += right
        else:
            n, self.has_labels = 1, False
        self._loss += n * (step.loss or 0.0)
        self.photos += n

    @property
    def loss(self) -> float:
        """Mean loss; NaN without photos."""
        return self._loss / self.photos if self.photos else float("nan")

    @property
    def top1(self) -> float:
        """Share of right photos, from 0 to 1; NaN without labels and predictions."""
        return self._right / self.photos if self.photos and self.has_labels else float("nan")


@dataclass
class Epoch:
    """The scores of one epoch: while the model was trained, and of the valid photos after that."""

    number: int
    train: Mean = field(default_factory=Mean)
    valid: Mean = field(default_factory=Mean)
    last: Step | None = None


class EpochScores:
    """Collects epochs from a stream of steps. The valid steps of an epoch follow its train steps."""

    def __init__(self) -> None:
        self._epoch = Epoch(1)

    def add(self, step: Step) -> Epoch | None:
        """Add a step; returns the epoch that has ended before it, if one has."""
        ended = None
        if step.is_training and self._epoch.valid.photos:
            ended, self._epoch = self._epoch, Epoch(self._epoch.number + 1)
        if step.loss is not None and np.isfinite(step.loss):
            (self._epoch.train if step.is_training else self._epoch.valid).add(step)
            self._epoch.last = step
        return ended

    def end(self) -> Epoch | None:
        """The last epoch, if it has photos of both kinds."""
        return self._epoch if self._epoch.train.photos and self._epoch.valid.photos else None
