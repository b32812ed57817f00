"""The command that the user ran, for messages that name a command to paste.

``sagehound train ...`` sets ``sys.argv[0]`` to ``sagehound train``, as argparse does for subcommands. Its child
processes read it there.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from sagehound.config.overrides import override_key

_MODULE = "python -m sagehound.cli"
_SCRIPTS = ("train.py", "launch.py")
_line: list[str] = []


def words(command: str | None = None) -> list[str]:
    """The first words of the user's command line: ``python train.py`` or ``sagehound train``.

    Args:
        command: ``train`` or ``launch``; None: the command that runs now.
    """
    first = sys.argv[0]
    for start in ("sagehound", _MODULE):
        if first == start or first.startswith(f"{start} "):
            return [*start.split(), command or first.removeprefix(start).strip() or "train"]
    if Path(first).name in _SCRIPTS:
        return ["python", str(Path(first).with_name(f"{command}.py")) if command else first]
    return ["sagehound", command or "train"]  # a notebook, or a program that uses the library


def script(command: str) -> str:
    """The name that the user types for ``train`` or ``launch``: ``launch.py`` or ``sagehound launch``."""
    return f"{command}.py" if words()[0] == "python" and Path(words()[-1]).name in _SCRIPTS else f"sagehound {command}"


def named(text: str) -> str:
    """Replace ``sagehound train`` and ``python launch.py`` in a text by the form that the user types."""
    is_script = Path(sys.argv[0]).name in _SCRIPTS
    for command in ("train", "launch"):
        script, ours = f"python {command}.py", f"sagehound {command}"
        text = text.replace(ours, script) if is_script else text.replace(script, " ".join(words(command)))
    return text


def config_folders(argv: Sequence[str]) -> list[Path]:
    """The folders of the user's own options in a command line, from Hydra's flag ``--config-dir FOLDER``."""
    folders = [word.partition("=")[2] for word in argv if word.startswith("--config-dir=")]
    folders += [folder for flag, folder in pairwise(argv) if flag in ("--config-dir", "-cd")]
    return [Path(folder) for folder in folders]


def remember(arguments: list[str]) -> None:
    """Store the command line before ``resume=`` and ``best=`` are expanded."""
    _line[:] = arguments


def arguments() -> list[str]:
    """The user's command line after the program's name."""
    return list(_line) or sys.argv[1:]


def instead(overrides: Sequence[str]) -> str:
    """The user's command line, in which overrides replace those of the same groups and keys."""
    argv = arguments()
    if not {"experiment", "best"} & {override_key(a) for a in argv}:  # else one of them may set the name as well
        groups = {o.partition("=")[0] for o in overrides}
        overrides = [o for o in overrides if o.partition(".name=")[0] not in groups]
    new = [o.partition("=")[0] for o in overrides]
    old = [a for a in argv if not any(re.match(rf"\+*{re.escape(key)}[.=]", a) for key in new)]
    return command([*old, *overrides])


def command(argv: Sequence[str], start: Sequence[str] | None = None) -> str:
    """A command line, quoted for the shell. It starts with ``start``, by default the program that runs."""
    return " ".join(map(quoted, [*(start or words()), *argv]))


def quoted(word: str) -> str:
    """Quote a word of a command line for this system's shell."""
    if os.name == "nt":
        return subprocess.list2cmdline([word])
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)
