"""Finds the search space: sweeps of the command line, hpo.space, or the optimizer's space."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict, read_write

from sagehound.config.overrides import as_text, override_key
from sagehound.runs.run_folder import claim, refuse_files
from sagehound.system import program
from sagehound_launchers.config import Hpo, Launch
from sagehound_launchers.search.results import WRITTEN
from sagehound_launchers.search.space import SearchSpace, parse

_STUDIES = Path("multirun")  # the parent folder of studies in conf/hpo

Compose = Callable[[Sequence[str]], Launch]


def find_space(arguments: Sequence[str], hpo: Hpo, compose: Compose) -> tuple[SearchSpace, list[str]]:
    """The search space, and the overrides of the search itself.

    The command line replaces keys of hpo.space. If neither has a sweep, conf/hpo/space/<optimizer.name>.yaml is the
    space.

    Args:
        arguments: the command line's overrides.
        hpo: the config's group; hpo.space has the chosen hpo/space.
        compose: overrides to the checked config.

    Raises:
        ConfigError: a sweep cannot be searched, or a point of the space breaks a rule.
    """
    base = [a for a in arguments if _is_ours(a)]
    space = _parse(arguments, hpo)
    if not space.ranges:
        base.append(f"hpo/space={compose([*base, *space.fixed]).optimizer.name}")
        space = _parse(arguments, compose([*base, *space.fixed]).search)
    compose([*base, *space.middle()])
    return space, base


def _parse(arguments: Sequence[str], hpo: Hpo) -> SearchSpace:
    given = [a for a in arguments if not _is_ours(a)]
    keys = {override_key(a) for a in given}
    flat = _flat(hpo.space)
    return parse([*given, *(f"{key}={sweep}" for key, sweep in flat.items() if key not in keys)])


def _is_ours(override: str) -> bool:
    """Whether an override belongs to the search, not to its trials."""
    return override.lstrip("+~").startswith(("hpo=", "hpo.", "hpo/"))


def _flat(space: Any, prefix: str = "") -> dict[str, str]:  # noqa: ANN401 - nested as YAML nests it
    if isinstance(space, dict):
        return {k: v for key, inner in space.items() for k, v in _flat(inner, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): str(space)}


def claim_study(config: DictConfig, arguments: Sequence[str]) -> list[str]:
    """Give a search without a name its own folder; returns the overrides with the study's name.

    Args:
        config: with hpo and Hydra's part, where the folder is set.
        arguments: the command line's overrides.
    """
    given = {a.partition("=")[0] for a in [*arguments, *config.hydra.overrides.hydra]}
    folder = Path(config.hydra.sweep.dir)
    if {"hpo.study", "hydra.sweep.dir"} & given or not folder.is_relative_to(_STUDIES):
        return list(arguments)
    folder = claim(folder)
    study = str(folder.relative_to(_STUDIES))
    with read_write(config), open_dict(config):
        config.hpo.study = study
    return [*arguments, f"hpo.study={as_text(study)}"]


def refuse_others(folder: Path, note: str, *, overwrite: bool) -> None:
    """Refuse a folder with results, unless ``note`` shows that they are of a search that is resumed.

    Raises:
        ConfigError: the folder has results; the message says what to do.
    """
    only_begun = folder.is_dir() and {path.name for path in folder.iterdir()} <= {"multirun.yaml", ".lock"}
    if not (overwrite or only_begun or (folder / note).exists()):
        ways_on = "give hpo.study=ANOTHER, or replace it with overwrite=true"
        refuse_files(folder, [*WRITTEN, "multirun.yaml"], ways_on)


def study_override(folder: Path) -> str:
    """The override with which another command continues the search in a folder."""
    named = folder.is_relative_to(_STUDIES)
    return f"hpo.study={folder.relative_to(_STUDIES)}" if named else f"hydra.sweep.dir={folder}"


def resume_command(folder: Path) -> str:
    """The command that resumes the search in a folder, quoted for the shell."""
    return same_command(study_override(folder))


def same_command(*overrides: str) -> str:
    """This process's command with other overrides, quoted for the shell."""
    keys = [override_key(o) for o in overrides]
    given = [a for a in sys.argv[1:] if override_key(a) not in keys]
    return program.command([*given, *overrides])
