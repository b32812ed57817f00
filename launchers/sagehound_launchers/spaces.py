"""What a search searches: the command line's sweeps, hpo.space beside them, or the optimizer's own space."""

from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sagehound_launchers.search_space import SearchSpace, parse

Compose = Callable[[Sequence[str]], DictConfig]


def searched(arguments: Sequence[str], hpo: DictConfig, compose: Compose) -> tuple[SearchSpace, list[str]]:
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
        space = _parse(arguments, compose([*ours, *space.fixed]).hpo)
    compose([*ours, *space.middle()])
    return space, ours


def _parse(arguments: Sequence[str], hpo: DictConfig) -> SearchSpace:
    given = [a for a in arguments if not _is_ours(a)]
    keys = {a.partition("=")[0].lstrip("+~") for a in given}
    flat = _flat(OmegaConf.to_container(hpo.space, resolve=True))
    return parse([*given, *(f"{key}={sweep}" for key, sweep in flat.items() if key not in keys)])


def _is_ours(override: str) -> bool:
    """Whether an override is of the search itself, not of what its trials train."""
    return override.lstrip("+~").startswith(("hpo=", "hpo.", "hpo/"))


def _flat(space: Any, prefix: str = "") -> dict[str, str]:  # noqa: ANN401 - nested as YAML nests it
    if isinstance(space, dict):
        return {k: v for key, inner in space.items() for k, v in _flat(inner, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): str(space)}
