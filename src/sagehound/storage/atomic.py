"""Writes files atomically: a killed process never leaves half a file, and a full disk gives one clear message."""

import csv
import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sagehound.errors import SagehoundError
from sagehound.inference.spreadsheet import csv_line, unmarked
from sagehound.system import console


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, and rename it to ``path`` if the block succeeds.

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
        with suppress(OSError):  # it does not exist, or its parent is not a folder
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    r"""Write text as UTF-8, atomically.

    File names with bytes that are not UTF-8 reach Python as lone surrogates. They are written as ``\udcXX``.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def as_written(text: str) -> str:
    """Text as ``write_text`` and ``write_csv`` write it, and a reader gets it."""
    return text.encode(errors="backslashreplace").decode()


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
            "resume=last continues training from the last checkpoint"
        )
    return SagehoundError(f"{path} could not be written: {error.strerror or error}; choose another folder")


@contextmanager
def locked(path: Path, *, busy: str | None = None, waiting: str = "") -> Iterator[None]:
    """Hold an exclusive lock that ends with the process. ``path`` is an empty file, which may remain.

    A process that takes the same lock twice waits for itself.

    Args:
        path: the lock's file.
        busy: message of the error if another process holds the lock; None: wait until it is free.
        waiting: message to print while waiting.

    Raises:
        SagehoundError: the lock is held and ``busy`` was given, or the file cannot be written.
    """
    from filelock import FileLock, Timeout  # imported here because --help needs no lock

    lock = FileLock(path, thread_local=False)  # the block may end in another thread
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            if busy:
                raise SagehoundError(busy) from error
            if waiting:
                console.info(waiting)
            lock.acquire()
    except OSError as error:
        raise writing_failed(path, error) from error
    try:
        yield
    finally:
        lock.release()
