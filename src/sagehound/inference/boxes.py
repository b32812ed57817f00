"""Sizes of the pictures in a HEIC or AVIF file, which consists of boxes; see headers.py."""

import struct
from collections import Counter
from collections.abc import Callable, Iterator

_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1"}
_AVIF = {b"avif", b"avis"}
_BOXES = 10_000  # boxes at one level; cameras write less than a hundred
_AV1_UNITS = 10_000  # pictures in a file; a photo has a few


def is_heif(content: bytes) -> bool:
    """Whether the file is a HEIC or HEIF, not an AVIF, which has the same container."""
    return bool(_brands(content) & _HEIF) and not is_avif(content)


def is_avif(content: bytes) -> bool:
    """Whether the file is an AVIF."""
    return bool(_brands(content) & _AVIF)


def _brands(content: bytes) -> set[bytes]:
    """The brands that the file says it conforms to: ISO 14496-12, section 4.3."""
    if content[4:8] != b"ftyp":
        return set()
    return {content[at : at + 4] for at in (8, *range(16, min(int.from_bytes(content[:4]), 256), 4))}


def boxes(content: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """The boxes of ISO 14496-12, section 4.2, or of JPEG 2000: type, start and end of the body."""
    end, count = len(content) if end is None else end, 0
    while start + 8 <= end:
        count += 1
        size, kind = struct.unpack_from(">I4s", content, start)
        body = start + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", content, body)
            body += 8
        after = end if size == 0 else start + size
        if after < body or count > _BOXES:
            raise ValueError("boxes whose sizes cannot be read")
        yield kind, body, min(after, end)
        start = after


def heif_pixels(content: bytes) -> int:
    """The pixels of the largest picture, or an eighth of the pixels of all tiles, if that is more.

    A small photo may consist of huge tiles, or of one tile many times. Libheif verifies the size of a coded picture, so
    the sizes in the file are counted here. A phone's photo has two or three times its pixels in parts, because it also
    holds a gain map and a depth map.

    Raises:
        ValueError: a picture that consists of tiles is used as a tile more than once.
    """
    largest = total = 0
    for _, start, end in (box for box in boxes(content) if box[0] == b"meta"):
        inside = list(boxes(content, start + 4, end))
        properties = [box for kind, a, b in inside if kind == b"iprp" for box in boxes(content, a, b)]
        listed = [box for kind, a, b in properties if kind == b"ipco" for box in boxes(content, a, b)]
        sizes = [_pixels(content, a) if kind == b"ispe" else 0 for kind, a, _ in listed]
        largest = max([largest, *sizes])
        of_item: dict[int, int] = {}
        for item, index in (pair for kind, a, _ in properties if kind == b"ipma" for pair in _properties(content, a)):
            of_item[item] = max(of_item.get(item, 0), sizes[index - 1] if 0 < index <= len(sizes) else 0)
        parts = [pair for kind, a, b in inside if kind == b"iref" for pair in _parts(content, a, b)]
        total += sum(of_item.get(part, 0) for _, part in parts)
        composed, used = {whole for whole, _ in parts}, Counter(part for _, part in parts)
        if any(used[item] > 1 for item in composed):
            raise ValueError("a HEIC whose tiles consist of tiles")
    return max(largest, total // 8)


def _pixels(content: bytes, at: int) -> int:
    width, height = struct.unpack_from(">II", content, at + 4)
    return int(width * height)


def _properties(content: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Item and number of a property, from 1, of an ipma box: ISO 23008-12, section 9.3.2."""
    item, size = (4 if content[at] else 2), (2 if content[at + 3] & 1 else 1)
    take = _taker(content, at + 4)
    for _ in range(take(4)):
        number = take(item)
        for _ in range(take(1)):
            yield number, take(size) & (1 << (8 * size - 1)) - 1


def _parts(content: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Each composed picture and one of its parts, of an iref box: ISO 14496-12, section 8.11.12."""
    size = 4 if content[start] else 2
    for kind, at, _ in boxes(content, start + 4, end):
        if kind == b"dimg":
            take = _taker(content, at)
            whole = take(size)
            for _ in range(take(2)):
                yield whole, take(size)


def _taker(content: bytes, at: int) -> Callable[[int], int]:
    """Return a function that reads numbers of a given size, one after the other."""

    def take(size: int) -> int:
        nonlocal at
        at += size
        if at > len(content):
            raise ValueError("truncated header")
        return int.from_bytes(content[at - size : at])

    return take


def avif_pixels(content: bytes) -> int:
    """The pixels of the largest AV1 picture, or an eighth of all, if that is more.

    Libavif decodes a whole picture, then scales it to the size that the file gives.

    Raises:
        ValueError: it has moving pictures, thousands of pictures, or some that share their data.
    """
    units: list[int] = []
    for kind, start, end in boxes(content):
        if kind == b"moov":
            raise ValueError("an AVIF with moving pictures")
        for picture in _av1_items(content, start + 4, end) if kind == b"meta" else ():
            for pixels in _av1_pictures(picture):
                units.append(pixels)
                if len(units) > _AV1_UNITS:
                    raise ValueError("an AVIF of thousands of pictures")
    return max([sum(units) // 8, *units])


def _av1_items(content: bytes, start: int, end: int) -> Iterator[bytes]:
    """The data of every AV1 item of a meta box: ISO 14496-12, sections 8.11.3 (iloc) and 8.11.6 (iinf)."""
    inside = list(boxes(content, start, end))
    pictures: set[int] = set()
    for kind, a, b in inside:
        if kind == b"iinf":
            for name, c, _ in boxes(content, a + (8 if content[a] else 6), b):
                wide = content[c] > 2
                number, _, what = struct.unpack_from(">IH4s" if wide else ">HH4s", content, c + 4)
                if name == b"infe" and what == b"av01":
                    pictures.add(number)
    data = b"".join(content[a:b] for kind, a, b in inside if kind == b"idat")
    left = 2 * len(content)
    for kind, a, _ in inside:
        if kind == b"iloc":
            for number, method, extents in _locations(content, a):
                source = data if method == 1 else content
                left -= sum(length or len(source) for _, length in extents)
                if left < 0:
                    raise ValueError("an AVIF whose parts overlap")
                if number in pictures:
                    yield b"".join(source[at : at + length if length else None] for at, length in extents)


def _locations(content: bytes, at: int) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Item, construction method and extents (offset, bytes; 0 for the rest) of an iloc box that begins at ``at``."""
    version, sizes = content[at], int.from_bytes(content[at + 4 : at + 6])
    take = _taker(content, at + 6)
    offset, length, base, index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    for _ in range(take(4 if version == 2 else 2)):
        number = take(4 if version == 2 else 2)
        method = take(2) & 15 if version else 0
        take(2)  # construction method 0: in this file
        first = take(base)
        extents = []
        for _ in range(take(2)):
            take(index if version else 0)
            extents.append((first + take(offset), take(length)))
        yield number, method, extents


def _av1_pictures(data: bytes) -> Iterator[int]:
    """Pixels of each sequence header among the units (OBU) of an AV1 stream, 0 for other units: AV1, section 5.3."""
    at = 0
    while at < len(data):
        head = data[at]
        at += 2 if head & 4 else 1
        size = len(data) - at
        if head & 2:
            size = 0
            for i in range(8):
                size |= (data[at] & 127) << 7 * i
                at += 1
                if data[at - 1] < 128:
                    break
        yield _sequence_pixels(data[at : at + min(size, 256)]) if head >> 3 & 15 == 1 else 0
        at += size


def _sequence_pixels(header: bytes) -> int:
    """Width x height at most: AV1, section 5.5."""
    take = _bits(header)
    take(4)  # profile, still picture
    reduced = take(1)
    if reduced:
        take(5)
    else:
        if take(1):
            raise ValueError("an AVIF with the timing of a video")
        delays = take(1)
        for _ in range(take(5) + 1):
            take(12)
            if take(5) > 7:
                take(1)
            if delays and take(1):
                take(4)
    bits = take(4) + 1, take(4) + 1
    width, height = (take(n) + 1 for n in bits)
    if not reduced and (
        1 << bits[0] > 2 * width or 1 << bits[1] > 2 * height
    ):  # the largest size that the bits can hold
        raise ValueError("an AVIF whose size cannot be read")
    return width * height


def _bits(content: bytes) -> Callable[[int], int]:
    """Return a function that reads a given number of bits, one group after the other."""
    value, left = int.from_bytes(content), 8 * len(content)

    def take(count: int) -> int:
        nonlocal left
        left -= count
        if left < 0:
            raise ValueError("truncated header")
        return value >> left & ((1 << count) - 1)

    return take
