"""`hpo=optuna`: proposals, trials, and what came of them; goes on where it was stopped."""

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from sagehound import console
from sagehound.errors import ConfigError, InputError, SagehoundError, Stopped
from sagehound.files import locked
from sagehound_launchers import trials
from sagehound_launchers.search_space import Choice, SearchSpace, overrides, parse, to_optuna
from sagehound_launchers.trials import Trial

_MOST_FAILURES = 3  # trials one after the other; the next would fail as well

Launch = Callable[[Sequence[Sequence[str]], int], Sequence[JobReturn]]


def tune(
    arguments: Sequence[str],
    hpo: DictConfig,
    seed: int,
    folder: Path,
    launch: Launch,
    check: Callable[[list[str]], None],
) -> list[Trial]:
    """Run trials until ``hpo.max_jobs`` are done in all, those of earlier calls for the same folder among them.

    Args:
        arguments: overrides; those that are sweeps are searched, before those of hpo.space of the same key.
        hpo: max_jobs, sampler, objective, direction, space.
        seed: of the proposals.
        folder: of the sweep; study.journal, trials.csv, best.yaml and a plot are left in it.
        launch: Hydra's launcher: jobs' overrides and the first one's number to their results, metrics.json each.
        check: raises what is wrong with a trial's overrides.

    Raises:
        ConfigError: nothing is searched, a trial would break a rule, or the folder's trials searched something else.
        SagehoundError: the first trial failed, or three after each other did.
        Stopped: a signal came; the same command goes on.
    """
    space = search_space(arguments, hpo)
    if not space.ranges:
        raise ConfigError('nothing is searched: give key=a,b,c or "key=interval(LOW,HIGH)", or choose an hpo.space')
    ours = [a for a in arguments if _is_ours(a)]
    check([*ours, *space.middle()])
    points = _grid(space) if hpo.sampler == "grid" else []
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with locked(folder / ".lock", busy=f"another process is tuning in {folder}: give hpo.study=ANOTHER"):
        journal = str(folder / "study.journal")
        storage = JournalStorage(JournalFileBackend(journal, lock_obj=JournalFileOpenLock(journal)))
        study = optuna.create_study(storage=storage, study_name="study", direction=hpo.direction, load_if_exists=True)
        study.sampler = _sampler(hpo.sampler, seed + len(study.trials))  # who goes on proposes something else
        _check_same(study, space, hpo)
        if hpo.sampler == "grid" and not study.trials:
            for point in points:
                study.enqueue_trial(point)
        _tidy(study)
        _run(study, space, ours, hpo, launch)
        found = [_trial(t) for t in study.trials if t.state.is_finished()]
        trials.write(folder, found, space, maximize=hpo.direction == "maximize", objective=hpo.objective)
    return found


def search_space(arguments: Sequence[str], hpo: DictConfig) -> SearchSpace:
    """What the command line searches, and what hpo.space does beside it."""
    given = [a for a in arguments if not _is_ours(a)]
    keys = {a.partition("=")[0].lstrip("+~") for a in given}
    flat = _flat(OmegaConf.to_container(hpo.space, resolve=True))
    return parse([*given, *(f"{key}={sweep}" for key, sweep in flat.items() if key not in keys)])


def _is_ours(override: str) -> bool:
    """Whether an override is of the search itself, not of what its trials train."""
    return override.lstrip("+~").startswith(("hpo=", "hpo."))


def _flat(space: Any, prefix: str = "") -> dict[str, str]:  # noqa: ANN401 - nested as YAML nests it
    if isinstance(space, dict):
        return {k: v for key, inner in space.items() for k, v in _flat(inner, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): str(space)}


def _sampler(name: str, seed: int) -> BaseSampler:
    return TPESampler(seed=seed) if name == "tpe" else RandomSampler(seed)


def _grid(space: SearchSpace) -> list[dict[str, str]]:
    """Every point of a space of values."""
    for key, found in space.ranges.items():
        if not isinstance(found, Choice):
            raise ConfigError(f"hpo.sampler=grid takes values, {key} is an interval: write {key}=a,b,c")
    values = [found.values for found in space.ranges.values() if isinstance(found, Choice)]
    return [dict(zip(space.ranges, point, strict=True)) for point in itertools.product(*values)]


def _check_same(study: optuna.Study, space: SearchSpace, hpo: DictConfig) -> None:
    """A study goes on only with what it was begun with."""
    now = {
        "space": {key: repr(found) for key, found in space.ranges.items()},
        "fixed": sorted(space.fixed),
        "objective": hpo.objective,
    }
    before = study.user_attrs.get("searched")
    if before is None:
        study.set_user_attr("searched", now)
    elif before != now:
        changed = next(key for key in now if before.get(key) != now[key])
        raise ConfigError(
            f"the study searched with another {changed} before: give hpo.study=ANOTHER, or the same again"
        )


def _tidy(study: optuna.Study) -> None:
    """Trials that a killed process left running are failed, and their points proposed again."""
    for left in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(left.number, state=TrialState.FAIL)
        study.enqueue_trial(left.params)


def _run(study: optuna.Study, space: SearchSpace, ours: list[str], hpo: DictConfig, launch: Launch) -> None:
    distributions = to_optuna(space)
    failures = 0
    while (done := len(study.get_trials(states=(TrialState.COMPLETE,)))) < hpo.max_jobs:
        if hpo.sampler == "grid" and not study.get_trials(states=(TrialState.WAITING,)):
            break
        trial = study.ask(distributions)
        console.say(f"trial {trial.number} ({done + 1} of {hpo.max_jobs}): {' '.join(overrides(trial.params))}")
        start = time.perf_counter()
        (job,) = launch([[*ours, *space.fixed, *overrides(trial.params)]], trial.number)
        trial.set_user_attr("seconds", round(time.perf_counter() - start, 3))
        try:
            value = _objective(job.return_value, hpo.objective)
        except Stopped:
            raise  # the trial is left running, and proposed again
        except SagehoundError as error:
            study.tell(trial, state=TrialState.FAIL)
            failures += 1
            if isinstance(error, ConfigError | InputError) or failures == _MOST_FAILURES or not done:
                raise
            console.warn(f"trial {trial.number} failed: {error}")
            continue
        failures = 0
        study.tell(trial, value)
        console.say(f"trial {trial.number}: {hpo.objective} {value:.4f}, the best is {study.best_value:.4f}")


def _objective(metrics: Mapping[str, Any], name: str) -> float:
    """A number of metrics.json by its dotted name."""
    found: Any = metrics
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            raise ConfigError(f"hpo.objective={name}: metrics.json has no {part}; choose valid.loss, valid.top1, ...")
        found = found[part]
    if not isinstance(found, int | float) or not math.isfinite(found):
        raise SagehoundError(f"hpo.objective={name} is {found}, not a finite number")
    return float(found)


def _trial(found: optuna.trial.FrozenTrial) -> Trial:
    state = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}.get(found.state, "failed")
    return Trial(found.number, state, found.value, found.user_attrs.get("seconds"), dict(found.params))
