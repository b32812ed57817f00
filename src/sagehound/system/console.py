"""What a run prints: rich bars and tables on a terminal, plain lines elsewhere."""

import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

T = TypeVar("T")

METRIC_LINES = "SAGEHOUND_METRIC_LINES"  # set by the container's `train`


@cache
def terminal() -> "Console":
    """What everything is printed to; rich is imported at the first use, as a refused command prints nothing with it."""
    from rich.console import Console

    class OurConsole(Console):
        def on_broken_pipe(self) -> None:
            """End as a shell's own commands do, without a message, where nobody reads the output any more."""
            try:
                super().on_broken_pipe()
            except SystemExit:
                sys.exit(128 + 13)  # SIGPIPE

    return OurConsole(soft_wrap=True, highlight=False)


def say(text: str) -> None:
    """Print one line; never taken for markup."""
    terminal().print(_printable(text), markup=False)
    terminal().file.flush()


def warn(text: str) -> None:
    """Print one line that a user should not overlook."""
    terminal().print(f"warning: {_printable(text)}", markup=False, style="yellow")


def _printable(text: str) -> str:
    """File names may hold bytes that are no text."""
    return text.encode(errors="backslashreplace").decode()


def metric(name: str, value: float) -> None:
    """Print a score in the one form that SageMaker reads from a job's log; nothing outside a container of its.

    A number that is not finite is not printed: the service would not read it either.
    """
    if os.environ.get(METRIC_LINES) and math.isfinite(value):
        say(f"metric: {name}={value!r}")


def metric_regex(name: str) -> str:
    """What reads the value of a score, the first group, from a line of ``metric``; 500 letters at most."""
    return rf"metric: {re.escape(name)}=([0-9.eE+-]+)"


def bar(*, bytes_: bool = False) -> "Progress":
    """A progress bar that vanishes when done, and is not drawn at all where there is no terminal."""
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    amount = DownloadColumn() if bytes_ else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    return Progress(*columns, console=terminal(), transient=True, disable=not terminal().is_terminal)


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield the items with a bar; without a terminal, one line says what is going on."""
    if not terminal().is_terminal:
        say(f"{description} ({total})")
    with bar() as progress:
        yield from progress.track(items, total=total, description=description)


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a small table; the first column is text, the others are numbers."""
    from rich.table import Table

    drawn = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        drawn.add_column(column, justify="right" if i else "left")
    for row in rows:
        drawn.add_row(*row)
    if terminal().is_terminal:
        terminal().print(drawn)
        return
    say(title)
    widths = [max(9 if i else 7, *map(len, cells)) for i, cells in enumerate(zip(columns, *rows, strict=True))]
    for row in [columns, *rows]:
        say("  ".join(f"{cell:{'>' if i else '<'}{widths[i]}}" for i, cell in enumerate(row)))
