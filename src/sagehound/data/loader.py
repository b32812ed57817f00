"""Batches of photos or features, in an order that depends on the seed and the epoch only."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sagehound.data.augmentation import Augmentation
from sagehound.data.sources import Source
from sagehound.inference.preprocessing import Pixels, Preprocessing, centre, to_pixels

# photos, uint8, b x 3 x h x w, or features, float, b x f; labels, int64, b; of weighted train photos weights, float, b
Batch = tuple[Tensor, ...]
Integers = npt.NDArray[np.int64]
_EPOCHS = 2**32  # more than a run has
# epoch, index of a photo; the second, third, ... time in an epoch has another number, for another augmentation
Key = tuple[int, int]
Lookup = Callable[[list[Key]], npt.NDArray[np.float32]]  # features, b x f


@dataclass(frozen=True)
class Features:
    """Features of the photos from a frozen backbone, by (epoch, index)."""

    train: Lookup  # in each epoch one of the cached views of each photo
    centre: Mapping[str, Lookup]  # by split: features of the centre crops, for evaluation
    always: bool  # the backbone is frozen in every epoch


class Batches(Protocol):
    """Lists of (epoch, index), and how many lists there are."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list[Key]]: ...


class Loader(Protocol):
    """Batches, and how many there are."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


class EpochBatches:
    """Batches in an order that depends on seed and epoch, all of nearly the same size.

    Args:
        photos: how many there are.
        batch_size: photos a batch at most.
        seed: of the order.
        position: called at the start of every pass; returns the epoch and its first batch (not 0 after a resume).
        rank: of this process among ``world_size``; each process gets its share of the same order.
        world_size: processes.
        balance: labels of the photos, to draw as many of each class (``balanced_order``); None: each photo once.
    """

    def __init__(
        self,
        photos: int,
        batch_size: int,
        seed: int,
        position: Callable[[], tuple[int, int]],
        rank: int,
        world_size: int,
        balance: Sequence[int] | None = None,
    ) -> None:
        self.balance = None if balance is None else np.asarray(balance)
        self.photos, self.seed, self.position, self.rank, self.world_size = photos, seed, position, rank, world_size
        self.share = -(-photos // world_size)
        self.batches = -(-self.share // batch_size)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, first = self.position()
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(self.photos) if self.balance is None else balanced_order(self.balance, generator)
        order = np.resize(order, self.share * self.world_size)  # repeats a few, so that all shares have the same size
        keys = np.stack([epoch + _EPOCHS * _repeats(order), order], axis=1)[self.rank :: self.world_size]
        for batch in np.array_split(keys, self.batches)[first:]:
            yield [(int(number), int(i)) for number, i in batch]


def balanced_order(labels: Integers, generator: np.random.Generator) -> Integers:
    """As many indices as there are labels, the same number of each class (+- 1), in random order.

    The photos of one class occur equally often (+- 1): class-balanced sampling (Kang et al. 2020, arXiv 1910.09217),
    without its chance of drawing a photo much more often than another.
    """
    classes = np.unique(labels)
    shares = len(labels) // len(classes) + (generator.permutation(len(classes)) < len(labels) % len(classes))
    drawn = [
        np.resize(generator.permutation(np.flatnonzero(labels == c)), n) for c, n in zip(classes, shares, strict=True)
    ]
    return generator.permutation(np.concatenate(drawn))


def _repeats(indices: Integers) -> Integers:
    """How often each index occurred before."""
    order = np.argsort(indices, kind="stable")
    ordered = indices[order]
    first = np.searchsorted(ordered, ordered)  # where the run of equal indices begins
    repeats = np.empty_like(order)
    repeats[order] = np.arange(len(order)) - first
    return repeats


def in_order(photos: int, batch_size: int) -> list[list[Key]]:
    """Batches of photos from first to last."""
    return [[(0, i) for i in range(k, min(k + batch_size, photos))] for k in range(0, photos, batch_size)]


class PhotoLoader:
    """Batches that threads read ahead, ``AHEAD`` at a time.

    Pillow decodes and resizes outside Python's lock, so threads read as fast as processes do. Processes would copy
    memory in every epoch, need shared memory that containers lack, and get signals of their own.

    Args:
        photos: where they come from.
        labels: of each photo.
        batches: what to read.
        to: what the backbone expects.
        threads: number of reading threads; 0: the caller's thread.
        augment: the random change of a photo; None: the centre crop.
        seed: of the augmentation.
        weights: of each photo in the loss; None: batches have no weights.
    """

    AHEAD = 2

    def __init__(
        self,
        photos: Source,
        labels: Sequence[int],
        batches: Batches,
        preprocessing: Preprocessing,
        threads: int,
        augment: Augmentation | None = None,
        seed: Callable[[int, int], int] | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.photos, self.batches, self.targets = photos, batches, Targets(labels, weights)
        self.preprocessing, self.threads, self.augment, self.seed = preprocessing, threads, augment, seed

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        pool = ThreadPoolExecutor(max(self.threads, 1))
        waiting: deque[tuple[list[Key], list[Callable[[], Pixels]]]] = deque()
        self.photos.begin()
        try:
            for keys in self.batches:
                waiting.append((keys, [self._begin(pool, key) for key in keys]))
                if len(waiting) > self.AHEAD:
                    yield self._next(waiting)
            while waiting:
                batch = self._next(waiting)
                if not waiting:
                    self.photos.end()  # cancel now: no further batch will be requested
                yield batch
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            if waiting:
                self.photos.end()  # the pass ended early

    def batch(self, keys: list[Key]) -> Batch:
        """Read one batch in the caller's thread."""
        return self._batch(keys, [self.read(*key) for key in keys])

    def read(self, epoch: int, index: int) -> Pixels:
        """One photo as the model sees it in this epoch: uint8, h x w x 3."""
        image = self.photos(index)
        if self.augment is None:
            return to_pixels(centre(image, self.preprocessing))
        assert self.seed is not None
        return to_pixels(self.augment(image, self.seed(epoch, index)))

    def _begin(self, pool: ThreadPoolExecutor, key: Key) -> Callable[[], Pixels]:
        return pool.submit(self.read, *key).result if self.threads else partial(self.read, *key)

    def _next(self, waiting: "deque[tuple[list[Key], list[Callable[[], Pixels]]]]") -> Batch:
        keys, pixels = waiting.popleft()
        return self._batch(keys, [result() for result in pixels])

    def _batch(self, keys: list[Key], pixels: list[Pixels]) -> Batch:
        """Stack photos. The pixels keep the memory order of decoding, which is torch's channels_last."""
        photos = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        return _pinned(photos, *self.targets(keys))


class FeatureLoader:
    """Batches of cached features."""

    def __init__(
        self, rows: Lookup, labels: Sequence[int], batches: Batches, weights: Sequence[float] | None = None
    ) -> None:
        self.rows, self.batches, self.targets = rows, batches, Targets(labels, weights)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for keys in self.batches:
            yield _pinned(torch.from_numpy(self.rows(keys)), *self.targets(keys))


class SwitchLoader:
    """Uses the first loader if ``first_now()`` is true at the start of a pass, otherwise the second one."""

    def __init__(self, first: Loader, second: Loader, first_now: Callable[[], bool]) -> None:
        self.first, self.second, self.first_now = first, second, first_now

    def __len__(self) -> int:
        return len(self.second)

    def __iter__(self) -> Iterator[Batch]:
        yield from self.first if self.first_now() else self.second


class Targets:
    """Labels of photos, and their weights if they have any."""

    def __init__(self, labels: Sequence[int], weights: Sequence[float] | None) -> None:
        self._columns = [torch.tensor(labels), *([torch.tensor(weights)] if weights is not None else [])]

    def __call__(self, keys: list[Key]) -> list[Tensor]:
        """The labels, int64, b, and the weights, float, b, of some photos."""
        index = [i for _, i in keys]
        return [column[index] for column in self._columns]


def _pinned(*tensors: Tensor) -> Batch:
    """Pin memory if a GPU is used, so that it copies while the CPU continues."""
    return tuple(t.pin_memory() for t in tensors) if torch.cuda.is_initialized() else tensors


def seed_of(*numbers: int) -> int:
    """One 63-bit seed for a tuple of non-negative numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
