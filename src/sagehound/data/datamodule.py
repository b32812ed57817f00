"""The train, valid and test photos of a set as batches, each read or taken from a cache."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import lightning.pytorch as pl

from sagehound.config import Augment, Data, Train
from sagehound.data.augmentation import Augmentation
from sagehound.data.folders import Photo
from sagehound.data.loader import (
    Batches,
    Either,
    EpochBatches,
    FeatureLoader,
    Loader,
    Lookup,
    PhotoLoader,
    in_order,
    seed_of,
)
from sagehound.data.photos import PhotoSet
from sagehound.data.sources import Files, KeptPhotos
from sagehound.errors import ConfigError
from sagehound.inference.preprocessing import Preprocessing
from sagehound.machine import cores


@dataclass(frozen=True)
class Features:
    """What the frozen backbone makes of the photos, by (epoch, index)."""

    train: Lookup  # one of the kept views of each photo, another in each epoch
    centre: Mapping[str, Lookup]  # of each split: what an evaluation sees


def check_weights(photos: PhotoSet, augment: Augment) -> None:
    """Make sure that the weights of the train photos, if they have any, can be used.

    Raises:
        ConfigError: mixup or CutMix would blend weighted photos.
        InputError: all weights are 0.
    """
    if photos.weights(photos.split("train")) and (augment.mixup or augment.cutmix):
        raise ConfigError("photos with weights cannot be blended: give augment.mixup=0 augment.cutmix=0")


class PhotoModule(pl.LightningDataModule):
    """Batches for training, validation and evaluation.

    Args:
        photos: the set.
        to: what the backbone expects.
        cfg: the run's config.
        rests: whether the backbone rests in an epoch.
        features: what is trained on while it does; without it, the photos themselves.
    """

    def __init__(
        self,
        photos: PhotoSet,
        to: Preprocessing,
        cfg: Train,
        rests: Callable[[int], bool],
        features: Features | None = None,
    ) -> None:
        super().__init__()
        self.photos, self.to, self.cfg, self.rests, self.features = photos, to, cfg, rests, features

    @property
    def head_alone(self) -> bool:
        """Whether the head alone is trained, on cached features, in every epoch."""
        return self.features is not None and self.cfg.finetune.name == "head"

    def train_dataloader(self) -> Loader:
        """Shuffled and augmented; after a resume it begins with the batch after the last one trained on."""
        assert self.trainer is not None
        trainer, cfg = self.trainer, self.cfg
        photos = self.photos.split("train")
        labels, weights = self.photos.labels(photos), self.photos.weights(photos)

        def position() -> tuple[int, int]:
            return trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.ready

        batches = EpochBatches(
            len(photos), cfg.data.batch_size, cfg.seed, position, trainer.global_rank, trainer.world_size
        )
        augmented = self.augmented(photos, batches)
        if cfg.finetune.name == "full" or (cfg.finetune.name == "head" and self.features is None):
            return augmented
        if self.features is None:
            plain: Loader = self._plain(photos, batches, weights)
        else:
            plain = FeatureLoader(self.features.train, labels, batches, weights)
        return Either(plain, augmented, self._rests)

    def val_dataloader(self) -> Loader:
        """The valid photos in order; over several devices, each takes its share."""
        assert self.trainer is not None
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        photos = self._in_order("valid", rank, world_size)
        return Either(self._kept("valid", rank, world_size), photos, self._rests) if self.features else photos

    def evaluation_dataloader(self, split: str) -> Loader:
        """The photos of a split in order, each as it will be seen in use, or their features if the backbone rested."""
        return self._kept(split) if self.head_alone else self._in_order(split)

    def _rests(self) -> bool:
        assert self.trainer is not None
        return self.rests(self.trainer.current_epoch)

    def _in_order(self, split: str, rank: int = 0, world_size: int = 1) -> PhotoLoader:
        photos = self.photos.split(split)[rank::world_size]
        return self._plain(photos, in_order(len(photos), self.cfg.data.batch_size))

    def _kept(self, split: str, rank: int = 0, world_size: int = 1) -> FeatureLoader:
        assert self.features is not None
        labels = self.photos.labels(self.photos.split(split))
        batches = in_order(len(range(rank, len(labels), world_size)), self.cfg.data.batch_size)
        mine = [[(epoch, rank + i * world_size) for epoch, i in batch] for batch in batches]
        return FeatureLoader(self.features.centre[split], labels, mine)

    def _plain(self, photos: list[Photo], batches: Batches, weights: list[float] | None = None) -> PhotoLoader:
        """The centre of each photo, always from its file: so it is evaluated, whatever is kept for training."""
        files = Files(self.photos, photos, self.to.short_side)
        labels, threads = self.photos.labels(photos), reading_threads(self.cfg.data)
        return PhotoLoader(files, labels, batches, self.to, threads, weights=weights)

    def augmented(self, photos: list[Photo], batches: Batches) -> PhotoLoader:
        """Training photos, from their files or from ``data.cache``."""
        data, cfg = self.cfg.data, self.cfg
        augment, seed = Augmentation(cfg.augment, self.to), partial(seed_of, cfg.seed)
        labels, weights, threads = self.photos.labels(photos), self.photos.weights(photos), reading_threads(data)
        if data.cache == "none":
            files = Files(self.photos, photos, augment.short_side)
            return PhotoLoader(files, labels, batches, self.to, threads, augment, seed, weights)
        files = Files(self.photos, photos, self.to.short_side, check=True)
        kept = KeptPhotos(files, self.to, data.cache, cfg.cache, self.trainer.world_size if self.trainer else 1)
        return PhotoLoader(kept, labels, batches, self.to, threads, augment, seed, weights)


def reading_threads(data: Data) -> int:
    """``data.workers``, or one thread for each core that this process may use, 16 at most."""
    if data.workers is not None:
        return int(data.workers)
    return min(cores(), 16)
