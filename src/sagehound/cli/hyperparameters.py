"""Overrides as a SageMaker job's hyperparameters, which are strings, and back. Imports neither torch nor AWS's SDK."""

import json
import re
from collections.abc import Mapping, Sequence

from sagehound.untrusted import refuse_targets

_RESERVED = re.compile(r"_tuning_objective_metric|sagemaker_\w+")
_HINT = "put it into a YAML file of the project's conf/ and choose that by its name"


def encode(overrides: Sequence[str]) -> dict[str, str]:
    """A job's hyperparameters, under the overrides' own names with + and ~; the last of a key wins.

    A value in double quotes is written as JSON, because SageMaker's SDK puts such quotes around every string.

    Raises:
        ConfigError: ``decode`` would refuse an override.
    """
    refuse_targets(overrides, "a job's hyperparameters", _HINT)
    found: dict[str, str] = {}
    for override in overrides:
        key, _, value = override.partition("=")
        found.pop(key, None)
        found[key] = json.dumps(value) if len(value) > 1 and value[0] == value[-1] == '"' else value
    return found


def values(given: Mapping[str, str]) -> dict[str, str]:
    """The values of overrides by key.

    Drops what SageMaker adds (_tuning_objective_metric, sagemaker_*), and the quotes that its SDK puts around strings.
    """
    found = {}
    for key, value in given.items():
        if _RESERVED.fullmatch(key):
            continue
        if len(value) > 1 and value[0] == value[-1] == '"':
            try:
                value = str(json.loads(value))
            except ValueError:
                value = value[1:-1]
        found[key] = value
    return found


def decode(given: Mapping[str, str], source: str) -> list[str]:
    """Overrides of a command line; ``~key``, without a value, deletes.

    Args:
        given: hyperparameters, as SageMaker writes them.
        source: the file that they are from, for the message.

    Raises:
        ConfigError: one of them could run code: see ``refuse_targets``.
    """
    overrides = [key if key.startswith("~") and not value else f"{key}={value}" for key, value in values(given).items()]
    refuse_targets(overrides, source, _HINT)
    return overrides
