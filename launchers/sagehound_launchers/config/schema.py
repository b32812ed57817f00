"""The schema of `python launch.py`: ``Launch`` and a group for each installed stage."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sagehound import config
from sagehound.config import Train, typed
from sagehound.config.overrides import as_text
from sagehound.system import program
from sagehound.system.project import conf_folder
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


def composed(overrides: Sequence[str], argv: Sequence[str] = ()) -> Launch:
    """Compose and check the config of a command outside of Hydra's application.

    Args:
        overrides: of one run, without values to search.
        argv: a command line, for its --config-dir.

    Raises:
        ConfigError: it breaks a rule.
    """
    register()
    own = [as_text(folder.resolve().as_uri()) for folder in program.config_folders(argv)]
    path = [f"hydra.searchpath=[{','.join(own)}]"] if own else []
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg: Launch = typed(compose("launch", overrides=[*overrides, *path]))
    return cfg


def checked(config: DictConfig) -> Train:
    """Check a job's config; returns it typed.

    Raises:
        ConfigError: it breaks a rule.
    """
    HydraConfig.instance().set_config(config)  # for ${hydra:...} in values
    checked: Train = typed(config)
    return checked
