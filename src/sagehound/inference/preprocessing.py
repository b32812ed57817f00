"""Resizes and crops an upright photo as the backbone's weights expect, in training and in use. Imports no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sagehound.inference.decode import read_photo
from sagehound.inference.headers import JpegScans

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing that the weights expect; stored with the model."""

    size: tuple[int, int]  # height and width of the input, pixels
    resize: int  # short side before the centre crop, pixels; 0: the whole photo is squashed
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
            ValueError, KeyError, TypeError, OverflowError: a value is missing or wrong.
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
        """Pixels of a photo's short side that are enough for ``centre``."""
        return self.resize or max(self.size)

    @property
    def resampling(self) -> Image.Resampling:
        """Pillow's constant for ``interpolation``."""
        return Image.Resampling[self.interpolation.upper()]


def centre(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Resize the short side and crop the centre, as torchvision's Resize and CenterCrop.

    Only the crop is resized; one of a thousand values then differs by 1 of 255.
    """
    height, width = preprocessing.size
    if not preprocessing.resize:
        return image.resize((width, height), preprocessing.resampling)
    w, h = _resized(image, preprocessing)
    left, top = round((w - width) / 2), round((h - height) / 2)
    # the visible part of the resized photo: some weights expect a margin around it
    a, b, c, d = max(left, 0), max(top, 0), min(left + width, w), min(top + height, h)
    x, y = image.width / w, image.height / h
    seen = image.resize((c - a, d - b), preprocessing.resampling, (a * x, b * y, c * x, d * y))
    if seen.size == (width, height):
        return seen
    whole = Image.new("RGB", (width, height))
    whole.paste(seen, (a - left, b - top))
    return whole


def shrink(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """The whole photo, no larger than ``centre`` needs it, for a cache of photos."""
    w, h = _resized(image, preprocessing) if preprocessing.resize else preprocessing.size[::-1]
    return image.resize((w, h), preprocessing.resampling) if image.width > w or image.height > h else image


def _resized(image: Image.Image, preprocessing: Preprocessing) -> tuple[int, int]:
    """Width and height of the photo when its short side is ``to.resize``."""
    short = min(image.size)
    w, h = (max(int(preprocessing.resize * side / short), preprocessing.resize) for side in image.size)
    return w, h


def to_pixels(image: Image.Image) -> Pixels:
    """An RGB photo as uint8, height x width x channel."""
    return np.asarray(image)


def prepare(
    source: Path | bytes,
    preprocessing: Preprocessing,
    max_pixels: int | None = None,
    scans: JpegScans | None = None,
) -> Pixels:
    """Read a photo's file or bytes, and preprocess it; uint8, height x width x channel.

    ``scans`` are those of a JPEG, if they were counted already.

    Raises:
        BadPhoto: it cannot be read completely.
        TooManyPixels: it has more than ``max_pixels``.
    """
    return to_pixels(centre(read_photo(source, preprocessing.short_side, max_pixels, scans), preprocessing))
