"""Where a loader's photos come from: the files themselves, or a cache of them in the size that is needed."""

import hashlib
import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from PIL import Image

from sagehound import console
from sagehound.cache import NotKept, Store
from sagehound.data.decode import BadPhoto, open_photo, read_photo
from sagehound.data.folders import Photo
from sagehound.data.photos import PhotoSet
from sagehound.data.transforms import Preprocessing, shrink
from sagehound.errors import InputError

_VERSION = 1  # of the kept photos; raise it when decoding or shrinking changes
_QUALITY = 95
_SIZE = struct.Struct("<II")  # height and width, before the raw pixels


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
            content = path.read_bytes()
            if self.check and hashlib.sha256(content).digest() != self.keys[index]:
                raise BadPhoto("changed")
            return read_photo(content, self.short_side)
        except OSError as error:
            raise InputError(_gone(path, error.strerror or str(error))) from error
        except BadPhoto as bad:
            raise InputError(_gone(path, str(bad))) from bad


def _gone(path: Path, reason: str) -> str:
    return f"{path}: {reason}; it was whole when the run began: run again, and a bad photo is left out"


class KeptPhotos:
    """Photos shrunk to the size that training needs, kept as they are first read.

    Args:
        files: the photos.
        to: what the backbone expects.
        kind: jpeg (JPEG of quality 95: about 30 KB a photo) or memmap (raw pixels: about 250 KB, no decoding).
        cache: dir and max_gb.
    """

    def __init__(self, files: Files, to: Preprocessing, kind: str, cache: DictConfig) -> None:
        about = {"version": _VERSION, "kind": kind, "resize": to.resize, "interpolation": to.interpolation}
        if not to.resize:
            about["size"] = list(to.size)
        self.files, self.to, self.kind = files, to, kind
        self.store = Store(cache, "photos", about)
        self.store.refresh()
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
        if self.keeping:
            self._keep(lambda: self.store.add(key, content))
        return self._decode(content)  # the first epoch sees what the others will see

    def seal(self) -> None:
        """Make what was kept available."""
        if self.keeping:
            self._keep(self.store.seal)

    def _keep(self, write: Callable[[], object]) -> None:
        try:
            write()
        except NotKept as error:
            self.keeping = False
            console.warn(f"{error} (data.cache={self.kind}, cache.dir); the photos are read from their folders instead")

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
