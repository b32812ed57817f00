"""Caches blobs under ``cache.dir``, each under the digest of its input.

A store is a folder of shards. A shard holds many blobs, then an index of them with a checksum each; it is written under
a temporary name, renamed when it is whole, and never changed again, so that any number of processes may read and add.
"""

import hashlib
import json
import os
import struct
import threading
import time
import uuid
import zlib
from functools import lru_cache
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import Any

import numpy as np

from sagehound.config import Cache
from sagehound.errors import SagehoundError
from sagehound.storage.atomic import write_json
from sagehound.system import console

KINDS = ("features", "measures", "photos")

_INDEX = np.dtype([("key", "u1", (32,)), ("start", "<u8"), ("end", "<u8"), ("crc", "<u4")])
_FOOTER = struct.Struct("<QI4s")  # entries of the index, its CRC-32, and what kind of file this is
_MAGIC = b"SHS1"
_SHARD_BYTES = 64 << 20  # a killed run loses at most this much
_ABANDONED_S = 24 * 3600.0  # older temporary files belong to no running process


class NotCached(SagehoundError):
    """The cache cannot be written. A run continues without it."""

    def __init__(self, folder: Path, error: Exception) -> None:
        reason = error.strerror if isinstance(error, OSError) else None
        super().__init__(f"nothing can be cached in {folder} (cache.dir): {reason or error}")


@lru_cache(maxsize=128)  # of all stores together; the least recently used one is closed
def _opened(path: Path) -> FileIO:
    return path.open("rb", buffering=0)


_SEEKING = threading.Lock()  # Windows has no pread


def _read_at(file: FileIO, start: int, size: int) -> bytes:
    """Read a part of a file that other threads read at the same time."""
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), size, start)
    with _SEEKING:
        file.seek(start)
        return file.read(size) or b""


class Store:
    """Blobs under 32-byte keys.

    Args:
        cache: dir and max_gb.
        kind: the folder below ``cache.dir``, one of ``KINDS``.
        about: everything that the blobs depend on besides their keys; other values use another store.
        share: this process adds at most ``max_gb`` divided by this number.
    """

    def __init__(self, cache: Cache, kind: str, about: dict[str, Any], share: int = 1) -> None:
        name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        self.root = Path(cache.dir).expanduser()
        self.folder = self.root / kind / name
        self.about, self.share = about, share
        self.max_bytes = int(cache.max_gb * 1e9)
        self._forget()

    def _forget(self) -> None:
        self._index: dict[bytes, tuple[Path, int, int, int]] = {}  # shard, start, end, CRC-32
        self._shards: dict[Path, int] = {}  # their sizes
        self._used: set[Path] = set()  # shards that this process has read or written
        self._checked: set[bytes] = set()
        self._lock = threading.RLock()
        self._writer: BufferedWriter | None = None
        self._added: dict[bytes, tuple[int, int, int]] = {}  # start, end, CRC-32

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: another process opens the shards itself."""
        return {k: v for k, v in self.__dict__.items() if not k.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()
        self.refresh()

    def refresh(self) -> None:
        """Find shards that were added since the last call. Broken ones are removed."""
        for path in sorted(self.folder.glob("*.shard")):  # by age: later blobs replace earlier ones
            if path not in self._shards:
                try:
                    self._read_index(path)
                except OSError:
                    continue  # removed by another process, or not readable
                except (ValueError, struct.error):
                    console.warn(f"{path} is damaged: its contents are recomputed")
                    _remove(path)

    def _read_index(self, path: Path) -> None:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(size - _FOOTER.size, 0))
            count, crc, magic = _FOOTER.unpack(file.read())
            start = size - _FOOTER.size - count * _INDEX.itemsize
            if magic != _MAGIC or start < 0:
                raise ValueError
            file.seek(start)
            raw = file.read(count * _INDEX.itemsize)
        if zlib.crc32(raw) != crc:
            raise ValueError
        index = np.frombuffer(raw, _INDEX)
        keys = index["key"].tobytes()
        places = zip(*(index[name].tolist() for name in ("start", "end", "crc")), strict=True)
        for i, (a, b, check) in enumerate(places):
            self._index[keys[32 * i : 32 * i + 32]] = (path, a, b, check)
        self._shards[path] = size

    def get(self, key: bytes) -> bytes | None:
        """The blob; None if it is missing or damaged. It is not held in memory."""
        entry = self._index.get(key)
        if entry is None:
            return None
        path, start, end, crc = entry
        try:
            file = _opened(path)  # keep a reference: two threads may open the same shard at once
            blob = _read_at(file, start, end - start)
        except FileNotFoundError:
            blob = b""  # removed by another process
        if len(blob) != end - start or (key not in self._checked and zlib.crc32(blob) != crc):
            self._index.pop(key, None)
            return None
        self._checked.add(key)
        if path not in self._used:
            self._used.add(path)
            _touch(path)
        return blob

    def add(self, key: bytes, blob: bytes) -> bool:
        """Add a blob; it can be read after ``seal``. Returns False if this run already uses ``cache.max_gb``.

        Raises:
            NotCached: the disk is full, or the folder cannot be written.
        """
        with self._lock:
            if key in self._added or self.get(key) is not None:
                return True
            pending = self._writer.tell() if self._writer else 0
            used = sum(self._shards[p] for p in list(self._used))  # a copy, because other threads read the old one
            if used + pending + len(blob) > self.max_bytes // self.share:
                return False
            try:
                if self._writer is None:
                    self._writer = self._begin()
                start = self._writer.tell()
                self._writer.write(blob)
                self._added[key] = (start, start + len(blob), zlib.crc32(blob))
                if start + len(blob) >= _SHARD_BYTES:
                    self._finish()
            except (OSError, SagehoundError) as error:
                self._abandon()
                raise NotCached(self.folder, error) from error
        return True

    def seal(self) -> None:
        """Publish the added blobs, find those of other processes, and remove the least recently used if needed.

        Raises:
            NotCached: the disk is full, or the folder cannot be written.
        """
        with self._lock:
            try:
                if self._writer is not None:
                    self._finish()
            except (OSError, SagehoundError) as error:
                self._abandon()
                raise NotCached(self.folder, error) from error
            self.refresh()
            trim(self.root, self.max_bytes, self._used)

    def _begin(self) -> BufferedWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "about.json").exists():
            write_json(self.folder / "about.json", self.about)
        return (self.folder / f".{time.time_ns():020}-{uuid.uuid4().hex}.tmp").open("wb")

    def _finish(self) -> None:
        assert self._writer is not None
        index = np.zeros(len(self._added), _INDEX)
        index["key"] = np.frombuffer(b"".join(self._added), np.uint8).reshape(-1, 32)
        for i, name in enumerate(("start", "end", "crc")):
            index[name] = [place[i] for place in self._added.values()]
        raw = index.tobytes()
        with self._writer as file:
            file.write(raw + _FOOTER.pack(len(index), zlib.crc32(raw), _MAGIC))
        temporary = Path(self._writer.name)
        shard = temporary.with_name(f"{temporary.stem[1:]}.shard")
        temporary.rename(shard)
        self._writer, self._added = None, {}
        self._read_index(shard)
        self._used.add(shard)
        trim(self.root, self.max_bytes, self._used)

    def _abandon(self) -> None:
        if self._writer is not None:
            _remove(Path(self._writer.name))
        self._writer, self._added = None, {}


def trim(root: Path, max_bytes: int, keep: set[Path]) -> None:
    """Remove the least recently used shards under ``root`` until the rest fits; never those in ``keep``."""
    shards = [(status.st_mtime, status.st_size, path) for path, status in _stats(root, "*.shard")]
    total = sum(size for _, size, _ in shards)
    for _, size, path in sorted(shards):
        if total > max_bytes and path not in keep:
            _remove(path)
            total -= size
    for path, status in _stats(root, ".*.tmp"):
        if time.time() - status.st_mtime > _ABANDONED_S:
            _remove(path)


def _stats(root: Path, pattern: str) -> list[tuple[Path, os.stat_result]]:
    stats = []
    for kind in KINDS:
        for path in (root / kind).glob(f"*/{pattern}"):
            try:
                stats.append((path, path.stat()))
            except OSError:
                continue  # removed by another process
    return stats


def _touch(path: Path) -> None:
    try:
        os.utime(path)  # mark it as used now
    except OSError:
        return  # another user's, or removed


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # another user's
