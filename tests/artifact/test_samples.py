"""data.samples=N: small copies of test photos in the archive."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import Compose, save_photo
from PIL import Image

from sagehound.artifact import samples
from sagehound.data.folders import Photo
from sagehound.data.photo_report import report_names
from sagehound.data.photo_set import PhotoSet
from sagehound.data.photos import find_photos


def photo_set(config: Compose, cache: Path) -> PhotoSet:
    return find_photos(config().data, cache)


def test_they_are_small_upright_and_without_metadata(config: Compose, photos: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera's name"  # stored rotated by 90 degrees
    exif.get_ifd(0x8825)[1] = "N"  # the place
    for file in photos.glob("test/*/*.jpg"):
        Image.effect_noise((900, 600), 60).convert("RGB").save(
            file, exif=exif, comment=b"private", icc_profile=b"x" * 99
        )
    made = samples.files(photo_set(config, tmp_path / "cache"), 4)
    assert list(made) == ["samples/00.jpg", "samples/01.jpg", "samples/02.jpg", "samples/03.jpg"]
    for content in made.values():
        image = Image.open(io.BytesIO(content))
        assert image.size == (213, 320)
        assert not image.getexif()
        assert image.info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert b"camera" not in content
        assert b"private" not in content
    assert made == samples.files(photo_set(config, tmp_path / "cache"), 4), "the same run gives the same bytes"


def test_one_of_each_class_first_and_none_from_train(config: Compose, tmp_path: Path) -> None:
    found = photo_set(config, tmp_path / "cache")
    test = [photo for photo in found.photos if photo.split == "test"]
    first = samples.chosen(test, 3)
    assert {photo.label for photo in first} == {"Amber", "Moss", "Slate"}
    assert samples.chosen(test[::-1], 3) == first
    assert sorted(p.file for p in samples.chosen(test, 99)) == sorted(p.file for p in test)
    without_test = replace(found, photos=[p for p in found.photos if p.split != "test"])
    assert len(samples.files(without_test, 20)) == 9, "all valid photos"
    assert samples.files(found, 0) == {}
    assert samples.chosen([], 3) == []


def test_a_photo_that_has_gone_is_replaced(config: Compose, photos: Path, tmp_path: Path) -> None:
    found = photo_set(config, tmp_path / "cache")
    gone = samples.chosen(found.split("test"), 1)[0]
    (photos / gone.file).unlink()
    assert len(samples.files(found, 3)) == 3


def test_names_that_windows_cannot_have_are_a_warning(
    config: Compose, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["CON", "aux.jpg", "nul.tar.gz", "lpt9", "ends.", "ends ", "a:b", "a\\b", "COM¹.x"]
    for name in names:
        report_names([Photo(f"train/{name}/1.jpg", "train", "fine")])
        assert "cannot exist on Windows" in capsys.readouterr().out, name
    report_names([Photo("train/1.jpg", "train", name) for name in ("Con", "console", "a.b", ".con", "null", "com10")])
    line = capsys.readouterr().out
    assert "warning: 1 names of folders or photos cannot exist on Windows: 'Con'" in line
    report_names([Photo("train/Hühnerhund é/1.jpg", "train", "Hühnerhund é")])
    assert capsys.readouterr().out == ""
    save_photo(photos / "train/001.Amber/aux.jpg", (1, 2, 3), 1)
    photo_set(config, tmp_path / "cache")
    assert "'aux.jpg'" in capsys.readouterr().out
