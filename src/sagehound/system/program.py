"""The command that the user ran, for messages that name a command to paste. Imports little.

``sagehound train ...`` sets ``sys.argv[0]`` to ``sagehound train``, as argparse does for its subcommands, so that the
processes that it starts know it too.
"""

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

_MODULE = "python -m sagehound.cli"
_SCRIPTS = ("train.py", "launch.py")
_line: list[str] = []


def words(command: str | None = None) -> list[str]:
    """What a command line of the user's program begins with: ``python train.py`` or ``sagehound train``.

    Args:
        command: ``train`` or ``launch``; None: the one that runs.
    """
    first = sys.argv[0]
    for start in ("sagehound", _MODULE):
        if first == start or first.startswith(f"{start} "):
            return [*start.split(), command or first.removeprefix(start).strip() or "train"]
    if Path(first).name in _SCRIPTS:
        return ["python", str(Path(first).with_name(f"{command}.py")) if command else first]
    return ["sagehound", command or "train"]  # a notebook, or a program that uses the library


def script(command: str) -> str:
    """What the user calls ``train`` or ``launch``: ``launch.py``, or ``sagehound launch``."""
    return f"{command}.py" if words()[0] == "python" and Path(words()[-1]).name in _SCRIPTS else f"sagehound {command}"


def named(text: str) -> str:
    """A text whose ``sagehound train`` and ``python launch.py`` are written as the user runs them."""
    is_script = Path(sys.argv[0]).name in _SCRIPTS
    for command in ("train", "launch"):
        script, ours = f"python {command}.py", f"sagehound {command}"
        text = text.replace(ours, script) if is_script else text.replace(script, " ".join(words(command)))
    return text


def config_folders(given: Sequence[str]) -> list[Path]:
    """The folder of the user's own options in a command line: ``--config-dir FOLDER``, a flag of Hydra's."""
    found = [word.partition("=")[2] for word in given if word.startswith("--config-dir=")]
    found += [folder for flag, folder in pairwise(given) if flag in ("--config-dir", "-cd")]
    return [Path(folder) for folder in found]


def remember(arguments: list[str]) -> None:
    """Keep the command line as it was given, before ``resume=`` and ``best=`` are replaced by what they stand for."""
    _line[:] = arguments


def arguments() -> list[str]:
    """The command line behind the program's name, as it was given."""
    return list(_line) or sys.argv[1:]
