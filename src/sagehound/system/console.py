"""Prints a run's output: rich bars and tables on a terminal, plain lines elsewhere."""

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

# a terminal acts on these: C0 without tab and newline, DEL, C1
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}

METRIC_LINES = "SAGEHOUND_METRIC_LINES"  # set by the container's `train`
FINDINGS_METRIC = "debugger.findings"  # how many the rules have made so far


@cache
def terminal() -> "Console":
    """The console for all output. It imports rich at first use, because a refused command does not need it."""
    from rich.console import Console

    class OurConsole(Console):
        def on_broken_pipe(self) -> None:
            """Exit without a message when the reader has closed the pipe, as shell commands do."""
            try:
                super().on_broken_pipe()
            except SystemExit:
                sys.exit(128 + 13)  # SIGPIPE

    return OurConsole(soft_wrap=True, highlight=False)


def info(text: str) -> None:
    """Print one line; it is not parsed as markup."""
    terminal().print(printable(text), markup=False)
    terminal().file.flush()


def warn(text: str) -> None:
    """Print one line as a warning."""
    terminal().print(f"warning: {printable(text)}", markup=False, style="yellow")


def printable(text: str) -> str:
    """Escape bytes that are not text, and control characters but tab and newline: file names may contain them."""
    return text.encode(errors="backslashreplace").decode().translate(_CONTROL)


def metric(name: str, value: float) -> None:
    """Print a score in the format that SageMaker reads from a job's log, if this is one of its containers.

    A number that is not finite is not printed, because the service cannot read it.
    """
    if os.environ.get(METRIC_LINES) and math.isfinite(value):
        info(f"metric: {name}={value!r}")


def metric_regex(name: str) -> str:
    """The regular expression for a line of ``metric``; group 1 is the value. SageMaker allows 500 characters."""
    return rf"metric: {re.escape(name)}=([0-9.eE+-]+)"


def bar(*, bytes_: bool = False) -> "Progress":
    """A progress bar. It disappears at the end, and is not drawn without a terminal."""
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    amount = DownloadColumn() if bytes_ else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    return Progress(*columns, console=terminal(), transient=True, disable=not terminal().is_terminal)


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield the items with a progress bar, or print one line without a terminal."""
    if not terminal().is_terminal:
        info(f"{description} ({total})")
    with bar() as progress:
        yield from progress.track(items, total=total, description=description)


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a small table; the first column is text, the others are numbers."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        drawn.add_column(column, justify="right" if i else "left")
    for row in rows:
        drawn.add_row(*(Text(printable(cell)) for cell in row))
    if terminal().is_terminal:
        terminal().print(drawn)
        return
    info(title)
    widths = [max(9 if i else 7, *map(len, cells)) for i, cells in enumerate(zip(columns, *rows, strict=True))]
    for row in [columns, *rows]:
        info("  ".join(f"{cell:{'>' if i else '<'}{widths[i]}}" for i, cell in enumerate(row)))
