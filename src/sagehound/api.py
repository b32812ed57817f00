"""Training from Python, by the same config as the command."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock

from sagehound.run import Run

_ALONE = RLock()  # Hydra's state and the random numbers belong to the process: threads train one after the other


def train(*overrides: str, config_dir: str | Path | None = None, **groups: object) -> Run:
    """Train as ``sagehound train`` does, and return the run.

    Threads train one after the other. Only the main thread can be stopped by a signal and then write a checkpoint.

    Args:
        overrides: as on the command line: "data=folder", "optimizer.lr=0.01".
        config_dir: a folder with config groups of your own.
        groups: overrides whose key is a Python name: backbone="resnet34", seed=1.

    Raises:
        ConfigError: an override is wrong, or ``config_dir`` is no folder.
        InputError: the photos, the weights or a checkpoint cannot be used.
        SagehoundError: the loss is no longer finite, or the disk is full.
    """
    from sagehound import command, config
    from sagehound.errors import ConfigError

    for word in overrides:
        if not isinstance(word, str):
            raise ConfigError(
                f"{word!r}: an override is a string, such as 'data=folder'; give several as train(*overrides)"
            )
    given = [*overrides, *(_override(key, value) for key, value in groups.items())]
    if flags := [word for word in given if word.startswith("-")]:
        raise ConfigError(f"{flags[0]}: flags are of the command; sagehound.train takes key=value and trains one run")
    with _ALONE, _schema(config.Train), command.raised_errors(), command.composed(given, config_dir) as cfg:
        folder = Path(cfg.hydra.run.dir).absolute()
        return Run(folder, command.run_training(config.typed(cfg), folder, cfg.hydra.overrides.task))


def _override(key: str, value: object) -> str:
    """A Python value as an override."""
    from sagehound import hints
    from sagehound.errors import ConfigError

    if isinstance(value, dict):
        keys = ", ".join(f'"{key}.{k}={v}"' for k, v in value.items())
        raise ConfigError(f"{key}={value}: give each key as an override of its own: {keys}")

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
