"""Defines the schema's keys. A key has a default, a line of help and a rule for its value."""

import dataclasses
import difflib
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import field
from typing import Any, get_args

from omegaconf import MISSING

from sagehound.errors import ConfigError

_BOUNDS = {"above": operator.gt, "at_least": operator.ge, "below": operator.lt, "at_most": operator.le}


def key(help: str, default: Any = MISSING, **rule: Any) -> Any:  # noqa: ANN401 - a field has the type beside it
    """Create a field of the schema.

    Args:
        help: what the key sets, with its unit. ``--help`` prints it.
        default: the default value; without one, the user must give the key.
        rule: ``choices=(...)``, or a number as ``above``, ``at_least``, ``below`` or ``at_most``.
    """
    metadata = {"help": help, "rule": rule}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def group(kind: type, *, is_open: bool = False) -> Any:  # noqa: ANN401 - a field has the type beside it
    """Create a field that is a group of keys.

    Args:
        kind: the group's dataclass.
        is_open: the group also accepts the arguments of the class that it names.
    """
    return field(default_factory=kind, metadata={"open": is_open})


def group_of(field: dataclasses.Field[Any]) -> type | None:
    """The dataclass of a field that is a group of keys; None for a single key."""
    kinds = [kind for kind in (field.type, *get_args(field.type)) if dataclasses.is_dataclass(kind)]
    return kinds[0] if kinds and isinstance(kinds[0], type) else None


def is_open(field: dataclasses.Field[Any]) -> bool:
    """Whether a field accepts keys that the schema does not list: a mapping, or a group with a class's arguments."""
    return bool(field.metadata.get("open")) or str(field.type).startswith("dict[str, typing.Any]")


def leaves(schema: type, prefix: str = "") -> Iterator[tuple[str, "dataclasses.Field[Any]"]]:
    """Yield every single key of a schema in dotted form, with its field."""
    for f in dataclasses.fields(schema):
        kind = group_of(f)
        if kind:
            yield from leaves(kind, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, f


def extra(group: Any) -> dict[str, Any]:  # noqa: ANN401 - any group's dataclass
    """The keys of an open group that its schema does not list, which are arguments of the class that it names."""
    return {
        name: value for name, value in vars(group).items() if name not in {f.name for f in dataclasses.fields(group)}
    }


def as_dict(config: Any) -> Any:  # noqa: ANN401 - a group, a list or a single value
    """Convert a config to plain dictionaries, lists, numbers and strings."""
    if dataclasses.is_dataclass(config):
        return {name: as_dict(value) for name, value in vars(config).items()}
    if isinstance(config, dict):
        return {name: as_dict(value) for name, value in config.items()}
    return [as_dict(value) for value in config] if isinstance(config, list) else config


def check_value(key: str, value: Any, rule: dict[str, Any]) -> None:  # noqa: ANN401 - whatever the user gave
    """Check a value, or each value of a list, against the rule of its key.

    Raises:
        ConfigError: a value is not one of the choices, not finite or out of bounds.
    """
    if value is None:
        return
    choices = rule.get("choices")
    values = value if isinstance(value, list) else [value]
    for one in values:
        if choices and one not in choices:
            raise ConfigError(
                f"{key}={value}: choose from {allowed_values(rule)}{did_you_mean(str(one), list(map(str, choices)))}"
            )
    bounds = _bounds(rule)
    for number in values:
        if isinstance(number, float) and not math.isfinite(number):
            raise ConfigError(f"{key}={value}: must be a finite number")
        if not all(_BOUNDS[name](number, bound) for name, bound in bounds.items()):
            raise ConfigError(f"{key}={value}: must be {allowed_values(bounds)}")


def allowed_values(rule: dict[str, Any]) -> str:
    """The values that a rule allows, in words: the choices, or bounds such as "above 0"; empty if it allows all."""
    bounds = " and ".join(f"{name.replace('_', ' ')} {bound}" for name, bound in _bounds(rule).items())
    return ", ".join(map(str, rule.get("choices", ()))) or bounds


def _bounds(rule: dict[str, Any]) -> dict[str, float]:
    return {name: bound for name, bound in rule.items() if name != "choices"}


def unknown_key(key: str, known: list[str]) -> str:
    """The message for a key that the schema does not have."""
    choices = f"; choose from {', '.join(known)}" if known else ""
    return f"{key}: no such key{did_you_mean(key, known)}{choices}"


def did_you_mean(text: str, choices: Sequence[str]) -> str:
    """A hint at the choice that is most similar to a text; empty if none is similar."""
    close = difflib.get_close_matches(text, choices, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
