"""Brightness, contrast, sharpness and size of one photo, as the model gets it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sagehound.inference.decode import read_photo, upright_size
from sagehound.inference.preprocessing import Pixels, Preprocessing, centre, to_pixels

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of R, G and B: ITU-R BT.601, as Pillow's convert("L")


@dataclass(frozen=True)
class PhotoMeasures:
    """The measures of one photo.

    Attributes:
        brightness: mean of the grey values, from 0 (black) to 1 (white).
        contrast: standard deviation of the grey values, 0 to 0.5: the RMS contrast of Peli, "Contrast in complex
            images", J. Opt. Soc. Am. A 7 (1990).
        sharpness: variance of the Laplacian (Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR
            2000), divided by the variance of the grey values, so that it does not depend on brightness and contrast;
            blurred photos have a small one.
        width, height: of the file, upright, in pixels.
    """

    brightness: float
    contrast: float
    sharpness: float
    width: int
    height: int


def measure(content: bytes, preprocessing: Preprocessing) -> tuple[Pixels, PhotoMeasures]:
    """Read a photo's file and measure it; returns the pixels that the model gets, h x w x 3, and the measures.

    All but the size is measured on the pixels that the model gets, so that it does not depend on the camera's
    resolution.

    Raises:
        BadPhoto: the photo cannot be read completely.
    """
    pixels = to_pixels(centre(read_photo(content, preprocessing.short_side), preprocessing))
    grey = pixels.astype(np.float32) @ _LUMA
    width, height = upright_size(content)
    variance = float(grey.var())
    sharpness = float(_laplacian(grey).var()) / variance if variance else 0.0
    return pixels, PhotoMeasures(float(grey.mean()) / 255, float(grey.std()) / 255, sharpness, width, height)


def _laplacian(grey: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The four neighbours' sum minus four times the pixel, without the border: h-2 x w-2."""
    neighbours = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return neighbours - 4 * grey[1:-1, 1:-1]
