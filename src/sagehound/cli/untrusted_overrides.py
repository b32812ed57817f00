"""Checks overrides from untrusted files: they may set values, but not name code. Imports no torch."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import PureWindowsPath
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException

from sagehound.config.overrides import is_text
from sagehound.errors import ConfigError

_TARGET = "_target_"  # names a class or function that Hydra calls
_KEY = re.compile(r"(\+{0,2}|~)[A-Za-z_][\w./@:$-]*")
_PLAIN_INTERPOLATION = re.compile(r"\$\{[\w.-]+\}")  # another key's value
TRUST = "if you trust it, give it on the command line as well"


def refuse_targets(overrides: Sequence[str], source: str, hint: str = TRUST) -> None:
    """Refuse overrides that could run code or load another YAML file.

    Refused are:
        * a ``_target_`` in a key or at any depth of a value
        * options outside of the config folders (``backbone=../x``)
        * settings of Hydra itself (``hydra.callbacks``, ``hydra.searchpath``, ...)
        * values from resolvers (``${oc.env:X}``), which could leak a secret
        * flags

    Args:
        overrides: the overrides of the file.
        source: the file, for the message.
        hint: advice for the message.

    Raises:
        ConfigError: names the file, the override and the reason.
    """
    for override in overrides:
        if reason := _reason(override):
            raise ConfigError(f"{source}: {override}: {reason}; {hint}")


def is_override(text: str) -> bool:
    """Whether a word of a command line is an override, not a flag."""
    key, equals, _ = text.partition("=")
    return bool(_KEY.fullmatch(key) and (equals or key.startswith("~")))


def _reason(override: str) -> str:
    """Why an override is refused; empty if it is allowed."""
    if not is_override(override):
        return "is not an override: write key=value"
    texts = [override]
    groups: list[str] = []
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        pass  # Hydra's parser will reject it as well
    else:
        strings = list(_strings(parsed._value))
        texts += strings
        groups = strings if _chooses(parsed) else []
    if any(_TARGET in text for text in texts):
        return f"a file may not contain a {_TARGET}, which names code to run"
    key, _, package = override.partition("=")[0].lstrip("+~").partition("@")
    is_hydra = re.split(r"[./]", key)[0] == "hydra"
    if is_hydra or re.search(r"(^|[@:.])(hydra($|[.:])|_\w+_)", package):
        return "a file may not change what Hydra itself loads and runs"
    if any("${" in _without_references(text) for text in texts):
        return "a file may not contain a value that is looked up elsewhere"
    if any({"..", ""} & set(re.split(r"[/\\]", name)) or PureWindowsPath(name).drive for name in groups if name):
        return "a file may not choose an option outside of the config's folders"
    return ""


def _chooses(override: Override) -> bool:
    """Whether an override may choose an option of a group, which is a file."""
    key = override.key_or_group
    return "/" in key or override.package is not None or ("." not in key and not is_text(key))


def _strings(value: Any) -> Iterator[str]:  # noqa: ANN401 - any value of Hydra's grammar
    """Yield the strings in a parsed value at any depth, including dict keys and sweeps."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, QuotedString):
        yield value.text
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(key)
            yield from _strings(inner)
    elif isinstance(value, list | tuple | set):
        for inner in value:
            yield from _strings(inner)
    elif dataclasses.is_dataclass(value):  # sweeps and list extensions
        for field in dataclasses.fields(value):
            yield from _strings(getattr(value, field.name))


def _without_references(text: str) -> str:
    """Remove references to other keys, such as ${seed}, from a text."""
    while (shorter := _PLAIN_INTERPOLATION.sub("", text)) != text:
        text = shorter
    return text
