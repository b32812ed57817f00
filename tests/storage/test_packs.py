"""Photos shared out among packs, and packs opened again, a stranger's included."""

import os
import random
import tarfile
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from helpers import make_photos

from sagehound.data.folders import scan
from sagehound.errors import InputError
from sagehound.storage.packs import MOST, TARGET, groups, make_pack, pack_name, unpack


def contents(root: Path) -> dict[str, bytes]:
    return {f.relative_to(root).as_posix(): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def test_groups_keep_their_ends_when_photos_come_and_go() -> None:
    made = random.Random(2)
    files = {f"train/{made.randrange(100):03}/{i:06}.jpg": made.randrange(5_000, 300_000) for i in range(5000)}
    before = {tuple(g) for g in groups(files.items())}
    assert sorted(f for g in before for f in g) == sorted(files)
    sizes = [sum(files[f] for f in g) for g in before]
    assert max(sizes) <= MOST
    assert TARGET / 2 < sum(sizes) / len(sizes) < TARGET * 2
    changed = []
    for file in made.sample(sorted(files), 50):
        kept = {tuple(g) for g in groups((f, s) for f, s in files.items() if f != file)}
        changed.append(len(kept - before))
    assert sum(changed) / len(changed) < 1.5
    assert max(changed) <= 4


def test_a_pipe_is_refused_and_hangs_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(InputError, match="is a folder, named pipe"):
        make_pack(tmp_path, ["pipe.jpg"])


def test_a_photo_larger_than_a_pack_lies_in_one_alone() -> None:
    assert list(groups([("a", 10), ("b", 10 * MOST), ("c", 10)])) == [["a"], ["b"], ["c"]]


def test_the_same_photos_make_the_same_pack(tmp_path: Path) -> None:
    one = make_photos(tmp_path / "one", train=2)
    files = [p.file for p in scan(one).photos]
    two = make_photos(tmp_path / "two", train=2)
    for number, file in enumerate(files):
        os.utime(two / file, (number, number))
        (two / file).chmod(0o600)
    assert make_pack(one, files) == make_pack(two, reversed(files))
    (two / files[0]).rename(two / files[0].replace("000.jpg", "000b.jpg"))
    assert make_pack(two, [files[0].replace("000.jpg", "000b.jpg"), *files[1:]]).name != make_pack(one, files).name


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no file here that is longer than it says")
def test_a_photo_that_is_longer_than_it_was_a_moment_ago_is_not_packed(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("/proc/self/status")
    with pytest.raises(InputError, match=r"a.jpg changed while it was read; run the same command again when nothing"):
        make_pack(tmp_path, ["a.jpg"])


def test_a_channel_of_loose_photos_is_taken_as_it_is(tmp_path: Path) -> None:
    root = make_photos(tmp_path / "dogs", train=3, test=2)
    before = contents(root)
    assert unpack(root) == root
    assert contents(root) == before


def write_pack(folder: Path, *entries: tarfile.TarInfo | tuple[str, bytes], damage: int = 0) -> Path:
    """A tar that make_pack would not make, called by its content."""
    raw = BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                tar.addfile(info, BytesIO(entry[1]))
    folder.mkdir(exist_ok=True)
    path = folder / pack_name(raw.getvalue())
    path.write_bytes(raw.getvalue()[: len(raw.getvalue()) - damage])
    return path


def link(name: str, to: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, to
    return info


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([("../../evil.jpg", b"x")], "would be written outside"),
        ([("/tmp/evil.jpg", b"x")], "would be written outside"),
        ([("a/../../evil.jpg", b"x")], "would be written outside"),
        ([link("train", "/tmp"), ("train/evil.jpg", b"x")], "is no plain file"),
        ([("a/1.jpg", b"x"), ("a/1.jpg", b"y")], "occurs twice"),
        ([("a", b"x"), ("a/1.jpg", b"y")], "occurs twice"),
    ],
)
def test_a_strangers_pack_writes_nowhere_else(tmp_path: Path, entries: list[Any], reason: str) -> None:
    channel = tmp_path / "deep/channel"
    channel.parent.mkdir()
    pack = write_pack(channel, *entries)
    with pytest.raises(InputError, match=reason):
        unpack(channel)
    assert [p for p in tmp_path.rglob("*") if p.is_file() and p.name[0] != "."] == [pack]


@pytest.mark.parametrize("damage", [1, 600, 5000])
def test_a_damaged_pack_is_not_taken(tmp_path: Path, damage: int) -> None:
    write_pack(tmp_path / "channel", ("train/a/1.jpg", b"x" * 3000), damage=damage)
    with pytest.raises(InputError, match="damaged on its way; send the photos again"):
        unpack(tmp_path / "channel")


def test_half_an_unpacked_channel_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    root = make_photos(tmp_path / "dogs", train=3, test=2)
    channel = tmp_path / "channel"
    channel.mkdir()
    for files in (["train/001.Amber/000.jpg"], [p.file for p in scan(root).photos[1:]]):
        pack = make_pack(root, files)
        (channel / pack.name).write_bytes(pack.content)
    whole = unpack(channel)
    name = whole.name
    whole.rename(channel / f".{name}.unpacking")  # as one that was killed leaves it
    (channel / f".{name}.unpacking/train/001.Amber/000.jpg").unlink()
    assert unpack(channel) == whole
    assert contents(whole) == contents(root)


def test_many_at_once_unpack_once(tmp_path: Path) -> None:
    root = make_photos(tmp_path / "dogs", train=3, test=2)
    pack = make_pack(root, [p.file for p in scan(root).photos])
    channel = tmp_path / "channel"
    channel.mkdir()
    (channel / pack.name).write_bytes(pack.content)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(unpack(channel, tmp_path / "to"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert contents(found[0]) == contents(root)
    assert found[0].parent == tmp_path / "to"
