"""What an earlier run or search was given, as overrides: ``resume=`` and ``best=``. Imports no torch."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from yaml import AliasEvent, YAMLError, parse

from sagehound import hints, launch_settings, run_folder
from sagehound.config import Train, group_of, registered
from sagehound.errors import ConfigError
from sagehound.untrusted import TRUST, is_override, refuse_targets

# keys of one command, not of what is trained
_OF_COMMAND = {"audit_only", "best", "logger", "overwrite", "results", "resume"}


def is_of_training(override: str) -> bool:
    """Whether an override sets what is trained, not where and how one command runs: what best.yaml holds."""
    group = re.split(r"[./@=]", hints.override_key(override))[0]
    known = {"experiment", *(f.name for f in dataclasses.fields(Train))} - _OF_COMMAND
    return group in known


def with_best(argv: list[str]) -> list[str]:
    """The command line with the overrides of ``best=FOLDER|TUNING_JOB`` before those that are given, which win.

    Settings of the search's own command, such as overwrite and hydra.*, are not taken.

    Raises:
        ConfigError: there is no best.yaml, it holds something else than overrides, or one that names code.
    """
    given = {hints.override_key(o): o.partition("=")[2].strip("'\"") for o in argv if "=" in o}
    wanted = given.get("best")
    if wanted in (None, "", "null"):
        return argv
    content, source = _read_best(str(wanted), given)
    found = [(str(key), value) for key, value in content.items()]
    best = [_best_override(key, value, str(wanted)) for key, value in found if hints.override_key(key) not in given]
    best = [o for o in best if re.split("[./=]", hints.override_key(o))[0] not in {*_OF_COMMAND, "hydra"}]
    refuse_targets(best, source)
    return [*best, *argv]


def _best_override(key: str, value: object, wanted: str) -> str:
    """An override of a best.yaml, which a user may have written."""
    refused = f"best={wanted}: {key}: {'null' if value is None else value}"
    if not re.fullmatch(r"[+~]*[A-Za-z_][\w./@-]*", key):
        raise ConfigError(f"{refused}: {key} is not the key of a setting; remove that line")
    groups = {f.name for f in dataclasses.fields(registered()) if group_of(f) and f.default is not None}
    if isinstance(value, dict) or (value is None and key in groups):
        raise ConfigError(f"{refused}: {key} takes the name of an option; write {key}: NAME, or {key}.KEY: VALUE")
    if value is None or isinstance(value, bool):
        return f"{key}={json.dumps(value)}"
    return hints.override(key, str(value))


def _read_best(wanted: str, given: Mapping[str, str]) -> tuple[Mapping[Any, Any], str]:
    """What ``best=`` names, and how to call that in a message."""
    path = Path(wanted).expanduser()
    if not path.exists() and "/" not in wanted:  # a name: whoever is installed may know it
        from importlib.metadata import entry_points  # which takes its time

        for source in entry_points(group="sagehound.best"):
            try:
                return dict(source.load()(wanted, given)), f"best={wanted}"
            except ConfigError as error:
                reason = str(error).removeprefix(f"best={wanted}: ")
                raise ConfigError(
                    f"best={wanted} is no folder here: give that of a finished search, such as multirun/{wanted}, or "
                    f"the name of a tuning job ({reason})"
                ) from error
    path = path / "best.yaml" if path.is_dir() else path
    refused = ConfigError(f"best={wanted}: {path} holds no overrides; give the folder of a finished search")
    try:
        found = _load(path)
    except (OSError, ValueError, YAMLError) as error:
        raise refused from error
    if not isinstance(found, dict):
        raise refused
    return found, f"best={wanted}: {path}"


def _load(path: Path) -> Any:  # noqa: ANN401 - whatever YAML holds
    """A YAML file's content, without looking up what ``${...}`` in it stands for.

    Raises:
        ValueError: it has aliases, which can make a short file endless, or is nested too deeply.
    """
    try:
        with path.open(encoding="utf-8") as file:
            if any(isinstance(event, AliasEvent) for event in parse(file)):
                raise ValueError(f"{path} has aliases")
        return OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error


def resumed(argv: list[str], *conf: Path) -> list[str]:
    """The command line with ``resume=`` worked out: the stopped run's own overrides and folder come first.

    ``last`` is the newest run under ``outputs`` that left a checkpoint, or the folder named by ``hydra.run.dir``.
    What is given beside ``resume=`` wins over what the stopped run was given.

    Args:
        argv: the command line behind the program's name.
        conf: folders of config groups.

    Raises:
        ConfigError: there is no such run, ``resume`` stands in a sweep, or the run's overrides.yaml names code.
    """
    given = {hints.override_key(o): o.partition("=")[2].strip("'\"") for o in argv if "=" in o}
    wanted = given.get("resume")
    if wanted in (None, "", "null"):
        return argv
    if {"-m", "--multirun"} & set(argv):
        raise ConfigError("resume= continues one run: drop -m")
    checkpoint = _find_checkpoint(str(wanted), given.get("hydra.run.dir"))
    if checkpoint.parent.name != "checkpoints":  # a file by itself: its run is unknown
        return [*(o for o in argv if hints.override_key(o) != "resume"), f"resume={hints.as_text(str(checkpoint))}"]
    folder = checkpoint.parent.parent
    saved = folder / "overrides.yaml"
    overrides = _overrides_of(saved, str(wanted)) if saved.exists() else []
    dropped = {*given, "overwrite", "audit_only"}  # a resume removes nothing, and trains
    new = [o for o in overrides if hints.override_key(o) not in dropped and _is_of_here(o, *conf)]
    refuse_targets(new, f"resume={wanted}: {saved}")
    for override in [o for o in new if o.lstrip("+").startswith("logger") and "://" in o]:
        raise ConfigError(f"resume={wanted}: {saved}: {override}: a file may not choose where results go; {TRUST}")
    new += [o for o in argv if hints.override_key(o) != "resume"]
    run_dir = [] if "hydra.run.dir" in given else [f"hydra.run.dir={hints.as_text(str(folder))}"]
    return [*new, f"resume={hints.as_text(str(checkpoint))}", *run_dir]


def _overrides_of(saved: Path, wanted: str) -> list[str]:
    """The overrides in a run's overrides.yaml.

    Raises:
        ConfigError: it is broken, or holds something else.
    """
    hint = "restore it, or remove it and give them yourself"
    refused = ConfigError(f"resume={wanted}: {saved} holds no list of overrides; {hint}")
    try:
        found = _load(saved)
    except (OSError, ValueError, YAMLError) as error:
        raise refused from error
    if not isinstance(found, list) or not all(isinstance(override, str) for override in found):
        raise refused
    refuse_targets([o for o in found if not is_override(o)], f"resume={wanted}: {saved}")  # flags, of any name
    return found


def _is_of_here(override: str, *conf: Path) -> bool:
    """Whether an override of a run means something to this program; where the run was trained does not."""
    group = re.split(r"[./@]", hints.override_key(override))[0]
    known = {f.name for f in dataclasses.fields(registered())} | {"experiment", "hydra"}
    return group in known and not launch_settings.is_of_larger_schema(override, *conf)


def _find_checkpoint(wanted: str, run_dir: str | None) -> Path:
    if wanted == "last":
        found = (
            [Path(run_dir) / "checkpoints/last.ckpt"]
            if run_dir
            else [*Path("outputs").glob("*/*/checkpoints/last.ckpt")]
        )
        found = sorted((p for p in found if p.exists()), key=lambda p: p.stat().st_mtime)
        if not found:
            raise ConfigError(
                f"resume=last: no run in {run_dir or 'outputs'} left checkpoints/last.ckpt; give a run's folder"
            )
        return found[-1].resolve()
    path = Path(wanted) / "checkpoints/last.ckpt" if Path(wanted).is_dir() else Path(wanted)
    if path.parent.parent == Path(wanted) and not path.is_file() and run_folder.holds_run(Path(wanted)):
        saved = Path(wanted) / "overrides.yaml"
        raise ConfigError(
            f"resume={wanted}: this run left no checkpoint, so it can only be started again, with overwrite=true or "
            f"another hydra.run.dir{f'; {saved} lists its settings' if saved.exists() else ''}"
        )
    if not path.is_file():
        raise ConfigError(f"resume={wanted}: {path} does not exist; give last, a run's folder, or a .ckpt file")
    return path.resolve()
