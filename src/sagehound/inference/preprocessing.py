"""From an upright photo to the pixels that a backbone was trained on; the same in training and in use. No torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sagehound.inference.decode import read_photo

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

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> "Preprocessing":
        """From model.json.

        Raises:
            ValueError, KeyError, TypeError, OverflowError: a value is missing, or cannot be.
        """
        height, width = (int(n) for n in given["size"])
        resize, interpolation = int(given["resize"]), str(given["interpolation"])
        (r, g, b), std = (tuple(float(v) for v in given[k]) for k in ("mean", "std"))
        if not (0 < height <= 4096 and 0 < width <= 4096 and 0 <= resize <= 8192):
            raise ValueError(f"preprocessing of {height} x {width} pixels from {resize}")
        if interpolation.upper() not in Image.Resampling.__members__:
            raise ValueError(f"interpolation {interpolation}")
        if len(std) != 3 or not all(map(math.isfinite, (r, g, b, *std))) or min(std) <= 0:
            raise ValueError(f"mean {r, g, b}, std {std}")
        return cls((height, width), resize, interpolation, (r, g, b), (std[0], std[1], std[2]))

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
    # what of the resized photo is seen: a few weights want a margin around it
    a, b, c, d = max(left, 0), max(top, 0), min(left + width, w), min(top + height, h)
    x, y = image.width / w, image.height / h
    seen = image.resize((c - a, d - b), to.resampling, (a * x, b * y, c * x, d * y))
    if seen.size == (width, height):
        return seen
    whole = Image.new("RGB", (width, height))
    whole.paste(seen, (a - left, b - top))
    return whole


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


def prepare(source: Path | bytes, to: Preprocessing, max_pixels: int | None = None) -> Pixels:
    """A photo's file, or its bytes, as the backbone wants to see it, height x width x channel.

    Raises:
        BadPhoto: it cannot be read, or not whole.
        TooManyPixels: it has more than ``max_pixels``.
    """
    return to_pixels(centre(read_photo(source, to.short_side, max_pixels), to))
