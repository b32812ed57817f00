"""The schema of `python launch.py`: ``Launch`` and a group for each installed stage."""

import dataclasses
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sagehound import config
from sagehound.config import Train, typed
from sagehound_launchers.config import Launch
from sagehound_launchers.config.stage import registry


def _groups() -> list[tuple[str, Any, Any]]:
    """A field for each stage of the registry: its group, or null."""
    return [
        (stage.name, stage.config | None, dataclasses.field(default=None, metadata={"stage": stage}))
        for stage in registry()
    ]


LaunchWithStages: type[Launch] = dataclasses.make_dataclass("LaunchWithStages", _groups(), bases=(Launch,))
LaunchWithStages.__module__ = __name__  # where pickle finds it


def register() -> None:
    """Register the schema with Hydra, and the default ``stages`` of conf/launch.yaml, which chooses no stage."""
    config.register(LaunchWithStages)
    defaults = [{stage.name: None} for stage in registry()]
    ConfigStore.instance().store("stages", {"defaults": [*defaults, "_self_"]})


def checked(config: DictConfig) -> Train:
    """Check a job's config; returns it typed.

    Raises:
        ConfigError: it breaks a rule.
    """
    HydraConfig.instance().set_config(config)  # for ${hydra:...} in values
    checked: Train = typed(config)
    return checked
