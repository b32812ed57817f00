"""The command `sagehound report`: writes report.html of a run, of a search, or of several runs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from sagehound import report
from sagehound.cli.command import clear_errors
from sagehound.errors import ConfigError
from sagehound.system import console, interrupts


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; {self.prog} RUN [RUN ...] [--output FILE]")


def write(program: str, argv: Sequence[str]) -> None:
    """Write the report, and print its path.

    Args:
        program: the program's name, as the user types it.
        argv: the rest of the command line.

    Raises:
        SystemExit: with exit code 2 (wrong command) or 3 (no finished run).
    """
    parser = _Parser(prog=program, description="Write report.html of a run or a search; of several runs, compare them.")
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run's folder, or a search's folder with trials.csv")
    parser.add_argument("--output", metavar="FILE", help="default: report.html in RUN; comparison.html for several")
    with clear_errors():
        arguments = parser.parse_args(argv)
        interrupts.restore_keyboard_interrupt()
        folders = [Path(run).expanduser() for run in arguments.runs]
        for folder in folders:
            if not folder.is_dir():
                raise ConfigError(f"{folder}: no such folder; give a run's folder")
        output = Path(arguments.output).expanduser() if arguments.output else None
        console.info(f"report: {report.write_any(folders, output)}")
        sys.stdout.flush()
