"""From a file to an upright RGB photo; the one way in for training, evaluation and serving. Imports no torch."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile

from sagehound.errors import InputError

# Pillow refuses twice as many (a decompression bomb) and warns from here on; below that bound a photo is only large.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

# of a broken EXIF block and the like: what matters is raised
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
logging.getLogger("PIL").setLevel(logging.CRITICAL)

# half a photo is worse than none: other libraries switch this on for the whole process
ImageFile.LOAD_TRUNCATED_IMAGES = False

# what puts a photo of each EXIF orientation upright
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_LARGE = 12_000_000  # pixels; what most cameras make is below
_MOST_SCANS = 100  # of a progressive JPEG; cameras and editors make ten
_LONGEST = 65_535  # pixels of a side, as in JPEG; Pillow keeps an address for every row
# what cameras and browsers write; Pillow knows many more, some of which start other programs
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


class BadPhoto(InputError):
    """A photo that cannot be read whole; the message is the reason."""

    @property
    def truncated(self) -> bool:
        """Whether the file merely ends too early."""
        return "truncated" in str(self).lower()


class TooManyPixels(BadPhoto):
    """A photo larger than the caller wants to decode."""


def open_photo(content: bytes, short_side: int | None = None, max_pixels: int | None = None) -> Image.Image:
    """Decode a photo as it is stored: its own mode, not yet turned; info["sixteen_bit"] tells of deep colours.

    Args:
        content: of the file.
        short_side: pixels that are enough. A JPEG is then decoded at 1/2, 1/4 or 1/8 of its size where that leaves so
            many, which a large photo is several times faster; every byte of the file is still read.
        max_pixels: width x height that is not decoded any more, of a photo that may be anybody's; no TIFF is then read.

    Raises:
        BadPhoto: it is no photo, ends too early, or would need more than 179 megapixels.
        TooManyPixels: it has more than ``max_pixels``.
    """
    if not content:
        raise BadPhoto("empty file")
    if content.startswith(b"\xff\xd8") and _markers(content, 0xDA) > _MOST_SCANS:
        raise BadPhoto(f"more than {_MOST_SCANS} scans")  # each costs milliseconds and needs but ten bytes
    with _foreign():
        # a TIFF of few pixels may hold a tile of billions
        image = Image.open(io.BytesIO(content), formats=FORMATS[:-1] if max_pixels else FORMATS)
        if max_pixels and (image.width * image.height > max_pixels or max(image.size) > _LONGEST):
            raise TooManyPixels(f"{image.width} x {image.height} pixels, more than {max_pixels / 1e6:g} megapixels")
        image.info["sixteen_bit"] = _sixteen_bit(image)
        if short_side:
            image.draft(None, (short_side, short_side))
        image.load()
    return image


def _sixteen_bit(image: Image.Image) -> bool:
    """Whether the file holds 16 bits a colour, of which Pillow keeps 8 and forgets the rest once it is loaded."""
    arguments = [tile[3] if isinstance(tile[3], tuple) else (tile[3],) for tile in getattr(image, "tile", ())]
    return any("16" in rawmode for rawmode, *_ in arguments if isinstance(rawmode, str))


def _markers(jpeg: bytes, code: int) -> int:
    """How often a marker stands in a JPEG; bytes.count would take five times as long."""
    values = np.frombuffer(jpeg, np.uint8)
    return int(np.count_nonzero((values[:-1] == 0xFF) & (values[1:] == code)))


def is_large(photo: Path | bytes) -> bool:
    """Whether a photo takes hundreds of megabytes to decode, by its head; a plain JPEG is decoded smaller."""
    if isinstance(photo, bytes) and photo.startswith(b"\xff\xd8") and not _markers(photo, 0xC2):
        return False
    with suppress(Exception):
        source = io.BytesIO(photo) if isinstance(photo, bytes) else photo
        with Image.open(source, formats=FORMATS) as image:
            plain = image.format == "JPEG" and not image.info.get("progressive")
            return not plain and image.width * image.height > _LARGE
    return False


@contextmanager
def _foreign() -> Iterator[None]:
    """Broken files raise anything at all in Pillow's readers, TypeError and KeyError among it; here it is BadPhoto."""
    try:
        yield
    except BadPhoto:
        raise
    except Image.UnidentifiedImageError as error:
        raise BadPhoto("not an image file") from error
    except Image.DecompressionBombError as error:
        raise TooManyPixels(str(error)) from error
    except Exception as error:
        raise BadPhoto(str(error) or type(error).__name__) from error


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) to 8; 1 where there is none or the EXIF data is broken."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # as in _foreign; a photo without its orientation is still a photo
        return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn a photo upright and into 8-bit RGB; transparent parts become white.

    Raises:
        BadPhoto: its pixels are no colours.
    """
    with _foreign():
        turn = _TURNS.get(orientation(image))
        if turn is not None:
            image = image.transpose(turn)
        if image.mode == "F":
            raise BadPhoto("floating-point pixels, whose range is unknown")
        if image.mode.startswith("I"):  # 16 bits a pixel: Pillow's own conversion would cut at 255 instead of scaling
            image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            ground = Image.new("RGB", image.size, "white")
            ground.paste(image, mask=image.getchannel("A"))
            image = ground
        return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def read_photo(source: Path | bytes, short_side: int | None = None, max_pixels: int | None = None) -> Image.Image:
    """Read a file, or its bytes, as an upright 8-bit RGB photo of at least ``short_side`` pixels, if it has so many.

    Raises:
        BadPhoto: the file cannot be read, or not whole.
        TooManyPixels: it has more than ``max_pixels``.
    """
    try:
        content = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        raise BadPhoto(error.strerror or str(error)) from error
    return to_rgb(open_photo(content, short_side, max_pixels))
