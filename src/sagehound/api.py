"""Trains from Python with the same config as the command."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock

from sagehound.config.overrides import override
from sagehound.runs.run import Run

_LOCK = RLock()  # Hydra's state and the random generators are global to the process


def train(*overrides: str, config_dir: str | Path | None = None, **groups: object) -> Run:
    """Train as ``sagehound train`` does, and return the run.

    Calls from several threads run one after the other. Only a run in the main thread writes a checkpoint when a signal
    stops it.

    Args:
        overrides: overrides as on the command line, such as "data=folder" or "optimizer.lr=0.01".
        config_dir: a folder with config groups of your own.
        groups: overrides as keyword arguments, such as backbone="resnet34" or seed=1.

    Raises:
        ConfigError: an override is wrong, or ``config_dir`` is not a folder.
        InputError: the photos, the weights or a checkpoint cannot be used.
        SagehoundError: the loss is no longer finite, or the disk is full.
    """
    from sagehound import config
    from sagehound.cli import command
    from sagehound.errors import ConfigError

    for word in overrides:
        if not isinstance(word, str):
            raise ConfigError(
                f"{word!r}: an override is a string, such as 'data=folder'; give several as train(*overrides)"
            )
    given = [*overrides, *(_override(key, value) for key, value in groups.items())]
    if flags := [word for word in given if word.startswith("-")]:
        raise ConfigError(
            f"{flags[0]}: flags belong to the command; sagehound.train takes key=value and trains one run"
        )
    with _LOCK, _schema(config.Train), command.raised_errors(), command.composed(given, config_dir) as cfg:
        folder = Path(cfg.hydra.run.dir).absolute()
        return Run(folder, command.run_training(config.typed(cfg), folder, cfg.hydra.overrides.task))


def _override(key: str, value: object) -> str:
    """Write a keyword argument as an override."""
    from sagehound.errors import ConfigError

    if isinstance(value, dict):
        keys = ", ".join(f'"{key}.{k}={v}"' for k, v in value.items())
        raise ConfigError(f"{key}={value}: give each key as an override of its own: {keys}")

    if value is None or isinstance(value, bool | int | float):
        return f"{key}={json.dumps(value)}"
    if isinstance(value, list | tuple):
        return f"{key}={json.dumps(list(value))}"
    return override(key, str(value))


@contextmanager
def _schema(schema: type) -> Iterator[None]:
    """Register a schema for this block, and restore the previous one afterwards."""
    from sagehound import config

    previous = config.registered() if config.is_registered() else None
    config.register(schema)
    try:
        yield
    finally:
        if previous:
            config.register(previous)
