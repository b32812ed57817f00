"""Splits one command into steps: search, training, and the stages, each the input of the next one."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from sagehound.config.overrides import override, override_key
from sagehound.errors import ConfigError
from sagehound_launchers.config import Launch, schema
from sagehound_launchers.config.endpoint_names import endpoint_name
from sagehound_launchers.config.stage import BEFORE_TRAINING, Stage, registry

_EMPTY = ("", "null")
_FILES = ("bias.facets", "monitor.baseline", "backbone.weights")  # keys of late steps, too, whose files must exist
_WHOLE = {"hydra.run.dir", "hydra.sweep.dir", "model", "dry_run", "overwrite"}  # keys that each step gets anew


@dataclass
class Step:
    """A command of the workflow."""

    name: str  # search, train or a stage
    overrides: list[str]
    sends: bool  # whether it runs on SageMaker
    key: str = ""  # of its overrides and inputs
    state: str = "waiting"  # running, done, failed
    seconds: float = 0.0
    dollars: float | None = None


@dataclass
class Workflow:
    """The steps, and the folder of their results."""

    folder: Path
    steps: list[Step]
    cfg: Launch  # of the whole command
    flags: list[str] = field(default_factory=list)
    model: str = ""  # of the stages: the run of the training, once it is known, or what the command names
    dry_run: bool = False


def of(argv: Sequence[str]) -> Workflow | None:
    """The workflow of a command line; None if it has one step, or only steps that one process runs on this machine.

    Raises:
        ConfigError: the steps' settings contradict each other.
    """
    flags, words = _flags(argv)
    if {"-h", "--help", "--cfg", "-c", "--info", "-i"} & set(flags):
        return None
    given = {override_key(word): word.partition("=")[2].strip("'\"") for word in words}
    if given.get("pipeline", "") not in _EMPTY:
        return None  # the pipeline has the steps
    stages = [stage for stage in registry() if given.get(stage.name, "") not in _EMPTY]
    searches = given.get("hpo", "") not in _EMPTY
    remote = given.get("trainer") == "sagemaker"
    trains = given.get("model", "") in _EMPTY and (searches or remote or any(s.needs_model for s in stages))
    sends = {stage.name for stage in stages if given[stage.name] in stage.remote}
    count = searches + trains + len(stages)
    if not stages or count < 2 or not (searches or remote or sends):
        return None
    flags = [flag for flag in flags if flag not in ("-m", "--multirun")]
    dry_run = given.get("dry_run", "").lower() in ("true", "1", "yes")
    names = {stage.name for stage in registry()} | {"dry_run"}  # another setting of a stage repeats no training
    first = [word for word in words if override_key(word).split(".")[0].split("/")[0] not in names]
    folder = Path(given.get("hydra.run.dir") or f"outputs/workflows/{digest(first)[:10]}")
    workflow = Workflow(folder, [], _checked(words, flags), flags, given.get("model", ""), dry_run)
    _split(workflow, words, stages, searches=searches, trains=trains)
    for step in workflow.steps:
        step.sends = step.name in sends or (step.name == "train" and remote)
        step.sends |= step.name == "search" and (remote or given["hpo"] == "sagemaker")
    return workflow


def _flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags with their values, and the overrides."""
    flags, words, rest = [], [], list(argv)
    while rest:
        word = rest.pop(0)
        if word.startswith("-"):
            flags.append(word)
            if "=" not in word and rest and "=" not in rest[0] and word not in ("-m", "--multirun"):
                flags.append(rest.pop(0))
        else:
            words.append(word)
    return flags, words


def _split(
    workflow: Workflow, words: Sequence[str], stages: Sequence[Stage[Any]], *, searches: bool, trains: bool
) -> None:
    """Give each step its overrides."""
    names, folder = {stage.name for stage in registry()}, workflow.folder
    plain = [w for w in words if override_key(w).split(".")[0].split("/")[0] not in names | _WHOLE | {"hpo"}]
    plain = [w for w in plain if override_key(w) not in _WHOLE]
    swept = [w for w in plain if _is_sweep(w)]
    fixed = [w for w in plain if w not in swept]
    of_search = [w for w in words if override_key(w).split(".")[0].split("/")[0] == "hpo"]
    if searches:
        own = [
            w for w in plain if not ("hpo=sagemaker" in of_search and w == "trainer=sagemaker")
        ]  # its jobs run there
        workflow.steps.append(Step("search", [*of_search, *own], sends=False))
    elif swept:
        raise ConfigError(f"{swept[0]}: several values are a search: add hpo=optuna, or give one value")
    before = [stage for stage in stages if stage.order <= BEFORE_TRAINING]
    here = [w for w in fixed if not w.startswith(("trainer=", "best="))]
    for stage in before:
        workflow.steps.insert(0, Step(stage.name, [*_own(words, stage), *here], sends=False))
    if trains:
        workflow.steps.append(Step("train", [*fixed], sends=False))
    for stage in (s for s in stages if s.order > BEFORE_TRAINING):
        own = _own(words, stage)
        keys = {override_key(word) for word in own}
        if stage.name == "deploy" and "deploy=local" not in own and "deploy.endpoint" not in keys:
            own.append(f"deploy.endpoint={endpoint_name(folder.resolve().name)}")
        if stage.name == "transform" and "transform.output" not in keys:
            suffix = "jsonl" if "transform.format=jsonl" in own else "csv"
            own.append(override("transform.output", str(folder / "transform" / f"predictions.{suffix}")))
        workflow.steps.append(Step(stage.name, [*own, *here], sends=False))


def _own(words: Sequence[str], stage: Stage[Any]) -> list[str]:
    return [word for word in words if override_key(word).split(".")[0] == stage.name]


def _is_sweep(word: str) -> bool:
    try:
        return bool(OverridesParser.create().parse_override(word).is_sweep_override())
    except HydraException:
        return False  # the step reports it


def _checked(words: Sequence[str], flags: Sequence[str]) -> Launch:
    """The checked config of the whole command, so that a mistake in the last step is found before the first one."""
    for word in words:
        name = word.partition("=")[2].strip("'\"")
        is_local = not name.startswith(("s3://", "pkg://"))
        if override_key(word) in _FILES and is_local and not Path(name).expanduser().exists():
            raise ConfigError(f"{word}: no such file (from {Path.cwd()})")
    left_out = ("best", "hydra.sweep.dir", "hpo")  # the search checks its own keys
    plain = [w for w in words if not _is_sweep(w) and override_key(w) not in left_out]
    plain = [w for w in plain if not w.startswith(("hpo.", "hpo/"))]
    return schema.composed(plain, flags)


def digest(content: Any) -> str:  # noqa: ANN401 - whatever JSON can write
    """SHA-256 of what JSON can write."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode(errors="surrogateescape")).hexdigest()
