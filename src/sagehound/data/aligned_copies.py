"""Near-duplicates that are crops or mirror images of each other: candidates by features, verified by their pixels."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from sagehound.data.duplicates import Fingerprints, Floats, Pair

# Measured on 900 photos of dogs (benchmarks/duplicates.py): the features of each changed copy were nearest to those
# of its photo, with a cosine of 0.598 or more. At the best place and scale, crops to 90 % of each side had a
# correlation of 0.898 or more with their photo; of 600 pairs of different photos with the highest cosines, one
# exceeded 0.78 (0.866). Of 59 other photos, cropped in the middle, 12 were below 0.88 (down to 0.77) and are not
# found.
_COSINE = 0.55  # of the features, their mean subtracted
_NEIGHBOURS = 3  # of each photo that are compared with it
_ALIKE = 0.3  # correlation of thumbnails of 8 x 8 pixels, below which a pair is not compared
_CORRELATION = 0.88
_SIDE = 48  # pixels to which a photo is squashed
_SCALES = (1.0, 0.95, 0.9, 0.85, 0.8)  # of each side of a crop
_FLAT = 2.0  # standard deviation of grey values; rounding and noise of a flat area stay below it
_BLOCK = 2**22  # pairs of features that are compared at a time

Grey = npt.NDArray[np.uint8]


def by_alignment(features: Floats, prints: Fingerprints, read: Callable[[int], Image.Image]) -> list[Pair]:
    """Pairs of photos where one is a crop of the other, mirrored or not.

    Args:
        features: n x f.
        prints: fingerprints of the same n photos.
        read: returns the photo with this index, at least 48 pixels on each side.
    """
    grey = lru_cache(maxsize=4096)(lambda i: _squashed(read(i)))
    pairs = []
    for a, b in _candidates(features, prints):
        if (alike := correlation(grey(a), grey(b))) >= _CORRELATION:
            pairs.append(Pair(a, b, 1 - alike, "alignment"))
    return pairs


def _candidates(features: Floats, prints: Fingerprints) -> list[tuple[int, int]]:
    """Pairs of each photo and its nearest neighbours by features, the lower index first."""
    known = prints.known
    n, k = len(known), min(_NEIGHBOURS, len(known) - 1)
    if k < 1:
        return []
    x = features[known] - features[known].mean(0)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    pairs: set[tuple[int, int]] = set()
    step = max(1, _BLOCK // n)
    for start in range(0, n, step):
        rows = np.arange(start, min(start + step, n))
        cosine = x[rows] @ x.T
        cosine[np.arange(len(rows)), rows] = -1
        nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        a, b = np.repeat(rows, k), nearest.ravel()
        near = cosine[a - start, b] >= _COSINE
        a, b = np.minimum(a, b)[near], np.maximum(a, b)[near]
        alike = prints.correlation(a, b) >= _ALIKE
        pairs.update(zip(known[a[alike]].tolist(), known[b[alike]].tolist(), strict=True))
    return sorted(pairs)


def correlation(a: Grey, b: Grey) -> float:
    """The highest correlation of a photo with a part of the other, mirrored or not.

    Args:
        a: photo in grey, 48 x 48.
        b: the same.
    """
    mirrored = b[:, ::-1]
    return max(_inside(a, b), _inside(b, a), _inside(a, mirrored), _inside(mirrored, a))


def _inside(whole: Grey, part: Grey) -> float:
    """The highest correlation of ``part``, at each scale, with a place of ``whole``; -1 if one of them is flat."""
    best = -1.0
    for scale in _SCALES:
        side = round(scale * _SIDE)
        small = np.asarray(Image.fromarray(part).resize((side, side), Image.Resampling.BOX), np.float32).ravel()
        small -= small.mean()
        places = np.lib.stride_tricks.sliding_window_view(whole.astype(np.float32), (side, side)).reshape(-1, side**2)
        places = places - places.mean(1, keepdims=True)
        spread, own = np.linalg.norm(places, axis=1), float(np.linalg.norm(small))
        textured = spread > _FLAT * side
        if own > _FLAT * side and textured.any():
            best = max(best, float((places[textured] @ small / spread[textured]).max()) / own)
    return min(best, 1.0)


def _squashed(photo: Image.Image) -> Grey:
    return np.asarray(photo.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX))
