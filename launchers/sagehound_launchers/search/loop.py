"""`hpo=optuna`: Optuna proposes trials, which are run and recorded; a stopped search resumes."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sagehound.errors import ConfigError, InputError, SagehoundError, Stopped
from sagehound.storage.atomic import locked
from sagehound.system import console
from sagehound_launchers.config import Hpo
from sagehound_launchers.search import resolve_space, results
from sagehound_launchers.search.pruning import Pruned
from sagehound_launchers.search.resolve_space import Compose, find_space
from sagehound_launchers.search.runners import Job, Report, Result, Runner, stop_signal, terminable
from sagehound_launchers.search.samplers import ADAPTIVE, importance, make_pruner, make_sampler
from sagehound_launchers.search.space import Choice, SearchSpace, overrides, to_optuna
from sagehound_launchers.search.trial import Trial, objective_of, scores_of

_STOPPED = "stopped"  # user attribute of a stopped trial, which is failed for Optuna
_MOST_FAILURES = 3  # failures in a row; the next trial would fail too

MakeRunner: TypeAlias = Callable[[Report | None, bool], Runner]


def tune(
    arguments: Sequence[str], hpo: Hpo, seed: int, folder: Path, compose: Compose, make_runner: MakeRunner
) -> list[Trial]:
    """Run trials until ``hpo.max_jobs`` are done, including those of earlier calls for the same folder.

    Args:
        arguments: overrides; sweeps are searched, and replace those of hpo.space with the same key.
        hpo: max_jobs, sampler, pruner, objective, direction, space.
        seed: of the proposals.
        folder: of the sweep; gets study.journal and the results.
        compose: a trial's overrides to its config; raises ConfigError.
        make_runner: makes the runner of the trials. Its arguments are the function that gets each epoch's report (None:
            no pruning), and whether proposals depend on earlier results.

    Raises:
        ConfigError: nothing is searched, a trial would break a rule, or the folder's trials searched something else.
        SagehoundError: the first trial failed, or three in a row.
        Stopped: a signal came; the results are written, and the message has the command that resumes the search.
    """
    space, base = find_space(arguments, hpo, compose)
    points = _grid(space) if hpo.sampler == "grid" else []
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with locked(folder / ".lock", busy=f"another process is tuning in {folder}: give hpo.study=ANOTHER"):
        journal = str(folder / "study.journal")
        _repair(folder / "study.journal")
        storage = JournalStorage(JournalFileBackend(journal, lock_obj=JournalFileOpenLock(journal)))
        study = optuna.create_study(
            storage=storage, study_name="study", direction=StudyDirection[hpo.direction.upper()], load_if_exists=True
        )
        study.sampler = make_sampler(hpo.sampler, seed, len(study.trials), to_optuna(space))
        study.pruner = make_pruner(hpo.pruner, compose([*base, *space.middle()]).trainer.max_epochs)
        _check_same(study, space, hpo)
        _tidy(study)
        known = [_point_of(t) for t in study.trials]
        for point in points:
            if point not in known:
                study.enqueue_trial(point)
        search = _Search(study, space, base, hpo)
        with terminable():
            try:
                with make_runner(None if hpo.pruner == "none" else search.report, hpo.sampler in ADAPTIVE) as runner:
                    search.run(runner)
            except (KeyboardInterrupt, SagehoundError) as error:
                _write(study, folder, space, hpo)
                raise _resumable(error, folder) from error
        return _write(study, folder, space, hpo)


def _write(study: optuna.Study, folder: Path, space: SearchSpace, hpo: Hpo) -> list[Trial]:
    """Write the results of the trials that have ended, if there are any."""
    trials = [_trial(t) for t in study.trials if t.state.is_finished()]
    if trials:
        if shares := importance(study):
            console.info(f"importance (PED-ANOVA): {shares}")
        results.write(folder, trials, space, maximize=hpo.direction == "maximize", objective=hpo.objective)
    return trials


def _resumable(error: KeyboardInterrupt | SagehoundError, folder: Path) -> SagehoundError:
    """The error that ends a search, with the command that resumes it."""
    how = f"; resume with: {resolve_space.resume_command(folder)}"
    if isinstance(error, KeyboardInterrupt | Stopped):
        signum = stop_signal(error)
        return Stopped(f"stopped by {signum.name}{how}", signum)
    again = type(error)(f"{error}{how}")
    again.exit_code = error.exit_code
    return again


def _grid(space: SearchSpace) -> list[dict[str, str]]:
    """Every point of a space of values."""
    for key, dimension in space.ranges.items():
        if not isinstance(dimension, Choice):
            raise ConfigError(f"hpo.sampler=grid takes values, {key} is an interval: write {key}=a,b,c")
    values = [dimension.values for dimension in space.ranges.values() if isinstance(dimension, Choice)]
    return [dict(zip(space.ranges, point, strict=True)) for point in itertools.product(*values)]


def _check_same(study: optuna.Study, space: SearchSpace, hpo: Hpo) -> None:
    """Check that a resumed study has the same settings."""
    now = {
        "space": {key: repr(dimension) for key, dimension in space.ranges.items()},
        "fixed": sorted(space.fixed),
        "objective": hpo.objective,
        "direction": hpo.direction,
    }
    before = study.user_attrs.get("searched")
    if before is None:
        study.set_user_attr("searched", now)
        return
    before = {"direction": study.direction.name.lower(), **before}
    if before != now:
        changed = next(key for key in now if before.get(key) != now[key])
        raise ConfigError(
            f"the study searched with another {changed} before: give hpo.study=ANOTHER, or the same again"
        )


def _repair(journal: Path) -> None:
    """Remove what a killed process or a full disk left: Optuna's lock, and an incomplete line."""
    Path(f"{journal}.lock").unlink(missing_ok=True)  # this process holds the folder's lock
    if journal.exists():
        with journal.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _tidy(study: optuna.Study) -> None:
    """End the trials that a stopped or killed process left running, and propose their points again."""
    for left in study.get_trials(states=(TrialState.RUNNING,)):
        optuna.Trial(study, left._trial_id).set_user_attr(_STOPPED, True)
        study.enqueue_trial(_point_of(left))  # first: if killed in between, it is run twice rather than never
        study.tell(left.number, state=TrialState.FAIL)


def _point_of(trial: FrozenTrial) -> dict[str, Any]:
    """A trial's point; that of a grid is known before the trial begins."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


class _Search:
    """The trials of one call."""

    def __init__(self, study: optuna.Study, space: SearchSpace, base: list[str], hpo: Hpo) -> None:
        self._study, self._space, self._base, self._hpo = study, space, base, hpo
        self._running: dict[int, optuna.Trial] = {}
        self._failures = 0

    def run(self, runner: Runner) -> None:
        """Propose, run and record trials until ``max_jobs`` are done.

        Raises:
            SagehoundError: a trial failed, and the next would fail too; trials that ran in parallel are recorded.
        """
        while True:
            jobs = [self._propose() for _ in range(min(runner.room, self._left()))]
            if not self._running:
                return
            errors = [error for result in runner.run(jobs) if (error := self._note(result))]
            if errors:
                raise errors[0]

    def report(self, number: int, epochs: int, value: float) -> bool:
        """Record a trial's objective; returns whether to prune it."""
        self._running[number].report(value, epochs)
        return self._running[number].should_prune()

    def _left(self) -> int:
        """The number of trials that are still to be proposed."""
        left = int(self._hpo.max_jobs) - self._done() - len(self._running)
        if self._hpo.sampler == "grid":
            left = min(left, len(self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))))
        return left

    def _done(self) -> int:
        return len(self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))

    def _propose(self) -> Job:
        trial = self._study.ask(to_optuna(self._space))
        self._running[trial.number] = trial
        place = self._done() + len(self._running)
        console.info(f"trial {trial.number} ({place} of {self._hpo.max_jobs}): {' '.join(overrides(trial.params))}")
        return Job(trial.number, [*self._base, *self._space.fixed, *overrides(trial.params)])

    def _note(self, result: Result) -> SagehoundError | None:
        """Record a trial's result in the study; returns the error that ends the search, if any."""
        name, trial = self._hpo.objective, self._running.pop(result.number)
        if result.seconds is not None:
            trial.set_user_attr("seconds", round(result.seconds, 3))
        if isinstance(result.metrics, Pruned):
            self._failures = 0
            self._study.tell(trial, state=TrialState.PRUNED)
            console.info(f"trial {result.number}: {result.metrics}")
            return None
        try:
            if isinstance(result.metrics, SagehoundError):
                raise result.metrics
            value = objective_of(result.metrics, name)
        except SagehoundError as error:
            self._study.tell(trial, state=TrialState.FAIL)
            self._failures += 1
            first = not self._done() and result.number < min(self._running, default=math.inf)
            if isinstance(error, ConfigError | InputError) or self._failures == _MOST_FAILURES or first:
                return error
            console.warn(f"trial {result.number} failed: {error}")
            return None
        self._failures = 0
        trial.set_user_attr("scores", scores_of(result.metrics))
        self._study.tell(trial, value)
        console.info(f"trial {result.number}: {name} {value:.4f}, the best is {self._study.best_value:.4f}")
        return None


def _trial(finished: FrozenTrial) -> Trial:
    about = finished.user_attrs
    ended = "stopped" if _STOPPED in about else "failed"
    state = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}.get(finished.state, ended)
    point = dict(finished.params)
    return Trial(finished.number, state, finished.value, about.get("seconds"), point, scores=about.get("scores", {}))
