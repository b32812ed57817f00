"""What was meant by a command line that Hydra would refuse, as overrides and commands to paste.

Imports no torch.
"""

import dataclasses
import difflib
import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import get_args, get_origin

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, QuotedString
from hydra.errors import HydraException

from sagehound import launch_settings, program
from sagehound.config import Train, group_of, is_open, registered
from sagehound.errors import ConfigError
from sagehound.synonyms import MEANT

_NO_OPTION = {"backbone": "backbone.name={}", "data": "data=folder data.root={}"}  # a value that is no option's name
_BARE = {"resume": "last"}  # what a key has where its flag has no value
_FLAG = r"--?[a-zA-Z]"  # not a negative number
_PATHS = ("data.root", "backbone.weights", "resume", "hydra.run.dir", "hydra.sweep.dir")  # always text


@dataclass(frozen=True)
class _Given:
    """One setting of a command line, or anything else as it was typed."""

    typed: str  # what the user would recognise: lr, --lr, data=photos
    key: str | None  # None: nothing to look at
    value: str
    words: list[str]  # of the command line
    flag: bool = False
    bare: bool = False  # a flag without a value, which stands for true


def check(argv: Sequence[str], *conf: Path) -> None:
    """Refuse settings that other programs would take, and name those that are meant.

    Hydra itself refuses a key that is unknown and resembles no known key; an unknown flag is refused here.

    Args:
        argv: the command line behind the program's name.
        conf: the folders of the config groups: ours, and the user's own.

    Raises:
        ConfigError: with the overrides, or the command, to paste.
    """
    if "" in argv:
        raise ConfigError("an empty word, as of a shell variable that is not set: write key=value")
    given = list(_split(argv))
    for word in argv:
        _refuse_no_option(word, conf)
    others = launch_settings.groups(conf[0])
    keys = {g.key for g in given if g.key}
    hints: dict[str, list[str]] = {}  # by what was typed
    launch: list[str] = []
    line: list[str] = []  # the command line as it is meant
    written = False
    for g in given:
        words = g.words
        if g.key and _is_of_launch(g.key, g.value, others, conf):
            value = others.get(g.key) or "..." if g.bare and g.key != "dry_run" else g.value
            words = [override(g.key, value)] if g.flag else words
            launch += words
            group = g.key.split(".")[0]
            if group not in keys and others.get(group):
                words = [f"{group}={others[group]}", *words]
        elif meant := _meant(g, keys - {g.key}, conf):
            hints[g.typed if g.flag or not _is_known(str(g.key)) else " ".join(words)] = meant
            words = meant
            written |= g.flag
        elif g.flag:
            raise ConfigError(f"{g.typed}: no such flag; settings are written key=value; --help lists them")
        line += words
    if launch:
        if any(word.startswith("hpo") for word in launch):
            line = ["-m", *(word for word in line if word not in ("-m", "--multirun"))]
        meant_line = command(line, program.words("launch"))
        raise ConfigError(f"{', '.join(launch)}: settings of {program.script('launch')}; did you mean {meant_line}?")
    if hints:
        reason = "settings are written key=value" if written else "no such key"
        reason = "no such option" if all("=" in typed for typed in hints) else reason
        overrides = " ".join(quoted(o) for o in dict.fromkeys(o for meant in hints.values() for o in meant))
        raise ConfigError(f"{', '.join(hints)}: {reason}; did you mean {overrides}?")


def _refuse_no_option(word: str, conf: Sequence[Path]) -> None:
    """Refuse a group whose value is no name, such as null, which Hydra would not tell the key of."""
    group = word.partition("=")[0].lstrip("+").partition("@")[0]
    if "=" not in word or not group or not any((folder / group).is_dir() for folder in conf):
        return
    try:
        value: object = OverridesParser.create().parse_override(word).value()
    except HydraException:
        return  # Hydra refuses it
    for choice in value.list if isinstance(value, ChoiceSweep) else [value]:
        if choice is None or isinstance(choice, bool | int | float):
            raise ConfigError(f"{word}: a config group takes the name of an option, not {_written(choice)}")
        for name in choice if isinstance(choice, list) else []:
            if not isinstance(name, str | QuotedString):
                raise ConfigError(f"{word}: a list of a config group holds names of options, not {_written(name)}")


def _written(value: object) -> str:
    """A value as Hydra's grammar writes it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def instead(overrides: Sequence[str]) -> str:
    """The user's own command line with other overrides in place of those of the same groups and keys."""
    argv = program.arguments()
    if not {"experiment", "best"} & {override_key(a) for a in argv}:  # else one of them may set the name as well
        groups = {o.partition("=")[0] for o in overrides}
        overrides = [o for o in overrides if o.partition(".name=")[0] not in groups]
    new = [o.partition("=")[0] for o in overrides]
    old = [a for a in argv if not any(re.match(rf"\+*{re.escape(key)}[.=]", a) for key in new)]
    return command([*old, *overrides])


def command(argv: Sequence[str], start: Sequence[str] | None = None) -> str:
    """A command line, quoted for the shell; of the program that runs, unless it starts with other words."""
    return " ".join(map(quoted, [*(start or program.words()), *argv]))


def quoted(word: str) -> str:
    """A word of a command line as this system's shell takes it."""
    if os.name == "nt":
        return subprocess.list2cmdline([word])
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def override(key: str, value: str) -> str:
    """An override, its value quoted for Hydra if it has to be."""
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
    """A string in quotes, as Hydra's grammar takes any."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + (m[2] and "\\'"), value) + "'"


def is_text(key: str) -> bool:
    """Whether the value of a key is text of any kind, such as a path."""
    fields = _fields(key)
    known = len(fields) == len(key.split(".")) and fields[-1].type in (str, str | None)
    return key in _PATHS or (known and "choices" not in fields[-1].metadata.get("rule", {}))


def is_free(key: str) -> bool:
    """Whether a key lies in a mapping that takes any key, such as aws.tags."""
    return any("dict[" in str(field.type) for field in _fields(key))


def _split(argv: Sequence[str]) -> Iterator[_Given]:
    """Settings, flags of other programs with their values, and Hydra's own words as they are."""
    words = list(argv)
    while words:
        if flag := _flag_of_hydra(words):
            yield _Given(flag[0], None, "", flag)
            continue
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if re.match(_FLAG, word):
            key, bare = name.lstrip("-").replace("-", "_"), False
            if not equals and key.startswith("no_") and key not in MEANT:
                key, value = key.removeprefix("no_"), "false"
            elif not equals:
                has_value = words and not re.match(_FLAG, words[0]) and not _is_override(words[0])
                value, bare = (words.pop(0), False) if has_value else ("true", True)
            yield _Given(name, key, value, [word], flag=True, bare=bare)
        elif equals and not word.startswith("~"):
            yield _Given(name.lstrip("+"), name.lstrip("+"), value, [word])
        elif not equals and _exists(word):
            yield _Given(word, "data", word, [word], flag=True)
        else:
            yield _Given(word, None, "", [word])


def flags_first(argv: Sequence[str]) -> list[str]:
    """A command line with Hydra's flags before the overrides: argparse takes none among them."""
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
    """Take a flag of Hydra's, with its value, off the front of a command line; empty where there is none."""
    hydra = get_args_parser()._option_string_actions
    name, equals, _ = words[0].partition("=")
    if name not in hydra:
        return []
    takes_value = hydra[name].nargs != 0 and not equals and words[1:] and "=" not in words[1]
    return [words.pop(0) for _ in range(2 if takes_value else 1)]


def _is_override(word: str) -> bool:
    key, equals, _ = word.partition("=")
    return bool(equals) and (_is_known(key.lstrip("+~")) or key in MEANT)


def _meant(g: _Given, others: Set[str], conf: Sequence[Path]) -> list[str]:
    """The overrides that a setting stands for; none where it is right, or like nothing that is known."""
    if g.key is None or _is_argument(g.key, others):
        return []
    value = g.value.strip("'\"")
    no_run = g.key == "model" and not _exists(value) and _is_option("backbone", value, conf)
    if _is_known(g.key) and not no_run:
        if not g.flag and not (g.key == "data" and _is_folder(value, conf)):
            return []
        row = g.key + "={}"
    else:
        leaf = g.key.rpartition(".")[2]
        row = MEANT.get(f"{leaf}={value.lower()}") or MEANT.get(leaf) or _only(leaf, others)
    group = row.partition("=")[0]
    if row == group + "={}" and any((folder / group).is_dir() for folder in conf):
        if g.bare or (value in ("null", "") and _is_required(group)):
            return [f"{group}=..."]
        if not _is_option(group, value, conf):
            if _is_option(group, value.lower(), conf):
                return [f"{group}={value.lower()}"]
            row = _NO_OPTION.get(group, row)
    several = re.fullmatch(r"\[\d+(,\d+)*\]|\d+(,\d+)+", value)  # the numbers of GPUs
    parts = [part.split("=") for part in row.split()]
    return [
        f"{key}={value.count(',') + 1}" if several and key == "trainer.devices" else _suggestion(key, text, g)
        for key, text in parts
        if text == "{}" or "{}" not in row or key not in others
    ]


def _suggestion(key: str, text: str, g: _Given) -> str:
    """An override of a row of ``MEANT``; with ... for a value that its key cannot have."""
    if text != "{}":
        return f"{key}={text}"
    fields = _fields(key)
    known = len(fields) == len(key.split(".")) and get_origin(fields[-1].type) is not list
    kinds = set(get_args(fields[-1].type) or [fields[-1].type]) if known else {object}
    value = g.value.strip("'\"")
    if g.bare and bool not in kinds:
        return f"{key}={_BARE.get(key, '...')}"
    if value == "null":
        fits = type(None) in kinds or object in kinds
    elif kinds & {int, float}:
        fits = bool(re.fullmatch(r"[+-]?[\d.,e+-]+", value.lower()) or "(" in value)  # a number, or a sweep of them
    elif bool in kinds:
        fits = value.lower() in ("true", "false", "yes", "no", "on", "off", "1", "0") or "," in value
    else:
        fits = value != ""
    return override(key, g.value) if fits else f"{key}=..."


def _is_required(group: str) -> bool:
    return any(f.name == group and f.default is not None for f in dataclasses.fields(registered()))


def _only(leaf: str, chosen: Set[str]) -> str:
    """A row for the only key of the schema that ends in ``leaf``; empty where there is none or several."""
    paths = [path for path in _leaves(registered(), chosen) if path.rpartition(".")[2] == leaf]
    return paths[0] + "={}" if len(paths) == 1 else ""


def _is_known(key: str) -> bool:
    """Whether Hydra would take the key; a group's option under another name or package counts as well."""
    first = re.split("[/@]", key)[0]
    if first != key or first.split(".")[0] == "hydra" or first == "experiment":
        return True
    return len(_fields(key)) == len(key.split(".")) or is_free(key)


def _is_argument(key: str, others: Set[str]) -> bool:
    """Whether a key is an argument of a class that the command line chooses: optimizer.name=lamb optimizer.betas=..."""
    group, _, name = key.partition(".")
    fields = [f for f in dataclasses.fields(registered()) if f.name == group]
    chosen = {group, f"{group}.name", f"{group}._target_"} & others
    return bool(name and chosen and fields and group_of(fields[0]) and is_open(fields[0]))


def _fields(key: str) -> list["dataclasses.Field[object]"]:
    """The schema's field for each part of a key, up to the first part that the schema lacks."""
    found: list[dataclasses.Field[object]] = []
    node: type | None = registered()
    for part in key.split("."):
        fields = [f for f in dataclasses.fields(node) if f.name == part] if node else []
        if not fields:
            break
        found.append(fields[0])
        node = group_of(fields[0])
    return found


def _is_of_launch(key: str, value: str, groups: Mapping[str, str], conf: Sequence[Path]) -> bool:
    """Whether train.py lacks a setting that launch.py has."""
    if registered() is not Train:
        return False
    return (
        key.split(".")[0] in groups
        or key in launch_settings.KEYS
        or launch_settings.is_of_larger_schema(f"{key}={value}", *conf)
        or (key == "model" and _exists(value.strip("'\"")))
    )


def _is_option(group: str, name: str, conf: Sequence[Path]) -> bool:
    return any((folder / group / f"{name}.yaml").is_file() for folder in conf) or name in ("null", "")


def _is_folder(value: str, conf: Sequence[Path]) -> bool:
    """Whether a value of ``data`` is a folder, and neither an option, nor a misspelt one, nor a sweep over several."""
    options = [file.stem for folder in conf for file in (folder / "data").glob("*.yaml")]
    if value in options or re.match(r"\w+[,(]", value):
        return False
    return _exists(value) or not difflib.get_close_matches(value, options)


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long; ~ and the name of no user; a character that no path has
        return False


def _leaves(node: type, chosen: Set[str], prefix: str = "") -> Iterator[str]:
    """The schema's keys, without those of a group that is null unless an option of it is ``chosen``."""
    for f in dataclasses.fields(node):
        group = group_of(f)
        if group and (f.default is not None or f.name in chosen):
            yield from _leaves(group, chosen, f"{prefix}{f.name}.")
        elif not group:
            yield prefix + f.name
