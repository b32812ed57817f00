"""What rules see: the tensors of one step, as values or as saved statistics. Needs numpy only."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# the statistics that smdebug can save of a tensor, as smdebug computes them
_COMPUTED: dict[str, Callable[[Array], float]] = {
    "min": lambda a: float(a.min()),
    "max": lambda a: float(a.max()),
    "mean": lambda a: float(a.mean()),
    "std": lambda a: float(a.std()),
    "variance": lambda a: float(a.var()),
    "abs_mean": lambda a: float(np.abs(a).mean()),
    "l2_norm": lambda a: float(np.sqrt(np.square(a.astype(np.float64)).sum())),
}


class Missing(Exception):
    """A rule needs values or a statistic that were not saved; the message says which."""


class Observed:
    """One tensor at one step.

    Args:
        values: the tensor's values, of any shape; None if only statistics were saved.
        statistics: saved statistics by smdebug's names.
    """

    def __init__(self, values: Any = None, statistics: Mapping[str, float] | None = None) -> None:  # noqa: ANN401
        self._values = values
        self._statistics = dict(statistics or {})

    @cached_property
    def values(self) -> Array:
        """The values, flat or not, as numpy's array.

        Raises:
            Missing: only statistics were saved.
        """
        if self._values is None:
            raise Missing("its values, but only statistics were saved (debugger.reductions=true)")
        return np.asarray(self._values)

    def statistic(self, name: str) -> float:
        """One of min, max, mean, std, variance, abs_mean and l2_norm, computed or as it was saved.

        Raises:
            Missing: neither the values nor this statistic were saved.
        """
        if name not in self._statistics:
            if self._values is None:
                raise Missing(f"the statistic {name}, which was not saved")
            with np.errstate(all="ignore"):  # of tensors with NaN or infinity
                self._statistics[name] = _COMPUTED[name](self.values) if self.values.size else 0.0
        return self._statistics[name]


Tensors = Mapping[str, Observed]


@dataclass(frozen=True)
class Step:
    """The tensors that were observed in one step.

    Attributes:
        is_training: a training step, of one optimizer step; else a batch of valid photos.
        number: of the step among those of its kind, from 0.
        tensors: by collection (losses, gradients, weights, biases, relu_input, relu_output, labels, predictions) and
            name.
    """

    is_training: bool
    number: int
    tensors: Mapping[str, Tensors] = field(default_factory=dict)

    def of(self, collection: str) -> Tensors:
        """The tensors of a collection in the order of their names; empty if none was observed."""
        return self._sorted.get(collection, {})

    @cached_property
    def _sorted(self) -> dict[str, Tensors]:
        return {name: dict(sorted(tensors.items())) for name, tensors in self.tensors.items()}

    @cached_property
    def right(self) -> tuple[int, int] | None:
        """How many photos are predicted rightly, and how many there are; None without labels or predictions."""
        labels = next(iter(self.of("labels").values()), None)
        logits = next(iter(self.of("predictions").values()), None)
        if labels is None or logits is None:
            return None
        return int((logits.values.argmax(1) == labels.values).sum()), len(labels.values)

    @cached_property
    def loss(self) -> float | None:
        """The mean loss of the step's photos."""
        for observed in self.of("losses").values():
            return observed.statistic("mean")
        return None
