import io
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from photo_helpers import bomb
from PIL import Image

from sagehound.inference.decode import BadPhoto, TooManyPixels, cost, open_photo, read_photo


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)  # type: ignore[arg-type]
    return out.getvalue()


def halves() -> Image.Image:
    """32 x 16: the left half red, the right half blue."""
    image = Image.new("RGB", (32, 16), "red")
    image.paste((0, 0, 255), (16, 0, 32, 16))
    return image


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_photo(encoded(halves(), "JPEG", exif=exif, quality=95))
    red = np.asarray(image)[..., 0] > 128
    assert image.size == ((32, 16) if orientation <= 4 else (16, 32))
    along = red.mean(0) if orientation <= 4 else red.mean(1)
    first_half_is_red = orientation in (1, 4, 5, 6)
    assert (along[: len(along) // 2].mean() > 0.5) == first_half_is_red


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "JPEG"), ("CMYK", "JPEG"), ("1", "PNG"), ("P", "GIF"), ("LA", "PNG"), ("RGB", "WEBP")]
)
def test_every_mode_becomes_rgb(mode: str, kind: str) -> None:
    image = read_photo(encoded(halves().convert(mode), kind))
    assert (image.mode, image.size) == ("RGB", (32, 16))


def test_cmyk_keeps_its_colours() -> None:
    pixels = np.asarray(read_photo(encoded(halves().convert("CMYK"), "JPEG", quality=95)))
    assert pixels[8, 4, 0] > 200
    assert pixels[8, 28, 2] > 200


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
def test_a_photo_of_160_pixels_is_not_one_of_16_bits(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (160, 1600)).save(file, kind)
    assert not open_photo(file.getvalue()).info["sixteen_bit"]


def test_a_photo_of_too_many_pixels_is_told_apart() -> None:
    file = io.BytesIO()
    Image.new("1", (1, 70_000)).save(file, "PNG")
    assert open_photo(file.getvalue()).height == 70_000
    for limit in (1_000, 1_000_000):  # of pixels; of a side
        with pytest.raises(TooManyPixels, match="1 x 70000 pixels"):
            open_photo(file.getvalue(), max_pixels=limit)


def test_a_jpeg_of_a_thousand_scans_is_refused() -> None:
    """Ten bytes a scan, and milliseconds each."""
    file = io.BytesIO()
    Image.new("L", (64, 64)).save(file, "JPEG", progressive=True)
    whole = file.getvalue()
    at = whole.rindex(b"\xff\xd9")
    with pytest.raises(BadPhoto, match="more than 100 scans"):
        open_photo(whole[:at] + b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00" * 1000 + whole[at:])


def test_a_jpeg_of_a_million_segments_is_refused_at_once() -> None:
    """Four bytes each, and a microsecond."""
    content = b"\xff\xd8" + b"\xff\xe1\x00\x02" * 5_000_000
    start = time.thread_time()
    assert cost(content)[:2] == (0, 0)
    with pytest.raises(BadPhoto, match="too many segments"):
        open_photo(content)
    assert time.thread_time() - start < 1


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("JPEG", {"progressive": True})])
def test_photos_that_take_much_memory_are_known_by_their_head(kind: str, options: dict[str, bool]) -> None:
    for side, large in ((100, False), (4000, True)):
        file = io.BytesIO()
        Image.new("L", (side, side)).save(file, kind, **options)
        assert (cost(file.getvalue()).held > 12e6) == large
    file = io.BytesIO()
    Image.new("L", (4000, 4000)).save(file, "JPEG")
    assert cost(file.getvalue())[:2] == (0, 1_600_000), "it is decoded smaller"


def test_other_programs_formats_are_not_opened(tmp_path: Path) -> None:
    """Pillow would start Ghostscript for an EPS file, whatever its name."""
    Image.new("RGB", (8, 8)).save(tmp_path / "x.eps")
    with pytest.raises(BadPhoto, match="not an image file"):
        read_photo(tmp_path / "x.eps")


def test_sixteen_bits_are_scaled_not_cut() -> None:
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(1, 256).repeat(8, 0)
    image = np.asarray(read_photo(encoded(Image.fromarray(ramp))))
    assert image[0, 0, 0] == 0
    assert image[0, 255, 0] == 255
    assert abs(int(image[0, 128, 0]) - 128) <= 1


def test_transparent_parts_become_white() -> None:
    assert read_photo(encoded(Image.new("RGBA", (4, 4), (200, 0, 0, 0)))).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"this is a text, whatever its name says", "not an image file"),
        (encoded(halves(), "JPEG")[:-60], r"^the file ends too early \(truncated\)$"),
        (encoded(Image.effect_noise((64, 64), 50), "PNG")[:-800], ""),
        (bomb(), "decompression bomb"),
    ],
    ids=["zero bytes", "text", "truncated JPEG", "truncated PNG", "bomb"],
)
def test_a_broken_photo_is_never_half_decoded(content: bytes, reason: str) -> None:
    with pytest.raises(BadPhoto, match=f"(?i){reason}"):
        read_photo(content)


def test_a_photo_with_damaged_exif_is_turned_all_the_same() -> None:
    width_as_text = struct.pack("<HHI4s", 0x0100, 2, 4, b"abc\0")
    orientation = struct.pack("<HHII", 0x0112, 3, 1, 6)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + width_as_text + orientation + bytes(4)
    assert read_photo(encoded(halves(), "JPEG", exif=exif)).size == (16, 32)


def test_pixels_without_a_known_range_are_refused() -> None:
    with pytest.raises(BadPhoto, match="floating-point"):
        read_photo(encoded(Image.new("F", (4, 4), 0.5), "TIFF"))


def test_real_odd_photos(real_data: Path) -> None:
    odd = real_data / "odd"
    upright = read_photo(odd / "exif_Landscape_6.jpg")
    assert upright.width > upright.height
    assert read_photo(odd / "pil_sample_cmyk.jpg").mode == "RGB"
    for name in ("truncated_jpeg.jpg", "broken.png"):
        with pytest.raises(BadPhoto):
            read_photo(odd / name)


def jpeg(**options: object) -> bytes:
    return encoded(Image.effect_noise((400, 300), 60).convert("RGB"), "JPEG", **options)


VIDEO = b"\0\0\0\x18ftypmp42" + 300 * b"\xff\xda\0\x08video"  # what looks like scans


@pytest.mark.parametrize("behind", [VIDEO, jpeg() + VIDEO, b"\0" * 7], ids=["video", "photo and video", "zeros"])
@pytest.mark.parametrize("progressive", [False, True])
def test_bytes_behind_the_end_of_a_jpeg_are_no_part_of_it(behind: bytes, progressive: bool) -> None:
    """Phones put a video behind a photo."""
    whole = jpeg(progressive=progressive)
    assert np.array_equal(read_photo(whole + behind), read_photo(whole))
    assert cost(whole + behind) == cost(whole)


def test_a_thumbnail_in_the_exif_data_is_no_end_of_the_photo() -> None:
    """Nor are the scans counted, which stand behind it."""
    whole = jpeg()
    thumbnail = b"Exif\0\0" + jpeg()[:20_000] + b"\xff\xd9"
    whole = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + whole[2:]
    at = whole.rindex(b"\xff\xd9")
    assert read_photo(whole).size == (400, 300)
    with pytest.raises(BadPhoto, match="more than 100 scans"):
        read_photo(whole[:at] + b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00" * 200 + whole[at:])


@pytest.mark.parametrize("between", [b"\xff", b"no marker", b"\xff\x00", b"\xff\xd0", b"\xff\x01"])
def test_scans_are_found_however_they_are_written(between: bytes) -> None:
    """As libjpeg finds them: it skips what is no marker."""
    whole = encoded(Image.new("L", (64, 64)), "JPEG", progressive=True)
    at = whole.rindex(b"\xff\xd9")
    scan = between + b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00"
    with pytest.raises(BadPhoto, match="more than 100 scans"):
        read_photo(whole[:at] + scan * 200 + whole[at:])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "TIFF", "PNG", "WEBP"])
def test_no_photo_is_turned_twice(kind: str, orientation: int) -> None:
    """HEIC and AVIF say it twice themselves: in their own boxes and in the EXIF data."""
    pillow_heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = orientation
    corners = Image.new("RGB", (64, 32), "black")
    corners.paste("white", (0, 0, 32, 16))
    image = read_photo(encoded(corners, kind, exif=exif.tobytes(), quality=90))
    expected = read_photo(encoded(corners, "JPEG", exif=exif.tobytes(), quality=90))
    assert image.size == expected.size
    assert np.abs(np.asarray(image, int) - np.asarray(expected, int)).mean() < 8


def tiff(tags: list[tuple[int, int]], data: bytes = b"", order: str = "<") -> bytes:
    """A TIFF of one LONG for each tag; data stands at ``8 + 2 + 12 * len(tags) + 4``."""
    head = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8)
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags)
    return head + struct.pack(order + "H", len(tags)) + entries + bytes(4) + data


def hostile_tiff(*tiles: tuple[int, int], order: str = "<") -> bytes:
    """8 x 8 pixels, in a tile of zeros that deflate hardly stores."""
    data = zlib.compress(bytes(10_000_000), 9)
    tags = [(256, 8), (257, 8), (258, 8), (259, 8), (262, 1), (277, 1)]
    tags += [(tag, side) for tile in tiles for tag, side in zip((322, 323), tile, strict=True)]
    at = 8 + 2 + 12 * (len(tags) + 2) + 4
    return tiff([*tags, (324, at), (325, len(data))], data, order)


def resized(content: bytes, box: bytes, old: tuple[int, int], new: tuple[int, int]) -> bytes:
    """Another width and height in a box of a HEIC, AVIF or JPEG 2000."""
    assert box + struct.pack(">II", *old) in content
    return content.replace(box + struct.pack(">II", *old), box + struct.pack(">II", *new))


def tiny_blocks(content: bytes) -> bytes:
    """A JPEG 2000 of 256 x 256 pixels that says it is 7,000 wide and high, in code-blocks of 4 x 4."""
    siz, cod = content.index(b"\xff\x51"), content.index(b"\xff\x52")
    changed = bytearray(resized(content, b"ihdr", (256, 256), (7_000, 7_000)))
    changed[siz + 6 : siz + 14] = changed[siz + 22 : siz + 30] = struct.pack(">II", 7_000, 7_000)
    changed[cod + 10 : cod + 12] = bytes(2)
    return bytes(changed)


def plain(kind: str, **options: object) -> bytes:
    """256 x 256 pixels of one colour."""
    pillow_heif.register_heif_opener()
    return encoded(Image.new("RGB", (256, 256), (9, 9, 9)), kind, **options)


BOMBS: dict[str, Callable[[], bytes]] = {
    "TIFF": lambda: hostile_tiff((46_000, 46_000)),
    "TIFF, big-endian": lambda: hostile_tiff((46_000, 46_000), order=">"),
    "TIFF of a small tile, then a large one": lambda: hostile_tiff((16, 16), (46_000, 46_000)),
    "TIFF of a large tile, then a small one": lambda: hostile_tiff((46_000, 46_000), (16, 16)),
    "TIFF of tiny tiles": lambda: hostile_tiff((1, 1)),
    "AVIF": lambda: resized(plain("AVIF", speed=10), b"ispe\0\0\0\0", (256, 256), (8, 8)),
    "HEIC": lambda: resized(plain("HEIF"), b"ispe\0\0\0\0", (256, 256), (8, 8)),
    "HEIC of tiles": lambda: resized(plain("HEIF", tile_size=128), b"ispe\0\0\0\0", (256, 256), (8, 8)),
    "HEIC of many tiles": lambda: resized(plain("HEIF", tile_size=32), b"ispe\0\0\0\0", (256, 256), (8, 8)),
    "JPEG 2000": lambda: resized(plain("JPEG2000"), b"ihdr", (256, 256), (8, 8)),
    "JPEG 2000 of tiny tiles": lambda: plain("JPEG2000", tile_size=(2, 2), num_resolutions=1),
    "JPEG 2000 of tiny blocks": lambda: tiny_blocks(plain("JPEG2000")),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_is_refused_before_it_takes_memory(bomb: Callable[[], bytes]) -> None:
    """It says that it is small and makes its decoder hold more; the limit is one that a test can afford to pass."""
    content = bomb()
    before = peak()
    with pytest.raises(BadPhoto):
        open_photo(content, max_pixels=8_000)
    if content[4:8] != b"ftyp":  # of what training refuses as well
        with pytest.raises(BadPhoto):
            open_photo(content)
    assert peak() - before < 20_000, "kilobytes"


@pytest.mark.parametrize("kind", ["AVIF", "HEIF", "JPEG2000", "TIFF"])
def test_the_limit_of_pixels_holds_for_every_format(kind: str) -> None:
    content = plain(kind)
    assert open_photo(content, max_pixels=65_536).size == (256, 256)
    with pytest.raises(TooManyPixels):
        open_photo(content, max_pixels=65_535)


def peak() -> int:
    """The most memory that this process had, in kilobytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "jpeg", "packbits"])
def test_a_strangers_tiff_is_read(compression: str | None) -> None:
    content = encoded(halves(), "TIFF", compression=compression)
    assert np.array_equal(open_photo(content, max_pixels=1000), open_photo(content))
    with pytest.raises(TooManyPixels):
        open_photo(content, max_pixels=500)


def test_libtiff_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    content = bytearray(encoded(Image.effect_noise((64, 64), 50), "TIFF", compression="tiff_lzw"))
    content[200:220] = bytes(20)
    odd = tiff([(256, 8), (257, 8), (258, 8), (259, 5), (262, 1), (273, 8), (277, 1), (279, 9), (60_000, 1)])
    for photo in (bytes(content), odd, hostile_tiff((64, 64))):
        with suppress(BadPhoto):
            open_photo(photo)
    assert capfd.readouterr() == ("", "")


def test_a_heic_without_pillow_heif_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    content = plain("HEIF")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(BadPhoto, match=r"pip install 'sagehound\[heif\]'"):
        read_photo(content)


def test_decoding_a_jpeg_imports_no_pillow_heif() -> None:
    code = (
        "import io, sys; from PIL import Image; from sagehound.inference.decode import read_photo\n"
        "f = io.BytesIO(); Image.new('RGB', (8, 8)).save(f, 'JPEG'); read_photo(f.getvalue())\n"
        "assert 'pillow_heif' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
