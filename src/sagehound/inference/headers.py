"""Reads from a photo's header how much memory its decoder needs. Imports no Pillow.

Some formats give a size twice: once for readers, and once for the decoder. A hostile file gives a small size first and
a huge one second, or makes the decoder allocate memory for millions of parts.
"""

import re
import struct
from typing import NamedTuple

from sagehound.inference.boxes import avif_pixels, boxes, heif_pixels, is_avif, is_heif

_MAGIC = (  # first bytes of a file, and Pillow's name of its format
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    *((mark, "TIFF") for mark in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),  # + is a BigTIFF
    *((mark, "JPEG2000") for mark in (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")),
)
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")  # markers that libjpeg acts on
_SEGMENTS = 10_000  # of a JPEG; a photo has less than a thousand, 25 MB may have six million, which take 9 s to read
_WINDOW = 2**20  # bytes that are searched at once; 25 MB of 0xff take 0.6 s

_TIFF_TAGS = 4_096  # tags of a photo; cameras and editors write less than a hundred
_TIFF_VALUES = 2**20  # bytes of all tags with numbers; 50 megapixels in tiles of 16 x 16 pixels need 400,000
_TIFF_TILE = 16  # smallest side of a tile, in pixels: TIFF 6.0, section 15, allows its multiples
_NUMBERS = {3: "H", 4: "I", 16: "Q"}  # SHORT, LONG and, in a BigTIFF, LONG8
_BYTES = (1, 2, 6, 7)  # types whose values are single bytes: text, colour profiles, ...

_J2K_TILES = 10_000  # OpenJPEG allocates 8 KB for each
_J2K_BLOCKS = 2**20  # OpenJPEG allocates 420 bytes for each code-block, even an empty one
_J2K_PACKETS = 2**25  # precincts x layers, 2 bytes for each
_J2K_PARTS = 65_535  # tile-parts


def kind_of(content: bytes) -> str | None:
    """Pillow's name of the format, by the first bytes of a file; None if it is not a photo."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if is_avif(content):
        return "AVIF"
    if is_heif(content):
        return "HEIF"
    return next((name for magic, name in _MAGIC if content.startswith(magic)), None)


class JpegScans(NamedTuple):
    """How a JPEG is coded."""

    scans: int  # passes over the photo's pixels
    progressive: bool
    pixels: int = 0  # width x height
    complete: bool = True  # false: it has so many segments that the others were not read


def jpeg_scans(content: bytes) -> JpegScans:
    """Count the scans of a JPEG up to its end of image. Data after it, such as a phone's video, is ignored.

    Segments are skipped by their length, so the thumbnail in the EXIF data, also a JPEG, is not counted.
    """
    at, count, progressive, pixels = 2, 0, False, 0
    for _ in range(_SEGMENTS):
        at = _next_marker(content, at)
        code = content[at - 1] if at else 0xD9
        if code == 0xD9:
            return JpegScans(count, progressive, pixels)
        count += code == 0xDA
        progressive |= code == 0xC2
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):  # a frame: length, bits, height, width
            pixels = max(pixels, int.from_bytes(content[at + 3 : at + 5]) * int.from_bytes(content[at + 5 : at + 7]))
        if code != 0xD8:
            at += int.from_bytes(content[at : at + 2])
    return JpegScans(count, progressive, pixels, complete=False)


def _next_marker(content: bytes, at: int) -> int:
    """Where the next marker ends; 0: there is none. Other threads run between the windows."""
    while at < len(content):
        if match := _MARKER.search(content, at, at + _WINDOW):
            return match.end()
        at += _WINDOW - 1
    return 0


def decoded_pixels(content: bytes) -> int:
    """The number of pixels that the decoder of a TIFF, JPEG 2000, AVIF or HEIC holds at once; 0 for other files.

    Raises:
        ValueError: the header is broken, contradicts itself, or makes the decoder use much memory for few pixels.
    """
    try:
        if content.startswith((b"II", b"MM")):
            return _tiff(content)
        if content.startswith(b"\xff\x4f\xff\x51"):
            return _codestream(content)
        if content.startswith(b"\0\0\0\x0cjP  "):
            return max((_codestream(content[a:b]) for kind, a, b in boxes(content) if kind == b"jp2c"), default=0)
        if content[4:8] == b"ftyp":
            return heif_pixels(content) if is_heif(content) else avif_pixels(content)
    except (struct.error, IndexError) as error:
        raise ValueError("truncated header") from error
    return 0


def _tiff(content: bytes) -> int:
    """Pillow limits only the photo's size, but libtiff allocates memory for a whole tile."""
    order, big = "<" if content.startswith(b"II") else ">", content.startswith(b"II+")
    if content[:4] not in (b"II*\0", b"II+\0", b"MM\0*"):  # Pillow and libtiff read other types differently
        raise ValueError("not an image file")
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), content, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), content, at)
    at += 8 if big else 2
    if count > _TIFF_TAGS:
        raise ValueError(f"a TIFF of {count} tags")
    entry, inline = struct.Struct(order + ("HHQ" if big else "HHI")), 8 if big else 4
    known: dict[int, int] = {}
    values = 0
    for _ in range(count):
        tag, kind, length = entry.unpack_from(content, at)
        if tag in known:
            raise ValueError(f"a TIFF with tag {tag} twice")  # Pillow uses one of them and libtiff the other
        number = _NUMBERS.get(kind, "") if length == 1 else ""
        scalar = number and struct.calcsize(order + number) <= inline
        known[tag] = struct.unpack_from(order + number, content, at + entry.size)[0] if scalar else -1
        values += 0 if kind in _BYTES else length
        at += entry.size + inline
    if values > _TIFF_VALUES:
        raise ValueError(f"a TIFF whose tags hold {values} values")
    width, height = known.get(256, -1), known.get(257, -1)
    across, down = known.get(322, width), known.get(323, height)
    if min(width, height, across, down) < 1 or (322 in known) != (323 in known):
        raise ValueError("a TIFF whose size cannot be read")
    if 322 in known and min(across, down) < _TIFF_TILE:
        raise ValueError(f"a TIFF of tiles of {across} x {down} pixels")
    return int(-(-width // across) * across * -(-height // down) * down)


def _codestream(content: bytes) -> int:
    """A JPEG 2000 codestream (ISO 15444-1, annex A): tiles, code-blocks and layers each need memory."""
    right, below, left, top, tile_w, tile_h, tile_x, tile_y, channels = struct.unpack_from(">8IH", content, 8)
    width, height = int(right - left), int(below - top)
    if min(width, height, tile_w, tile_h, channels) < 1 or tile_x > left or tile_y > top:
        raise ValueError("a JPEG 2000 whose size cannot be read")
    tiles = -(-(right - tile_x) // tile_w) * -(-(below - tile_y) // tile_h)
    if channels > 4 or tiles > _J2K_TILES:
        raise ValueError(f"a JPEG 2000 of {channels} channels and {tiles} tiles")
    at, parts, ends, layers = 2, 0, len(content), 1
    while at + 2 <= len(content):
        (marker,) = struct.unpack_from(">H", content, at)
        if marker == 0xFFD9:
            break
        if marker == 0xFF93:  # the tile-part's data begins
            at = ends
            continue
        (length,) = struct.unpack_from(">H", content, at + 2)
        if marker == 0xFF90:
            (size,) = struct.unpack_from(">I", content, at + 6)
            ends = at + size if size else len(content)
            parts += 1
            if ends < at + 14 or parts > _J2K_PARTS:
                raise ValueError("a JPEG 2000 whose tile-parts cannot be read")
        elif marker in (0xFF52, 0xFF53):
            segment = content[at + 4 : at + 2 + length]
            if marker == 0xFF52:
                layers = max(layers, int.from_bytes(segment[2:4]))
            style = segment[:1] + segment[5:] if marker == 0xFF52 else segment[1:]
            _coding_style(style, width, height, channels, layers)
        elif marker < 0xFF00 or length < 2:
            raise ValueError("a JPEG 2000 whose header cannot be read")
        at += 2 + length
    return width * height


def _coding_style(style: bytes, width: int, height: int, channels: int, layers: int) -> None:
    """Sum up the code-blocks and precincts of all resolutions."""
    own, levels, block_w, block_h = style[0] & 1, style[1], (style[2] & 15) + 2, (style[3] & 15) + 2
    blocks = precincts = 0
    for i in range(min(levels, 32) + 1):
        w, h = (-(-side >> (levels - i)) or 1 for side in (width, height))
        area_w, area_h = (style[6 + i] & 15, style[6 + i] >> 4) if own else (15, 15)
        block = min(block_w, max(area_w - (i > 0), 0)), min(block_h, max(area_h - (i > 0), 0))
        precincts += -(-w >> area_w) * -(-h >> area_h)
        blocks += -(-w >> block[0]) * -(-h >> block[1])
    if blocks * channels > _J2K_BLOCKS or precincts * channels * layers > _J2K_PACKETS:
        raise ValueError(f"a JPEG 2000 of {blocks * channels} code-blocks and {layers} layers")
