"""model.tar.gz as a file: the same bytes for the same files, and nothing but plain files taken out of a stranger's."""

import errno
import filecmp
import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from sagehound.artifact.archive import Card, digest, find, opened, pack, unpack
from sagehound.errors import InputError, SagehoundError

Entry = tuple[tarfile.TarInfo, bytes]


def entry(name: str, content: bytes = b"", **changes: object) -> Entry:
    made = tarfile.TarInfo(name)
    made.size = len(content)
    for key, value in changes.items():
        setattr(made, key, value)
    return made, content


def archive(path: Path, *entries: Entry) -> Path:
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    return path


def test_the_same_files_give_the_same_bytes_whatever_their_times(tmp_path: Path) -> None:
    for name, when in (("a", 1_000), ("b", 2_000_000_000)):
        (tmp_path / name).mkdir()
        for file in ("model.json", "model.onnx"):
            (tmp_path / name / file).write_text(file)
        import os

        os.utime(tmp_path / name / "model.json", (when, when))
        files = {f"in/{f}": tmp_path / name / f for f in ("model.onnx", "model.json")}
        pack(files if name == "a" else dict(reversed(files.items())), tmp_path / f"{name}.tar.gz")
    assert filecmp.cmp(tmp_path / "a.tar.gz", tmp_path / "b.tar.gz", shallow=False)
    unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    assert (tmp_path / "out/in/model.onnx").read_text() == "model.onnx"


BAD: dict[str, tuple[Entry, str]] = {
    "absolute": (entry("/etc/x", b"x"), "outside of its folder"),
    "above": (entry("a/../../x", b"x"), "outside of its folder"),
    "above as a folder": (entry("../x", type=tarfile.DIRTYPE), "outside of its folder"),
    "link": (entry("x", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "no plain file"),
    "hard link": (entry("x", type=tarfile.LNKTYPE, linkname="model.json"), "no plain file"),
    "device": (entry("x", type=tarfile.CHRTYPE, devmajor=1, devminor=3), "no plain file"),
    "pipe": (entry("x", type=tarfile.FIFOTYPE), "no plain file"),
    "empty name": (entry("./", b""), "outside of its folder"),
    "too large": (entry("x", b"1" * 2000), "more than 3 files"),
}


@pytest.mark.parametrize("kind", BAD)
def test_nothing_but_plain_files_below_the_folder_is_taken_out(tmp_path: Path, kind: str) -> None:
    bad, reason = BAD[kind]
    path = archive(tmp_path / "x.tar.gz", bad)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=reason) as error:
        unpack(path, tmp_path / "out", max_entries=3, max_bytes=1000)
    assert "\n" not in str(error.value)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["out", "x.tar.gz"]


def test_too_many_files_and_files_of_one_name_are_refused(tmp_path: Path) -> None:
    many = archive(tmp_path / "many.tar.gz", *(entry(str(i), b"x") for i in range(4)))
    with pytest.raises(InputError, match="more than 3 files"):
        unpack(many, tmp_path / "out", max_entries=3)
    folders = archive(tmp_path / "folders.tar.gz", *(entry(str(i), type=tarfile.DIRTYPE) for i in range(4)))
    with pytest.raises(InputError, match="more than 3 files"):
        unpack(folders, tmp_path / "out", max_entries=3)
    twice = archive(tmp_path / "twice.tar.gz", entry("x", b"1"), entry("./x", b"2"))
    with pytest.raises(InputError, match="occurs twice"):
        unpack(twice, tmp_path / "out2")


def test_an_archive_that_unpacks_to_much_more_than_its_size_is_refused(tmp_path: Path) -> None:
    bomb = archive(tmp_path / "bomb.tar.gz", entry("model.onnx", bytes(20_000_000)))
    with pytest.raises(InputError, match="more than 20 times its size"):
        unpack(bomb, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    unpack(archive(tmp_path / "zeros.tar.gz", entry("model.onnx", bytes(15_000_000))), tmp_path / "out")


def test_a_huge_header_is_not_read_into_memory(tmp_path: Path) -> None:
    huge = entry("x", b"x")
    huge[0].pax_headers = {"comment": "0" * 3_000_000}
    path = archive(tmp_path / "x.tar.gz", huge)
    with pytest.raises(InputError, match="headers of more than a megabyte"):
        unpack(path, tmp_path / "out")


@pytest.mark.parametrize("record", [b"99999999999999999999999 a=b\n", b"30 GNU.sparse.map=1,2,3,4,x\n"])
def test_a_strange_header_ends_in_one_line(tmp_path: Path, record: bytes) -> None:
    path = archive(tmp_path / "x.tar.gz", entry("h", record, type=tarfile.XHDTYPE), entry("x", b"x"))
    with pytest.raises(InputError, match="damaged"):
        unpack(path, tmp_path / "out")


def test_a_size_below_nothing_does_not_lift_the_limit(tmp_path: Path) -> None:
    folder = entry("d", type=tarfile.DIRTYPE)
    folder[0].pax_headers = {"size": "-999999999999"}
    path = archive(tmp_path / "x.tar.gz", folder, entry("x", b"1" * 2000))
    with pytest.raises(InputError, match=r"below nothing|damaged"):
        unpack(path, tmp_path / "out", max_bytes=1000)


def test_a_card_of_megabytes_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps(CARD | {"else": "x" * 5_000_000}))
    with pytest.raises(InputError, match="more than 4 MiB"):
        Card.read(tmp_path)


def test_a_full_disk_is_no_fault_of_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "x.tar.gz", entry("x", b"x"))

    def full(path: Path, mode: str = "r", **options: object) -> IO[Any]:
        if mode == "xb":
            raise OSError(errno.ENOSPC, "No space left on device")
        return io.open(path, mode, **options)  # type: ignore[call-overload, no-any-return]  # noqa: UP020

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(SagehoundError, match="the disk is full") as error:
        unpack(path, tmp_path / "out")
    assert error.value.exit_code == 1


def test_an_endless_row_of_headers_ends_in_one_line(tmp_path: Path) -> None:
    header = io.BytesIO()
    with tarfile.open(fileobj=header, mode="w") as tar:
        tar.addfile(entry("h", b"11 path=xx\n", type=tarfile.XHDTYPE)[0], io.BytesIO(b"11 path=xx\n"))
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(header.getvalue()[:1024] * 5000))
    with pytest.raises(InputError, match="damaged"):
        unpack(path, tmp_path / "out")


CUTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "text": lambda _: b"not an archive at all",
    "half": lambda whole: whole[: len(whole) // 2],
    "changed": lambda whole: whole[:200] + bytes(20) + whole[220:],
    "no tar": lambda _: gzip.compress(b"x" * 5000),
    "tar that ends too early": lambda whole: gzip.compress(gzip.decompress(whole)[:700]),
}


@pytest.mark.parametrize("cut", CUTS)
def test_a_broken_archive_ends_in_one_line(tmp_path: Path, cut: str) -> None:
    whole = archive(tmp_path / "x.tar.gz", entry("model.onnx", bytes(range(256)) * 40)).read_bytes()
    (tmp_path / "x.tar.gz").write_bytes(CUTS[cut](whole))
    with pytest.raises(InputError, match=r"x\.tar\.gz: .*give a model\.tar\.gz"):
        unpack(tmp_path / "x.tar.gz", tmp_path / "out")


def test_a_model_is_found_by_its_run_its_archive_or_its_unpacked_folder(run: Path, tmp_path: Path) -> None:
    assert find(run) == find(run / "model.tar.gz") == run / "model.tar.gz"
    with opened(run) as folder:
        assert find(folder) == folder
        assert Card.read(folder).classes == ["Amber", "Moss", "Slate"]
        assert len({digest(folder), digest(run)}) == 2
    assert not folder.exists(), "what was unpacked is removed"
    with pytest.raises(InputError, match="no such run or file"):
        find(tmp_path / "nowhere")
    for strange in ("x" * 5000, "~nobody-of-this-name/x", "a\0b"):
        with pytest.raises(InputError, match="no such run or file"):
            find(strange)
    with pytest.raises(InputError, match=r"neither model\.tar\.gz nor model\.json lies in it"):
        find(tmp_path)


CARD = {
    "format": 1,
    "classes": ["a", "b"],
    "preprocessing": {
        "size": [64, 64],
        "resize": 73,
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.2, 0.2, 0.2],
    },
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 3}, "format 3, this Sagehound reads 1 to 2"),
        ({"format": True}, "format True, this Sagehound reads 1 to 2"),
        ({"classes": ["a", "\ud800"]}, "is broken"),
        ({"preprocessing": CARD["preprocessing"] | {"resize": 10**400}}, "preprocessing of"),  # type: ignore[operator]
        ({"preprocessing": CARD["preprocessing"] | {"resize": "1e999"}}, "is broken"),  # type: ignore[operator]
        ({"preprocessing": CARD["preprocessing"] | {"mean": [10**400, 0, 0]}}, "is broken"),  # type: ignore[operator]
        ({"else": "1e999"}, "is broken"),
        ({"else": json.loads("[" * 50 + "]" * 50)}, "nested too deeply"),
        ({"classes": ["a"]}, "two names or more"),
        ({"classes": ["a", "a"]}, "two classes of one name"),
        ({"classes": "ab"}, "two names or more"),
        ({"preprocessing": None}, "is broken"),
        ({"preprocessing": CARD["preprocessing"] | {"size": [10**9, 1]}}, "preprocessing of"),  # type: ignore[operator]
        ({"preprocessing": CARD["preprocessing"] | {"std": [0, 0, 0]}}, "std"),  # type: ignore[operator]
        ({"preprocessing": CARD["preprocessing"] | {"mean": ["nan", 0, 0]}}, "mean"),  # type: ignore[operator]
        ({"preprocessing": CARD["preprocessing"] | {"interpolation": "magic"}}, "interpolation magic"),  # type: ignore[operator]
    ],
)
def test_a_card_that_cannot_be_is_refused(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    (tmp_path / "model.json").write_text(json.dumps(CARD))
    assert Card.read(tmp_path).preprocessing.size == (64, 64)
    (tmp_path / "model.json").write_text(json.dumps(CARD | change).replace('"1e999"', "1e999"))
    with pytest.raises(InputError, match=reason):
        Card.read(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"format": 1}'])
def test_a_card_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(InputError, match=r"model\.json is broken"):
        Card.read(tmp_path)
