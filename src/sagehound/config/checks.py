"""Converts the config that Hydra composed to the typed config, and checks all rules."""

import copy
import dataclasses
from collections.abc import Iterator
from functools import cache
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from sagehound.config.fields import check_value, group_of, is_open, unknown_key
from sagehound.config.schema import Train
from sagehound.errors import ConfigError


def register(schema: type[Train] = Train) -> None:
    """Register the schema with Hydra under the name that conf/train.yaml uses."""
    ConfigStore.instance().store("schema", _with_open_groups(schema))  # type: ignore[arg-type]  # a class has a hash


@cache
def _with_open_groups(schema: type) -> DictConfig:
    """A config with the schema's defaults, of which Hydra makes copies. Open groups accept keys that are not listed."""
    node: DictConfig = OmegaConf.structured(schema)
    _open(schema, node)
    return node


def _open(schema: type, node: DictConfig) -> None:
    """Let open groups accept keys that the schema does not list."""
    for f in dataclasses.fields(schema):
        inner = node._get_node(f.name)
        if not isinstance(inner, DictConfig) or inner._is_none() or inner._is_missing():
            continue
        if is_open(f):
            OmegaConf.set_struct(inner, False)
        if group := group_of(f):
            _open(group, inner)


def is_registered() -> bool:
    """Whether a schema is registered: that of `train.py`, or a larger one."""
    return "schema.yaml" in ConfigStore.instance().repo


def registered() -> type:
    """The schema that Hydra uses; that of `train.py` if none is registered."""
    if not is_registered():
        return Train
    node = ConfigStore.instance().repo["schema.yaml"].node  # ConfigStore.load would copy all of it
    return OmegaConf.get_type(node) or Train


def typed(cfg: DictConfig) -> Any:  # noqa: ANN401 - Train, or a larger schema
    """Convert a composed config to its schema's dataclasses, and check every value and every rule.

    Raises:
        ConfigError: names the first wrong key, its value, and what to choose instead.
    """
    schema = OmegaConf.get_type(cfg)
    cfg = copy.deepcopy(cfg)
    if not (isinstance(schema, type) and issubclass(schema, Train)):
        schema = registered()
        cfg = OmegaConf.merge(_with_open_groups(schema), cfg)  # type: ignore[assignment,arg-type]
    with read_write(cfg), open_dict(cfg):
        cfg.pop("hydra", None)
    _check_keys(schema, cfg)
    config = OmegaConf.to_object(cfg)
    check(config)
    return config


def check(config: Any) -> None:  # noqa: ANN401 - Train, or a larger schema
    """Check every value of a typed config, then the rules across keys.

    Raises:
        ConfigError: names the first wrong key, its value, and what to choose instead.
    """
    check_values(config)
    for group in _groups(config):
        for message in getattr(group, "conflicts", lambda _: ())(config):
            raise ConfigError(message)


def _check_keys(schema: type, cfg: DictConfig, prefix: str = "") -> None:
    """Refuse keys that the schema does not know, and keys without a value."""
    known = [f.name for f in dataclasses.fields(schema)]
    is_closed = cfg._get_node_flag("struct") is not False
    for name in map(str, cfg):
        if name not in known and is_closed:  # added by +key=value, which Hydra accepts
            raise ConfigError(unknown_key(f"{prefix}{name}", [prefix + k for k in known]))
    for f in dataclasses.fields(schema):
        key = prefix + f.name
        if f.name not in cfg and not OmegaConf.is_missing(cfg, f.name):  # by ~key
            raise ConfigError(f"{key} cannot be removed: give {key}=...")
        if OmegaConf.is_missing(cfg, f.name):
            raise ConfigError(f"{key} is missing: give {key}=...")
        group = group_of(f)
        if group and cfg[f.name] is not None:
            _check_keys(group, cfg[f.name], key + ".")


def check_values(group: Any, prefix: str = "") -> None:  # noqa: ANN401 - any group's dataclass
    """Check each value of a group against the rule of its key.

    Raises:
        ConfigError: names the first wrong key, its value, and what to choose instead.
    """
    for f in dataclasses.fields(group):
        value = getattr(group, f.name)
        if dataclasses.is_dataclass(value):
            check_values(value, f"{prefix}{f.name}.")
        else:
            check_value(prefix + f.name, value, f.metadata.get("rule", {}))


def _groups(group: Any) -> Iterator[Any]:  # noqa: ANN401 - any group's dataclass
    """Yield the groups of a config, then the config itself."""
    for f in dataclasses.fields(group):
        if dataclasses.is_dataclass(inner := getattr(group, f.name)):
            yield from _groups(inner)
    yield group
