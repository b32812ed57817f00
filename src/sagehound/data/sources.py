"""Where a loader's photos come from: the files themselves, or a cache of them in the size that is needed."""

import hashlib
import io
import struct
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from sagehound import console
from sagehound.cache import NotKept, Store
from sagehound.config import Cache
from sagehound.data.folders import Photo
from sagehound.data.photos import PhotoSet
from sagehound.errors import InputError
from sagehound.inference.decode import BadPhoto, decoder_versions, file_bytes, open_photo, read_photo
from sagehound.inference.preprocessing import Preprocessing, shrink

_VERSION = 1  # of the kept photos; raise it when decoding or shrinking changes
_QUALITY = 95
_SIZE = struct.Struct("<II")  # height and width, before the raw pixels


class Source(Protocol):
    """The photos of a loader by their index; a pass over them has a beginning and an end."""

    def __call__(self, index: int) -> Image.Image:
        """One photo, upright, RGB."""

    def begin(self) -> None:
        """Before the first photo of a pass."""

    def end(self) -> None:
        """After the last photo of a pass, or when no more is wanted."""


class Files:
    """Photos as they lie in their folders.

    Args:
        found: the set.
        photos: some of it.
        short_side: pixels that are enough.
        check: refuse a photo whose content has changed since the run began, because what is made of it will be kept.
    """

    def __init__(self, found: PhotoSet, photos: list[Photo], short_side: int, *, check: bool = False) -> None:
        self.paths = [found.root / p.file for p in photos]
        self.keys = [bytes.fromhex(found.digests[p.file]) for p in photos]
        self.short_side, self.check = short_side, check

    def __call__(self, index: int) -> Image.Image:
        """One photo, upright, RGB.

        Raises:
            InputError: it can no longer be read, or is another one.
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


class KeptPhotos:
    """Photos shrunk to the size that training needs, kept as they are first read.

    Args:
        files: the photos.
        to: what the backbone expects.
        kind: jpeg (JPEG of quality 95: about 30 KB a photo) or memmap (raw pixels: about 250 KB, no decoding).
        cache: dir and max_gb.
        processes: that share ``max_gb``.
    """

    def __init__(self, files: Files, to: Preprocessing, kind: str, cache: Cache, processes: int = 1) -> None:
        about: dict[str, Any] = {
            "version": _VERSION,
            "kind": kind,
            "resize": to.resize,
            "interpolation": to.interpolation,
        }
        about |= decoder_versions(files.paths)
        if not to.resize:
            about["size"] = list(to.size)
        self.files, self.to, self.kind = files, to, kind
        self.store = Store(cache, "photos", about, processes)
        self.keeping = True

    def __call__(self, index: int) -> Image.Image:
        """One photo, upright, RGB, its short side as the preprocessing resizes it."""
        key = self.files.keys[index]
        blob = self.store.get(key)
        if blob is not None:
            return self._decode(blob)
        photo = shrink(self.files(index), self.to)
        content = self._encode(photo)
        if content is None:
            return photo
        self._keep(key, content)
        return self._decode(content)  # the first epoch sees what the others will see

    def begin(self) -> None:
        """Learn of what was kept, by other processes too."""
        self.store.refresh()

    def end(self) -> None:
        """Make what was kept available."""
        try:
            self.store.seal()
        except NotKept as error:
            self._keep_no_more(str(error))

    def _keep(self, key: bytes, content: bytes) -> None:
        if not self.keeping:
            return
        try:
            if not self.store.add(key, content):
                self._keep_no_more("cache.max_gb is reached")
        except NotKept as error:
            self._keep_no_more(str(error))

    def _keep_no_more(self, reason: str) -> None:
        """Of threads that fail together one says so."""
        if self.keeping:
            self.keeping = False
            console.warn(f"{reason}: photos that are not kept are read from their folders (data.cache={self.kind})")

    def _encode(self, photo: Image.Image) -> bytes | None:
        """None where a JPEG cannot hold the photo: a side of more than 65,500 pixels."""
        if self.kind == "memmap":
            return _SIZE.pack(photo.height, photo.width) + photo.tobytes()
        content = io.BytesIO()
        photo.info.clear()  # comments and profiles, which the JPEG would carry along or refuse
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
