"""Writing files so that a killed process never leaves half a file, and a full disk ends in one clear line."""

import csv
import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sagehound import console
from sagehound.errors import SagehoundError
from sagehound.inference.spreadsheet import csv_line, unmarked


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; it takes the place of ``path`` only if the block ends well.

    Raises:
        SagehoundError: the disk is full, or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise writing_failed(path, error) from error
    finally:
        with suppress(OSError):  # there is none, or its folder is no folder
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, atomically; what no UTF-8 can say (file names of other systems) is escaped."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: Any) -> None:  # noqa: ANN401 - whatever json can write
    """Write indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_csv(path: Path, columns: list[str], rows: list[list[Any]]) -> None:
    """Write a table, atomically; see ``csv_line``."""
    write_text(path, b"".join(csv_line(row) for row in [columns, *rows]).decode())


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a table that ``write_csv`` wrote, by the names of the columns; a short row lacks the last ones.

    Raises:
        OSError, UnicodeDecodeError, csv.Error: it cannot be read.
    """
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {name: unmarked(cell) for name, cell in row.items() if isinstance(cell, str)}
            for row in csv.DictReader(file)
        ]


def writing_failed(path: Path, error: OSError) -> SagehoundError:
    """The message for a file that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SagehoundError(
            f"the disk is full: {path} could not be written; free some space, then run the same command again; "
            "training goes on from its last checkpoint with resume=last"
        )
    return SagehoundError(f"{path} could not be written: {error.strerror or error}; choose another folder")


@contextmanager
def locked(path: Path, *, busy: str | None = None, waiting: str = "") -> Iterator[None]:
    """Hold an exclusive lock that ends with the process; ``path`` is an empty file made for it, which may stay.

    A process must not take the same lock twice and wait for itself.

    Args:
        path: the lock's file.
        busy: what to say if another process holds the lock; without it, wait until it is free.
        waiting: what to say while waiting.

    Raises:
        SagehoundError: the lock is held and ``busy`` was given, or the file cannot be written.
    """
    from filelock import FileLock, Timeout  # here, for --help needs no lock

    lock = FileLock(path, thread_local=False)  # the block may end in another thread
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            if busy:
                raise SagehoundError(busy) from error
            if waiting:
                console.say(waiting)
            lock.acquire()
    except OSError as error:
        raise writing_failed(path, error) from error
    try:
        yield
    finally:
        lock.release()
