"""Suggests corrections for command lines that Hydra would reject, as overrides or commands to paste.

Imports no torch.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import get_args, get_origin

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, QuotedString
from hydra.errors import HydraException

from sagehound.cli import launch_only_settings
from sagehound.cli.aliases import ALIASES
from sagehound.config import Train, group_of, is_open, registered
from sagehound.config.overrides import fields_of, is_free, leaves_of, override
from sagehound.errors import ConfigError
from sagehound.system import program

_NO_OPTION = {
    "backbone": "backbone.name={}",
    "data": "data=folder data.root={}",
}  # for a value that is not an option
_BARE = {"resume": "last"}  # the value for a flag without one
_FLAG = r"--?[a-zA-Z]"  # not a negative number


@dataclass(frozen=True)
class _Setting:
    """One setting of a command line, or another word as typed."""

    typed: str  # as the user knows it: lr, --lr, data=photos
    key: str | None  # None: not a setting
    value: str
    words: list[str]  # its words on the command line
    flag: bool = False
    bare: bool = False  # a flag without a value, which means true


def check(argv: Sequence[str], *conf: Path) -> None:
    """Refuse settings of other programs, and suggest Sagehound's settings instead.

    An unknown flag is refused here. An unknown key that is similar to no known key is left to Hydra.

    Args:
        argv: the command line after the program's name.
        conf: the folders of the config groups: Sagehound's, and the user's own.

    Raises:
        ConfigError: with the overrides, or the command, to paste.
    """
    if "" in argv:
        raise ConfigError("an empty word, perhaps from a shell variable that is not set: write key=value")
    settings = list(_split(argv))
    for word in argv:
        _refuse_bad_option(word, conf)
    launch_groups = launch_only_settings.groups(conf[0])
    keys = {s.key for s in settings if s.key}
    hints: dict[str, list[str]] = {}  # corrections by typed word
    launch: list[str] = []
    line: list[str] = []  # the corrected command line
    has_flags = False
    for s in settings:
        words = s.words
        if s.key and _is_of_launch(s.key, s.value, launch_groups, conf):
            value = launch_groups.get(s.key) or "..." if s.bare and s.key != "dry_run" else s.value
            words = [override(s.key, value)] if s.flag else words
            launch += words
            group = s.key.split(".")[0]
            if group not in keys and launch_groups.get(group):
                words = [f"{group}={launch_groups[group]}", *words]
        elif corrections := _corrections(s, keys - {s.key}, conf):
            hints[s.typed if s.flag or not _is_known(str(s.key)) else " ".join(words)] = corrections
            words = corrections
            has_flags |= s.flag
        elif s.flag:
            raise ConfigError(f"{s.typed}: no such flag; settings are written key=value; --help lists them")
        line += words
    if launch:
        if any(word.startswith("hpo") for word in launch):
            line = ["-m", *(word for word in line if word not in ("-m", "--multirun"))]
        command = program.command(line, program.words("launch"))
        raise ConfigError(f"{', '.join(launch)}: settings of {program.script('launch')}; did you mean {command}?")
    if hints:
        reason = "settings are written key=value" if has_flags else "no such key"
        reason = "no such option" if all("=" in typed for typed in hints) else reason
        corrected = dict.fromkeys(o for corrections in hints.values() for o in corrections)
        overrides = " ".join(map(program.quoted, corrected))
        raise ConfigError(f"{', '.join(hints)}: {reason}; did you mean {overrides}?")


def _refuse_bad_option(word: str, conf: Sequence[Path]) -> None:
    """Refuse a group whose value is not a name, such as null; Hydra's error would not name the key."""
    group = word.partition("=")[0].lstrip("+").partition("@")[0]
    if "=" not in word or not group or not any((folder / group).is_dir() for folder in conf):
        return
    try:
        value: object = OverridesParser.create().parse_override(word).value()
    except HydraException:
        return  # Hydra rejects it
    for choice in value.list if isinstance(value, ChoiceSweep) else [value]:
        if choice is None or isinstance(choice, bool | int | float):
            raise ConfigError(f"{word}: a config group takes the name of an option, not {_written(choice)}")
        for name in choice if isinstance(choice, list) else []:
            if not isinstance(name, str | QuotedString):
                raise ConfigError(f"{word}: a list of a config group holds names of options, not {_written(name)}")


def _written(value: object) -> str:
    """A value in Hydra's grammar."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _split(argv: Sequence[str]) -> Iterator[_Setting]:
    """Yield settings, flags of other programs with their values, and Hydra's own words unchanged."""
    words = list(argv)
    while words:
        if flag := _flag_of_hydra(words):
            yield _Setting(flag[0], None, "", flag)
            continue
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if re.match(_FLAG, word):
            key, bare = name.lstrip("-").replace("-", "_"), False
            if not equals and key.startswith("no_") and key not in ALIASES:
                key, value = key.removeprefix("no_"), "false"
            elif not equals:
                has_value = words and not re.match(_FLAG, words[0]) and not _is_override(words[0])
                value, bare = (words.pop(0), False) if has_value else ("true", True)
            yield _Setting(name, key, value, [word], flag=True, bare=bare)
        elif equals and not word.startswith("~"):
            yield _Setting(name.lstrip("+"), name.lstrip("+"), value, [word])
        elif not equals and _exists(word):
            yield _Setting(word, "data", word, [word], flag=True)
        else:
            yield _Setting(word, None, "", [word])


def flags_first(argv: Sequence[str]) -> list[str]:
    """Move Hydra's flags before the overrides, because argparse accepts none between them."""
    flags: list[str] = []
    overrides: list[str] = []
    words = list(argv)
    while words:
        if flag := _flag_of_hydra(words):
            flags += flag
        else:
            overrides.append(words.pop(0))
    return [*flags, *overrides]


def _flag_of_hydra(words: list[str]) -> list[str]:
    """Remove a Hydra flag with its value from the front of a command line; empty if there is none."""
    hydra = get_args_parser()._option_string_actions
    name, equals, _ = words[0].partition("=")
    if name not in hydra:
        return []
    takes_value = hydra[name].nargs != 0 and not equals and words[1:] and "=" not in words[1]
    return [words.pop(0) for _ in range(2 if takes_value else 1)]


def _is_override(word: str) -> bool:
    key, equals, _ = word.partition("=")
    return bool(equals) and (_is_known(key.lstrip("+~")) or key in ALIASES)


def _corrections(s: _Setting, others: Set[str], conf: Sequence[Path]) -> list[str]:
    """The overrides to suggest for a setting; empty if it is correct, or similar to no known key."""
    if s.key is None or _is_argument(s.key, others):
        return []
    value = s.value.strip("'\"")
    is_backbone = s.key == "model" and not _exists(value) and _is_option("backbone", value, conf)
    if _is_known(s.key) and not is_backbone:
        if not s.flag and not (s.key == "data" and _is_folder(value, conf)):
            return []
        row = s.key + "={}"
    else:
        leaf = s.key.rpartition(".")[2]
        row = ALIASES.get(f"{leaf}={value.lower()}") or ALIASES.get(leaf) or _only(leaf, others)
    group = row.partition("=")[0]
    if row == group + "={}" and any((folder / group).is_dir() for folder in conf):
        if s.bare or (value in ("null", "") and _is_required(group)):
            return [f"{group}=..."]
        if not _is_option(group, value, conf):
            if _is_option(group, value.lower(), conf):
                return [f"{group}={value.lower()}"]
            row = _NO_OPTION.get(group, row)
    several = re.fullmatch(r"\[\d+(,\d+)*\]|\d+(,\d+)+", value)  # the numbers of GPUs
    parts = [part.split("=") for part in row.split()]
    return [
        f"{key}={value.count(',') + 1}" if several and key == "trainer.devices" else _suggestion(key, text, s)
        for key, text in parts
        if text == "{}" or "{}" not in row or key not in others
    ]


def _suggestion(key: str, text: str, s: _Setting) -> str:
    """Fill in a row of ``ALIASES``; a value that the key cannot have becomes ``...``."""
    if text != "{}":
        return f"{key}={text}"
    fields = fields_of(key)
    known = len(fields) == len(key.split(".")) and get_origin(fields[-1].type) is not list
    kinds = set(get_args(fields[-1].type) or [fields[-1].type]) if known else {object}
    value = s.value.strip("'\"")
    if s.bare and bool not in kinds:
        return f"{key}={_BARE.get(key, '...')}"
    if value == "null":
        fits = type(None) in kinds or object in kinds
    elif kinds & {int, float}:
        fits = bool(re.fullmatch(r"[+-]?[\d.,e+-]+", value.lower()) or "(" in value)  # a number, or a sweep of them
    elif bool in kinds:
        fits = value.lower() in ("true", "false", "yes", "no", "on", "off", "1", "0") or "," in value
    else:
        fits = value != ""
    return override(key, s.value) if fits else f"{key}=..."


def _is_required(group: str) -> bool:
    return any(f.name == group and f.default is not None for f in dataclasses.fields(registered()))


def _only(leaf: str, chosen: Set[str]) -> str:
    """A row for the only key of the schema that ends in ``leaf``; empty if there is none or more than one."""
    paths = [path for path in leaves_of(registered(), chosen) if path.rpartition(".")[2] == leaf]
    return paths[0] + "={}" if len(paths) == 1 else ""


def _is_known(key: str) -> bool:
    """Whether Hydra would accept the key; it may also be a group with another name or package."""
    first = re.split("[/@]", key)[0]
    if first != key or first.split(".")[0] == "hydra" or first == "experiment":
        return True
    return len(fields_of(key)) == len(key.split(".")) or is_free(key)


def _is_argument(key: str, others: Set[str]) -> bool:
    """Whether a key is an argument of a class chosen on the command line: optimizer.name=lamb optimizer.betas=..."""
    group, _, name = key.partition(".")
    fields = [f for f in dataclasses.fields(registered()) if f.name == group]
    chosen = {group, f"{group}.name", f"{group}._target_"} & others
    return bool(name and chosen and fields and group_of(fields[0]) and is_open(fields[0]))


def _is_of_launch(key: str, value: str, groups: Mapping[str, str], conf: Sequence[Path]) -> bool:
    """Whether only launch.py has a setting."""
    if registered() is not Train:
        return False
    return (
        key.split(".")[0] in groups
        or key in launch_only_settings.KEYS
        or launch_only_settings.is_of_larger_schema(f"{key}={value}", *conf)
        or (key == "model" and _exists(value.strip("'\"")))
    )


def _is_option(group: str, name: str, conf: Sequence[Path]) -> bool:
    return any((folder / group / f"{name}.yaml").is_file() for folder in conf) or name in ("null", "")


def _is_folder(value: str, conf: Sequence[Path]) -> bool:
    """Whether a value of ``data`` is a folder, not an option, a misspelt option or a sweep."""
    options = [file.stem for folder in conf for file in (folder / "data").glob("*.yaml")]
    if value in options or re.match(r"\w+[,(]", value):
        return False
    return _exists(value) or not difflib.get_close_matches(value, options)


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long, ~ with an unknown user, or an invalid character
        return False
