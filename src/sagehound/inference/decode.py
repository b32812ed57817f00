"""Reads a file as an upright RGB photo, for training, evaluation and serving. Imports no torch."""

import ctypes
import io
import logging
import stat
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from PIL import ExifTags, Image, ImageFile, features

from sagehound.inference import headers
from sagehound.inference.boxes import is_heif
from sagehound.inference.headers import JpegScans
from sagehound.inference.input_errors import InputError

# Pillow warns from this size on, and refuses twice as many pixels (a decompression bomb).
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

# warnings of a broken EXIF block and the like; errors are raised
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
logging.getLogger("PIL").setLevel(logging.CRITICAL)

# never accept half a photo; other libraries switch this on for the whole process
ImageFile.LOAD_TRUNCATED_IMAGES = False

# the operation that makes a photo of each EXIF orientation upright
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_JPEG_SPEED = 10  # a plain JPEG takes 2.5 ns a pixel, because it is decoded smaller; PNG and WebP take 24 to 40
_JPEG2000_SLOWNESS = 4  # it takes 150 ns a pixel
_MOST_SCANS = 100  # scans of a progressive JPEG; cameras and editors write ten
_MOST_PIXELS = 178_956_970  # Pillow's own limit
_MOST_BYTES = 2**31  # bytes of a file; the same number of pixels with 16 bits and four channels needs fewer
_LONGEST = 65_535  # pixels of a side, as in JPEG; Pillow keeps an address for every row
# formats of cameras and browsers; some of Pillow's other readers start programs
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000")
_OPTIONAL = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}  # Pillow can be built without them


class BadPhoto(InputError):
    """A photo that cannot be read completely; the message is the reason."""

    @property
    def truncated(self) -> bool:
        """Whether the file ends too early."""
        return "truncated" in str(self).lower()


class NoDecoder(BadPhoto):
    """A photo in a format whose decoder is not installed."""


class TooManyPixels(BadPhoto):
    """A photo larger than the caller wants to decode."""


def open_photo(
    content: bytes, short_side: int | None = None, max_pixels: int | None = None, scans: JpegScans | None = None
) -> Image.Image:
    """Decode a photo as it is stored: its own mode, not rotated. info["sixteen_bit"] marks 16-bit colours.

    Args:
        content: of the file.
        short_side: pixels that are enough. A large JPEG is then decoded at 1/2, 1/4 or 1/8 of its size, which is
            several times faster; every byte of the file is still read.
        max_pixels: largest width x height, for photos of unknown origin.
        scans: of this JPEG, if they were counted already.

    Raises:
        BadPhoto: it is not a photo, ends too early, or has more than 179 megapixels.
        TooManyPixels: it has more than ``max_pixels``, or its decoder needs memory for more.
    """
    if not content:
        raise BadPhoto("empty file")
    if content.startswith(b"\xff\xd8"):
        scans = scans or headers.jpeg_scans(content)
        if scans.scans > _MOST_SCANS:
            raise BadPhoto(f"more than {_MOST_SCANS} scans")  # a scan costs milliseconds but only ten bytes
        if not scans.complete:
            raise BadPhoto("a JPEG of too many segments")
    with _foreign():
        held, most = headers.decoded_pixels(content), max_pixels or _MOST_PIXELS
        if held > most:
            raise TooManyPixels(f"decoding needs {held:,} pixels, more than {most / 1e6:g} megapixels")
        image = Image.open(io.BytesIO(content), formats=_formats(content))
        if max_pixels and (image.width * image.height > max_pixels or max(image.size) > _LONGEST):
            raise TooManyPixels(f"{image.width} x {image.height} pixels, more than {max_pixels / 1e6:g} megapixels")
        image.info["sixteen_bit"] = _sixteen_bit(image)
        if short_side and content.startswith(b"\xff\xd8"):  # a draft of a HEIC would be its thumbnail
            image.draft(None, (short_side, short_side))
            image.decodermaxblock = len(content)  # in one call, not in one for each 64 KB
        image.load()
    return image


def _formats(content: bytes) -> tuple[str, ...]:
    """The formats that Pillow may read.

    Raises:
        NoDecoder: it is a HEIC, and pillow-heif is not installed, or Pillow was built without this format.
    """
    if content.startswith((b"II", b"MM")):
        _silence_libtiff()
    if not is_heif(content):
        kind = headers.kind_of(content)
        if kind in _OPTIONAL and not features.check(_OPTIONAL[kind]):
            raise NoDecoder(f"a photo in {kind}, which this machine's Pillow cannot read: pip install -U pillow")
        return FORMATS
    try:
        import pillow_heif  # imported here: it takes a tenth of a second
    except ImportError as error:
        raise NoDecoder("a HEIC or HEIF photo, which needs pillow-heif: pip install 'sagehound[heif]'") from error
    if "HEIF" not in Image.OPEN:
        pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return ("HEIF",)


def decoder_versions(files: Iterable[Path]) -> dict[str, str]:
    """Versions of the decoders of these files, for cache keys; pillow-heif's only if there are HEIC files.

    So an update of pillow-heif does not invalidate the cache of a set without HEIC files.
    """
    versions = {"pillow": PIL.__version__}
    if any(file.suffix.lower() in (".heic", ".heif", ".hif") for file in files):
        with suppress(metadata.PackageNotFoundError):  # a file with this suffix may be a JPEG
            versions["pillow-heif"] = metadata.version("pillow-heif")
    return versions


@cache
def _silence_libtiff() -> None:
    """Keep libtiff from printing to stderr; Pillow raises its errors."""
    with suppress(OSError, AttributeError):  # a Pillow with libtiff inside
        library = ctypes.CDLL(Image.core.__file__)  # its symbols include those of its libraries
        library.TIFFSetWarningHandler(None)
        library.TIFFSetErrorHandler(None)


def _sixteen_bit(image: Image.Image) -> bool:
    """Whether colours have 16 bits. Pillow keeps 8 of them, and forgets this after loading."""
    arguments = [tile[3] if isinstance(tile[3], tuple) else (tile[3],) for tile in getattr(image, "tile", ())]
    return any("16" in rawmode for rawmode, *_ in arguments if isinstance(rawmode, str))


class Cost(NamedTuple):
    """What decoding a photo needs; 0 for a file that is refused."""

    held: int  # pixels in memory at once; 0 for a plain JPEG, which is decoded smaller
    work: int  # the pixels of a PNG that takes as long
    scans: JpegScans | None = None  # of a JPEG


def cost(content: bytes) -> Cost:
    """What decoding a photo needs, by its header."""
    if content.startswith(b"\xff\xd8"):
        scans = headers.jpeg_scans(content)
        held, work = (scans.pixels, scans.pixels) if scans.progressive else (0, scans.pixels // _JPEG_SPEED)
        return Cost(held, work, scans)
    with suppress(Exception), Image.open(io.BytesIO(content), formats=_formats(content)) as image:
        pixels = max(image.width * image.height, headers.decoded_pixels(content))
        return Cost(pixels, pixels * (_JPEG2000_SLOWNESS if image.format == "JPEG2000" else 1))
    return Cost(0, 0)


@contextmanager
def _foreign() -> Iterator[None]:
    """Turn any error of Pillow's readers into BadPhoto; broken files raise TypeError, KeyError and others."""
    try:
        yield
    except BadPhoto:
        raise
    except Image.UnidentifiedImageError as error:
        raise BadPhoto("not an image file") from error
    except Image.DecompressionBombError as error:
        raise TooManyPixels(str(error)) from error
    except Exception as error:
        reason = str(error) or type(error).__name__
        # Pillow's "3 bytes not processed" counts the rest of its buffer, not the missing bytes
        early = "truncated" in reason.lower()
        raise BadPhoto("the file ends too early (truncated)" if early else reason) from error


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) to 8; 1 if it is missing or broken."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # as in _foreign; a photo without orientation is usable
        return 1


def upright_size(content: bytes) -> tuple[int, int]:
    """Width and height of an upright photo, in pixels, from its header.

    Raises:
        BadPhoto: it is not a photo.
    """
    with _foreign(), Image.open(io.BytesIO(content), formats=_formats(content)) as image:
        width, height = image.size
        return (height, width) if orientation(image) >= 5 else (width, height)


def to_rgb(image: Image.Image) -> Image.Image:
    """Rotate a photo upright and convert it to 8-bit RGB; transparent parts become white.

    Raises:
        BadPhoto: its pixels are not colours.
    """
    with _foreign():
        turn = _TURNS.get(orientation(image))
        if turn is not None:
            image = image.transpose(turn)
        if image.mode == "F":
            raise BadPhoto("floating-point pixels, whose range is unknown")
        if image.mode.startswith("I"):  # 16 bits: Pillow's conversion would clip at 255 instead of scaling
            image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            ground = Image.new("RGB", image.size, "white")
            ground.paste(image, mask=image.getchannel("A"))
            image = ground
        return image if image.mode == "RGB" else image.convert("RGB")  # convert() would copy it


def file_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        BadPhoto: it cannot be read, or is a named pipe, socket or device, whose content may never end.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadPhoto("no file but a folder, named pipe, socket or device")
        if status.st_size > _MOST_BYTES:
            raise BadPhoto(f"a file of {status.st_size / 1e9:.1f} GB")
        return path.read_bytes()
    except OSError as error:
        raise BadPhoto(error.strerror or str(error)) from error


def read_photo(
    source: Path | bytes,
    short_side: int | None = None,
    max_pixels: int | None = None,
    scans: JpegScans | None = None,
) -> Image.Image:
    """Read a file or its bytes as an upright 8-bit RGB photo with at least ``short_side`` pixels, if it has them.

    Raises:
        BadPhoto: the file cannot be read completely.
        TooManyPixels: it has more than ``max_pixels``.
    """
    content = source if isinstance(source, bytes) else file_bytes(source)
    return to_rgb(open_photo(content, short_side, max_pixels, scans))
