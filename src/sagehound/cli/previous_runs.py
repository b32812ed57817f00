"""Expands ``resume=`` and ``best=`` to the overrides of an earlier run or search. Imports no torch."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from yaml import AliasEvent, YAMLError, parse

from sagehound.cli import launch_only_settings
from sagehound.cli.untrusted_overrides import TRUST, is_override, refuse_targets
from sagehound.config import Train, group_of, registered
from sagehound.config.overrides import as_text, override, override_key
from sagehound.errors import ConfigError
from sagehound.runs import run_folder

# keys of a single command, not of the training
_OF_COMMAND = {"audit_only", "best", "logger", "overwrite", "results", "resume"}


def is_of_training(override: str) -> bool:
    """Whether an override belongs to the training, as in best.yaml, not only to a single command."""
    group = re.split(r"[./@=]", override_key(override))[0]
    known = {"experiment", *(f.name for f in dataclasses.fields(Train))} - _OF_COMMAND
    return group in known


def with_best(argv: list[str]) -> list[str]:
    """Add the overrides of ``best=FOLDER|TUNING_JOB`` to a command line. Its own overrides take precedence.

    Settings of the search's command, such as overwrite and hydra.*, are not added.

    Raises:
        ConfigError: best.yaml does not exist, contains something else than overrides, or an override names code.
    """
    given = _given(argv)
    name = given.get("best")
    if name in (None, "", "null"):
        return argv
    content, source = _read_best(str(name), given)
    items = [(str(key), value) for key, value in content.items()]
    best = [_best_override(key, value, str(name)) for key, value in items if override_key(key) not in given]
    best = [o for o in best if re.split("[./=]", override_key(o))[0] not in {*_OF_COMMAND, "hydra"}]
    refuse_targets(best, source)
    return [*best, *argv]


def _given(argv: list[str]) -> dict[str, str]:
    """The values of a command line by key, without quotes."""
    return {override_key(o): o.partition("=")[2].strip("'\"") for o in argv if "=" in o}


def _best_override(key: str, value: object, name: str) -> str:
    """Write an entry of best.yaml, which a user may have edited, as an override."""
    refused = f"best={name}: {key}: {'null' if value is None else value}"
    if not re.fullmatch(r"[+~]*[A-Za-z_][\w./@-]*", key):
        raise ConfigError(f"{refused}: {key} is not the key of a setting; remove that line")
    groups = {f.name for f in dataclasses.fields(registered()) if group_of(f) and f.default is not None}
    if isinstance(value, dict) or (value is None and key in groups):
        raise ConfigError(f"{refused}: {key} takes the name of an option; write {key}: NAME, or {key}.KEY: VALUE")
    if value is None or isinstance(value, bool):
        return f"{key}={json.dumps(value)}"
    return override(key, str(value))


def _read_best(name: str, given: Mapping[str, str]) -> tuple[Mapping[Any, Any], str]:
    """The entries of the search that ``best=`` names, and their source for messages."""
    path = Path(name).expanduser()
    if not path.exists() and "/" not in name:  # not a folder: ask the installed plugins for the name
        from importlib.metadata import entry_points  # slow to import

        for source in entry_points(group="sagehound.best"):
            try:
                return dict(source.load()(name, given)), f"best={name}"
            except ConfigError as error:
                reason = str(error).removeprefix(f"best={name}: ")
                raise ConfigError(
                    f"best={name}: no such folder here: give that of a finished search, such as multirun/{name}, or "
                    f"the name of a tuning job ({reason})"
                ) from error
    path = path / "best.yaml" if path.is_dir() else path
    refused = ConfigError(f"best={name}: {path} holds no overrides; give the folder of a finished search")
    try:
        content = _load(path)
    except (OSError, ValueError, YAMLError) as error:
        raise refused from error
    if not isinstance(content, dict):
        raise refused
    return content, f"best={name}: {path}"


def _load(path: Path) -> Any:  # noqa: ANN401 - whatever YAML holds
    """Read a YAML file without resolving ``${...}``.

    Raises:
        ValueError: the file has aliases, which can expand without limit, or is nested too deeply.
    """
    try:
        with path.open(encoding="utf-8") as file:
            if any(isinstance(event, AliasEvent) for event in parse(file)):
                raise ValueError(f"{path} has aliases")
        return OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error


def resumed(argv: list[str], *conf: Path) -> list[str]:
    """Expand ``resume=`` to the stopped run's overrides, checkpoint and folder.

    ``last`` is the newest run under ``outputs`` with a checkpoint, or the folder in ``hydra.run.dir``. Other overrides
    on the command line take precedence over the stopped run's.

    Args:
        argv: the command line after the program's name.
        conf: folders of config groups.

    Raises:
        ConfigError: the run does not exist, ``resume`` is part of a sweep, or the run's overrides.yaml names code.
    """
    given = _given(argv)
    name = given.get("resume")
    if name in (None, "", "null"):
        return argv
    if {"-m", "--multirun"} & set(argv):
        raise ConfigError("resume= continues one run: drop -m")
    checkpoint = _find_checkpoint(str(name), given.get("hydra.run.dir"))
    if checkpoint.parent.name != "checkpoints":  # a single file, whose run is unknown
        return [
            *(o for o in argv if override_key(o) != "resume"),
            f"resume={as_text(str(checkpoint))}",
        ]
    folder = checkpoint.parent.parent
    saved = folder / "overrides.yaml"
    overrides = _overrides_of(saved, str(name)) if saved.exists() else []
    dropped = {*given, "overwrite", "audit_only"}  # a resumed run removes nothing, and always trains
    new = [o for o in overrides if override_key(o) not in dropped and _is_supported(o, *conf)]
    refuse_targets(new, f"resume={name}: {saved}")
    for address in [o for o in new if o.lstrip("+").startswith("logger") and "://" in o]:
        raise ConfigError(f"resume={name}: {saved}: {address}: a file may not choose where results go; {TRUST}")
    new += [o for o in argv if override_key(o) != "resume"]
    run_dir = [] if "hydra.run.dir" in given else [f"hydra.run.dir={as_text(str(folder))}"]
    return [*new, f"resume={as_text(str(checkpoint))}", *run_dir]


def _overrides_of(saved: Path, name: str) -> list[str]:
    """Read a run's overrides.yaml.

    Raises:
        ConfigError: the file is broken, or contains something else.
    """
    hint = "restore it, or remove it and give them yourself"
    refused = ConfigError(f"resume={name}: {saved} holds no list of overrides; {hint}")
    try:
        overrides = _load(saved)
    except (OSError, ValueError, YAMLError) as error:
        raise refused from error
    if not isinstance(overrides, list) or not all(isinstance(override, str) for override in overrides):
        raise refused
    refuse_targets([o for o in overrides if not is_override(o)], f"resume={name}: {saved}")  # any flags
    return overrides


def _is_supported(override: str, *conf: Path) -> bool:
    """Whether this program supports an override of a run; it may not know the machine that the run was trained on."""
    group = re.split(r"[./@]", override_key(override))[0]
    known = {f.name for f in dataclasses.fields(registered())} | {"experiment", "hydra"}
    return group in known and not launch_only_settings.is_of_larger_schema(override, *conf)


def _find_checkpoint(name: str, run_dir: str | None) -> Path:
    """The checkpoint that ``resume=`` names: last, a run's folder, or a file."""
    if name == "last":
        files = (
            [Path(run_dir) / "checkpoints/last.ckpt"]
            if run_dir
            else [p for depth in ("*", "*/*") for p in Path("outputs").glob(f"{depth}/checkpoints/last.ckpt")]
        )
        files = sorted((p for p in files if p.exists()), key=lambda p: p.stat().st_mtime)
        if not files:
            raise ConfigError(
                f"resume=last: no run in {run_dir or 'outputs'} left checkpoints/last.ckpt; give a run's folder"
            )
        return files[-1].resolve()
    path = Path(name) / "checkpoints/last.ckpt" if Path(name).is_dir() else Path(name)
    if path.parent.parent == Path(name) and not path.is_file() and run_folder.holds_run(Path(name)):
        saved = Path(name) / "overrides.yaml"
        raise ConfigError(
            f"resume={name}: this run left no checkpoint: start it again with overwrite=true or "
            f"another hydra.run.dir{f'; {saved} lists its settings' if saved.exists() else ''}"
        )
    if not path.is_file():
        raise ConfigError(f"resume={name}: {path} does not exist; give last, a run's folder, or a .ckpt file")
    return path.resolve()
