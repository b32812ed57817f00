"""Features of the frozen backbone, computed once per photo and cached, so that the head trains in seconds."""

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
from torch import Tensor, nn

from sagehound.config import Train
from sagehound.data.augmentation import Augmentation
from sagehound.data.datamodule import reading_threads
from sagehound.data.duplicates import MOST_PHOTOS, by_features
from sagehound.data.folders import SPLITS, Photo
from sagehound.data.loader import Features, Key, PhotoLoader, in_order, seed_of
from sagehound.data.photo_set import PhotoSet
from sagehound.data.sources import Files
from sagehound.errors import ConfigError, SagehoundError
from sagehound.inference.decode import decoder_versions
from sagehound.inference.network import Normalise, features_of
from sagehound.inference.preprocessing import Preprocessing
from sagehound.models import weights_pack
from sagehound.models.backbone import CPU_CHUNK, for_inference, without_tf32
from sagehound.storage.atomic import locked
from sagehound.storage.blob_store import NotCached, Store
from sagehound.system import console
from sagehound.system.hardware import Compute

_VERSION = 2  # of the cached features; raise it when decoding, resizing or the backbone's pass changes
_EXACT = "32-true"
_HALVES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_WORKERS = 8  # each holds the activations of a batch

Floats = npt.NDArray[np.float32]


def usable(cfg: Train) -> bool:
    """Whether features of the frozen backbone can be cached: photos do not change between epochs."""
    a = cfg.augment
    if not cfg.features.cache:
        return False
    if cfg.finetune.name == "head" and not cfg.features.views and (a.changes_photos or a.mixup or a.cutmix):
        console.info(
            "features: photos are augmented in every epoch, so the backbone runs on each of them every time; "
            "features.views=5 caches five augmented views of each instead"
        )
        return False
    return True


def prepare(
    backbone: nn.Module, photos: PhotoSet, preprocessing: Preprocessing, machine: Compute, cfg: Train
) -> Features | None:
    """Compute the missing features of every photo, and of ``features.views`` augmented views of train photos.

    Train photos are computed in the precision of the training, the others in 32 bits, as in evaluation. Returns None,
    after a warning, if the cache cannot be written.

    Raises:
        ConfigError: they exceed ``cache.max_gb``.
        InputError: a photo has changed since the run began.
        SagehoundError: a feature is not finite.
    """
    backbone_is = {
        "version": _VERSION,
        "backbone": cfg.backbone.name,
        "weights": weights_pack.digest(backbone.state_dict().items()),
        "preprocessing": asdict(preprocessing),
        "accelerator": machine.accelerator,
        "versions": {"torch": torch.__version__, "timm": timm.__version__}
        | decoder_versions(photos.root / p.file for p in photos.photos),
    }
    split = {name: photos.split(name) for name in SPLITS}
    exact = FeatureView(backbone_is, _EXACT, None, cfg)
    plain = exact if machine.precision == _EXACT else FeatureView(backbone_is, machine.precision, None, cfg)
    views = [FeatureView(backbone_is, machine.precision, number, cfg) for number in range(cfg.features.views)]
    wanted = {exact: split["valid"] + split["test"], **dict.fromkeys(views, split["train"])}
    wanted[plain] = split["train"] + wanted.get(plain, [])
    _check_room(wanted, features_of(backbone), cfg)
    try:
        for view, some in wanted.items():
            view.fill(backbone, photos, some, preprocessing, machine.accelerator)
    except NotCached as error:
        console.warn(f"{error}: the backbone runs on every photo in every epoch instead")
        return None
    keys = {name: [bytes.fromhex(photos.digests[p.file]) for p in some] for name, some in split.items()}
    centre = {name: FeatureLookup([plain if name == "train" else exact], keys[name], cfg.seed) for name in SPLITS}
    return Features(FeatureLookup([plain, *views], keys["train"], cfg.seed), centre, always=cfg.finetune.name == "head")


def near_duplicates(photos: PhotoSet, cached: Features) -> PhotoSet:
    """The set with more near-duplicates, found by the features of its photos."""
    if len(photos.photos) > MOST_PHOTOS:
        return photos
    return photos.with_pairs(by_features(of_all(photos, cached), photos.prints()))


def of_all(photos: PhotoSet, cached: Features) -> Floats:
    """The features of each photo's centre crop, n x f."""
    files = [p.file for name in SPLITS for p in photos.split(name)]
    rows = (row for name in SPLITS for row in cached.centre[name]([(0, i) for i in range(len(photos.split(name)))]))
    by_file = dict(zip(files, rows, strict=True))
    return np.stack([by_file[p.file] for p in photos.photos])


class FeatureView:
    """Features of one view of the photos: the centre crop, or one augmentation of each.

    Args:
        backbone_is: the part of the cache key that identifies the backbone.
        precision: 32-true caches numbers of 32 bits; every other precision caches 16 bits.
        number: of the augmented view; None: the centre crop.
        cfg: the run's config.
    """

    def __init__(self, backbone_is: dict[str, Any], precision: str, number: int | None, cfg: Train) -> None:
        seen = {"crop": cfg.augment.crop, "flip": cfg.augment.flip, "randaugment": cfg.augment.randaugment}
        about = backbone_is | {"precision": precision, "view": None if number is None else seen | {"number": number}}
        self.precision, self.number, self.cfg = precision, number, cfg
        self.dtype = np.dtype("<f4" if precision == _EXACT else "<f2")
        self.store = Store(cfg.cache, "features", about)

    def row(self, key: bytes) -> Floats:
        """The features of one photo, f."""
        blob = self.store.get(key)
        if blob is None:
            raise SagehoundError(f"{self.store.folder} was removed or damaged while it was being read: run again")
        return np.frombuffer(blob, self.dtype).astype(np.float32)

    def fill(
        self,
        backbone: nn.Module,
        photo_set: PhotoSet,
        photos: list[Photo],
        preprocessing: Preprocessing,
        accelerator: str,
    ) -> None:
        """Compute the missing features. Another process that needs the same ones waits."""
        by_key = {bytes.fromhex(photo_set.digests[p.file]): p for p in photos}  # copies of one photo once
        missing = self._missing(by_key)
        if not missing:
            return
        with self._alone():
            missing = self._missing(missing)
            try:
                self._compute(backbone, photo_set, missing, preprocessing, accelerator)
            finally:
                self.store.seal()  # a stopped pass continues from here

    def _missing(self, photos: dict[bytes, Photo]) -> dict[bytes, Photo]:
        self.store.refresh()
        return {key: photo for key, photo in photos.items() if self.store.get(key) is None}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                waiting = "features: waiting for another run, which computes the same"
                stack.enter_context(locked(self.store.folder / ".lock", waiting=waiting))
            except SagehoundError as error:
                raise NotCached(self.store.folder, error) from error
            yield

    def _compute(
        self,
        backbone: nn.Module,
        photo_set: PhotoSet,
        missing: dict[bytes, Photo],
        preprocessing: Preprocessing,
        accelerator: str,
    ) -> None:
        if not missing:
            return
        keys, photos, data = list(missing), list(missing.values()), self.cfg.data
        augment = None if self.number is None else Augmentation(self.cfg.augment, preprocessing)
        files = Files(photo_set, photos, (augment or preprocessing).short_side, check=True)
        batches = in_order(len(photos), CPU_CHUNK if accelerator == "cpu" else data.batch_size)
        labels, threads = [0] * len(photos), reading_threads(data)
        loader = PhotoLoader(files, labels, batches, preprocessing, threads, augment, lambda _, i: self._seed(keys[i]))
        run = self._network(backbone, preprocessing, accelerator)

        def cache(batch: list[Key], x: Tensor) -> int:
            for (_, i), row in zip(batch, run(x), strict=True):
                self._add(keys[i], photos[i], row)
            return len(batch)

        name = "" if self.number is None else f" of view {self.number + 1}"
        description = f"Computing features{name}, {self.precision}, batches"
        if accelerator == "cpu":
            done = _side_by_side(lambda batch: cache(batch, loader.batch(batch)[0]), batches)
        else:
            done = (cache(batch, x) for batch, (x, _) in zip(batches, loader, strict=True))
        for _ in console.track(done, description, len(batches)):
            pass

    def _network(
        self, backbone: nn.Module, preprocessing: Preprocessing, accelerator: str
    ) -> Callable[[Tensor], npt.NDArray[Any]]:
        """A function from photos, b x 3 x h x w, to their features, b x f, in the precision of the cache."""
        device = torch.device(accelerator)
        normalise = Normalise(preprocessing, channels_last=self.cfg.trainer.channels_last).to(device)
        net = copy.deepcopy(backbone).to(device).eval()  # the model that is trained stays on its device
        net = for_inference(net, preprocessing.size, _HALVES.get(self.precision, torch.float32))

        def run(x: Tensor) -> npt.NDArray[Any]:
            with torch.no_grad(), without_tf32(), autocast(accelerator, self.precision):
                rows = net(normalise(x.to(device, non_blocking=True))).float().cpu().numpy()
            with np.errstate(over="ignore"):
                return np.asarray(rows, self.dtype)

        return run

    def _add(self, key: bytes, photo: Photo, row: npt.NDArray[Any]) -> None:
        """Store the features of one photo.

        Raises:
            SagehoundError: they are not finite.
            ConfigError: the cache is full.
        """
        if not np.isfinite(row).all():
            raise SagehoundError(
                f"the features of {photo.file} are not finite in {self.precision}: choose trainer.precision=32-true"
            )
        if not self.store.add(key, row.tobytes()):
            raise ConfigError(
                f"cache.max_gb={self.cfg.cache.max_gb:g} is too small for what this run uses of "
                f"{self.store.folder}: raise it, remove that folder, or choose features.cache=false"
            )

    def _seed(self, key: bytes) -> int:
        """The seed of the augmentation: of the photo and the view only, so that runs of all seeds share the cache."""
        assert self.number is not None
        return seed_of(self.number, int.from_bytes(key[:7], "big"))


class FeatureLookup:
    """Cached features of some photos.

    Args:
        views: in each epoch a photo shows one of them, chosen by seed, epoch and photo.
        keys: of each photo.
        seed: the run's.
    """

    def __init__(self, views: list[FeatureView], keys: list[bytes], seed: int) -> None:
        self.views, self.keys, self.seed = views, keys, seed

    def __call__(self, wanted: list[Key]) -> Floats:
        """Features, b x f, of (epoch, index) pairs."""
        return np.stack([self._view(*key).row(self.keys[key[1]]) for key in wanted])

    def _view(self, epoch: int, index: int) -> FeatureView:
        return self.views[seed_of(self.seed, epoch, index) % len(self.views) if len(self.views) > 1 else 0]


def _side_by_side(work: Callable[[list[Key]], int], batches: list[list[Key]]) -> Iterator[int]:
    """Process several batches at a time, each in one thread.

    Reading and computing never wait for each other, and no operator waits for its slowest thread. mobilenetv2 took 4.6
    ms per photo on two cores, and 6.0 ms with reading threads beside operators that use both cores.
    """
    threads = torch.get_num_threads()
    workers = min(threads, _WORKERS)
    pool = ThreadPoolExecutor(workers)
    torch.set_num_threads(-(-threads // workers))
    try:
        yield from pool.map(work, batches)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def autocast(accelerator: str, precision: str) -> torch.autocast:
    """A context in which operators compute in ``precision``, as in Lightning's Trainer."""
    kind = _HALVES.get(precision)
    return torch.autocast(accelerator, kind, enabled=kind is not None)


def _check_room(wanted: dict[FeatureView, list[Photo]], features: int, cfg: Train) -> None:
    need = sum(len(photos) * (features * view.dtype.itemsize + 52) for view, photos in wanted.items()) / 1e9
    if need > cfg.cache.max_gb:
        raise ConfigError(
            f"cache.max_gb={cfg.cache.max_gb:g}: the features of these photos need {need:.1f} GB: raise it, or choose "
            "features.cache=false, which runs the backbone on every photo in every epoch"
        )
