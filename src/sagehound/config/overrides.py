"""Quotes overrides for Hydra, and looks up their keys in the schema. Imports no torch."""

import dataclasses
import re
from collections.abc import Iterator, Set

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from sagehound.config import group_of, registered

_PATHS = ("data.root", "backbone.weights", "resume", "hydra.run.dir", "hydra.sweep.dir")  # always text


def override(key: str, value: str) -> str:
    """Write an override; its value is quoted for Hydra if necessary."""
    plain = f"{key}={value}"
    try:
        parsed = OverridesParser.create().parse_override(plain)
        if key not in _PATHS or value[:1] in ("'", '"') or str(parsed.value()) == value:
            return plain
    except HydraException:
        pass
    return f"{key}={as_text(value)}"


def override_key(override: str) -> str:
    """The key of an override."""
    return override.partition("=")[0].lstrip("+~")


def as_text(value: str) -> str:
    """Quote a string for Hydra's grammar."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + (m[2] and "\\'"), value) + "'"


def is_text(key: str) -> bool:
    """Whether the value of a key is free text, such as a path."""
    fields = fields_of(key)
    known = len(fields) == len(key.split(".")) and fields[-1].type in (str, str | None)
    return key in _PATHS or (known and "choices" not in fields[-1].metadata.get("rule", {}))


def is_free(key: str) -> bool:
    """Whether a key is in a mapping that accepts any key, such as aws.tags."""
    return any("dict[" in str(field.type) for field in fields_of(key))


def fields_of(key: str) -> list["dataclasses.Field[object]"]:
    """The schema's field for each part of a key, up to the first part that the schema lacks."""
    path: list[dataclasses.Field[object]] = []
    node: type | None = registered()
    for part in key.split("."):
        fields = [f for f in dataclasses.fields(node) if f.name == part] if node else []
        if not fields:
            break
        path.append(fields[0])
        node = group_of(fields[0])
    return path


def leaves_of(node: type, chosen: Set[str], prefix: str = "") -> Iterator[str]:
    """Yield the schema's keys; those of a group that is null by default only if the group is in ``chosen``."""
    for f in dataclasses.fields(node):
        group = group_of(f)
        if group and (f.default is not None or f.name in chosen):
            yield from leaves_of(group, chosen, f"{prefix}{f.name}.")
        elif not group:
            yield prefix + f.name
