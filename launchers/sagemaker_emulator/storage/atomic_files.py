"""Files that are written whole or not at all, and locks of folders."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sagemaker_emulator.errors import EmulatorError


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text under a temporary name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:  # noqa: ANN401 - whatever json can write
    """Write indented JSON under a temporary name, then rename it."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold an exclusive lock on a file, which ends with the process.

    Raises:
        EmulatorError: another process holds it, with the message ``busy``, or the file cannot be written.
    """
    lock = FileLock(path, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise EmulatorError(busy) from error
    except OSError as error:
        raise EmulatorError(f"{path}: {error.strerror or error}; choose another folder") from error
    try:
        yield
    finally:
        lock.release()
