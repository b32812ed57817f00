"""From a file to an upright RGB photo; the one way in for training, evaluation and serving. Imports no torch."""

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

import numpy as np
import PIL
from PIL import ExifTags, Image, ImageFile

from sagehound.inference import headers
from sagehound.inference.boxes import is_heif
from sagehound.inference.errors import InputError

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
_MOST_PIXELS = 178_956_970  # from which on Pillow refuses by itself
_MOST_BYTES = 2**31  # of a file; as many pixels with 16 bits for each of four channels are less
_LONGEST = 65_535  # pixels of a side, as in JPEG; Pillow keeps an address for every row
# what cameras and browsers write; Pillow knows many more, some of which start other programs
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000")


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
        max_pixels: width x height that is not decoded any more, of a photo that may be anybody's.

    Raises:
        BadPhoto: it is no photo, ends too early, or would need more than 179 megapixels.
        TooManyPixels: it has more than ``max_pixels``, or makes a decoder hold more.
    """
    if not content:
        raise BadPhoto("empty file")
    if content.startswith(b"\xff\xd8") and headers.jpeg_scans(content).scans > _MOST_SCANS:
        raise BadPhoto(f"more than {_MOST_SCANS} scans")  # each costs milliseconds and needs but ten bytes
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
        image.load()
    return image


def _formats(content: bytes) -> tuple[str, ...]:
    """What Pillow may take a file for.

    Raises:
        BadPhoto: it is a HEIC, and pillow-heif is not installed.
    """
    if content.startswith((b"II", b"MM")):
        _silence_libtiff()
    if not is_heif(content):
        return FORMATS
    try:
        import pillow_heif  # only now: it takes a tenth of a second
    except ImportError as error:
        raise BadPhoto("a HEIC or HEIF photo, which needs pillow-heif: pip install 'sagehound[heif]'") from error
    if "HEIF" not in Image.OPEN:
        pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return ("HEIF",)


def decoder_versions(files: Iterable[Path]) -> dict[str, str]:
    """The versions of what decodes these files, for the keys of caches; pillow-heif's where a suffix is HEIC's.

    A set without HEIC photos is then not computed again because pillow-heif was installed or updated.
    """
    versions = {"pillow": PIL.__version__}
    if any(file.suffix.lower() in (".heic", ".heif", ".hif") for file in files):
        with suppress(metadata.PackageNotFoundError):  # what bears the suffix may be a JPEG
            versions["pillow-heif"] = metadata.version("pillow-heif")
    return versions


@cache
def _silence_libtiff() -> None:
    """Keep libtiff from printing warnings and errors to stderr; Pillow raises what matters."""
    with suppress(OSError, AttributeError):  # a Pillow with libtiff inside
        library = ctypes.CDLL(Image.core.__file__)  # whose symbols include those of the libraries that it loads
        library.TIFFSetWarningHandler(None)
        library.TIFFSetErrorHandler(None)


def _sixteen_bit(image: Image.Image) -> bool:
    """Whether the file holds 16 bits a colour, of which Pillow keeps 8 and forgets the rest once it is loaded."""
    arguments = [tile[3] if isinstance(tile[3], tuple) else (tile[3],) for tile in getattr(image, "tile", ())]
    return any("16" in rawmode for rawmode, *_ in arguments if isinstance(rawmode, str))


def is_large(content: bytes) -> bool:
    """Whether a photo takes hundreds of megabytes to decode, by its head; a plain JPEG is decoded smaller."""
    if content.startswith(b"\xff\xd8") and not headers.jpeg_scans(content).progressive:
        return False
    with suppress(Exception), Image.open(io.BytesIO(content), formats=_formats(content)) as image:
        return max(image.width * image.height, headers.decoded_pixels(content)) > _LARGE
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
        reason = str(error) or type(error).__name__
        # Pillow's "3 bytes not processed" counts what is left in its buffer, not what is missing
        early = "truncated" in reason.lower()
        raise BadPhoto("the file ends too early (truncated)" if early else reason) from error


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


def file_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        BadPhoto: it cannot be read, or is no file but a named pipe, socket or device, whose content may never end.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise BadPhoto("no file but a folder, named pipe, socket or device")
        if found.st_size > _MOST_BYTES:
            raise BadPhoto(f"a file of {found.st_size / 1e9:.1f} GB")
        return path.read_bytes()
    except OSError as error:
        raise BadPhoto(error.strerror or str(error)) from error


def read_photo(source: Path | bytes, short_side: int | None = None, max_pixels: int | None = None) -> Image.Image:
    """Read a file, or its bytes, as an upright 8-bit RGB photo of at least ``short_side`` pixels, if it has so many.

    Raises:
        BadPhoto: the file cannot be read, or not whole.
        TooManyPixels: it has more than ``max_pixels``.
    """
    content = source if isinstance(source, bytes) else file_bytes(source)
    return to_rgb(open_photo(content, short_side, max_pixels))
