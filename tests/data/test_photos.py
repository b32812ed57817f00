import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from helpers import make_photos, save_photo
from photo_helpers import bomb, photo_set

from sagehound.data import audit
from sagehound.errors import InputError


def spoil(photos: Path, kind: str) -> Path:
    """Put something that is no photo in the place of one."""
    path = photos / "train/001.Amber/000.jpg"
    whole = path.read_bytes()
    content = {
        "broken": bytes(reversed(whole)),
        "truncated": whole[: len(whole) // 2],
        "zero bytes": b"",
        "text": b"a text renamed .jpg",
        "bomb": bomb(),
    }
    path.write_bytes(content[kind])
    return path


@pytest.mark.parametrize("kind", ["broken", "truncated", "zero bytes", "text", "bomb"])
def test_one_bad_photo_is_left_out_and_listed(photos: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    bad = spoil(photos, kind).relative_to(photos).as_posix()
    have = photo_set(photos)
    assert bad not in {p.file for p in have.photos}
    assert len(have.photos) == 3 * (8 + 3 + 4) - 1
    assert have.audit["skipped"] == [bad]
    listed = have.audit["truncated" if kind == "truncated" else "unreadable"]
    assert [entry["file"] for entry in listed] == [bad]
    assert "1 of 45 photos cannot be used" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["broken", "truncated", "zero bytes", "text", "bomb"])
def test_one_bad_photo_stops_the_run_if_asked(photos: Path, kind: str) -> None:
    bad = spoil(photos, kind)
    with pytest.raises(InputError, match=f"{bad.name}.*fix or remove them, or choose data.on_bad=skip"):
        photo_set(photos, on_bad="fail")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="no users here")
def test_a_photo_that_may_not_be_read_is_left_out(tmp_path: Path) -> None:
    """Root may read everything, so the test gives up root's rights for a moment."""
    photos = make_photos(tmp_path / "photos", train=8, valid=3, test=4)
    locked = photos / "train/001.Amber/000.jpg"
    locked.chmod(0)
    if os.geteuid() == 0:
        parents = [photos, *photos.parents]
        modes = {p: p.stat().st_mode for p in parents if p.owner() == "root" and str(p) != "/"}
        for p in modes:
            p.chmod(modes[p] | 0o111)
        (tmp_path / "cache").mkdir(mode=0o777)
        (tmp_path / "cache").chmod(0o777)
        os.seteuid(65534)
    try:
        have = photo_set(photos)
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
            for p, mode in modes.items():
                p.chmod(mode)
    assert have.audit["unreadable"] == [{"file": "train/001.Amber/000.jpg", "reason": "Permission denied"}]
    locked.chmod(0o644)
    assert not photo_set(photos).audit["unreadable"], "a photo that could not be opened is tried again"


def test_the_audit_counts_and_names_what_is_odd(photos: Path) -> None:
    amber = photos / "train/001.Amber"
    shutil.copy(amber / "001.jpg", amber / "copy.jpg")
    shutil.copy(amber / "001.jpg", photos / "test/001.Amber/leak.jpg")
    shutil.copy(amber / "002.jpg", photos / "train/003.Moss/other.jpg")
    from PIL import Image

    Image.new("CMYK", (64, 48), (0, 90, 90, 0)).save(amber / "cmyk.jpg")
    Image.new("L", (64, 48), 80).save(amber / "grey.jpg")
    Image.new("I;16", (64, 48), 9000).save(amber / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    save_photo(amber / "turned.jpg", (1, 2, 3), 0, exif=exif)
    (photos / "train/004.Nothing").mkdir()
    shutil.rmtree(photos / "valid/002.Slate")
    a = photo_set(photos).audit
    assert a["counts"]["Amber"] == {"train": 13, "valid": 3, "test": 5}
    assert a["imbalance_ratio"] == round(13 / 8, 3)
    assert a["empty_classes"] == ["Nothing"]
    assert a["missing_in_split"] == {"train": [], "valid": ["Slate"], "test": []}
    assert a["cmyk"] == ["train/001.Amber/cmyk.jpg"]
    assert a["greyscale"] == ["train/001.Amber/grey.jpg"]
    assert a["sixteen_bit"] == ["train/001.Amber/deep.png"]
    assert a["exif_rotated"] == ["train/001.Amber/turned.jpg"]
    same = {"train/001.Amber/001.jpg", "train/001.Amber/copy.jpg", "test/001.Amber/leak.jpg"}
    assert [set(g) for g in a["duplicates_across_splits"]] == [same]
    assert [set(g) for g in a["duplicates_with_different_labels"]] == [
        {"train/001.Amber/002.jpg", "train/003.Moss/other.jpg"}
    ]
    assert a["duplicates_within_split"] == a["duplicates_with_different_labels"]
    json.dumps(a)


def test_ignored_files_are_counted_by_suffix_and_named(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (*(f"note{i}.TXT" for i in range(6)), "b.pdf", "README"):
        (photos / "train/001.Amber" / name).write_text("no photo")
    ignored = photo_set(photos).audit["ignored_files"]
    assert {suffix: entry["files"] for suffix, entry in ignored.items()} == {".txt": 6, ".pdf": 1, "no suffix": 1}
    assert ignored[".txt"]["examples"] == [f"train/001.Amber/note{i}.TXT" for i in range(5)]
    said = capsys.readouterr().out
    assert "warning: 8 files are no photos and were ignored (.txt 6, .pdf 1, no suffix 1): see audit.json\n" in said


def test_a_heic_is_read_once_pillow_heif_is_installed(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    save_photo(photos / "train/001.Amber/phone.heic", (200, 140, 40), seed=0)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pillow_heif", None)
        assert photo_set(photos).audit["skipped"] == ["train/001.Amber/phone.heic"]
    assert "phone.heic (a HEIC or HEIF photo, which needs pillow-heif: pip install" in capsys.readouterr().out
    assert "train/001.Amber/phone.heic" in photo_set(photos).digests


def test_pipes_and_links_do_not_hang_the_audit(photos: Path) -> None:
    amber = photos / "train/001.Amber"
    os.mkfifo(amber / "pipe.jpg")
    (amber / "nowhere.jpg").symlink_to(amber / "missing.jpg")
    (amber / "itself.jpg").symlink_to(amber / "itself.jpg")
    (amber / "up.jpg").symlink_to(photos)
    have = photo_set(photos)
    assert len(have.photos) == 45
    reasons = {Path(bad["file"]).name: bad["reason"] for bad in have.audit["unreadable"]}
    assert reasons == {
        "pipe.jpg": "no file but a folder, named pipe, socket or device",
        "nowhere.jpg": "No such file or directory",
        "itself.jpg": "Too many levels of symbolic links",
    }


def test_deep_colours_are_noticed(photos: Path) -> None:
    import struct
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + bytes(24) for _ in range(4))))
    (photos / "train/001.Amber/deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + rows + chunk(b"IEND", b""))
    assert photo_set(photos).audit["sixteen_bit"] == ["train/001.Amber/deep.png"]


def test_names_that_are_no_text_are_read_all_the_same(photos: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    (photos / "train/001.Amber/000.jpg").rename(photos / "train/001.Amber" / name)
    (photos / "train/001.Amber/001.jpg").rename(photos / "train/001.Amber" / f"bad_{name}")
    (photos / "train/001.Amber" / f"bad_{name}").write_bytes(b"")
    first = photo_set(photos)
    assert f"train/001.Amber/{name}" in {p.file for p in first.photos}
    assert photo_set(photos).photos == first.photos


def test_a_second_start_reads_only_what_changed(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    inspect = audit.inspect
    monkeypatch.setattr(audit, "inspect", lambda path: read.append(path) or inspect(path))
    first = photo_set(photos).audit
    assert len(read) == 45
    read.clear()
    assert photo_set(photos).audit == first
    assert read == []
    save_photo(photos / "train/001.Amber/000.jpg", (9, 9, 9), seed=5)
    photo_set(photos)
    assert [p.name for p in read] == ["000.jpg"]
    for kept in (photos.parent / "cache/audit").iterdir():
        kept.write_text("{ not json")
    read.clear()
    assert photo_set(photos).audit["photos"] == first["photos"]
    assert len(read) == 45


def test_splits_that_are_missing_are_taken_from_train_class_by_class(tmp_path: Path) -> None:
    root = make_photos(tmp_path / "photos", train=20)
    have = photo_set(root)
    assert Counter((p.label, p.split) for p in have.photos) == {
        (label, split): count
        for label in ("Amber", "Slate", "Moss")
        for split, count in (("train", 14), ("valid", 3), ("test", 3))
    }
    assert have.audit["taken_from_train"] == {"valid": 9, "test": 9}
    assert photo_set(root).photos == have.photos
    assert photo_set(root, split_seed=1).photos != have.photos


def test_copies_of_a_photo_are_never_split_between_train_and_test(tmp_path: Path) -> None:
    root = make_photos(tmp_path / "photos", train=10)
    for path in list(root.rglob("*.jpg")):
        shutil.copy(path, path.with_name(f"copy_{path.name}"))
    for seed in range(5):
        assert photo_set(root, split_seed=seed).audit["duplicates_across_splits"] == []


def test_a_set_with_one_class_is_refused(photos: Path) -> None:
    for split in ("train", "valid", "test"):
        shutil.rmtree(photos / split / "002.Slate")
        shutil.rmtree(photos / split / "003.Moss")
    with pytest.raises(InputError, match="only one class, Amber"):
        photo_set(photos)


def test_a_root_one_level_too_high_or_with_empty_folders_is_named(tmp_path: Path) -> None:
    train = make_photos(tmp_path / "made", train=4) / "train"
    shutil.copytree(train, tmp_path / "unpacked/photos")
    with pytest.raises(InputError, match=r"only one class, photos: .*; did you mean data\.root=.*unpacked/photos\?"):
        photo_set(tmp_path / "unpacked")
    shutil.copytree(train / "001.Amber", tmp_path / "one/amber")
    (tmp_path / "one/slate").mkdir()
    with pytest.raises(InputError, match=r"only one class, amber: .*; folders without photos: slate$"):
        photo_set(tmp_path / "one")


def test_a_class_that_is_tested_but_not_trained_is_refused(photos: Path) -> None:
    shutil.rmtree(photos / "train/002.Slate")
    with pytest.raises(InputError, match="Slate: photos in valid or test but none in train"):
        photo_set(photos)


def test_a_split_whose_photos_are_all_bad_is_refused(photos: Path) -> None:
    for path in (photos / "valid").rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="no usable photo is left for valid"):
        photo_set(photos)
