"""Compares the values of scientific hyperparameters: the best trial of each value, whatever the other hyperparameters.

The isolation plot of the deep learning tuning playbook (Godbole et al. 2023): nuisance hyperparameters are optimized
out, so each value is compared at its best.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sagehound.evaluation import plots
from sagehound.storage.atomic import write_csv
from sagehound.system import console
from sagehound_launchers.search.space import Choice, Range, SearchSpace
from sagehound_launchers.search.trial import Trial, best_of

_BINS = 5  # parts of an interval


@dataclass(frozen=True)
class Value:
    """One value of a hyperparameter, or one part of its interval."""

    name: str
    trials: int  # complete trials
    best: Trial | None
    ended: tuple[Trial, ...] = ()  # trials that ended early with a known objective


def write(folder: Path, trials: Sequence[Trial], space: SearchSpace, *, maximize: bool, objective: str) -> None:
    """Write isolation.csv and plots/isolation.png and print the table, if a hyperparameter is scientific.

    isolation.csv: hyperparameter, value (a fifth of an interval: from..to), trials, objective, trial.
    """
    keys = [key for key in space.ranges if space.roles.get(key) == "scientific"]
    if not keys:
        return
    isolated = {key: isolate(trials, key, space.ranges[key], maximize=maximize) for key in keys}
    rows = [
        [key, v.name, v.trials, *(["", ""] if v.best is None else [repr(v.best.objective), v.best.number])]
        for key, values in isolated.items()
        for v in values
    ]
    write_csv(folder / "isolation.csv", ["hyperparameter", "value", "trials", "objective", "trial"], rows)
    for key, values in isolated.items():
        shown = [[v.name, str(v.trials), f"{v.best.objective:.4f}" if v.best else ""] for v in values]
        console.table(f"Best {objective} by {key}", [key, "trials", objective], shown)
    plots.save(_figure(isolated, objective), folder / "plots" / "isolation.png")


def isolate(trials: Sequence[Trial], key: str, dimension: Range, *, maximize: bool) -> list[Value]:
    """The best complete trial for each value of a hyperparameter, or for each fifth of its interval on its scale."""
    known = [t for t in trials if t.objective is not None]
    if isinstance(dimension, Choice):
        groups = [(name, [t for t in known if str(t.point[key]) == name]) for name in dimension.values]
    elif dimension.integer and (dimension.high - dimension.low) // dimension.step < _BINS:
        values = range(int(dimension.low), int(dimension.high) + 1, dimension.step)
        groups = [(str(value), [t for t in known if int(t.point[key]) == value]) for value in values]
    else:
        edges = _edges(dimension.low, dimension.high, dimension.scale)
        place = [sum(float(t.point[key]) >= edge for edge in edges[1:-1]) for t in known]
        groups = [
            (f"{edges[i]:.3g}..{edges[i + 1]:.3g}", [t for t, p in zip(known, place, strict=True) if p == i])
            for i in range(_BINS)
        ]
    return [_value(name, group, maximize=maximize) for name, group in groups]


def _value(name: str, group: Sequence[Trial], *, maximize: bool) -> Value:
    complete = [t for t in group if t.state == "complete"]
    return Value(
        name, len(complete), best_of(complete, maximize=maximize), tuple(t for t in group if t not in complete)
    )


def _edges(low: float, high: float, scale: str) -> list[float]:
    """The bounds of the fifths of an interval."""
    if scale == "log":
        return [math.exp(e) for e in _edges(math.log(low), math.log(high), "")]
    if scale == "reverse_log":
        return [1 - e for e in _edges(1 - low, 1 - high, "log")]
    return [low + (high - low) * i / _BINS for i in range(_BINS + 1)]


def _figure(isolated: dict[str, list[Value]], objective: str) -> Figure:
    """Draw a point per value at its best objective."""
    figure = Figure(figsize=(4.5 * len(isolated), 3.4), layout="constrained")
    for ax, (key, values) in zip(figure.subplots(1, len(isolated), squeeze=False).flat, isolated.items(), strict=True):
        known = [(i, v.best.objective) for i, v in enumerate(values) if v.best]
        ax.plot([i for i, _ in known], [o for _, o in known], "o--", color="C1", label="best complete")
        scatter(ax, [(i, t) for i, v in enumerate(values) for t in v.ended])
        ax.set_xticks(range(len(values)), [f"{v.name}\n{v.trials} trials" for v in values], fontsize=7)
        ax.set(xlabel=f"{key} (scientific)", ylabel=f"best {objective}")
        ax.legend(fontsize=7)
    return figure


def scatter(ax: Axes, placed: Sequence[tuple[float, Trial]]) -> None:
    """Draw trials at their place and objective; trials that ended early (pruned, stopped) have other markers."""
    for state, marker, colour in (("complete", "o", "C0"), ("pruned", "x", "C3"), ("stopped", "+", "C3")):
        points = [(x, t.objective) for x, t in placed if t.state == state and t.objective is not None]
        if points:
            ax.scatter(*zip(*points, strict=True), marker=marker, color=colour, alpha=0.7, label=state)
