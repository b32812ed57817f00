"""Blurred, dark, bright, plain and small photos."""

import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, astuple
from pathlib import Path

from sagehound.config import Cache
from sagehound.data.photo_set import PhotoSet
from sagehound.inference.decode import BadPhoto, decoder_versions, file_bytes
from sagehound.inference.preprocessing import Preprocessing
from sagehound.monitoring.photo_measures import PhotoMeasures, measure
from sagehound.storage.blob_store import NotCached, Store
from sagehound.system import console
from sagehound.system.machine import cores

# Measured on 900 photos of dogs (woof10) and on changed copies of 90 of them; benchmarks/doctor.py.
BLURRED = 0.0115  # sharpness; 1 % of the photos are below it, and 99 % of copies blurred with a radius of 3 pixels
DARK = 0.1  # brightness; no photo is below it, and each copy with a tenth of the brightness is
BRIGHT = 0.92  # brightness; no photo is above it
PLAIN = 0.03  # contrast; no photo is below it
SMALL = 0.5  # of the model's input: a photo with a shorter side is enlarged to more than twice its size
_VERSION = 1
_ROW = struct.Struct("<3f2i")


def measure_all(photos: PhotoSet, preprocessing: Preprocessing, cache: Cache) -> list[PhotoMeasures | None]:
    """The measures of each photo, cached by its content; None for one that can no longer be read."""
    versions = decoder_versions(photos.root / p.file for p in photos.photos)
    store = Store(
        cache, "measures", {"version": _VERSION, "preprocessing": asdict(preprocessing), "versions": versions}
    )
    store.refresh()
    keys = [bytes.fromhex(photos.digests[p.file]) for p in photos.photos]
    rows = [store.get(key) for key in keys]
    missing = [i for i, row in enumerate(rows) if row is None]
    if missing:
        with ThreadPoolExecutor(cores()) as pool:
            measured = pool.map(lambda i: _measured(photos.root / photos.photos[i].file, preprocessing), missing)
            for i, row in zip(missing, console.track(measured, "Measuring photos", len(missing)), strict=True):
                rows[i] = row
        with suppress(NotCached):  # measured again by the next command
            for i in missing:
                if (row := rows[i]) is not None:
                    store.add(keys[i], row)
            store.seal()
    return [None if row is None else PhotoMeasures(*_ROW.unpack(row)) for row in rows]


def _measured(path: Path, preprocessing: Preprocessing) -> bytes | None:
    try:
        _, measures = measure(file_bytes(path), preprocessing)
    except BadPhoto:
        return None
    return _ROW.pack(*astuple(measures))


def problems(measures: PhotoMeasures, size: Sequence[int]) -> dict[str, str]:
    """What is wrong with a photo: blurred, dark, bright, plain or small, each with its measure.

    Args:
        measures: of the photo.
        size: height and width of the model's input, pixels.
    """
    m, short = measures, min(measures.width, measures.height)
    wrong = {}
    if m.contrast < PLAIN:
        wrong["plain"] = f"contrast {m.contrast:.3f}"
    elif m.sharpness < BLURRED:
        wrong["blurred"] = f"sharpness {m.sharpness:.4f}"
    if m.brightness < DARK:
        wrong["dark"] = f"brightness {m.brightness:.2f}"
    elif m.brightness > BRIGHT:
        wrong["bright"] = f"brightness {m.brightness:.2f}"
    if short < SMALL * min(size):
        wrong["small"] = f"{m.width} x {m.height} pixels"
    return wrong
