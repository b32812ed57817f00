"""From an upright photo to the pixels that a backbone was trained on. timm and torch are imported only for training."""

import math
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from omegaconf import DictConfig
from PIL import Image, ImageOps

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Preprocessing:
    """What the weights expect; travels with the model."""

    size: tuple[int, int]  # height and width of the input, pixels
    resize: int  # the photo's short side before the centre is cut out, pixels; 0: squash the whole photo
    interpolation: str  # bicubic, bilinear, ...
    mean: tuple[float, float, float]  # of RGB between 0 and 1
    std: tuple[float, float, float]

    @classmethod
    def of_weights(cls, data_config: dict[str, Any]) -> "Preprocessing":
        """From ``timm.data.resolve_data_config``; the resized side is timm's floor(size / crop_pct)."""
        _, height, width = data_config["input_size"]
        squash = data_config["crop_mode"] == "squash"
        name = str(data_config["interpolation"])
        return cls(
            size=(height, width),
            resize=0 if squash else math.floor(min(height, width) / data_config["crop_pct"]),
            interpolation=name if name.upper() in Image.Resampling.__members__ else "bicubic",
            mean=tuple(data_config["mean"]),
            std=tuple(data_config["std"]),
        )

    @property
    def short_side(self) -> int:
        """Pixels on the short side of a photo that are enough for ``centre``."""
        return self.resize or max(self.size)

    @property
    def resampling(self) -> Image.Resampling:
        """Pillow's constant for ``interpolation``."""
        return Image.Resampling[self.interpolation.upper()]


def centre(image: Image.Image, to: Preprocessing) -> Image.Image:
    """Resize the short side and cut out the centre, as torchvision's Resize and CenterCrop do.

    Only what is cut out is resized; of a thousand values one then differs, by 1 of 255.
    """
    height, width = to.size
    if not to.resize:
        return image.resize((width, height), to.resampling)
    w, h = _resized(image, to)
    left, top = round((w - width) / 2), round((h - height) / 2)
    if left < 0 or top < 0:  # a few weights want a margin around the photo
        return image.resize((w, h), to.resampling).crop((left, top, left + width, top + height))
    x, y = image.width / w, image.height / h
    box = (left * x, top * y, (left + width) * x, (top + height) * y)
    return image.resize((width, height), to.resampling, box)


def shrink(image: Image.Image, to: Preprocessing) -> Image.Image:
    """The whole photo, no larger than ``centre`` needs it: what a cache of photos keeps."""
    w, h = _resized(image, to) if to.resize else to.size[::-1]
    return image.resize((w, h), to.resampling) if image.width > w or image.height > h else image


def _resized(image: Image.Image, to: Preprocessing) -> tuple[int, int]:
    """Width and height of the photo when its short side is ``to.resize``."""
    short = min(image.size)
    w, h = (max(int(to.resize * side / short), to.resize) for side in image.size)
    return w, h


def to_pixels(image: Image.Image) -> Pixels:
    """An RGB photo as uint8, height x width x channel."""
    return np.asarray(image)


class Augmentation:
    """The random transform of one training photo; the same seed gives the same result, in any thread.

    RandAugment is timm's. It draws from the global generators of Python and numpy, so these are lent out under a lock.
    """

    def __init__(self, augment: DictConfig, to: Preprocessing) -> None:
        from timm.data.auto_augment import rand_augment_transform

        self.to, self.crop, self.flip = to, augment.crop, augment.flip
        # enough that the smallest and flattest crop still has the backbone's size
        self.short_side = math.ceil(max(to.size) / math.sqrt(3 / 4 * self.crop)) if self.crop else to.short_side
        self.randaugment = None
        if augment.randaugment:
            grey = tuple(round(255 * m) for m in to.mean)
            options = {"translate_const": round(0.45 * min(to.size)), "img_mean": grey}  # as timm's own training does
            self.randaugment = rand_augment_transform(f"rand-m{augment.randaugment}-n2-mstd0.5", options)

    def __call__(self, image: Image.Image, seed: int) -> Image.Image:
        """An RGB photo to one of the backbone's size."""
        rng = random.Random(seed)
        height, width = self.to.size
        if self.crop:
            image = image.resize((width, height), self.to.resampling, random_box(image.size, self.crop, rng))
        else:
            image = centre(image, self.to)
        if self.flip and rng.random() < 0.5:
            image = ImageOps.mirror(image)
        if self.randaugment:
            with _seeded(seed):
                image = self.randaugment(image)
        return image


def random_box(size: tuple[int, int], smallest: float, rng: random.Random) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a crop of ``smallest`` to all of the photo's area, its sides 3:4 to 4:3.

    Szegedy et al. 2015 (Going deeper with convolutions). A photo too narrow for any such box is cropped to the nearest
    of these shapes around its centre.
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
    """Lend out the generators of Python and numpy, seeded; afterwards they are as before."""
    with _GENERATORS:
        python, numpy = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
