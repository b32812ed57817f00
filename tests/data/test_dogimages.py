"""The download against a real server on loopback, which can be told to break off, refuse ranges or change the zip."""

import http.server
import io
import stat
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from PIL import Image

from sagehound.config import Data
from sagehound.data import dogimages
from sagehound.data.folders import scan
from sagehound.data.photos import find_photos
from sagehound.errors import InputError, SagehoundError


class Server(http.server.ThreadingHTTPServer):
    """Serves ``content`` under every path."""

    content = b""
    ranges = True  # whether it honours Range
    break_after: int | None = None  # bytes of an answer after which the connection is cut
    status = 200
    asked: list[str | None]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/dogImages.zip"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        s, wanted = self.server, self.headers.get("Range")
        s.asked.append(wanted)
        if s.status != 200:
            return self.send_error(s.status)
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and s.ranges else 0
        if first >= len(s.content):
            return self.send_error(416)
        rest = s.content[first:]
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest if s.break_after is None else rest[: s.break_after])
        return None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as s:
        s.asked = []
        threading.Thread(target=s.serve_forever, daemon=True).start()
        yield s
        s.shutdown()


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        for name, content in members.items():
            z.writestr(name, content)
    return out.getvalue()


def tiny_zip() -> bytes:
    return zipped({f"dogImages/{s}/001.Affenpinscher/{i}.jpg": bytes(200) for s in ("train", "test") for i in range(5)})


def leftovers(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if not p.name.endswith(".lock")}


def test_the_zip_is_fetched_unpacked_and_moved_into_place(server: Server, tmp_path: Path) -> None:
    server.content = tiny_zip()
    dogimages.fetch(tmp_path / "data/dogs", server.url)
    assert len(scan(tmp_path / "data/dogs").photos) == 10
    assert leftovers(tmp_path / "data") == {"dogs"}
    dogimages.fetch(tmp_path / "data/dogs", server.url)
    assert len(server.asked) == 1, "what is there is not fetched again"


def test_a_download_goes_on_where_it_broke_off(server: Server, tmp_path: Path) -> None:
    server.content = tiny_zip()
    server.break_after = len(server.content) // 3 + 1
    dogimages.fetch(tmp_path / "dogs", server.url)
    assert server.asked == [None, f"bytes={server.break_after}-", f"bytes={2 * server.break_after}-"]
    assert len(scan(tmp_path / "dogs").photos) == 10


def test_a_download_that_was_killed_goes_on_at_the_next_start(server: Server, tmp_path: Path) -> None:
    server.content = tiny_zip()
    (tmp_path / ".dogs.zip.part").write_bytes(server.content[:500])
    dogimages.fetch(tmp_path / "dogs", server.url)
    assert server.asked == ["bytes=500-"]
    assert len(scan(tmp_path / "dogs").photos) == 10


def test_a_complete_part_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    server.content = tiny_zip()
    (tmp_path / ".dogs.zip.part").write_bytes(server.content)
    dogimages.fetch(tmp_path / "dogs", server.url)
    assert len(scan(tmp_path / "dogs").photos) == 10


def test_a_server_without_ranges_sends_everything_again(server: Server, tmp_path: Path) -> None:
    server.content, server.ranges = tiny_zip(), False
    (tmp_path / ".dogs.zip.part").write_bytes(b"x" * 500)
    dogimages.fetch(tmp_path / "dogs", server.url)
    assert len(scan(tmp_path / "dogs").photos) == 10


def test_a_connection_that_always_breaks_keeps_what_came(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dogimages.time, "sleep", lambda _: None)  # type: ignore[attr-defined]
    server.content, server.break_after = tiny_zip(), 10
    with pytest.raises(InputError, match=r"was interrupted 5 times.*run the same command to resume"):
        dogimages.fetch(tmp_path / "dogs", server.url)
    assert (tmp_path / ".dogs.zip.part").stat().st_size == 50
    assert not (tmp_path / "dogs").exists()


def test_a_damaged_zip_is_noticed_and_removed(server: Server, tmp_path: Path) -> None:
    content = bytearray(tiny_zip())
    content[120] ^= 1  # a byte of the first photo: its CRC no longer fits
    server.content = bytes(content)
    with pytest.raises(InputError, match="damaged on its way"):
        dogimages.fetch(tmp_path / "dogs", server.url)
    assert leftovers(tmp_path) == set()


@pytest.mark.parametrize("name", ["../evil.jpg", "/tmp/evil.jpg", "dogImages/../../evil.jpg"])
def test_a_zip_that_leaves_its_folder_is_refused(server: Server, tmp_path: Path, name: str) -> None:
    server.content = zipped({"dogImages/train/001.a/1.jpg": b"x", name: b"evil"})
    with pytest.raises(InputError, match="outside of its folder"):
        dogimages.fetch(tmp_path / "inner/dogs", server.url)
    assert not list(tmp_path.rglob("evil.jpg"))
    assert not (tmp_path / "inner/dogs").exists()


def test_what_a_mac_adds_to_a_zip_is_left_out(server: Server, tmp_path: Path) -> None:
    photos = {"dogImages/train/001.a/1.jpg": b"x", "dogImages/test/001.a/2.jpg": b"x"}
    server.content = zipped({f"__MACOSX/{name}": b"junk" for name in photos} | photos)
    dogimages.fetch(tmp_path / "dogs", server.url)
    assert [p.file for p in scan(tmp_path / "dogs").photos] == ["train/001.a/1.jpg", "test/001.a/2.jpg"]


def test_a_link_in_the_zip_is_refused(server: Server, tmp_path: Path) -> None:
    link = zipfile.ZipInfo("dogImages/train/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        z.writestr(link, "/etc/passwd")
    server.content = out.getvalue()
    with pytest.raises(InputError, match="a link or device"):
        dogimages.fetch(tmp_path / "dogs", server.url)


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_names_three_ways_on(server: Server, tmp_path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(InputError) as error:
        dogimages.fetch(tmp_path / "dogs", server.url)
    for way in (str(status), "data.root=", "data=demo", "data.url="):
        assert way in str(error.value)


def test_offline_names_three_ways_on(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        dogimages.fetch(tmp_path / "dogs", "http://127.0.0.1:9/dogImages.zip")
    for way in ("cannot be fetched", "data.root=", "data=demo", "data.url="):
        assert way in str(error.value)
    assert not (tmp_path / "dogs").exists()


def test_a_full_disk_while_unpacking_leaves_nothing_that_looks_complete(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def full(path: Path, mode: str = "r", **options: object) -> IO[Any]:
        if mode == "xb":
            raise OSError(errno.ENOSPC, "No space left on device")
        return io.open(path, mode, **options)  # type: ignore[call-overload, no-any-return]  # noqa: UP020

    server.content = tiny_zip()
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(SagehoundError, match="the disk is full"):
        dogimages.fetch(tmp_path / "dogs", server.url)
    assert leftovers(tmp_path) == {".dogs.zip.part"}, "the download itself is kept for the next start"


@pytest.mark.slow
def test_the_whole_set_is_checked(server: Server, tmp_path: Path) -> None:
    """133 breeds and 6,680/835/836 photos, all of them the same few pixels but for one."""
    photo = io.BytesIO()
    Image.new("RGB", (8, 8)).save(photo, "JPEG")
    members = {}
    for split, count in dogimages.PHOTOS.items():
        for i in range(count):
            breed = i % dogimages.BREEDS
            members[f"dogImages/{split}/{breed + 1:03}.Breed_{breed}/{i}.jpg"] = photo.getvalue()
    server.content = zipped(members)
    settings = Data("dogimages", str(tmp_path / "dogs"), url=server.url)
    have = find_photos(settings, tmp_path / "cache")
    assert (len(have.classes), len(have.photos)) == (133, 8351)
    next((tmp_path / "dogs").rglob("*.jpg")).unlink()
    with pytest.raises(InputError, match=r"did you mean data=folder data.root=.*only dogImages, 133"):
        find_photos(settings, tmp_path / "cache")
