"""One trial of a search, whoever ran it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep."""

    number: int
    state: str  # complete, pruned, failed or stopped
    objective: float | None
    seconds: float | None  # of the whole trial
    point: Mapping[str, str | float]  # an override's value by key
    name: str = ""  # of the training job, on SageMaker


def best_of(trials: Sequence[Trial], *, maximize: bool) -> Trial | None:
    """The best complete trial, or the best that was ended early where none is; the earliest of equals, or None."""
    known = [t for t in trials if t.objective is not None]
    complete = [t for t in known if t.state == "complete"] or known
    sign = -1 if maximize else 1
    return min(complete, key=lambda t: (sign * (t.objective or 0.0), t.number), default=None)
