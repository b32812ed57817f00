"""Small copies of photos in model.tar.gz, to try the model with: data.samples=N. Imports no torch."""

import io
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from sagehound.artifact.archive import sample_name
from sagehound.data.folders import Photo
from sagehound.data.photo_set import PhotoSet
from sagehound.errors import InputError
from sagehound.inference.decode import read_photo

SIDE = 320  # pixels of the longer side, at most
_QUALITY = 85  # of JPEG
_TRIES = 3  # photos per sample; a file may have become unreadable since the audit


def files(photos: PhotoSet, count: int) -> dict[str, bytes]:
    """The samples by their names in the archive: of the test photos, or of the valid ones if there are none.

    They are chosen by chance, without their predictions, one of each class first. They are upright RGB, at most 320
    pixels wide and high, and written anew, so that nothing of the file but its colours is kept: no EXIF, no place.
    """
    found: dict[str, bytes] = {}
    for photo in chosen(photos.split("test") or photos.split("valid"), _TRIES * count):
        if len(found) == count:
            break
        try:
            found[sample_name(len(found))] = _small(photos.root / photo.file)
        except InputError:
            continue
    return found


def chosen(photos: Sequence[Photo], count: int) -> list[Photo]:
    """``count`` photos, or all: one of each class in turn, in an order by chance that is always the same."""
    rng = random.Random(0)
    by_class: defaultdict[str, list[Photo]] = defaultdict(list)
    for photo in sorted(photos, key=lambda p: p.file):
        by_class[photo.label].append(photo)
    classes = list(by_class.values())
    rng.shuffle(classes)
    for of_class in classes:
        rng.shuffle(of_class)
    most = max(map(len, classes), default=0)
    in_turn = [of_class[i] for i in range(most) for of_class in classes if i < len(of_class)]
    return in_turn[:count]


def _small(path: Path) -> bytes:
    image = read_photo(path, SIDE)
    image.thumbnail((SIDE, SIDE))
    plain = image.copy()
    plain.info.clear()  # Pillow would write a comment and a colour profile again
    file = io.BytesIO()
    plain.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
