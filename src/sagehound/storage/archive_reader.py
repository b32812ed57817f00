"""Reads the plain files of an archive once, in order and within limits. Imports no torch.

Archives are untrusted input. Links, devices, sparse files and paths that leave the folder are refused; headers, files
and bytes are counted while they are read.
"""

import bz2
import gzip
import io
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from sagehound.errors import InputError, SagehoundError

KINDS = (".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz")
MAX_ENTRIES = 10_000_000
_SMALL = 16 * 10**6  # bytes that every archive may unpack to
_DEEPEST = 50  # folders in each other
_CHUNK = 2**20
_HEADERS = 2**20  # bytes of a .tar's headers, which tarfile keeps in memory
_HEADERS_OF_ENTRY = 4096  # that each entry adds; macOS writes about so many
_MAGIC = {b"PK": ".zip", b"\x1f\x8b": ".tar.gz", b"BZh": ".tar.bz2", b"\xfd7zXZ\0": ".tar.xz"}


class DamagedArchive(InputError):
    """An archive that cannot be read to its end."""


@dataclass(frozen=True)
class Limits:
    """What an archive may hold."""

    kinds: tuple[str, ...] = KINDS  # of archives; the content decides which one a file is
    max_entries: int = MAX_ENTRIES  # files and folders
    max_bytes: int | None = None  # of all files, unpacked; None: what the disk has free
    max_ratio: int | None = None  # of all files, unpacked, to the archive; 16 MB are always allowed
    executable: bool = False  # whether a program stays one


ANY = Limits()  # of any kind, while the disk has room


@dataclass(frozen=True)
class PackedFile:
    """A plain file in an archive."""

    name: PurePosixPath  # below the folder
    chunks: Iterator[bytes]
    executable: bool


class ArchiveReader:
    """An open archive. Its files are read once and in order."""

    def __init__(self, path: Path, source: IO[bytes], folder: Path, hint: str, limits: Limits) -> None:
        self._path, self._source, self._hint, self._limits = path, source, hint, limits
        self._folder = folder
        self._entries = self._bytes = 0
        self._size = path.stat().st_size
        self._left = shutil.disk_usage(folder).free if limits.max_bytes is None else limits.max_bytes

    def files(self) -> Iterator[PackedFile]:
        """The plain files. Read the chunks of one before you ask for the next, or skip them.

        Raises:
            InputError: as ``unpack`` does.
        """
        try:
            start = self._source.read(max(map(len, _MAGIC)))
            self._source.seek(0)
            kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), ".tar")
            if kind not in self._limits.kinds:
                raise tarfile.ReadError(f"it is no {' or '.join(self._limits.kinds)}")
            yield from self._of_zip() if kind == ".zip" else self._of_tar(kind)
        except SagehoundError:
            raise
        except Exception as error:  # tarfile and zipfile raise errors of any kind for broken archives
            raise self._damaged(error) from error

    def _of_zip(self) -> Iterator[PackedFile]:
        with zipfile.ZipFile(self._source) as z:
            entries = z.infolist()
            self._count(len(entries), sum(entry.file_size for entry in entries))
            for entry in entries:
                mode = entry.external_attr >> 16
                name = entry.filename.replace("\\", "/")  # written by a Windows tool that ignores the standard
                is_folder = entry.is_dir() or name.endswith("/") or stat.S_ISDIR(mode)
                inside = self._inside(name, is_folder, stat.S_IFMT(mode) in (0, stat.S_IFREG))
                if inside:
                    yield PackedFile(inside, self._zipped(z, entry), self._executable(mode))

    def _zipped(self, z: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
        try:
            with z.open(entry) as content:  # verifies size and checksum
                while chunk := content.read(_CHUNK):
                    yield chunk
        except Exception as error:
            raise self._damaged(error) from error

    def _of_tar(self, kind: str) -> Iterator[PackedFile]:
        opened: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
            ".tar": lambda source: source,
            ".tar.gz": lambda source: gzip.GzipFile(fileobj=source),  # type: ignore[dict-item, return-value]
            ".tar.bz2": bz2.BZ2File,
            ".tar.xz": lzma.LZMAFile,
        }
        reader = _Forward(opened[kind](self._source))
        with tarfile.open(fileobj=reader, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            while (entry := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined] # else all of them are kept in memory
                if entry.size < 0:
                    raise tarfile.ReadError(f"{entry.name!r} has a size below nothing")
                self._count(1, entry.size)
                reader.allowed += _HEADERS_OF_ENTRY
                plain = entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and entry.sparse is None
                inside = self._inside(entry.name, entry.isdir(), plain)
                if inside:
                    yield PackedFile(inside, self._tarred(reader, entry.size), self._executable(entry.mode))
            if reader.last != bytes(tarfile.BLOCKSIZE):  # tarfile treats a broken header as the end
                raise tarfile.ReadError("it ends too early, or a header is broken")
        while rest := reader.content(_CHUNK):  # to the end, where gzip and xz keep checksums
            self._count(0, len(rest))

    def _tarred(self, reader: "_Forward", size: int) -> Iterator[bytes]:
        try:
            while size:
                chunk = reader.content(min(size, _CHUNK))
                if not chunk:
                    raise EOFError("it ends too early")
                size -= len(chunk)
                yield chunk
        except Exception as error:
            raise self._damaged(error) from error

    def _executable(self, mode: int) -> bool:
        return self._limits.executable and bool(mode & 0o100)

    def _count(self, entries: int, size: int) -> None:
        self._entries, self._left = self._entries + entries, self._left - size
        self._bytes += size
        ratio = self._limits.max_ratio
        if ratio is not None and self._bytes > max(ratio * self._size, _SMALL):
            raise self._refused(f"it unpacks to more than {ratio} times its size")
        most = self._limits.max_bytes
        if self._entries > self._limits.max_entries or (most is not None and self._left < 0):
            files = f"{self._limits.max_entries:,} files"
            limit = files if most is None else f"{files} or {most / 1e9:g} GB"
            raise InputError(f"{self._path}: more than {limit}; {self._hint}")
        if self._left < 0:
            free = shutil.disk_usage(self._folder).free
            room = f"{self._folder.parent} has room for ({free:,} bytes are left)"
            raise InputError(f"{self._path} unpacks to more than {room}: free some")

    def _inside(self, name: str, is_folder: bool, plain: bool) -> PurePosixPath | None:
        """The path below the folder that a file is unpacked to; None for a folder.

        Raises:
            InputError: it may not be unpacked.
        """
        path = PurePosixPath(name)
        of_windows = os.name == "nt" and ("\\" in name or ":" in name)  # a drive, or a path with its own separators
        nameless = not path.parts and not is_folder
        if path.is_absolute() or ".." in path.parts or "\0" in name or nameless or of_windows:
            raise self._refused(f"{name!r} would be written outside of its folder")
        if len(path.parts) > _DEEPEST:
            raise self._refused(f"folders more than {_DEEPEST} levels deep")
        if is_folder:
            return None  # made where a file needs it
        if not plain:
            raise self._refused(f"{name!r} is no plain file but a link or device")
        return path

    def _refused(self, reason: str) -> InputError:
        return InputError(f"{self._path}: {reason}; {self._hint}")

    def _damaged(self, error: Exception) -> Exception:
        if isinstance(error, SagehoundError):
            return error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(":")
        return DamagedArchive(f"{self._path}: damaged, encrypted or no archive ({reason}); {self._hint}")


class _Forward(io.RawIOBase):
    """A stream for tarfile that never seeks backwards and limits the bytes of headers."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source, self._at = source, 0
        self.allowed = _HEADERS
        self.last = b""  # of what was read of headers

    def read(self, size: int = -1, /) -> bytes:
        """Bytes of headers, or of the zeros behind a file."""
        size = self.allowed + 1 if size < 0 else size
        self.allowed -= size
        if self.allowed < 0:
            raise ValueError("headers of more than a megabyte")
        self.last = self.content(size)
        return self.last

    def content(self, size: int) -> bytes:
        """Bytes of a file; they are counted elsewhere."""
        parts = []
        while size and (part := self._source.read(size)):  # some sources return fewer bytes than requested
            parts.append(part)
            size -= len(part)
        content = b"".join(parts)
        self._at += len(content)
        return content

    def tell(self) -> int:
        """Position in the unpacked .tar."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Skip what is not read."""
        if whence != io.SEEK_SET or offset < self._at:
            raise ValueError("it would have to be read twice")
        while self._at < offset and self.content(min(offset - self._at, _CHUNK)):
            pass
        return self._at
