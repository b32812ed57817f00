"""The measures of a photo."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from sagehound.inference.preprocessing import Preprocessing
from sagehound.monitoring.photo_measures import PhotoMeasures, measure

SQUARE = Preprocessing((64, 64), 64, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NOISE = Image.fromarray(np.random.default_rng(0).integers(60, 200, (64, 64, 3), np.uint8))


def measured(image: Image.Image, orientation: int = 1) -> PhotoMeasures:
    content = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(content, "PNG", exif=exif)
    return measure(content.getvalue(), SQUARE)[1]


def test_values_that_are_known() -> None:
    grey = np.zeros((64, 64), np.uint8)
    grey[:, ::2] = 255  # the Laplacian is +510 and -510, the variance of the grey values 127.5^2
    stripes = measured(Image.fromarray(grey))
    assert stripes.brightness == pytest.approx(0.5)
    assert stripes.contrast == pytest.approx(0.5)
    assert stripes.sharpness == pytest.approx(510**2 / 127.5**2)
    blank = measured(Image.new("RGB", (64, 64), (255, 0, 0)))
    assert (blank.brightness, blank.contrast, blank.sharpness) == (pytest.approx(0.299), pytest.approx(0, abs=1e-6), 0)


def test_each_change_moves_its_own_measure() -> None:
    before = measured(NOISE)
    dark, blurred = (
        measured(ImageEnhance.Brightness(NOISE).enhance(0.5)),
        measured(NOISE.filter(ImageFilter.BoxBlur(1))),
    )
    assert dark.brightness == pytest.approx(before.brightness / 2, rel=0.02)
    assert dark.sharpness == pytest.approx(before.sharpness, rel=0.02), "a dark photo is not blurred"
    assert blurred.brightness == pytest.approx(before.brightness, rel=0.01)
    assert blurred.sharpness < before.sharpness / 2


def test_the_size_is_that_of_the_upright_file() -> None:
    tall = measured(Image.new("RGB", (300, 100)), orientation=6)
    assert (tall.width, tall.height) == (100, 300)
