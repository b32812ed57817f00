"""The results of a sweep: trials.csv, best.yaml, and a plot of each hyperparameter."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from omegaconf import OmegaConf

from sagehound.cli.previous_runs import is_of_training
from sagehound.evaluation import plots
from sagehound.storage.atomic import write_csv, write_text
from sagehound.system import console
from sagehound_launchers.search import isolation
from sagehound_launchers.search.space import Choice, Interval, Range, SearchSpace, overrides
from sagehound_launchers.search.trial import FORMATS, SHOWN, Trial, best_of

WRITTEN = ("trials.csv", "best.yaml", "isolation.csv", "plots/hyperparameters.png", "plots/isolation.png")


def write(folder: Path, trials: Sequence[Trial], space: SearchSpace, *, maximize: bool, objective: str) -> None:
    """Write trials.csv, best.yaml and the plots; print the trials and the best one."""
    keys = list(space.ranges)
    rows = [
        [t.number, t.state, "" if t.objective is None else repr(t.objective), "" if t.seconds is None else t.seconds]
        + [t.point.get(key, "") for key in keys]
        for t in trials
    ]
    write_csv(folder / "trials.csv", ["trial", "state", "objective", "seconds", *keys], rows)
    if any(t.scores for t in trials):
        _print_table(trials, keys, objective)
    best = best_of(trials, maximize=maximize)
    if best is None:
        console.warn(f"no trial was completed; {folder / 'trials.csv'} lists them")
        return
    fixed = [o for o in space.fixed if is_of_training(o) and o != "trainer=sagemaker"]  # the folder of the trial
    winning = dict(o.split("=", 1) for o in [*fixed, *overrides(best.point)])
    write_text(folder / "best.yaml", OmegaConf.to_yaml(OmegaConf.create(winning)))
    if keys:
        plots.save(_figure(trials, best, space, objective), folder / "plots" / "hyperparameters.png")
    isolation.write(folder, trials, space, maximize=maximize, objective=objective)
    for key, dimension in space.ranges.items():
        value = best.point[key]
        if isinstance(dimension, Interval) and isinstance(value, int | float) and _at_edge(float(value), dimension):
            console.warn(f"the best {key}, {value:g}, lies at the edge of its range: search further on that side")
    console.info(f"best trial: {best.number}, {objective} {best.objective:.4f}: {' '.join(overrides(best.point))}")
    console.info(f"results: {folder}")


def _print_table(trials: Sequence[Trial], keys: Sequence[str], objective: str) -> None:
    """Print a line per trial: values, state and scores."""
    names = list(dict.fromkeys([*SHOWN, objective]))
    rows = []
    for t in trials:
        scores = {**({} if t.objective is None else {objective: t.objective}), **t.scores}
        shown = [f"{scores[name]:{FORMATS.get(name, '.4f')}}" if name in scores else "" for name in names]
        values = [t.point.get(key, "") for key in keys]
        rows.append([str(t.number), *(v if isinstance(v, str) else f"{v:.4g}" for v in values), t.state, *shown])
    console.table("Trials", ["trial", *keys, "state", *(SHOWN.get(name, name) for name in names)], rows)


def _at_edge(value: float, interval: Interval) -> bool:
    """Whether a value is in the outer twentieth of its range, on its scale."""
    low, high = interval.low, interval.high
    if interval.scale == "log":
        low, high, value = math.log(low), math.log(high), math.log(value)
    share = (value - low) / (high - low)
    return not 0.05 <= share <= 0.95


def _figure(trials: Sequence[Trial], best: Trial, space: SearchSpace, objective: str) -> Figure:
    """Draw the objective against each hyperparameter, with its role."""
    figure = Figure(figsize=(4 * min(len(space.ranges), 3), 3.2 * -(-len(space.ranges) // 3)), layout="constrained")
    axes = figure.subplots(-(-len(space.ranges) // 3), min(len(space.ranges), 3), squeeze=False).flat
    for ax, (key, dimension) in zip(axes, space.ranges.items(), strict=False):

        def place(t: Trial, key: str = key, dimension: Range = dimension) -> float:
            return dimension.values.index(str(t.point[key])) if isinstance(dimension, Choice) else float(t.point[key])

        isolation.scatter(ax, [(place(t), t) for t in trials if t.objective is not None])
        ax.scatter([place(best)], [best.objective], marker="*", s=160, color="C1", label="best")
        if isinstance(dimension, Choice):
            ax.set_xticks(range(len(dimension.values)), dimension.values)
        elif dimension.scale == "log":
            ax.set_xscale("log")
        ax.set(xlabel=f"{key} ({space.roles[key]})" if key in space.roles else key, ylabel=objective)
    axes[0].legend(fontsize=7)
    return figure
