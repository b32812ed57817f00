"""What a search searches: the command line's sweeps, hpo.space beside them, or the optimizer's own space."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict, read_write

from sagehound import hints
from sagehound.run_folder import claim, refuse_files
from sagehound_launchers.config import Hpo, Launch
from sagehound_launchers.search_space import SearchSpace, parse
from sagehound_launchers.trials import WRITTEN

_STUDIES = Path("multirun")  # where conf/hpo puts the folder of each study

Compose = Callable[[Sequence[str]], Launch]


def searched(arguments: Sequence[str], hpo: Hpo, compose: Compose) -> tuple[SearchSpace, list[str]]:
    """The search space, and the overrides that are of the search itself.

    Of a key that the command line and hpo.space both have, the command line's counts. Where neither sweeps anything,
    conf/hpo/space/<optimizer.name>.yaml is the space.

    Args:
        arguments: the command line's overrides.
        hpo: the config's, with what was chosen as hpo/space in hpo.space.
        compose: overrides to the config that they make, checked.

    Raises:
        ConfigError: a sweep cannot be searched, or one point of the space breaks a rule.
    """
    ours = [a for a in arguments if _is_ours(a)]
    space = _parse(arguments, hpo)
    if not space.ranges:
        ours.append(f"hpo/space={compose([*ours, *space.fixed]).optimizer.name}")
        space = _parse(arguments, compose([*ours, *space.fixed]).search)
    compose([*ours, *space.middle()])
    return space, ours


def _parse(arguments: Sequence[str], hpo: Hpo) -> SearchSpace:
    given = [a for a in arguments if not _is_ours(a)]
    keys = {hints.override_key(a) for a in given}
    flat = _flat(hpo.space)
    return parse([*given, *(f"{key}={sweep}" for key, sweep in flat.items() if key not in keys)])


def _is_ours(override: str) -> bool:
    """Whether an override is of the search itself, not of what its trials train."""
    return override.lstrip("+~").startswith(("hpo=", "hpo.", "hpo/"))


def _flat(space: Any, prefix: str = "") -> dict[str, str]:  # noqa: ANN401 - nested as YAML nests it
    if isinstance(space, dict):
        return {k: v for key, inner in space.items() for k, v in _flat(inner, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): str(space)}


def claim_study(config: DictConfig, arguments: Sequence[str]) -> list[str]:
    """Give a search without a name a folder of its own; returns the command line's overrides, with the study's name.

    Args:
        config: with hpo, and Hydra's own part, where the folder is noted.
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
    return [*arguments, f"hpo.study={hints.as_text(study)}"]


def refuse_others(folder: Path, note: str, *, overwrite: bool) -> None:
    """Refuse a folder with results, unless ``note`` shows that they are of a search that is resumed.

    Raises:
        ConfigError: names the first file, and the ways on.
    """
    if not (overwrite or (folder / note).exists()):
        ways_on = "give hpo.study=ANOTHER, or let it be replaced with overwrite=true"
        refuse_files(folder, [*WRITTEN, "multirun.yaml"], ways_on)


def study_override(folder: Path) -> str:
    """The override with which another command continues the search in a folder."""
    named = folder.is_relative_to(_STUDIES)
    return f"hpo.study={folder.relative_to(_STUDIES)}" if named else f"hydra.sweep.dir={folder}"


def command_again(folder: Path) -> str:
    """The command that resumes the search in a folder, quoted for the shell."""
    return same_command(study_override(folder))


def same_command(*overrides: str) -> str:
    """This process's command with other overrides, quoted for the shell."""
    keys = [hints.override_key(o) for o in overrides]
    given = [a for a in sys.argv[1:] if hints.override_key(a) not in keys]
    return hints.command([*given, *overrides])
