"""Sources of a loader's photos: the files, or a cache of shrunken photos."""

import hashlib
import io
import struct
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from sagehound.config import Cache
from sagehound.data.folders import Photo
from sagehound.data.photo_set import PhotoSet
from sagehound.errors import InputError
from sagehound.inference.decode import BadPhoto, decoder_versions, file_bytes, open_photo, read_photo
from sagehound.inference.preprocessing import Preprocessing, shrink
from sagehound.storage.blob_store import NotCached, Store
from sagehound.system import console

_VERSION = 1  # of the cached photos; raise it when decoding or shrinking changes
_QUALITY = 95
_SIZE = struct.Struct("<II")  # height and width, before the raw pixels


class Source(Protocol):
    """The photos of a loader by index."""

    def __call__(self, index: int) -> Image.Image:
        """One photo, upright, RGB."""

    def begin(self) -> None:
        """Called before the first photo of a pass."""

    def end(self) -> None:
        """Called after the last photo of a pass, also if it ends early."""


class Files:
    """Photos read from their files.

    Args:
        photo_set: the set.
        photos: some of it.
        short_side: pixels that are enough.
        check: refuse a photo whose content has changed since the run began, because it will be cached.
    """

    def __init__(self, photo_set: PhotoSet, photos: list[Photo], short_side: int, *, check: bool = False) -> None:
        self.paths = [photo_set.root / p.file for p in photos]
        self.keys = [bytes.fromhex(photo_set.digests[p.file]) for p in photos]
        self.short_side, self.check = short_side, check

    def __call__(self, index: int) -> Image.Image:
        """One photo, upright, RGB.

        Raises:
            InputError: it cannot be read any more, or has changed.
        """
        path = self.paths[index]
        try:
            content = file_bytes(path)
            if self.check and hashlib.sha256(content).digest() != self.keys[index]:
                raise BadPhoto("changed")
            return read_photo(content, self.short_side)
        except BadPhoto as bad:
            raise InputError(_gone(path, str(bad))) from bad

    def begin(self) -> None:
        """Nothing to do."""

    def end(self) -> None:
        """Nothing to do."""


def _gone(path: Path, reason: str) -> str:
    return f"{path}: {reason}; it was whole when the run began: run again, and a bad photo is left out"


class CachedPhotos:
    """Photos in the size that training needs; each is cached when it is first read.

    Args:
        files: the photos.
        to: what the backbone expects.
        kind: jpeg (JPEG of quality 95: about 30 KB a photo) or memmap (raw pixels: about 250 KB, no decoding).
        cache: dir and max_gb.
        processes: that share ``max_gb``.
    """

    def __init__(self, files: Files, preprocessing: Preprocessing, kind: str, cache: Cache, processes: int = 1) -> None:
        about: dict[str, Any] = {
            "version": _VERSION,
            "kind": kind,
            "resize": preprocessing.resize,
            "interpolation": preprocessing.interpolation,
        }
        about |= decoder_versions(files.paths)
        if not preprocessing.resize:
            about["size"] = list(preprocessing.size)
        self.files, self.preprocessing, self.kind = files, preprocessing, kind
        self.store = Store(cache, "photos", about, processes)
        self.keeping = True

    def __call__(self, index: int) -> Image.Image:
        """One photo, upright, RGB, its short side as the preprocessing resizes it."""
        key = self.files.keys[index]
        blob = self.store.get(key)
        if blob is not None:
            return self._decode(blob)
        photo = shrink(self.files(index), self.preprocessing)
        content = self._encode(photo)
        if content is None:
            return photo
        self._keep(key, content)
        return self._decode(content)  # the first epoch sees the same pixels as later ones

    def begin(self) -> None:
        """Find photos that other processes have cached."""
        self.store.refresh()

    def end(self) -> None:
        """Make the cached photos available to others."""
        try:
            self.store.seal()
        except NotCached as error:
            self._stop_caching(str(error))

    def _keep(self, key: bytes, content: bytes) -> None:
        if not self.keeping:
            return
        try:
            if not self.store.add(key, content):
                self._stop_caching("cache.max_gb is reached")
        except NotCached as error:
            self._stop_caching(str(error))

    def _stop_caching(self, reason: str) -> None:
        """Stop caching; only the first thread that fails prints a warning."""
        if self.keeping:
            self.keeping = False
            console.warn(f"{reason}: photos that are not cached are read from their folders (data.cache={self.kind})")

    def _encode(self, photo: Image.Image) -> bytes | None:
        """Encode a photo; None if a JPEG cannot hold it (a side of more than 65,500 pixels)."""
        if self.kind == "memmap":
            return _SIZE.pack(photo.height, photo.width) + photo.tobytes()
        content = io.BytesIO()
        photo.info.clear()  # drop comments and profiles
        try:
            photo.save(content, "JPEG", quality=_QUALITY)
        except OSError:
            return None
        return content.getvalue()

    def _decode(self, blob: bytes) -> Image.Image:
        if self.kind == "jpeg":
            return open_photo(blob)
        height, width = _SIZE.unpack(blob[: _SIZE.size])
        return Image.fromarray(np.frombuffer(blob, np.uint8, offset=_SIZE.size).reshape(height, width, 3))
