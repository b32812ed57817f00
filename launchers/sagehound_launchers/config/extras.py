"""What a stage needs beside the core, found out before it begins."""

import importlib.util

from sagehound.errors import ConfigError


def needs(stage: str, extra: str, *packages: str) -> None:
    """Find out that a stage's packages are there, before anything is begun.

    Raises:
        ConfigError: one is missing; names the extra that brings it.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{stage} needs {package}, which is not installed: pip install 'sagehound[{extra}]'")
