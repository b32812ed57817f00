"""`-m key=a,b`: a grid. Checks every point before the first is trained; a failed trial does not stop the others."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from sagehound.cli.hydra_errors import explain
from sagehound.config import Train
from sagehound.config.overrides import override_key
from sagehound.errors import ConfigError, SagehoundError, Stopped
from sagehound.runs import run_folder
from sagehound.storage.atomic import locked
from sagehound.system import console
from sagehound_launchers.config import Launch as LaunchConfig
from sagehound_launchers.search import results
from sagehound_launchers.search.runners import Launch, outcome_of, stop_signal, terminable
from sagehound_launchers.search.space import Choice, Range, SearchSpace, role_of
from sagehound_launchers.search.trial import Trial, objective_of, scores_of


@dataclass(frozen=True)
class Grid:
    """The points of a sweep."""

    space: SearchSpace
    jobs: list[list[str]]  # all overrides of each point

    @property
    def points(self) -> list[dict[str, str]]:
        """For each point the values of the swept keys, as in overrides."""
        pairs = [[(override_key(o), o.partition("=")[2]) for o in job] for job in self.jobs]
        return [{key: value for key, value in job if key in self.space.ranges} for job in pairs]


def parse(overrides: Sequence[Override]) -> Grid:
    """Parse the grid of a command line; the last override of a key counts.

    Raises:
        ConfigError: a value is an interval, which has no points.
    """
    last = {o.get_key_element().lstrip("+"): o for o in overrides}
    ranges: dict[str, Range] = {}
    roles: dict[str, str] = {}
    for key, override in last.items():
        if not override.is_sweep_override():
            continue
        text = str(override.input_line)
        if not override.is_discrete_sweep():
            raise ConfigError(
                f"{text}: a grid takes values, not intervals: write {key}=a,b,c, or search by launch.py hpo=optuna"
            )
        ranges[key] = Choice(tuple(dict.fromkeys(map(str, override.sweep_string_iterator()))))
        if role := role_of(text, override.value()):
            roles[key] = role
    (jobs,) = BasicSweeper.split_arguments(list(last.values()), None)
    fixed = [o for o in jobs[0] if override_key(o) not in ranges]
    return Grid(SearchSpace(ranges, fixed, roles), jobs)


def check(grid: Grid, compose: Callable[[Sequence[str]], Train]) -> None:
    """Compose and check every point.

    Raises:
        ConfigError: a point breaks a rule; the message names the first one.
    """
    several = len(grid.jobs) > 1
    for number, (job, point) in enumerate(zip(grid.jobs, grid.points, strict=True)):
        try:
            cfg = compose(job)
            if several and isinstance(cfg, LaunchConfig) and any(stage.needs_model for stage, _ in cfg.stages):
                names = " and ".join(stage.name for stage, _ in cfg.stages)
                raise ConfigError(f"{names} needs one model: drop -m, or train first and give model=RUN")
        except (SagehoundError, HydraException, OmegaConfBaseException) as error:
            message = str(error) if isinstance(error, SagehoundError) else explain(error)
            where = f"trial {number} of {len(grid.jobs)} ({_written(point)}): " if several else ""
            raise ConfigError(where + message) from error


def prepare(folder: Path, count: int, *, overwrite: bool) -> None:
    """Refuse a folder that holds another sweep, or remove that sweep's files.

    Args:
        folder: of the sweep.
        count: number of trials; each has a folder by its number.
        overwrite: remove the files of another sweep.

    Raises:
        ConfigError: the folder holds results; the message says what to do.
    """
    ways_on = "replace it with overwrite=true, or give another hydra.sweep.dir"
    numbered = [trial for trial in folder.glob("*") if trial.name.isdecimal()]
    old = [trial for trial in numbered if run_folder.holds_trial(trial)]
    if old and not overwrite:
        raise ConfigError(f"{folder} holds another sweep: {ways_on}")
    for trial in numbered:
        if trial in old and trial.is_symlink():
            raise ConfigError(f"{trial} is a link, and overwrite=true removes nothing behind a link: remove it")
        if trial not in old and int(trial.name) < count:
            run_folder.refuse_another_run(trial)
    if not overwrite:
        run_folder.refuse_files(folder, [*results.WRITTEN, "multirun.yaml"], ways_on)
        return
    for trial in old:
        run_folder.remove_run(trial, "request.json", "job.json", "output.txt")
    run_folder.remove(folder, results.WRITTEN)


def run(
    grid: Grid,
    folder: Path,
    launch: Launch,
    most: int,
    *,
    again: str = "",
    objective: str = "valid.loss",
    maximize: bool = False,
) -> list[Trial]:
    """Run the points, ``most`` in each call of ``launch``, and write the results, also after an error.

    Args:
        grid: the points.
        folder: of the sweep.
        launch: of a launcher.
        most: points per call.
        again: the command that starts the sweep again, if the launcher gives no hint.
        objective: of metrics.json.
        maximize: a higher objective is better.

    Raises:
        SagehoundError: points failed, after all were run; it has the first one's exit code.
        Stopped: a signal came; finished trials are written.
    """
    done = _Done(grid, folder, objective)
    total = len(grid.jobs)
    with (
        locked(folder / ".lock", busy=f"another process is sweeping in {folder}: give hydra.sweep.dir=..."),
        terminable(),
    ):
        try:
            for first in range(0, total, most):
                done.run(launch, first, most)
        except (KeyboardInterrupt, Stopped) as error:
            message = str(error) if isinstance(error, Stopped) else "stopped by SIGINT"
            how = f"; to train all of them again: {again}" if again else ""
            listed = f"; {folder / 'trials.csv'} lists them" if done.complete else ""
            message += f"; {len(done.complete)} of {total} trials are done{listed}{how}"
            raise Stopped(message, stop_signal(error)) from error
        finally:
            if done.failures or done.complete:
                results.write(folder, done.trials, grid.space, maximize=maximize, objective=objective)
    if done.failures:
        number, reason = next(iter(done.failures.items()))
        failed = SagehoundError(f"{len(done.failures)} of {total} trials failed; the first, trial {number}: {reason}")
        failed.exit_code = reason.exit_code
        raise failed
    return done.trials


class _Done:
    """The results so far."""

    def __init__(self, grid: Grid, folder: Path, objective: str) -> None:
        self._grid, self._folder, self._objective = grid, folder, objective
        self._points = grid.points
        self.trials: list[Trial] = []
        self.failures: dict[int, SagehoundError] = {}  # by the trial's number

    @property
    def complete(self) -> list[Trial]:
        return [t for t in self.trials if t.state == "complete"]

    def run(self, launch: Launch, first: int, most: int) -> None:
        """Run some points."""
        jobs, total = self._grid.jobs[first : first + most], len(self._points)
        for number in range(first, first + len(jobs)):
            console.info(f"trial {number} ({number + 1} of {total}): {_written(self._points[number])}")
        start = time.perf_counter()
        try:
            outcomes = [outcome_of(job) for job in launch(jobs, first)]
        except (KeyboardInterrupt, SagehoundError):
            if len(jobs) == 1:
                self.trials.append(Trial(first, "stopped", None, None, self._points[first]))
            else:
                self._read(range(first, first + len(jobs)))
            raise
        seconds = time.perf_counter() - start if len(jobs) == 1 else None
        for number, outcome in enumerate(outcomes, first):
            self._note(number, outcome, seconds)

    def _read(self, numbers: Sequence[int]) -> None:
        """Add trials that finished before the others were stopped; each has metrics.json."""
        for number in numbers:
            path = self._folder / str(number) / "metrics.json"
            if path.exists():
                self._note(number, json.loads(path.read_text()), None)

    def _note(self, number: int, outcome: Mapping[str, Any] | SagehoundError, seconds: float | None) -> None:
        point, name = self._points[number], self._objective
        try:
            if isinstance(outcome, SagehoundError):
                raise outcome
            if not outcome:  # the job trains nothing on this machine
                return
            value = objective_of(outcome, name)
        except SagehoundError as error:
            self.failures[number] = error
            self.trials.append(Trial(number, "failed", None, None, point))
            console.warn(f"trial {number} failed: {error}")
            return
        seconds = sum(outcome.get("seconds", {}).values()) if seconds is None else seconds
        self.trials.append(Trial(number, "complete", value, round(seconds, 3), point, scores=scores_of(outcome)))
        console.info(f"trial {number}: {name} {value:.4f}")


def _written(point: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in point.items())
