"""Writes the text of ``--help``: examples, the options of every group, and every key with its value and meaning."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sagehound.config import allowed_values, group_of, registered

_COLUMN = 44  # first column of the meanings, unless a key and its value are longer


def help_text(usage: str, folders: Sequence[Path], config: str) -> str:
    """The text of ``--help``.

    Args:
        usage: what the command does, with examples.
        folders: the folders of the config groups.
        config: the composed config, as YAML.
    """
    keys = "\n".join(_keys(registered(), yaml.safe_load(config) or {}))
    return (
        f"{usage}\nChoices (group=option)\n\n{_groups(folders)}\n\n"
        f"Keys (key=value), as this command line sets them\n\n{keys}"
    )


def _groups(conf: Sequence[Path]) -> str:
    known = {f.name for f in dataclasses.fields(registered())} | {"experiment"}
    groups = sorted({d.name for folder in conf if folder.is_dir() for d in folder.iterdir() if d.is_dir()} & known)
    options = {group: sorted({f.stem for c in conf for f in (c / group).glob("*.yaml")}) for group in groups}
    return "\n".join(f"{group}: {', '.join(names)}" for group, names in options.items())


def _keys(schema: type, values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield a line for each key: key=value, and its meaning."""
    for f in dataclasses.fields(schema):
        value, group = values.get(f.name), group_of(f)
        if group and isinstance(value, Mapping):
            yield from _keys(group, value, f"{prefix}{f.name}.")
        else:
            yield _line(f"{prefix}{f.name}", value, _meaning(f, group))
    known = {f.name for f in dataclasses.fields(schema)}
    for name in [name for name in values if name not in known and prefix]:
        yield _line(f"{prefix}{name}", values[name], f"an argument of the class that {prefix}name or _target_ names")


def _line(key: str, value: Any, meaning: str) -> str:  # noqa: ANN401 - whatever YAML holds
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    setting = f"{key}={text}"
    return f"{setting:<{_COLUMN - 2}}  {meaning}".rstrip()


def _meaning(field: "dataclasses.Field[Any]", group: type | None) -> str:
    """The help of a key with its allowed values; for a group without a chosen option, the group's docstring."""
    if group:
        return (group.__doc__ or "").splitlines()[0]
    allowed = allowed_values(field.metadata.get("rule", {}))
    text = str(field.metadata.get("help", ""))
    return f"{text} ({allowed})" if allowed else text
