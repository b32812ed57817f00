"""Hostile and broken archives of every kind against the one place that unpacks them."""

import errno
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
from helpers import ROOT

from sagehound.errors import InputError, SagehoundError
from sagehound.storage.archive_reader import KINDS, DamagedArchive, Limits
from sagehound.storage.unpacking import unpack, unpack_into

LIMITS = Limits(max_entries=5, max_bytes=10_000)
TYPES = {tarfile.SYMTYPE: stat.S_IFLNK, tarfile.CHRTYPE: stat.S_IFCHR, tarfile.FIFOTYPE: stat.S_IFIFO}


@dataclass(frozen=True)
class Entry:
    """A file of an archive, or something worse."""

    name: str
    content: bytes = b"x"
    type: bytes = tarfile.REGTYPE
    mode: int = 0o644


def archive(folder: Path, kind: str, *entries: Entry) -> Path:
    path = folder / f"set{kind}"
    if kind == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
            for entry in entries:
                info = zipfile.ZipInfo(entry.name)
                info.external_attr = (TYPES.get(entry.type, stat.S_IFREG) | entry.mode) << 16
                z.writestr(info, entry.content)
        return path
    with tarfile.open(path, f"w:{kind.removeprefix('.tar').lstrip('.')}", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            member = tarfile.TarInfo(entry.name)
            member.type, member.mode, member.linkname = entry.type, entry.mode, "/etc/passwd"
            member.size = len(entry.content) if entry.type == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(entry.content))
    return path


HOSTILE = {
    "absolute": ([Entry("/etc/x")], "outside of its folder"),
    "above": ([Entry("a/../../x")], "outside of its folder"),
    "nameless": ([Entry(".")], "outside of its folder"),
    "link": ([Entry("x", type=tarfile.SYMTYPE)], "no plain file"),
    "through a link": ([Entry("a", type=tarfile.SYMTYPE), Entry("a/x")], "no plain file"),
    "device": ([Entry("x", type=tarfile.CHRTYPE)], "no plain file"),
    "pipe": ([Entry("x", type=tarfile.FIFOTYPE)], "no plain file"),
    "twice": ([Entry("x"), Entry("./x")], "occurs twice"),
    "file and folder": ([Entry("x"), Entry("x/y")], "occurs twice, or as a folder too"),
    "too many": ([Entry(str(i)) for i in range(5)], "more than 5 files"),
    "too large": ([Entry("x", bytes(20_000))], r"more than 5 files or 1e-05 GB"),
    "too large together": ([Entry(str(i), bytes(4000)) for i in range(3)], "more than 5 files or 1e-05 GB"),
    "deep": ([Entry("a/" * 60 + "x")], "more than 50 levels deep"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_hostile_archive_leaves_nothing(tmp_path: Path, case: str, kind: str) -> None:
    entries, reason = HOSTILE[case]
    path = archive(tmp_path, kind, Entry("harmless", b""), *entries)
    for take in (unpack, unpack_into):
        with pytest.raises(InputError, match=reason) as error:
            take(path, tmp_path / "out", hint="ask who packed it", limits=LIMITS)
        assert str(path) in str(error.value)
        assert str(error.value).endswith("; ask who packed it")
        assert "\n" not in str(error.value)
        assert not [p for p in tmp_path.rglob("*") if p != path and not p.is_dir()]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


CUTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "text": lambda _: b"not an archive at all",
    "half": lambda whole: whole[: len(whole) // 2],
    "changed": lambda whole: whole[: len(whole) // 2] + b"\x55\xaa" * 10 + whole[len(whole) // 2 + 20 :],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", CUTS)
def test_a_broken_archive_leaves_nothing(tmp_path: Path, cut: str, kind: str) -> None:
    content = bytes(range(256)) * 10
    path = archive(tmp_path, kind, *(Entry(str(i), content) for i in range(3)))
    whole = path.read_bytes()
    if kind == ".tar" and cut == "changed":  # its content has no checksum
        whole = whole.replace(b"ustar", b"brokn")
    path.write_bytes(CUTS[cut](whole))
    with pytest.raises(DamagedArchive, match="damaged, encrypted or no archive"):
        unpack(path, tmp_path / "out", hint="pack it again")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", KINDS)
def test_plain_files_are_unpacked_and_folders_made(tmp_path: Path, kind: str) -> None:
    big = bytes(range(256)) * 10_000
    files = [Entry("b/big", big), Entry("./a/ü.txt", mode=0o755), Entry("empty", b""), Entry("no")]
    path = archive(tmp_path, kind, *files)
    read: list[int] = []
    out = tmp_path / "out"
    unpack(path, out, hint="", wanted=lambda inside: str(inside) != "no", read=read.append)
    found = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert found == {"b/big": big, "a/ü.txt": b"x", "empty": b""}
    assert not (out / "a/ü.txt").stat().st_mode & 0o111
    assert read[-1] <= path.stat().st_size
    (out / "kept").write_text("kept")
    (out / "empty").write_text("replaced")
    unpack_into(path, out, hint="", limits=Limits(executable=True))
    assert (out / "empty").read_bytes() == b""
    assert (out / "kept").read_text() == "kept"
    assert (out / "a/ü.txt").stat().st_mode & 0o111
    assert sorted(p.name for p in out.iterdir()) == ["a", "b", "empty", "kept", "no"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_of_another_kind_is_refused(tmp_path: Path, kind: str) -> None:
    path = archive(tmp_path, kind, Entry("x"))
    others = tuple(other for other in KINDS if other != kind)
    with pytest.raises(DamagedArchive, match=r"it is no \."):
        unpack(path, tmp_path / "out", hint="", limits=Limits(others))


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_told_from_a_bad_archive(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, mode: str = "r", **options: object) -> IO[Any]:
        if mode == "xb":
            raise OSError(errno.ENOSPC, "No space left on device")
        return io.open(path, mode, **options)  # type: ignore[call-overload, no-any-return]  # noqa: UP020

    path = archive(tmp_path, kind, Entry("x"))
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(SagehoundError, match="the disk is full") as error:
        unpack(path, tmp_path / "out", hint="")
    assert error.value.exit_code == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", KINDS)
def test_more_than_the_disk_has_free_is_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path, kind, Entry("x", bytes(2000)))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(InputError, match=r"unpacks to more than .* has room for \(1,000 bytes are left\)"):
        unpack(path, tmp_path / "out", hint="")


def test_nothing_else_unpacks() -> None:
    """The emulator, a product of its own, has one unpacker as well."""
    opens = ("extractall(", "extractfile(", "unpack_archive(", "ZipFile(", 'mode="r:"')
    files = [
        f
        for folder in ("src", "launchers")
        for f in (ROOT / folder).rglob("*.py")
        if "sagemaker_emulator" not in f.parts
    ]
    found = [f.name for f in files if any(text in f.read_text() for text in opens)]
    assert found == ["archive_reader.py"]
