"""The report of a search: every trial, each hyperparameter, and what to try next."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sagehound.errors import InputError
from sagehound.report import charts
from sagehound.report.page import Part, Section, render
from sagehound.system.program import command, words

TRIALS = "trials.csv"
_OWN = ("trial", "state", "objective", "seconds")  # columns that are not hyperparameters
_BINS = 4  # of a hyperparameter's values, for its importance
_EDGE = 0.02  # share of the tried range


@dataclass(frozen=True)
class Search:
    """The files of a search.

    Attributes:
        folder: the search's.
        trials: rows of trials.csv.
        best: best.yaml.
    """

    folder: Path
    trials: list[dict[str, str]]
    best: dict[str, Any]

    @property
    def keys(self) -> list[str]:
        """The hyperparameters."""
        return [key for key in self.trials[0] if key not in _OWN]

    @property
    def complete(self) -> list[dict[str, str]]:
        """The trials with an objective."""
        return [row for row in self.trials if row["state"] == "complete" and row["objective"]]

    @property
    def best_trial(self) -> dict[str, str] | None:
        """The trial with the values of best.yaml."""
        same = [r for r in self.complete if all(_same(r[key], self.best.get(key)) for key in self.keys)]
        return same[0] if same else None


def read(folder: Path) -> Search:
    """Read a search's folder.

    Raises:
        InputError: its trials.csv cannot be read, or has no trials.
    """
    try:
        with (folder / TRIALS).open(encoding="utf-8", newline="") as file:
            trials = list(csv.DictReader(file))
    except OSError as error:
        raise InputError(f"{folder / TRIALS} cannot be read: {error.strerror}") from error
    if not trials or not set(_OWN) <= trials[0].keys():
        raise InputError(f"{folder / TRIALS} holds no trials; give the folder of a search")
    try:
        best = OmegaConf.to_container(OmegaConf.load(folder / "best.yaml"))
    except (OSError, ValueError, OmegaConfBaseException):
        best = {}
    values = {str(key): value for key, value in best.items()} if isinstance(best, dict) else {}
    return Search(folder, trials, values)


def _same(text: str, value: object) -> bool:
    try:
        return math.isclose(float(text), float(str(value)), rel_tol=1e-9)
    except ValueError:
        return text == str(value)


def page(search: Search) -> str:
    """The report of a search as HTML."""
    sections = [_best(search), *_hyperparameters(search), _trials(search)]
    return render(f"Search {search.folder.resolve().name}", f"{len(search.trials)} trials", sections)


def _best(search: Search) -> Section:
    section, best = Section("Result"), search.best_trial
    if best is None:
        section.text("No trial was completed.")
        return section
    section.parts.append(Part("answer", text=f"Best objective {float(best['objective']):.4f}, trial {best['trial']}"))
    section.table(
        "Hyperparameters of the best trial", ["key", "value"], [(key, _short(best[key])) for key in search.keys]
    )
    section.text("This command trains with them and tests the model:")
    start = command([f"best={search.folder.resolve()}"], words("train"))
    section.parts.append(Part("code", text=start))
    warnings = [text for key in search.keys if (text := edge(search, key))]
    if warnings:
        section.text("What not to trust:")
        section.parts.append(Part("list", items_=warnings))
    return section


def edge(search: Search, key: str) -> str:
    """A warning if the best value lies at the edge of the values that were tried; else empty."""
    numbers, best = _numbers(search, key), search.best_trial
    if numbers is None or best is None or len(set(numbers)) <= len(numbers) / 2:  # a few choices have no edge
        return ""
    values = np.log(numbers) if _is_log(numbers) else np.array(numbers)
    value = math.log(float(best[key])) if _is_log(numbers) else float(best[key])
    margin = _EDGE * (values.max() - values.min())
    side = "smallest" if value <= values.min() + margin else "largest" if value >= values.max() - margin else ""
    return f"The best {key}, {float(best[key]):g}, is the {side} that was tried: search further." if side else ""


def importance(search: Search, key: str) -> float:
    """The share of the objective's variance between quarters of the values, or between choices: eta squared (Fisher).

    It is above 0 by chance: for q groups of n trials, about (q - 1) / (n - 1).
    """
    objective = np.array([float(row["objective"]) for row in search.complete])
    finite = np.isfinite(objective)
    numbers = _numbers(search, key)
    if numbers is None:
        groups = np.unique([row[key] for row in search.complete], return_inverse=True)[1]
    else:
        groups = np.digitize(numbers, np.quantile(numbers, np.linspace(0, 1, _BINS + 1)[1:-1]))
    objective, groups = objective[finite], groups[finite]
    total = float(((objective - objective.mean()) ** 2).sum()) if len(objective) else 0.0
    if not total:
        return 0.0
    parts = [objective[groups == g] for g in np.unique(groups)]
    return float(sum(len(p) * (p.mean() - objective.mean()) ** 2 for p in parts) / total)


def _numbers(search: Search, key: str) -> list[float] | None:
    """The values of a hyperparameter in the complete trials; None if they are not all numbers."""
    try:
        return [float(row[key]) for row in search.complete]
    except ValueError:
        return None


def _is_log(numbers: Sequence[float]) -> bool:
    return min(numbers) > 0 and max(numbers) > 30 * min(numbers)


def _hyperparameters(search: Search) -> list[Section]:
    section = Section("Hyperparameters")
    if len(search.complete) < 2:
        return [section]
    shares = {key: importance(search, key) for key in search.keys}
    shares = dict(sorted(shares.items(), key=lambda item: -item[1]))
    alt = "Share of the objective's variance that each hyperparameter explains: "
    alt += ", ".join(f"{key} {share:.2f}" for key, share in shares.items())
    section.picture(charts.vector(charts.bars(shares, "Importance", "share of the objective's variance"), alt))
    for key in search.keys:
        section.picture(charts.vector(_scatter(search, key), f"Objective of each trial over {key}"))
    if len(search.keys) > 1:
        alt = f"Parallel coordinates of {len(search.complete)} trials; the best third is dark"
        section.picture(charts.vector(_parallel(search), alt))
    return [section]


def _scatter(search: Search, key: str) -> Figure:
    figure = Figure(figsize=(6, 3.4))
    figure.subplots_adjust(0.14, 0.16, 0.97, 0.9)
    axes = figure.subplots()
    numbers = _numbers(search, key)
    x: Sequence[float] | list[str] = [row[key] for row in search.complete] if numbers is None else numbers
    axes.plot(x, [float(row["objective"]) for row in search.complete], "o", alpha=0.6)
    if best := search.best_trial:
        axes.plot([best[key] if numbers is None else float(best[key])], [float(best["objective"])], "*", markersize=14)
    if numbers is not None and _is_log(numbers):
        axes.set_xscale("log")
    axes.set(xlabel=key, ylabel="objective", title=key)
    return figure


def _parallel(search: Search) -> Figure:
    """A line for each trial through its values, each scaled to its range."""
    columns: Mapping[str, np.ndarray[Any, Any]] = {key: _scaled(search, key) for key in search.keys}
    objective = np.array([float(row["objective"]) for row in search.complete])
    best = search.best_trial
    falls = best is None or float(best["objective"]) <= float(np.nanmedian(objective))
    order = np.argsort(objective if falls else -objective)
    good = set(order[: max(len(order) // 3, 1)].tolist())
    figure = Figure(figsize=(max(1.7 * len(columns), 5) + 1, 4), layout="constrained")
    axes = figure.subplots()
    for i in order[::-1]:
        colour, width = ("C0", 1.6) if i in good else ("0.75", 0.8)
        axes.plot(range(len(columns)), [values[i] for values in columns.values()], color=colour, linewidth=width)
    for x, key in enumerate(columns):
        for y, text, side in zip((0, 1), _ends(search, key), ("top", "bottom"), strict=True):
            axes.annotate(text, (x, y), (0, -4 if y == 0 else 4), textcoords="offset points", ha="center", va=side)
    axes.set_xticks(range(len(columns)), list(columns), rotation=15)
    axes.set(
        yticks=[],
        xlim=(-0.4, len(columns) - 0.6),
        ylim=(-0.15, 1.15),
        title="Values of the best third of the trials (blue) and of the others",
    )
    return figure


def _ends(search: Search, key: str) -> tuple[str, str]:
    """The least and the greatest value of a hyperparameter, or the first and the last of its choices."""
    numbers = _numbers(search, key)
    ends = sorted(row[key] for row in search.complete) if numbers is None else [min(numbers), max(numbers)]
    return _short(str(ends[0])), _short(str(ends[-1]))


def _scaled(search: Search, key: str) -> np.ndarray[Any, Any]:
    numbers = _numbers(search, key)
    if numbers is None:
        values = np.unique([row[key] for row in search.complete], return_inverse=True)[1].astype(float)
    else:
        values = np.log(numbers) if _is_log(numbers) else np.array(numbers)
    return np.asarray((values - values.min()) / (np.ptp(values) or 1.0))


def _trials(search: Search) -> Section:
    section = Section("Trials")
    columns = list(search.trials[0])
    rows = [[_short(row[column]) for column in columns] for row in search.trials]
    section.table("All trials; press a heading to sort", columns, rows, sortable=True)
    return section


def _short(text: str) -> str:
    """A number with four digits; other texts as they are."""
    try:
        return f"{float(text):.4g}"
    except ValueError:
        return text
