"""What a key of the schema is: a default, a sentence of help, and the rule that a value must follow."""

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
    """A field of the schema.

    Args:
        help: what the key sets, with its unit; ``--help`` prints it.
        default: without one, the key must be given.
        rule: choices=(...), or a number for above, at_least, below or at_most.
    """
    metadata = {"help": help, "rule": rule}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def group(kind: type, *, is_open: bool = False) -> Any:  # noqa: ANN401 - a field has the type beside it
    """A field that is a group of keys.

    Args:
        kind: the group's dataclass.
        is_open: the group also takes keys that are arguments of the class that it names.
    """
    return field(default_factory=kind, metadata={"open": is_open})


def group_of(field: dataclasses.Field[Any]) -> type | None:
    """The dataclass of a field that is a group of keys, or may be none; None for a single key."""
    kinds = [kind for kind in (field.type, *get_args(field.type)) if dataclasses.is_dataclass(kind)]
    return kinds[0] if kinds and isinstance(kinds[0], type) else None


def is_open(field: dataclasses.Field[Any]) -> bool:
    """Whether a field takes keys that the schema does not list: a mapping, or a group with arguments of a class."""
    return bool(field.metadata.get("open")) or str(field.type).startswith("dict[str, typing.Any]")


def leaves(schema: type, prefix: str = "") -> Iterator[tuple[str, "dataclasses.Field[Any]"]]:
    """Every single key of a schema, dotted, with its field."""
    for f in dataclasses.fields(schema):
        kind = group_of(f)
        if kind:
            yield from leaves(kind, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, f


def extra(group: Any) -> dict[str, Any]:  # noqa: ANN401 - any group's dataclass
    """The keys of an open group that its schema does not list: arguments of the class that it names."""
    return {
        name: value for name, value in vars(group).items() if name not in {f.name for f in dataclasses.fields(group)}
    }


def as_dict(config: Any) -> Any:  # noqa: ANN401 - a group, a list or a single value
    """A config as plain dictionaries, lists, numbers and strings."""
    if dataclasses.is_dataclass(config):
        return {name: as_dict(value) for name, value in vars(config).items()}
    if isinstance(config, dict):
        return {name: as_dict(value) for name, value in config.items()}
    return [as_dict(value) for value in config] if isinstance(config, list) else config


def check_value(key: str, value: Any, rule: dict[str, Any]) -> None:  # noqa: ANN401 - whatever the user gave
    """Check a value, or each value of a list, against a field's rule.

    Raises:
        ConfigError: it is not one of the choices, not finite or out of bounds.
    """
    if value is None:
        return
    choices = rule.get("choices")
    values = value if isinstance(value, list) else [value]
    for one in values:
        if choices and one not in choices:
            raise ConfigError(f"{key}={value}: choose from {', '.join(choices)}{meant(str(one), choices)}")
    bounds = {name: bound for name, bound in rule.items() if name != "choices"}
    for number in values:
        if isinstance(number, float) and not math.isfinite(number):
            raise ConfigError(f"{key}={value}: must be a finite number")
        if not all(_BOUNDS[name](number, bound) for name, bound in bounds.items()):
            wanted = " and ".join(f"{name.replace('_', ' ')} {bound}" for name, bound in bounds.items())
            raise ConfigError(f"{key}={value}: must be {wanted}")


def unknown_key(key: str, known: list[str]) -> str:
    """The message for a key that the schema does not have."""
    choices = f"; choose from {', '.join(known)}" if known else ""
    return f"{key}: no such key{meant(key, known)}{choices}"


def meant(given: str, choices: Sequence[str]) -> str:
    """A hint at the choice that looks most like what was given, or nothing."""
    close = difflib.get_close_matches(given, choices, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
