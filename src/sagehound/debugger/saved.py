"""Evaluates rules over the tensors that a run has saved."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sagehound.config import Debugger
from sagehound.config.machine_keys import COLLECTIONS
from sagehound.debugger import require
from sagehound.debugger.evaluator import Evaluator
from sagehound.debugger.observation import Observed, Step
from sagehound.debugger.rules import make
from sagehound.debugger.rules.rule import Facts
from sagehound.errors import InputError


def folders(run: Path) -> list[Path]:
    """The folders of saved tensors of a run, or the given folder if it is one; after a resume there are several.

    Raises:
        InputError: there are none.
    """
    if (run / "events").is_dir():
        return [run]
    matches = sorted((run / "debugger").glob("tensors*"), key=lambda p: (len(p.name), p.name))
    if not matches:
        raise InputError(f"{run}: no saved tensors: train with debugger=local debugger.save=true")
    return matches


def steps(folder: Path, collections: Sequence[str] = COLLECTIONS) -> Iterator[Step]:
    """Yield the steps that a folder of tensors holds, in their order, each with the tensors of the given collections.

    Raises:
        ConfigError: smdebug is not installed.
        InputError: the folder holds no tensors.
    """
    require()
    from smdebug.exceptions import SMDebugError
    from smdebug.trials import create_trial

    try:
        trial = create_trial(str(folder))
        numbers = trial.steps()
    except (SMDebugError, OSError) as error:
        raise InputError(f"{folder}: its tensors cannot be read: {error}") from error
    for number in numbers:
        yield step_of(trial, number, collections)


def step_of(
    trial: Any,  # noqa: ANN401 - smdebug ships no types
    number: int,
    collections: Sequence[str] = COLLECTIONS,
) -> Step:
    """One step of smdebug's trial.

    Args:
        trial: what ``smdebug.trials.create_trial`` returns.
        number: smdebug's number of the step, which counts training and validation steps together.
        collections: whose tensors are read.
    """
    from smdebug import modes

    mode, mode_step = trial.mode(number), trial.mode_step(number)
    tensors: dict[str, dict[str, Observed]] = {}
    for collection in collections:
        if collection not in trial.collections():
            continue
        for name in trial.tensor_names(collection=collection):
            tensor = trial.tensor(name)
            if mode_step in tensor.steps(mode=mode):
                tensors.setdefault(collection, {})[name] = _observed(tensor, mode_step, mode)
    return Step(mode not in (modes.EVAL, modes.PREDICT), mode_step, tensors)  # scripts without modes only train


def _observed(tensor: Any, step: int, mode: Any) -> Observed:  # noqa: ANN401 - smdebug ships no types
    """The values, or the statistics if only those were saved."""
    statistics = {}
    for (name, is_absolute), value in tensor.reduction_values(step, mode=mode).items():
        statistics[f"abs_{name}" if is_absolute else {"l2": "l2_norm"}.get(name, name)] = float(value)
    if statistics:
        return Observed(statistics=statistics)
    return Observed(tensor.value(step, mode=mode))


def facts_of(run: Path) -> Facts:
    """Read facts of a run from its files; without a file, its facts have their defaults."""
    from omegaconf import OmegaConf

    try:
        config = OmegaConf.load(run / "config.yaml")
        audit = json.loads((run / "audit.json").read_text())
        counts = tuple(int(row["train"]) for row in audit["counts"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Facts()
    return Facts(
        lr=OmegaConf.select(config, "optimizer.lr"),
        epochs=OmegaConf.select(config, "trainer.max_epochs"),
        classes=len(counts),
        counts=counts,
        frozen=OmegaConf.select(config, "finetune.name") == "head",
    )


def losses(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The saved losses of a run: ``train`` and ``valid``, each a list of (train step, loss).

    A loss of valid photos is at the train step before it. Several losses of one step are averaged.

    Raises:
        ConfigError: smdebug is not installed.
        InputError: there are no saved tensors.
        Missing: only statistics without the mean were saved.
    """
    series: dict[str, list[tuple[int, float]]] = {"train": [], "valid": []}
    now = 0
    for folder in folders(run):
        for step in steps(folder, ("losses",)):
            now = step.number if step.is_training else now
            if values := [loss.statistic("mean") for loss in step.tensors.get("losses", {}).values()]:
                series["train" if step.is_training else "valid"].append((now, sum(values) / len(values)))
    return series


def evaluate(run: Path, cfg: Debugger) -> Evaluator:
    """Evaluate the rules of a config over a run's saved tensors.

    Args:
        run: a run's folder, or a folder of tensors.
        cfg: rules and profile.

    Raises:
        ConfigError: no such rule or parameter, or smdebug is not installed.
        InputError: there are no saved tensors.
    """
    evaluator = Evaluator(make(cfg.rules, cfg.profile, facts_of(run)))
    for folder in folders(run):
        for step in steps(folder):
            for _ in evaluator.on_step(step):
                pass
    for _ in evaluator.on_end():
        pass
    return evaluator
