"""Checks that the extras of a stage are installed."""

import importlib.util

from sagehound.errors import ConfigError


def needs(stage: str, extra: str, *packages: str) -> None:
    """Check that a stage's packages are installed, before it begins.

    Raises:
        ConfigError: one is missing; the message names the extra.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{stage} needs {package}, which is not installed: pip install 'sagehound[{extra}]'")
