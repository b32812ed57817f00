"""Near-duplicates: frames of one scene and copies of one photo, by perceptual hash and by features. No torch."""

import base64
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

MOST_PHOTOS = 200_000  # every pair is compared: 20 s for 100,000 photos on one core
_SIDE = 16  # of the hash: 16 x 16 bits
_TINY = 8  # of the thumbnail: 8 x 8 pixels, RGB
_HASH_BYTES = _SIDE * _SIDE // 8
_FLAT = 3.0  # photos with a smaller deviation of grey values are one plain surface

# Measured on 900 photos of dogs (404,550 pairs, one of them a true copy) and on 456 drawn dogs. Two frames of a
# burst, moved by 2 % and turned by 1 degree, differ in at most 76 bits of 256 in 90 % of the pairs.
# Two different photos differed in at least 84 bits, two drawn dogs in at least 32, but then in their colours too.
_BITS = 76
_LOW_BITS = 18  # of the 64 lowest frequencies, which are compared first
_CORRELATION = 0.85  # of the thumbnails
# Of the features, their mean subtracted: the median of mirrored crops to 90 % is 0.83 (mobilenetv2) and 0.91
# (efficientnet_lite0). Different photos of one breed reach 0.88, so their thumbnails must agree as well. Drawn dogs
# whose thumbnails agree reach 0.81.
_COSINE = 0.82
_FEATURE_CORRELATION = 0.7

_BLOCK = 2**22  # pairs that are compared at a time


class Pair(NamedTuple):
    """Two near-duplicates by their indices, the lower one first."""

    a: int
    b: int
    distance: float  # bits of 256 that differ; for features 1 - cosine
    by: str  # hash or features


def fingerprint(image: Image.Image) -> str:
    """A photo's fingerprint as text: pHash of the RGB photo and of its mirror image, and a thumbnail.

    pHash (Zauner 2010, by the imagehash library) with 16 x 16 bits: the signs of a photo's lowest frequencies. Empty if
    the photo is one plain surface.
    """
    import imagehash  # imports scipy, which only a run with new photos needs

    small = image.resize((4 * _SIDE, 4 * _SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    grey = small.convert("L")
    if float(np.asarray(grey).std()) < _FLAT:
        return ""
    hashes = [_packed(imagehash.phash(view, _SIDE).hash) for view in (grey, ImageOps.mirror(grey))]
    thumbnail = small.resize((_TINY, _TINY), Image.Resampling.BOX).tobytes()
    return base64.b85encode(b"".join([*hashes, thumbnail])).decode()


def is_fingerprint(text: object) -> bool:
    """Whether a text has the form of a fingerprint."""
    size = 2 * _HASH_BYTES + 3 * _TINY * _TINY
    return text == "" or (isinstance(text, str) and text.isascii() and len(text) == 5 * -(-size // 4))


def _packed(bits: npt.NDArray[np.bool_]) -> bytes:
    """The bits of a hash with the lowest frequencies first, eight rows and columns of them."""
    half = _SIDE // 2
    parts = [bits[:half, :half], bits[:half, half:], bits[half:, :half], bits[half:, half:]]
    return np.packbits(np.concatenate([part.ravel() for part in parts])).tobytes()


class Fingerprints:
    """The fingerprints of n photos, unpacked.

    Args:
        texts: n texts that ``fingerprint`` returned.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.known = np.array([i for i, text in enumerate(texts) if text], np.int64)
        size = 2 * _HASH_BYTES + 3 * _TINY * _TINY
        rows = [np.frombuffer(base64.b85decode(text), np.uint8) for text in texts if text]
        table = np.array(rows, np.uint8).reshape(-1, size)
        words = np.ascontiguousarray(table[:, : 2 * _HASH_BYTES]).view(np.uint64)
        self.hashes, self.mirrored = np.split(words, 2, axis=1)
        pixels = table[:, 2 * _HASH_BYTES :].reshape(-1, _TINY, _TINY, 3).astype(np.float32)
        pixels -= pixels.mean((1, 2), keepdims=True)
        norm = np.sqrt((pixels**2).sum((1, 2, 3), keepdims=True))
        pixels /= np.maximum(norm, 1e-6)
        self.thumbnails = pixels.reshape(-1, 3 * _TINY * _TINY)
        self.turned = pixels[:, :, ::-1].reshape(-1, 3 * _TINY * _TINY)

    def correlation(self, a: Indices, b: Indices) -> Floats:
        """Correlation of the thumbnails of pairs, as they are or with one mirrored: the higher one."""
        if not len(a):
            return np.zeros(0, np.float32)
        first, row = np.unique(a, return_inverse=True)
        other, column = np.unique(b, return_inverse=True)
        thumbnails = self.thumbnails[first]
        both = np.maximum(thumbnails @ self.thumbnails[other].T, thumbnails @ self.turned[other].T)
        return np.asarray(both[row, column])


def by_hash(prints: Fingerprints) -> list[Pair]:
    """Pairs of photos, mirrored or not, whose hashes and thumbnails are nearly the same."""

    def near(start: int, stop: int) -> _Links:
        block = prints.hashes[start:stop]
        low = np.minimum(
            np.bitwise_count(block[:, None, 0] ^ prints.hashes[None, start:, 0]),
            np.bitwise_count(block[:, None, 0] ^ prints.mirrored[None, start:, 0]),
        )
        a, b = np.nonzero(low <= _LOW_BITS)
        a, b = a[a < b], b[a < b]
        others = (prints.hashes[start:], prints.mirrored[start:])
        distance = np.minimum(*(np.bitwise_count(block[a] ^ other[b]).sum(1, dtype=np.int64) for other in others))
        keep = distance <= _BITS
        keep[keep] = prints.correlation(a[keep] + start, b[keep] + start) >= _CORRELATION
        return a[keep] + start, b[keep] + start, distance[keep].astype(float)

    return _linked(prints, near, "hash")


def by_features(features: Floats, prints: Fingerprints) -> list[Pair]:
    """Pairs of photos with nearly parallel features and similar thumbnails; finds crops and mirrored crops too.

    Args:
        features: n x f.
        prints: fingerprints of the same n photos.
    """
    rows = features[prints.known]
    if len(rows) < 2:
        return []
    rows = rows - rows.mean(0)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

    def near(start: int, stop: int) -> _Links:
        cosine = rows[start:stop] @ rows[start:].T
        a, b = np.nonzero(cosine >= _COSINE)
        a, b = a[a < b], b[a < b]
        keep = prints.correlation(a + start, b + start) >= _FEATURE_CORRELATION
        a, b = a[keep], b[keep]
        return a + start, b + start, np.maximum(1 - cosine[a, b].astype(float), 0)

    return _linked(prints, near, "features")


_Links = tuple[Indices, Indices, npt.NDArray[np.float64]]  # a, b, distance


def _linked(prints: Fingerprints, near: Callable[[int, int], _Links], by: str) -> list[Pair]:
    """Pairs of near photos: all, or if there are too many, a few that link the same photos.

    Thousands of frames of one scene make millions of pairs. A minimum spanning forest has fewer pairs than photos, and
    still links each photo with its nearest.

    Args:
        prints: of the photos.
        near: called with start and stop; returns the links of the known photos start to stop - 1 with later photos.
        by: hash or features.
    """
    n = len(prints.known)
    links: _Links = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    step = max(1, _BLOCK // max(n, 1))
    for start in range(0, n, step):
        more = near(start, min(start + step, n))
        links = tuple(np.concatenate(both) for both in zip(links, more, strict=True))  # type: ignore[assignment]
        if len(links[0]) > 4 * n:
            links = _forest(n, *links)
    ends = prints.known[links[0]], prints.known[links[1]]
    return sorted(
        Pair(min(int(a), int(b)), max(int(a), int(b)), float(d), by) for a, b, d in zip(*ends, links[2], strict=True)
    )


def _forest(n: int, a: Indices, b: Indices, distance: npt.NDArray[np.float64]) -> _Links:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    graph = coo_array((distance + 1, (a, b)), shape=(n, n)).tocsr()  # a sparse matrix drops zeros
    tree = minimum_spanning_tree(graph).tocoo()
    return tree.row.astype(np.int64), tree.col.astype(np.int64), tree.data - 1


def components(n: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """For each of n photos the lowest index of its connected component."""
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in links:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return [root(i) for i in range(n)]


def same(values: Iterable[Hashable]) -> list[tuple[int, int]]:
    """Links between the indices of equal values; None and "" are not linked."""
    first: dict[Hashable, int] = {}
    return [(first.setdefault(v, i), i) for i, v in enumerate(values) if v not in (None, "")]
