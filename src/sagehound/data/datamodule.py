"""The train, valid and test photos of a set as batches, read from files or from a cache."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
from torch import Tensor

from sagehound.config import Augment, Cache, Columns, Data, check_values, default_cache
from sagehound.data.augmentation import Augmentation, Transform
from sagehound.data.folders import Photo
from sagehound.data.loader import (
    Batches,
    EpochBatches,
    FeatureLoader,
    Features,
    Loader,
    PhotoLoader,
    SwitchLoader,
    in_order,
    seed_of,
)
from sagehound.data.photo_set import PhotoSet
from sagehound.data.photos import find_photos
from sagehound.data.sources import CachedPhotos, Files
from sagehound.errors import ConfigError
from sagehound.inference.preprocessing import Preprocessing
from sagehound.system.machine import cores


class PhotoDataModule(pl.LightningDataModule):
    """Batches of photos for training, validation, test and prediction.

    A batch holds photos, uint8, b x 3 x h x w, in the backbone's size but not yet normalised, and labels, int64,
    b; a batch of train photos with weights also holds their weights, float, b.

    Args:
        root: a folder of split/class/photo or class/photo; or a .zip or .tar of one.
        table: a CSV that lists the photos below ``root``.
        columns: the table's column names that differ from file, label, split, group and weight.
        source: your own function that lists the photos, called with root=``root``.
        group: a regular expression; photos whose paths match with one first group stay together.
        near_duplicates: together (never divided when a split is taken from train) or apart.
        valid_fraction: share taken from train when there is no valid folder.
        test_fraction: the same for test.
        split_seed: which photos those are.
        on_bad: skip an unreadable photo and list it, or fail.
        batch_size: photos a step, on each device.
        sampling: shuffled (each train photo once an epoch) or balanced (as many, the same number of each class).
        workers: threads that read photos; None: one a core, 16 at most.
        crop: smallest share of the photo that a random crop of a train photo shows; None: the centre crop.
        flip: mirror half of the train photos.
        randaugment: strength of two random colour or shape changes of train photos, up to 30; 0: none.
        transform: your own change of train photos; called with each cropped photo, a PIL image.
        cache: how shrunken photos are cached: none, jpeg or memmap.
        cache_dir: folder of the cache; None: ~/.cache/sagehound, or SAGEHOUND_CACHE.
        cache_gb: largest size of the cache, 10^9 bytes.
        preprocessing: what the backbone expects; None: the preprocessing of the trainer's model.
        seed: of the order and the augmentation.

    Raises:
        ConfigError: an argument is out of range.
    """

    photo_set: PhotoSet | None = None  # set by setup, or given
    features: Features | None = None  # of a frozen backbone; without them, the photos themselves

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        table: str | Path | None = None,
        columns: dict[str, str] | None = None,
        source: Callable[..., Iterable[Photo]] | None = None,
        group: str | None = None,
        near_duplicates: str = "together",
        valid_fraction: float = 0.15,
        test_fraction: float = 0.15,
        split_seed: int = 0,
        on_bad: str = "skip",
        batch_size: int = 64,
        sampling: str = "shuffled",
        workers: int | None = None,
        crop: float | None = None,
        flip: bool = False,
        randaugment: int = 0,
        transform: Transform | None = None,
        cache: str = "none",
        cache_dir: str | Path | None = None,
        cache_gb: float = 20.0,
        preprocessing: Preprocessing | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if root is None and table is None:
            raise ConfigError("PhotoDataModule: give root=PATH of your photos, or table=CSV")
        self.data = Data(
            name="folder",
            root=None if root is None else str(root),
            table=None if table is None else str(table),
            columns=Columns(**(columns or {})),
            group=group,
            near_duplicates=near_duplicates,
            batch_size=batch_size,
            sampling=sampling,
            workers=workers,
            on_bad=on_bad,
            cache=cache,
            valid_fraction=valid_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
        )
        self.augment = Augment(crop=crop, flip=flip, randaugment=randaugment)
        self.cache = Cache(str(cache_dir or default_cache()), cache_gb)
        for prefix, settings in (("data.", self.data), ("augment.", self.augment), ("cache.", self.cache)):
            check_values(settings, prefix)
        self.source, self.transform, self._preprocessing, self.seed = source, transform, preprocessing, seed

    @classmethod
    def of(
        cls,
        photos: PhotoSet,
        preprocessing: Preprocessing,
        data: Data,
        augment: Augment,
        cache: Cache,
        *,
        transform: Transform | None = None,
        seed: int = 0,
    ) -> "PhotoDataModule":
        """A data module of a photo set, with the settings of a config."""
        module = cls(photos.root, transform=transform, preprocessing=preprocessing, seed=seed)
        module.data, module.augment, module.cache, module.photo_set = data, augment, cache, photos
        return module

    def setup(self, stage: str) -> None:
        """Find the photos, read each once and split them.

        Raises:
            InputError: they are missing or cannot be trained on.
        """
        if self.photo_set is None:
            self.photo_set = find_photos(self.data, Path(self.cache.dir).expanduser(), source=self.source)

    @property
    def photos(self) -> PhotoSet:
        """The photos; they are found at the first use."""
        self.setup("fit")
        assert self.photo_set is not None
        return self.photo_set

    @property
    def batch_size(self) -> int:
        """Photos a step, on each device; Lightning's Tuner may set it."""
        return self.data.batch_size

    @batch_size.setter
    def batch_size(self, photos: int) -> None:
        self.data.batch_size = photos

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the model's outputs."""
        return self.photos.classes

    def class_counts(self) -> list[int]:
        """The number of train photos of each class."""
        labels = self.photos.labels(self.photos.split("train"))
        return [labels.count(i) for i in range(len(self.classes))]

    @property
    def preprocessing(self) -> Preprocessing:
        """What the backbone expects of a photo.

        Raises:
            ConfigError: neither an argument nor the trainer's model gives it.
        """
        model = getattr(self.trainer, "lightning_module", None)
        preprocessing = self._preprocessing or getattr(model, "preprocessing", None)
        if preprocessing is None:
            raise ConfigError("PhotoDataModule: give preprocessing=..., such as Classifier(...).preprocessing")
        return preprocessing

    @property
    def head_alone(self) -> bool:
        """Whether only the head is trained, on cached features, in every epoch."""
        return self.features is not None and self.features.always

    def train_dataloader(self) -> Loader:
        """Shuffled and augmented train photos; after a resume from the next batch on.

        Raises:
            ConfigError: the photos have weights, and the model blends photos.
            InputError: all weights are 0.
        """
        trainer, passes = self.trainer, count()
        photos = self.photos.split("train")
        labels, weights = self.photos.labels(photos), self.photos.weights(photos)
        if weights and getattr(getattr(trainer, "lightning_module", None), "mix", None) is not None:
            raise ConfigError("photos with weights cannot be blended: give augment.mixup=0 augment.cutmix=0")

        def position() -> tuple[int, int]:
            if trainer is None:  # the user's own loop: each pass is an epoch
                return next(passes), 0
            return trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.ready

        balance = labels if self.data.sampling == "balanced" else None
        batches = EpochBatches(len(photos), self.data.batch_size, self.seed, position, *self._share(), balance)
        augmented = self.augmented(photos, batches)
        if self._frozen_epochs() in ("none", "all") and self.features is None:
            return augmented
        if self.features is None:
            plain: Loader = self._plain(photos, batches, weights)
        else:
            plain = FeatureLoader(self.features.train, labels, batches, weights)
        return SwitchLoader(plain, augmented, self._is_frozen)

    def val_dataloader(self) -> Loader:
        """The valid photos in order; over several devices, each takes its share."""
        share = self._share()
        photos = self._in_order("valid", *share)
        return SwitchLoader(self._cached("valid", *share), photos, self._is_frozen) if self.features else photos

    def test_dataloader(self) -> Loader:
        """The test photos in order; over several devices, each takes its share."""
        return self._in_order("test", *self._share())

    def predict_dataloader(self) -> Loader:
        """The test photos in order, as batches of photos and labels."""
        return self.test_dataloader()

    def evaluation_dataloader(self, split: str) -> Loader:
        """The photos of a split in order, without augmentation, or their cached features."""
        return self._cached(split) if self.head_alone else self._in_order(split)

    def sample(self, split: str, photos: int, *, augmented: bool = False) -> Tensor:
        """Photos of a split at even distances: uint8, at most ``photos`` x 3 x h x w, as centre crops or augmented."""
        some = self.photos.split(split)
        some = [some[int(i)] for i in sorted({*np.linspace(0, len(some) - 1, min(len(some), photos)).astype(int)})]
        batches = in_order(len(some), len(some))
        loader = self.augmented(some, batches) if augmented else self._plain(some, batches)
        return next(iter(loader))[0]

    def _share(self) -> tuple[int, int]:
        """Rank of this process, and the number of processes; 0 and 1 without a trainer."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _frozen_epochs(self) -> str:
        """In which epochs the backbone is frozen: none, some (the first ones) or all."""
        settings = getattr(getattr(self.trainer, "lightning_module", None), "finetune", None)
        return {"head": "all", "gradual": "some"}.get(getattr(settings, "name", ""), "none")

    def _is_frozen(self) -> bool:
        assert self.trainer is not None
        is_frozen = getattr(self.trainer.lightning_module, "is_frozen", None)
        return bool(is_frozen and is_frozen(self.trainer.current_epoch))

    def _in_order(self, split: str, rank: int = 0, world_size: int = 1) -> PhotoLoader:
        photos = self.photos.split(split)[rank::world_size]
        return self._plain(photos, in_order(len(photos), self.data.batch_size))

    def _cached(self, split: str, rank: int = 0, world_size: int = 1) -> FeatureLoader:
        assert self.features is not None
        labels = self.photos.labels(self.photos.split(split))
        batches = in_order(len(range(rank, len(labels), world_size)), self.data.batch_size)
        mine = [[(epoch, rank + i * world_size) for epoch, i in batch] for batch in batches]
        return FeatureLoader(self.features.centre[split], labels, mine)

    def _plain(self, photos: list[Photo], batches: Batches, weights: Sequence[float] | None = None) -> PhotoLoader:
        """The centre crop of each photo, always from its file."""
        files = Files(self.photos, photos, self.preprocessing.short_side)
        labels, threads = self.photos.labels(photos), reading_threads(self.data)
        return PhotoLoader(files, labels, batches, self.preprocessing, threads, weights=weights)

    def augmented(self, photos: list[Photo], batches: Batches) -> PhotoLoader:
        """Train photos, from their files or from ``data.cache``."""
        data, seed = self.data, partial(seed_of, self.seed)
        augment = Augmentation(self.augment, self.preprocessing, self.transform)
        labels, weights, threads = self.photos.labels(photos), self.photos.weights(photos), reading_threads(data)
        if data.cache == "none":
            files = Files(self.photos, photos, augment.short_side)
            return PhotoLoader(files, labels, batches, self.preprocessing, threads, augment, seed, weights)
        files = Files(self.photos, photos, self.preprocessing.short_side, check=True)
        cached = CachedPhotos(files, self.preprocessing, data.cache, self.cache, self._share()[1])
        return PhotoLoader(cached, labels, batches, self.preprocessing, threads, augment, seed, weights)


def reading_threads(data: Data) -> int:
    """``data.workers``, or one thread for each core that this process may use, 16 at most."""
    return min(cores(), 16) if data.workers is None else data.workers
