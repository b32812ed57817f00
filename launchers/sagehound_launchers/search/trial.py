"""One trial of a search."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sagehound.errors import ConfigError, SagehoundError
from sagehound.metrics import EACH_EPOCH, METRICS

SHOWN = {f"valid.{m.name}": f"valid {m.label}" for m in EACH_EPOCH if "valid" in m.each_epoch}  # in the table
FORMATS = {name: m.epoch_format for m in METRICS for name in (f"valid.{m.name}", f"train.{m.name}")}


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep."""

    number: int
    state: str  # complete, pruned, failed or stopped
    objective: float | None
    seconds: float | None  # seconds of the whole trial
    point: Mapping[str, str | float]  # values of overrides by key
    name: str = ""  # name of the training job on SageMaker
    scores: Mapping[str, float] = field(default_factory=dict)  # known scores of SHOWN


def best_of(trials: Sequence[Trial], *, maximize: bool) -> Trial | None:
    """The best complete trial; without one, the best that ended early; the earliest of equals; or None."""
    known = [t for t in trials if t.objective is not None]
    complete = [t for t in known if t.state == "complete"] or known
    sign = -1 if maximize else 1
    return min(complete, key=lambda t: (sign * (t.objective or 0.0), t.number), default=None)


def objective_of(metrics: Mapping[str, Any], name: str) -> float:
    """A number of metrics.json by its dotted name.

    Raises:
        ConfigError: metrics.json has no such number.
        SagehoundError: it is not finite.
    """
    value: Any = metrics
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ConfigError(f"hpo.objective={name}: metrics.json has no {part}; choose valid.loss, valid.top1, ...")
        value = value[part]
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise SagehoundError(f"hpo.objective={name} is {value}, not a finite number")
    return float(value)


def scores_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The scores of metrics.json that the table of trials shows."""
    valid = metrics.get("valid", {})
    return {f"valid.{score}": float(value) for score, value in valid.items() if f"valid.{score}" in SHOWN}
