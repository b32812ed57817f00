"""Training from Python, by the same config as the command."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sagehound.errors import InputError

if TYPE_CHECKING:
    from sagehound.predicting import Model


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    metrics: dict[str, Any]  # metrics.json

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """The run in a folder.

        Raises:
            InputError: it holds no finished run.
        """
        path = Path(folder).expanduser()
        try:
            return cls(path, json.loads((path / "metrics.json").read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: no finished run ({error}); give the folder of one") from error

    def model(self) -> "Model":
        """The trained model.

        Raises:
            InputError: the run left none.
        """
        from sagehound.predicting import load

        return load(self)


def train(*overrides: str, config_dir: str | Path | None = None, **groups: object) -> Run:
    """Train as ``sagehound train`` does, and return the run.

    Args:
        overrides: as on the command line: "data=folder", "optimizer.lr=0.01".
        config_dir: a folder with config groups of your own.
        groups: overrides whose key is a Python name: backbone="resnet34", seed=1.

    Raises:
        ConfigError: an override is wrong.
        InputError: the photos, the weights or a checkpoint cannot be used.
        SagehoundError: the loss is no longer finite, or the disk is full.
    """
    from sagehound import command, config
    from sagehound.errors import ConfigError

    given = [*overrides, *(_override(key, value) for key, value in groups.items())]
    if flags := [word for word in given if word.startswith("-")]:
        raise ConfigError(f"{flags[0]}: flags are of the command; sagehound.train takes key=value and trains one run")
    with _schema(config.Train), command.raised_errors(), command.composed(given, config_dir) as cfg:
        folder = Path(cfg.hydra.run.dir)
        return Run(folder, command.run_training(config.typed(cfg), folder, cfg.hydra.overrides.task))


def _override(key: str, value: object) -> str:
    """A Python value as an override."""
    from sagehound import hints

    if value is None or isinstance(value, bool | int | float):
        return f"{key}={json.dumps(value)}"
    if isinstance(value, list | tuple):
        return f"{key}={json.dumps(list(value))}"
    return hints.override(key, str(value))


@contextmanager
def _schema(schema: type) -> Iterator[None]:
    """Compose by a schema; afterwards by the one that was registered before."""
    from sagehound import config

    before = config.registered() if config.is_registered() else None
    config.register(schema)
    try:
        yield
    finally:
        if before:
            config.register(before)
