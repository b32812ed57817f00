"""Thresholds that were chosen on valid photos; copied into model.tar.gz. Imports no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sagehound.inference.input_errors import InputError


@dataclass(frozen=True)
class Thresholds:
    """What model.json says about unknown photos and sets of classes.

    Attributes:
        unknown: the score above which a photo is called unknown; None: the model has no such score.
        sets: by coverage, such as 0.9, the least probability of a class in a set.
    """

    unknown: float | None = None
    sets: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, card: Mapping[str, Any]) -> "Thresholds":
        """From model.json; an older Sagehound wrote none.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: a value is wrong.
        """
        unknown = float(card["unknown"]["threshold"]) if "unknown" in card else None
        sets = {f"{float(coverage):g}": float(least) for coverage, least in card.get("sets", {}).items()}
        if not all(map(math.isfinite, (*sets.values(), unknown or 0.0))):
            raise ValueError("a threshold that is not finite")
        return cls(unknown, sets)

    def check(self, *, unknown: bool, coverage: float | None) -> None:
        """Check that this model can give what a request wants.

        Raises:
            InputError: it has no such score, or no such coverage.
        """
        if unknown and self.unknown is None:
            raise InputError("unknown: this model has no score of unknown photos; train it again")
        if coverage is not None and f"{coverage:g}" not in self.sets:
            choices = f"choose from {', '.join(self.sets)}" if self.sets else "this model has no sets; train it again"
            raise InputError(f"coverage={coverage:g}: {choices}")

    def set_of(self, probabilities: npt.NDArray[np.float32], coverage: float) -> list[int]:
        """The classes whose probability reaches the threshold, most probable first; the first class always.

        Args:
            probabilities: c, of one photo.
            coverage: one of ``sets``.
        """
        order = np.argsort(-probabilities, kind="stable")
        count = int((probabilities >= self.sets[f"{coverage:g}"]).sum())
        return [int(i) for i in order[: max(count, 1)]]
