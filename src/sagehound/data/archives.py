"""Photos in a .zip or .tar: unpacked once into the cache, plain files only."""

import hashlib
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from sagehound import console
from sagehound.errors import InputError
from sagehound.files import locked, writing_failed

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_MAC = {"__MACOSX", ".DS_Store"}  # what macOS adds to its zips


class DamagedArchive(InputError):
    """An archive that cannot be read to its end."""


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    open: Callable[[], IO[bytes]]


def is_archive(path: Path) -> bool:
    """Whether a path is a file that ``unpacked`` opens, by its name."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def unpacked(archive: Path, cache_dir: Path) -> Path:
    """The folder of photos in an archive; unpacked below ``cache_dir`` unless it was before.

    A changed archive (size or time) is unpacked anew. Folders that hold one folder and nothing else are passed through.

    Raises:
        DamagedArchive: it cannot be read to its end, or is encrypted.
        InputError: it holds a link or a path outside of its folder.
        SagehoundError: the disk is full.
    """
    found = archive.stat()
    known = f"{archive.resolve()}\n{found.st_size}\n{found.st_mtime_ns}".encode(errors="surrogateescape")
    name = archive.name.partition(".")[0] or "photos"
    folder = cache_dir / "unpacked" / f"{name}-{hashlib.sha256(known).hexdigest()[:16]}"
    with locked(folder.with_name(f".{folder.name}.lock"), waiting=f"another run is unpacking {archive}"):
        if not folder.is_dir():
            extract(archive, folder)
    return _inner(folder)


def extract(archive: Path, folder: Path) -> None:
    """Unpack the plain files of an archive; ``folder`` appears in one step.

    Raises:
        InputError: as for ``unpacked``.
        SagehoundError: the disk is full.
    """
    unfinished = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
    try:
        unfinished.mkdir(parents=True)
        with _opened(archive) as members:
            free = shutil.disk_usage(unfinished).free
            need = sum(m.size for m in members)
            if need > free:
                raise InputError(f"{archive} unpacks to {need:,} bytes, {unfinished.parent} has {free:,}: free some")
            for member in console.track(members, f"Unpacking {archive.name}", len(members)):
                target = unfinished / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with member.open() as content, target.open("xb") as file:
                    shutil.copyfileobj(content, file, 2**20)
        unfinished.rename(folder)
    except FileExistsError as error:
        raise InputError(f"{archive} holds {error.filename!r} twice: pack it again") from error
    except OSError as error:
        raise writing_failed(folder, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def _opened(archive: Path) -> Iterator[list[_Member]]:
    """The plain files in an archive; whatever is broken about it is one InputError."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as z:
                yield [m for entry in z.infolist() if (m := _of_zip(archive, z, entry))]
        else:
            with tarfile.open(archive) as tar:
                yield [m for entry in tar if (m := _of_tar(archive, tar, entry))]
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise DamagedArchive(f"{archive} is damaged or encrypted ({error}): pack it again") from error


def _of_zip(archive: Path, z: zipfile.ZipFile, entry: zipfile.ZipInfo) -> _Member | None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if entry.is_dir() or kind == stat.S_IFDIR or not _wanted(archive, entry.filename, kind in (0, stat.S_IFREG)):
        return None
    return _Member(entry.filename, entry.file_size, lambda: z.open(entry))


def _of_tar(archive: Path, tar: tarfile.TarFile, entry: tarfile.TarInfo) -> _Member | None:
    if entry.isdir() or not _wanted(archive, entry.name, entry.isreg()):
        return None

    def content() -> IO[bytes]:
        file = tar.extractfile(entry)
        assert file is not None  # a plain file has one
        return file

    return _Member(entry.name, entry.size, content)


def _wanted(archive: Path, name: str, plain: bool) -> bool:
    """Whether a member is to be unpacked.

    Raises:
        InputError: it may not be.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if _MAC & set(path.parts):
        return False
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or "\0" in name:
        raise InputError(f"{archive} holds {name!r}, which would leave its folder: pack it again without such paths")
    if not plain:
        raise InputError(f"{archive} holds {name!r}, a link or device: pack it again with plain files")
    return True


def _inner(folder: Path) -> Path:
    """The first folder that holds more than one folder, or files."""
    while True:
        inside = [p for p in folder.iterdir() if not p.name.startswith(".")]
        if len(inside) != 1 or not inside[0].is_dir():
            return folder
        below = [p for p in inside[0].iterdir() if not p.name.startswith(".")]
        if any(p.is_file() for p in below):  # a class of photos
            return folder
        folder = inside[0]
