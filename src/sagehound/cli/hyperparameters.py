"""Converts overrides to a SageMaker job's hyperparameters, which are strings, and back. Imports no torch and no SDK."""

import json
import re
from collections.abc import Mapping, Sequence

from sagehound.cli.untrusted_overrides import refuse_targets

_RESERVED = re.compile(r"_tuning_objective_metric|sagemaker_\w+")
_HINT = "put it into a YAML file of the project's conf/ and choose that by its name"


def encode(overrides: Sequence[str]) -> dict[str, str]:
    """Convert overrides to hyperparameters. Names keep + and ~; the last override of a key wins.

    A value in double quotes is written as JSON, because SageMaker's SDK puts such quotes around every string.

    Raises:
        ConfigError: ``decode`` would refuse an override.
    """
    refuse_targets(overrides, "a job's hyperparameters", _HINT)
    encoded: dict[str, str] = {}
    for override in overrides:
        key, _, value = override.partition("=")
        encoded.pop(key, None)
        encoded[key] = json.dumps(value) if len(value) > 1 and value[0] == value[-1] == '"' else value
    return encoded


def values(hyperparameters: Mapping[str, str]) -> dict[str, str]:
    """The values of overrides by key.

    Drops the hyperparameters that SageMaker adds (_tuning_objective_metric, sagemaker_*), and the quotes that its SDK
    puts around strings.
    """
    decoded = {}
    for key, value in hyperparameters.items():
        if _RESERVED.fullmatch(key):
            continue
        if len(value) > 1 and value[0] == value[-1] == '"':
            try:
                value = str(json.loads(value))
            except ValueError:
                value = value[1:-1]
        decoded[key] = value
    return decoded


def decode(hyperparameters: Mapping[str, str], source: str) -> list[str]:
    """Convert hyperparameters to overrides; ``~key`` without a value deletes the key.

    Args:
        hyperparameters: as SageMaker writes them.
        source: their file, for the message.

    Raises:
        ConfigError: an override could run code; see ``refuse_targets``.
    """
    pairs = values(hyperparameters).items()
    overrides = [key if key.startswith("~") and not value else f"{key}={value}" for key, value in pairs]
    refuse_targets(overrides, source, _HINT)
    return overrides
