"""Blobs that are kept from run to run under ``cache.dir``, each under the digest of what it was made from.

A store is a folder of shards. A shard holds many blobs, then an index of them with a checksum each; it is written under
a temporary name, renamed when it is whole, and never changed again, so that any number of processes may read and add.
"""

import hashlib
import json
import mmap
import os
import struct
import threading
import time
import uuid
import zlib
from io import BufferedWriter
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from sagehound import console
from sagehound.files import write_json, writing_failed

_INDEX = np.dtype([("key", "u1", (32,)), ("start", "<u8"), ("end", "<u8"), ("crc", "<u4")])
_FOOTER = struct.Struct("<QI4s")  # entries of the index, its CRC-32, and what kind of file this is
_MAGIC = b"SHS1"
_SHARD_BYTES = 64 << 20  # a run that is killed loses no more than this
_TOUCHED_BYTES = 256 << 20  # of mapped pages that stay in this process's memory
_ABANDONED_S = 24 * 3600.0  # a temporary file this old belongs to no process any more


class Store:
    """Blobs under 32-byte keys.

    Args:
        cache: dir and max_gb.
        kind: the folder below ``cache.dir``.
        about: all that the blobs depend on but their keys; another content is another store.
    """

    def __init__(self, cache: DictConfig, kind: str, about: dict[str, Any]) -> None:
        name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        self.root = Path(cache.dir).expanduser()
        self.folder = self.root / kind / name
        self.about = about
        self.max_bytes = int(cache.max_gb * 1e9)
        self._forget()

    def _forget(self) -> None:
        self._index: dict[bytes, tuple[memoryview, int]] = {}  # blob, CRC-32
        self._maps: dict[Path, mmap.mmap] = {}
        self._checked: set[bytes] = set()
        self._touched = 0
        self._lock = threading.Lock()
        self._writer: BufferedWriter | None = None
        self._added: list[tuple[bytes, int, int, int]] = []
        self._size = 0  # bytes of the shards that are open, and of the one that is written

    def __getstate__(self) -> dict[str, Any]:
        """Another process maps the shards itself."""
        return {k: v for k, v in self.__dict__.items() if not k.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()
        self.refresh()

    def refresh(self) -> None:
        """Map the shards that were added since; one that is not whole is removed."""
        for path in sorted(self.folder.glob("*.shard")):
            if path in self._maps:
                continue
            try:
                os.utime(path)  # used now: the last to be removed when space is needed
                with path.open("rb") as file:
                    content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self._read_index(content)
            except FileNotFoundError:
                continue  # removed by another process
            except (ValueError, struct.error):
                console.warn(f"{path} is damaged: what it held is made again")
                path.unlink(missing_ok=True)
                continue
            self._maps[path] = content
            self._size += len(content)

    def _read_index(self, content: mmap.mmap) -> None:
        count, crc, magic = _FOOTER.unpack(content[-_FOOTER.size :])
        start = len(content) - _FOOTER.size - count * _INDEX.itemsize
        raw = content[start : len(content) - _FOOTER.size] if start >= 0 else b""
        if magic != _MAGIC or not raw or zlib.crc32(raw) != crc:
            raise ValueError
        index, whole = np.frombuffer(raw, _INDEX), memoryview(content)
        keys = index["key"].tobytes()
        for i, (a, b, check) in enumerate(zip(*(index[n].tolist() for n in ("start", "end", "crc")), strict=True)):
            self._index[keys[32 * i : 32 * i + 32]] = (whole[a:b], check)

    def get(self, key: bytes) -> memoryview | None:
        """The blob, or None if there is none, or a damaged one. It lies on disk, mapped, not in memory."""
        found = self._index.get(key)
        if found is None:
            return None
        blob, crc = found
        if key not in self._checked:
            if zlib.crc32(blob) != crc:
                self._index.pop(key, None)
                return None
            self._checked.add(key)
        self._touched += len(blob)
        if self._touched > _TOUCHED_BYTES:
            self._touched = 0
            for content in list(self._maps.values()):
                content.madvise(mmap.MADV_DONTNEED)  # the pages leave this process, not the disk cache
        return blob

    def add(self, key: bytes, blob: bytes) -> None:
        """Keep a blob, unless the store alone would exceed ``cache.max_gb``; it can be got after ``seal``.

        Raises:
            SagehoundError: the disk is full, or the folder cannot be written.
        """
        with self._lock:
            if self._size + len(blob) > self.max_bytes:
                return
            try:
                if self._writer is None:
                    self._begin()
                assert self._writer is not None
                start = self._writer.tell()
                self._writer.write(blob)
                self._added.append((key, start, start + len(blob), zlib.crc32(blob)))
                self._size += len(blob)
                if start + len(blob) >= _SHARD_BYTES:
                    self._finish()
            except OSError as error:
                self._abandon()
                raise writing_failed(self.folder, error) from error

    def seal(self) -> None:
        """Make what was added last, and by other processes, available; remove what was used longest ago if need be.

        Raises:
            SagehoundError: the disk is full, or the folder cannot be written.
        """
        with self._lock:
            try:
                if self._writer is not None:
                    self._finish()
            except OSError as error:
                self._abandon()
                raise writing_failed(self.folder, error) from error
        self.refresh()
        trim(self.root, self.max_bytes, self.folder)

    def _begin(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "about.json").exists():
            write_json(self.folder / "about.json", self.about)
        self._writer = (self.folder / f".{uuid.uuid4().hex}.tmp").open("wb")

    def _finish(self) -> None:
        assert self._writer is not None
        index = np.zeros(len(self._added), _INDEX)
        index["key"] = np.frombuffer(b"".join(a[0] for a in self._added), np.uint8).reshape(-1, 32)
        for i, name in enumerate(("start", "end", "crc"), 1):
            index[name] = [a[i] for a in self._added]
        raw = index.tobytes()
        with self._writer as file:
            file.write(raw + _FOOTER.pack(len(index), zlib.crc32(raw), _MAGIC))
        temporary = Path(self._writer.name)
        temporary.rename(temporary.with_name(f"{temporary.stem[1:]}.shard"))
        self._size -= sum(end - start for _, start, end, _ in self._added)  # refresh() counts the whole shard
        self._writer, self._added = None, []

    def _abandon(self) -> None:
        if self._writer is not None:
            Path(self._writer.name).unlink(missing_ok=True)
        self._writer, self._added = None, []


def trim(root: Path, max_bytes: int, keep: Path) -> None:
    """Remove the shards under ``root`` that were used longest ago until the rest fits; those in ``keep`` stay."""
    shards = []
    for path in root.glob("*/*/*.shard"):
        try:
            found = path.stat()
        except FileNotFoundError:
            continue  # removed by another process
        shards.append((found.st_mtime, found.st_size, path))
    total = sum(size for _, size, _ in shards)
    for _, size, path in sorted(shards):
        if total > max_bytes and path.parent != keep:
            path.unlink(missing_ok=True)
            total -= size
    for path in root.glob("*/*/.*.tmp"):
        if path.exists() and time.time() - path.stat().st_mtime > _ABANDONED_S:
            path.unlink(missing_ok=True)
