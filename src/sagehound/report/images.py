"""Photos for a report as small JPEG files in data URIs."""

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from sagehound.inference.decode import BadPhoto, read_photo

SIDE = 160  # pixels of the longer side
_QUALITY = 75


@dataclass(frozen=True)
class Tile:
    """A photo of the page.

    Attributes:
        source: the photo as a data URI; empty if it cannot be read.
        heat: the same photo with what the model looked at; empty without one.
        lines: what is written under it.
        alt: a description.
    """

    source: str
    lines: list[str]
    alt: str
    heat: str = ""


def thumbnail(path: Path) -> str:
    """A photo as a data URI; empty if it cannot be read."""
    try:
        photo = read_photo(path, short_side=SIDE)
    except (BadPhoto, OSError):
        return ""
    photo.thumbnail((SIDE, SIDE))
    return uri(photo)


def uri(photo: Image.Image) -> str:
    """An image as a data URI of a JPEG file."""
    content = io.BytesIO()
    photo.convert("RGB").save(content, format="JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def overlay(pixels: npt.NDArray[np.uint8], heat: npt.NDArray[np.float32]) -> Image.Image:
    """Draw a heat map over a photo.

    Args:
        pixels: h x w x 3.
        heat: any height and width, from 0 to 1; red is 1.
    """
    from matplotlib import colormaps

    size = (pixels.shape[1], pixels.shape[0])
    smooth = Image.fromarray((255 * heat).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    coloured = (255 * colormaps["turbo"](np.asarray(smooth))[..., :3]).astype(np.uint8)
    return Image.blend(Image.fromarray(pixels), Image.fromarray(coloured), 0.45)


def tiles(root: Path | None, photos: Iterable[tuple[str, list[str]]]) -> list[Tile]:
    """A tile for each file with its lines; without the photos' folder, only the lines."""
    return [
        Tile(thumbnail(root / file) if root else "", lines, f"photo {file}: {'; '.join(lines)}")
        for file, lines in photos
    ]
