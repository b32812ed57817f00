import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sagehound.data.decode import BadPhoto, TooManyPixels, is_large, open_photo, read_photo


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)  # type: ignore[arg-type]
    return out.getvalue()


def halves() -> Image.Image:
    """32 x 16: the left half red, the right half blue."""
    image = Image.new("RGB", (32, 16), "red")
    image.paste((0, 0, 255), (16, 0, 32, 16))
    return image


def bomb() -> bytes:
    """The header of a PNG of 50,000 x 50,000 pixels, and little more."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


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


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("JPEG", {"progressive": True})])
def test_photos_that_take_much_memory_are_known_by_their_head(kind: str, options: dict[str, bool]) -> None:
    for side, large in ((100, False), (4000, True)):
        file = io.BytesIO()
        Image.new("L", (side, side)).save(file, kind, **options)
        assert is_large(file.getvalue()) == large
    file = io.BytesIO()
    Image.new("L", (4000, 4000)).save(file, "JPEG")
    assert not is_large(file.getvalue()), "it is decoded smaller"


def test_a_strangers_tiff_is_not_opened() -> None:
    """Its tiles may be larger than the photo says."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "TIFF")
    assert open_photo(file.getvalue()).width == 8
    with pytest.raises(BadPhoto, match="not an image file"):
        open_photo(file.getvalue(), max_pixels=1000)


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
        (encoded(halves(), "JPEG")[:-60], "truncated"),
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
