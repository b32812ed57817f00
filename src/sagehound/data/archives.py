"""Photos in a .zip or .tar: unpacked once into the cache, plain files only."""

import hashlib
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from sagehound import console
from sagehound.errors import InputError
from sagehound.files import locked, writing_failed

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_MAC = {"__MACOSX", ".DS_Store"}  # what macOS adds to its zips
_DEEPEST = 50  # folders in each other
_CHUNK = 2**20


class DamagedArchive(InputError):
    """An archive that cannot be read to its end."""


_BROKEN = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, UnicodeError),
    *(RuntimeError, NotImplementedError),  # encrypted, or packed in an unknown way
)


@dataclass(frozen=True)
class _Member:
    name: str  # below the folder, with /
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
                with target.open("xb") as file:
                    for chunk in _content(archive, member):
                        file.write(chunk)
        unfinished.rename(folder)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{archive} holds {member.name} twice, or as a file and as a folder: pack it again") from error
    except OSError as error:
        raise writing_failed(folder, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def _opened(archive: Path) -> Iterator[list[_Member]]:
    """The plain files in an archive, whose list was read to its end."""
    with ExitStack() as stack:
        try:
            with archive.open("rb") as file:
                is_zip = file.read(2) == b"PK"  # a .tar may end with a .zip
            if is_zip:
                z = stack.enter_context(zipfile.ZipFile(archive))
                members = [m for entry in z.infolist() if (m := _of_zip(archive, z, entry))]
            else:
                tar = stack.enter_context(tarfile.open(archive))
                members = [m for entry in tar if (m := _of_tar(archive, tar, entry))]
                _check_end(tar)
        except _BROKEN as error:
            raise _damaged(archive, error) from error
        yield members


def _check_end(tar: tarfile.TarFile) -> None:
    """Read a .tar to its end, where gzip and xz keep checksums; tarfile takes a broken header for the end.

    Raises:
        tarfile.ReadError: it does not end with a block of zeros.
    """
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset - tarfile.BLOCKSIZE)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it ends too early, or a header is broken")
    while tar.fileobj.read(_CHUNK):
        pass


def _content(archive: Path, member: _Member) -> Iterator[bytes]:
    try:
        with member.open() as content:
            while chunk := content.read(_CHUNK):
                yield chunk
    except _BROKEN as error:
        raise _damaged(archive, error) from error


def _damaged(archive: Path, error: Exception) -> DamagedArchive:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(":")
    return DamagedArchive(f"{archive} is damaged, encrypted or no archive ({reason}): pack it again")


def _of_zip(archive: Path, z: zipfile.ZipFile, entry: zipfile.ZipInfo) -> _Member | None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    name = entry.filename.replace("\\", "/")  # of a tool of Windows that does not know the standard
    if entry.is_dir() or name.endswith("/") or kind == stat.S_IFDIR:
        return None
    inside = _inside(archive, name, kind in (0, stat.S_IFREG))
    return _Member(inside, entry.file_size, lambda: z.open(entry)) if inside else None


def _of_tar(archive: Path, tar: tarfile.TarFile, entry: tarfile.TarInfo) -> _Member | None:
    if entry.isdir():
        return None
    inside = _inside(archive, entry.name, entry.isreg() and not entry.issparse())

    def content() -> IO[bytes]:
        file = tar.extractfile(entry)
        assert file is not None  # a plain file has one
        return file

    return _Member(inside, entry.size, content) if inside else None


def _inside(archive: Path, name: str, plain: bool) -> str | None:
    """The path below the folder that a member is unpacked to; None if it is not wanted.

    Raises:
        InputError: it may not be.
    """
    path = PurePosixPath(name)
    if not path.parts or _MAC & set(path.parts):
        return None
    if path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive or "\0" in name:
        raise InputError(f"{archive} holds {name!r}, which would leave its folder: pack it again without such paths")
    if len(path.parts) > _DEEPEST:
        raise InputError(f"{archive} holds folders more than {_DEEPEST} levels deep: pack it again")
    if not plain:
        raise InputError(f"{archive} holds {name!r}, a link or device: pack it again with plain files")
    return str(path)


def _inner(folder: Path) -> Path:
    """The first folder below which there is more than one folder, or a folder of photos."""
    while True:
        folders = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
        if len(folders) != 1 or not any(p.is_dir() for p in folders[0].iterdir()):
            return folder
        folder = folders[0]
