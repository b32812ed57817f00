"""The window: the photos that are compared, measured in constant memory."""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from PIL import Image

from sagehound.errors import InputError
from sagehound.inference.preprocessing import Pixels, Preprocessing
from sagehound.monitoring.feature_network import FeatureNetwork
from sagehound.monitoring.photo_measures import PhotoMeasures, measure
from sagehound.monitoring.photo_sources import Arrived
from sagehound.monitoring.sample import Floats
from sagehound.report.images import SIDE, uri
from sagehound.system.machine import cores

_BATCH = 8  # photos that the network gets at a time
_TRIED = 10  # times as many photos as wanted are read at most, if others are broken or repeated


@dataclass(frozen=True)
class SeenPhoto:
    """A photo of the window; its tile is a data URI of what the model gets."""

    name: str
    time: str
    measures: PhotoMeasures
    tile: str


@dataclass
class Window:
    """Up to ``most`` different photos.

    Attributes:
        photos: n photos.
        features: of the backbone, n x f.
        probabilities: n x c.
        unreadable: photos that cannot be read, each with the reason.
        repeated: photos that came before with the same content; each photo counts once, because repeated photos are not
            independent.
    """

    photos: list[SeenPhoto] = field(default_factory=list)
    features: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))
    probabilities: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))
    unreadable: list[tuple[Arrived, str]] = field(default_factory=list)
    repeated: int = 0


def take(network: FeatureNetwork, stream: Iterable[Arrived], most: int) -> Window:
    """Measure the first ``most`` different photos of a stream.

    Raises:
        InputError: fewer than two can be read.
    """
    window, rows = Window(), []
    preprocessing = network.card.preprocessing
    with ThreadPoolExecutor(cores()) as pool:
        different = _different(stream, window, most)
        while len(window.photos) < most and (batch := list(islice(different, _BATCH))):
            measured = pool.map(lambda one: _measured(one, preprocessing), batch)
            good: list[tuple[SeenPhoto, Pixels]] = []
            for one, result in zip(batch, measured, strict=True):
                if isinstance(result, InputError):
                    window.unreadable.append((one, str(result)))
                else:
                    good.append(result)
            good = good[: most - len(window.photos)]
            if good:
                window.photos += [photo for photo, _ in good]
                rows.append(network([pixels for _, pixels in good]))
    if len(window.photos) < 2:
        first = f"; the first: {window.unreadable[0][0].name}: {window.unreadable[0][1]}" if window.unreadable else ""
        raise InputError(f"{len(window.photos)} photos can be read, and two are the least{first}")
    window.probabilities, window.features = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    return window


def _different(stream: Iterable[Arrived], window: Window, most: int) -> Iterator[Arrived]:
    """The photos without repeated ones."""
    seen: set[bytes] = set()
    for number, one in enumerate(stream):
        if number == _TRIED * most:
            return
        if isinstance(one.content, bytes):
            digest = hashlib.sha256(one.content).digest()
            if digest in seen:
                window.repeated += 1
                continue
            seen.add(digest)
        yield one


def _measured(one: Arrived, preprocessing: Preprocessing) -> tuple[SeenPhoto, Pixels] | InputError:
    if isinstance(one.content, InputError):
        return one.content
    try:
        pixels, measures = measure(one.content, preprocessing)
    except InputError as error:
        return error
    tile = Image.fromarray(pixels)
    tile.thumbnail((SIDE, SIDE))
    return SeenPhoto(one.name, one.time, measures, uri(tile)), pixels
