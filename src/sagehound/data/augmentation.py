"""Random changes of training photos."""

import math
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from sagehound.config import Augment
from sagehound.errors import ConfigError
from sagehound.inference.preprocessing import Preprocessing, centre

Transform = Callable[[Image.Image], Image.Image]


class Augmentation:
    """The random transform of one training photo; the same seed gives the same result, in any thread.

    RandAugment is timm's. It draws from the global generators of Python and numpy, so they are seeded under a lock.
    Your own transform that uses torch's generator gives the same result only if the main thread reads
    the photos (``data.workers=0``).

    Args:
        augment: crop, flip, randaugment.
        to: what the backbone expects.
        transform: your own, called last.
    """

    def __init__(self, augment: Augment, preprocessing: Preprocessing, transform: Transform | None = None) -> None:
        from timm.data.auto_augment import rand_augment_transform

        self.preprocessing, self.crop, self.flip, self.transform = preprocessing, augment.crop, augment.flip, transform
        # so that the smallest and flattest crop still has the backbone's size
        self.short_side = (
            math.ceil(max(preprocessing.size) / math.sqrt(3 / 4 * self.crop)) if self.crop else preprocessing.short_side
        )
        self.randaugment = None
        if augment.randaugment:
            grey = tuple(round(255 * m) for m in preprocessing.mean)
            options = {
                "translate_const": round(0.45 * min(preprocessing.size)),
                "img_mean": grey,
            }  # as in timm's own training
            self.randaugment = rand_augment_transform(f"rand-m{augment.randaugment}-n2-mstd0.5", options)

    def __call__(self, image: Image.Image, seed: int) -> Image.Image:
        """An RGB photo to one of the backbone's size."""
        rng = random.Random(seed)
        height, width = self.preprocessing.size
        if self.crop:
            image = image.resize((width, height), self.preprocessing.resampling, random_box(image.size, self.crop, rng))
        else:
            image = centre(image, self.preprocessing)
        if self.flip and rng.random() < 0.5:
            image = ImageOps.mirror(image)
        if self.randaugment:
            with _seeded(seed):
                image = self.randaugment(image)
        if self.transform:
            with _seeded(seed):
                image = _checked(self.transform(image), image)
        return image


def random_box(size: tuple[int, int], smallest: float, rng: random.Random) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a random crop: at least ``smallest`` of the area, sides from 3:4 to 4:3.

    Szegedy et al. 2015 (Going deeper with convolutions). A photo that is too narrow for such a box is cropped
    to the nearest of these shapes around its centre.
    """
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(smallest, 1)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    w, h = min(width, height * 4 / 3), min(height, width * 4 / 3)
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


_GENERATORS = threading.Lock()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python and numpy, and restore their state afterwards.

    Torch's generator is seeded only in the main thread, because training uses it there.
    """
    is_main = threading.current_thread() is threading.main_thread()
    with _GENERATORS, torch.random.fork_rng(devices=[], enabled=is_main):
        python, numpy = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        if is_main:
            torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _checked(changed: object, before: Image.Image) -> Image.Image:
    """Check the photo that the user's transform returned."""
    if not isinstance(changed, Image.Image) or changed.size != before.size or changed.mode != "RGB":
        raise ConfigError(
            f"augment.transform must return a PIL image, RGB, of {before.size[0]} x {before.size[1]} pixels, as it was "
            f"given; it returned {changed!r}"
        )
    return changed


def make_mix(mixup: float, cutmix: float, classes: int) -> v2.Transform | None:
    """Mixup (Zhang et al. 2018), CutMix (Yun et al. 2019), or one of both at random for each batch."""
    ways: list[v2.Transform] = []
    if mixup:
        ways.append(v2.MixUp(alpha=mixup, num_classes=classes))
    if cutmix:
        ways.append(v2.CutMix(alpha=cutmix, num_classes=classes))
    return v2.RandomChoice(ways) if ways else None
