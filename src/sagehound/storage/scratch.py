"""Temporary folders that the next process removes if their own was killed. Imports no torch."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sagehound.errors import SagehoundError
from sagehound.storage.atomic import locked

_PREFIX, _LOCK = "sagehound-model-", ".lock"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a new temporary folder, and remove it at the end. It is locked as long as this process lives."""
    with (
        tempfile.TemporaryDirectory(prefix=_PREFIX) as folder,
        locked(Path(folder, _LOCK), busy=f"{folder} is in use by another process"),
    ):
        yield Path(folder)


def remove_leftovers() -> None:
    """Remove this user's temporary folders whose processes have ended without removing them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError, SagehoundError):  # in use, or removed meanwhile
            if _is_own(folder) and any(file.name != _LOCK for file in folder.iterdir()):  # else it is just being made
                with locked(folder / _LOCK, busy=f"{folder} is in use by another process"):
                    shutil.rmtree(folder, ignore_errors=True)


def _is_own(folder: Path) -> bool:
    owner = getattr(os, "getuid", None)  # Windows has a temporary folder for each user
    return not folder.is_symlink() and (owner is None or folder.lstat().st_uid == owner())
