"""Photo sets, and a decompression bomb."""

import struct
import zlib
from pathlib import Path

from sagehound.config import Data
from sagehound.data.photo_set import PhotoSet
from sagehound.data.photos import find_photos


def settings(root: Path, **changes: object) -> Data:
    return Data(**({"name": "folder", "root": str(root)} | changes))  # type: ignore[arg-type]


def photo_set(root: Path, **changes: object) -> PhotoSet:
    return find_photos(settings(root, **changes), root.parent / "cache")


def bomb() -> bytes:
    """A small PNG file whose header claims 50,000 x 50,000 pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
