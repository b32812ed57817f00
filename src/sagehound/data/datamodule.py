"""Batches of photos; which photo comes when, and how it is augmented, follows from the seed and the epoch alone."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import lightning.pytorch as pl
import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from sagehound.data.decode import BadPhoto, read_photo
from sagehound.data.folders import Photo
from sagehound.data.photos import PhotoSet
from sagehound.data.transforms import Augmentation, Pixels, Preprocessing, centre, to_pixels
from sagehound.errors import InputError

Batch = tuple[Tensor, Tensor]  # photos, uint8, b x 3 x h x w; labels, int64, b
Key = tuple[int, int]  # epoch, index of a photo


class PhotoModule(pl.LightningDataModule):
    """The train, valid and test photos of a set as batches.

    Args:
        photos: the set.
        to: what the backbone expects.
        data: batch size and workers.
        augment: what training photos go through.
        seed: of order and augmentation.
    """

    def __init__(self, photos: PhotoSet, to: Preprocessing, data: DictConfig, augment: DictConfig, seed: int) -> None:
        super().__init__()
        self.photos, self.to, self.data, self.augment, self.seed = photos, to, data, augment, seed

    def train_dataloader(self) -> "PhotoLoader":
        """Shuffled and augmented; after a resume it begins with the batch after the last one trained on."""
        assert self.trainer is not None
        train = self.photos.split("train")
        trainer, size = self.trainer, self.data.batch_size

        def position() -> tuple[int, int]:
            return trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.ready

        batches = EpochBatches(len(train), size, self.seed, position, trainer.global_rank, trainer.world_size)
        return self._loader(train, batches, Augmentation(self.augment, self.to))

    def val_dataloader(self) -> "PhotoLoader":
        """The valid photos in order; over several devices, each takes its share."""
        assert self.trainer is not None
        return self.loader("valid", self.trainer.global_rank, self.trainer.world_size)

    def loader(self, split: str, rank: int = 0, world_size: int = 1) -> "PhotoLoader":
        """The photos of a split in order, each as it will be seen in use: upright, resized, its centre cut out."""
        photos = self.photos.split(split)[rank::world_size]
        size = self.data.batch_size
        batches = [[(0, i) for i in range(k, min(k + size, len(photos)))] for k in range(0, len(photos), size)]
        return self._loader(photos, batches)

    def _loader(self, photos: list[Photo], batches: "Batches", augment: Augmentation | None = None) -> "PhotoLoader":
        workers = self.data.workers
        threads = min(len(os.sched_getaffinity(0)), 16) if workers is None else workers
        files = [self.photos.root / p.file for p in photos]
        return PhotoLoader(files, self.photos.labels(photos), batches, self.to, threads, augment, self.seed)


class Batches(Protocol):
    """Lists of (epoch, index), and how many lists there are."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list[Key]]: ...


class EpochBatches:
    """Batches in an order that follows from seed and epoch; all of nearly the same size.

    Args:
        photos: how many there are.
        batch_size: photos a batch at most.
        seed: of the order.
        position: asked at the start of every pass: the epoch, and its first batch (not 0 after a resume).
        rank: of this process among ``world_size``; each gets another share of the same order.
        world_size: processes.
    """

    def __init__(
        self,
        photos: int,
        batch_size: int,
        seed: int,
        position: Callable[[], tuple[int, int]],
        rank: int,
        world_size: int,
    ) -> None:
        self.photos, self.seed, self.position, self.rank, self.world_size = photos, seed, position, rank, world_size
        self.share = -(-photos // world_size)
        self.batches = -(-self.share // batch_size)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, first = self.position()
        order = np.random.default_rng([self.seed, epoch]).permutation(self.photos)
        mine = np.resize(order, self.share * self.world_size)[
            self.rank :: self.world_size
        ]  # repeats a few to come out even
        for batch in np.array_split(mine, self.batches)[first:]:
            yield [(epoch, int(i)) for i in batch]


class PhotoLoader:
    """Batches read by threads, ``AHEAD`` of them while the last one is still being worked on.

    Pillow decodes and resizes outside Python's lock, so threads read as fast as processes do. Processes would copy
    memory at every epoch, need shared memory that containers do not have, and hear signals of their own.

    Args:
        files: paths.
        labels: of each file.
        batches: what to read.
        to: what the backbone expects.
        threads: that read; 0 reads in the caller's.
        augment: what a photo goes through; without it, its centre is cut out.
        seed: of the augmentation.
    """

    AHEAD = 2

    def __init__(
        self,
        files: Sequence[Path],
        labels: Sequence[int],
        batches: Batches,
        to: Preprocessing,
        threads: int,
        augment: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.files, self.labels, self.batches = files, labels, batches
        self.to, self.threads, self.augment, self.seed = to, threads, augment, seed

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        if not self.threads:
            for keys in self.batches:
                yield self._batch(keys, [self.read(*key) for key in keys])
            return
        pool = ThreadPoolExecutor(self.threads)
        waiting: deque[tuple[list[Key], list[Future[Pixels]]]] = deque()
        try:
            for keys in self.batches:
                waiting.append((keys, [pool.submit(self.read, *key) for key in keys]))
                if len(waiting) > self.AHEAD:
                    yield self._next(waiting)
            while waiting:
                yield self._next(waiting)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def read(self, epoch: int, index: int) -> Pixels:
        """One photo as the model will see it in that epoch: uint8, 3 x h x w."""
        path = self.files[index]
        try:
            image = read_photo(path)
        except BadPhoto as bad:
            raise InputError(f"{path}: {bad}; it was whole when the run began: run again and it is left out") from bad
        if self.augment is None:
            return to_pixels(centre(image, self.to))
        return to_pixels(self.augment(image, seed_of(self.seed, epoch, index)))

    def _next(self, waiting: "deque[tuple[list[Key], list[Future[Pixels]]]]") -> Batch:
        keys, pixels = waiting.popleft()
        return self._batch(keys, [p.result() for p in pixels])

    def _batch(self, keys: list[Key], pixels: list[Pixels]) -> Batch:
        photos = torch.from_numpy(np.stack(pixels))
        labels = torch.tensor([self.labels[i] for _, i in keys])
        return (photos.pin_memory(), labels.pin_memory()) if torch.cuda.is_available() else (photos, labels)


def seed_of(*numbers: int) -> int:
    """One 63-bit seed for a tuple of non-negative numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
