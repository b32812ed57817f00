"""Photos sent to an S3 that keeps them, and unpacked again."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import urllib3

from sagehound.data.folders import scan
from sagehound.errors import ConfigError, InputError, SagehoundError
from sagehound.storage.packs import unpack
from sagehound_launchers.sagemaker.photo_upload import S3, Uploaded, upload_loose, upload_packed
from sagemaker_emulator.server import Emulator

Upload: TypeAlias = Callable[..., Uploaded]
BUCKET = "photos"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with Emulator(tmp_path_factory.mktemp("emulator")) as running:
        yield running


@pytest.fixture
def url(emulator: Emulator) -> str:
    """Of an S3 on loopback."""
    return emulator.url


def client(url: str, attempts: int = 1) -> S3:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        config=Config(max_pool_connections=8, retries={"max_attempts": attempts}, connect_timeout=2),
    )


@pytest.fixture
def s3(url: str) -> Iterator[S3]:
    """A client, and an empty bucket."""
    found = client(url)
    found.create_bucket(Bucket=BUCKET)
    yield found
    for key in keys(found):
        found.delete_object(Bucket=BUCKET, Key=key)


def keys(s3: S3, prefix: str = "") -> set[str]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return {item["Key"] for page in pages for item in page.get("Contents", [])}


def tree(root: Path, photos: int = 60, size: int = 2000) -> Path:
    """Files called like photos, in splits and classes; what is in them is of no concern here."""
    made = random.Random(0)
    for i in range(photos):
        split = ("train", "train", "valid", "test")[i % 4]
        file = root / split / f"{i % 3:03}.class {i % 3}" / f"{i:05}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(made.randbytes(size + i))
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {f.relative_to(root).as_posix(): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def download(s3: S3, uri: str, folder: Path) -> Path:
    """What SageMaker does with a ManifestFile: every object it names, into the channel's folder."""
    key = uri.removeprefix(f"s3://{BUCKET}/")
    first, *names = json.loads(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    folder.mkdir(parents=True, exist_ok=True)
    base = first["prefix"].removeprefix(f"s3://{BUCKET}/")
    for name in names:
        (folder / name).write_bytes(s3.get_object(Bucket=BUCKET, Key=base + name)["Body"].read())
    return folder


def test_packed_photos_come_out_as_they_went_in(s3: S3, tmp_path: Path) -> None:
    root = tree(tmp_path / "dogs")
    found = upload_packed(root, s3, BUCKET, "sets/dogs")
    assert found.manifest
    assert found.photos == 60
    assert found.uri.startswith(f"s3://{BUCKET}/sets/dogs/manifests/")
    assert str(found) == f"60 photos at {found.uri}: 2 of 2 objects sent (0.2 MB)"
    assert keys(s3) == keys(s3, "sets/dogs/packs/") | {found.uri.removeprefix(f"s3://{BUCKET}/")}
    channel = download(s3, found.uri, tmp_path / "channel")
    unpacked = unpack(channel)
    assert contents(unpacked) == contents(root)
    assert [p.label for p in scan(unpacked).photos] == [p.label for p in scan(root).photos]
    assert unpack(channel) == unpacked


def test_a_second_upload_sends_nothing_even_from_another_folder(s3: S3, tmp_path: Path) -> None:
    first = upload_packed(tree(tmp_path / "dogs"), s3, BUCKET, "dogs")
    assert first.sent == first.objects > 1
    again = upload_packed(tree(tmp_path / "elsewhere"), s3, BUCKET, "/dogs/")
    assert (again.uri, again.sent, again.bytes_sent) == (first.uri, 0, 0)


def test_a_pack_that_came_over_in_part_is_sent_again(s3: S3, tmp_path: Path) -> None:
    root = tree(tmp_path / "dogs")
    upload_packed(root, s3, BUCKET, "dogs")
    (pack,) = keys(s3, "dogs/packs/")
    whole = s3.get_object(Bucket=BUCKET, Key=pack)["Body"].read()
    s3.put_object(Bucket=BUCKET, Key=pack, Body=whole[:100])
    again = upload_packed(root, s3, BUCKET, "dogs")
    assert (again.sent, again.bytes_sent) == (1, len(whole))
    assert s3.get_object(Bucket=BUCKET, Key=pack)["Body"].read() == whole


def test_one_photo_more_sends_about_one_pack(s3: S3, tmp_path: Path) -> None:
    root = tree(tmp_path / "dogs", photos=120, size=400_000)  # 48 MB
    first = upload_packed(root, s3, BUCKET, "dogs")
    assert first.objects > 6
    (root / "train/001.class 1/00050b.jpg").write_bytes(random.Random(1).randbytes(400_000))
    again = upload_packed(root, s3, BUCKET, "dogs")
    assert again.sent <= 3  # two packs where the new photo ends one, and the manifest
    assert again.uri != first.uri
    assert contents(unpack(download(s3, again.uri, tmp_path / "channel"))) == contents(root)
    (root / "train/001.class 1/00050b.jpg").unlink()
    assert upload_packed(root, s3, BUCKET, "dogs").sent == 0


def test_loose_photos_lie_under_their_names(s3: S3, tmp_path: Path) -> None:
    root = tree(tmp_path / "dogs")
    (root / "train/000.class 0/ä ü&+%.jpg").write_bytes(b"x")
    (root / "train/000.class 0/empty.jpg").touch()
    found = upload_loose(root, s3, BUCKET, "dogs")
    assert (found.manifest, found.uri, found.sent) == (False, f"s3://{BUCKET}/dogs/photos/", 62)
    assert keys(s3) == {f"dogs/photos/{p.file}" for p in scan(root).photos}
    assert s3.get_object(Bucket=BUCKET, Key="dogs/photos/train/000.class 0/ä ü&+%.jpg")["Body"].read() == b"x"
    again = upload_loose(root, s3, BUCKET, "dogs")
    assert (again.sent, again.bytes_sent, again.deleted) == (0, 0, 0)


def test_loose_photos_that_changed_are_sent_and_those_that_are_gone_deleted(s3: S3, tmp_path: Path) -> None:
    root = tree(tmp_path / "dogs")
    packs = upload_packed(root, s3, BUCKET, "dogs")
    upload_loose(root, s3, BUCKET, "dogs")
    s3.put_object(Bucket=BUCKET, Key="dogsled/photos/a.jpg", Body=b"another's")
    first, second, *_ = [p.file for p in scan(root).photos]
    size = (root / first).stat().st_size
    (root / first).write_bytes(b"y" * size)  # of the same size
    (root / second).unlink()
    found = upload_loose(root, s3, BUCKET, "dogs")
    assert (found.sent, found.bytes_sent, found.deleted) == (1, size, 1)
    assert keys(s3, "dogs/photos/") == {f"dogs/photos/{p.file}" for p in scan(root).photos}
    assert keys(s3, "dogsled/") == {"dogsled/photos/a.jpg"}
    assert upload_packed(root, s3, BUCKET, "dogs").objects == packs.objects, "packs are no photos to delete"


@pytest.mark.parametrize("upload", [upload_packed, upload_loose])
@pytest.mark.parametrize("prefix", ["", "/"])
def test_the_whole_bucket_is_no_place_for_photos(s3: S3, tmp_path: Path, upload: Upload, prefix: str) -> None:
    with pytest.raises(ConfigError, match="need a prefix"):
        upload(tree(tmp_path), s3, BUCKET, prefix)


@pytest.mark.parametrize("upload", [upload_packed, upload_loose])
def test_what_s3_refuses_is_one_line(url: str, tmp_path: Path, upload: Upload) -> None:
    with pytest.raises(SagehoundError, match=r"^sending photos to s3://nobodys/dogs/.*: there is no such bucket$"):
        upload(tree(tmp_path), client(url), "nobodys", "dogs")


@pytest.mark.parametrize("upload", [upload_packed, upload_loose])
def test_an_s3_out_of_reach_is_one_line(tmp_path: Path, upload: Upload) -> None:
    with pytest.raises(SagehoundError, match=r"^sending photos to s3://photos/dogs/.*: AWS could not be reached: "):
        upload(tree(tmp_path), client("http://127.0.0.1:9"), BUCKET, "dogs")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file here that opens and cannot be read")
def test_an_interrupted_upload_goes_on(s3: S3, tmp_path: Path) -> None:
    root = tree(tmp_path / "dogs", photos=100)
    bad = root / "valid/002.class 2/00098.jpg"  # some lie before it, some behind
    good = bad.read_bytes()
    bad.unlink()
    bad.symlink_to("/proc/self/mem")  # it opens, and reading fails
    with pytest.raises(InputError, match=r"00098.jpg cannot be read \(Input/output error\): fix or remove it"):
        upload_loose(root, s3, BUCKET, "dogs", workers=1)
    sent = len(keys(s3))
    assert 0 < sent < 100
    bad.unlink()
    bad.write_bytes(good)
    found = upload_loose(root, s3, BUCKET, "dogs")
    assert (found.sent, found.objects, len(keys(s3))) == (100 - sent, 100, 100)


def ask(url: str, method: str, what: str, *content: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON's
    """Set or ask what the emulator lets tests set and ask."""
    return urllib3.request(method, f"{url}/_emulator/{what}", json=list(content)).json()


@pytest.mark.slow
@pytest.mark.parametrize("upload", [upload_packed, upload_loose])
def test_hiccups_of_s3_are_sat_out(s3: S3, url: str, tmp_path: Path, upload: Upload) -> None:
    faults = [{"operation": "s3:PutObject", "kind": kind} for kind in ("throttle", "drop", "error")]
    ask(url, "POST", "faults", *faults, {"operation": "s3:ListObjectsV2", "kind": "error"})
    found = upload(tree(tmp_path / "dogs"), client(url, attempts=10), BUCKET, "dogs")
    assert ask(url, "GET", "faults") == [], "all of them happened"
    assert found.sent == found.objects == len(keys(s3))


@pytest.mark.slow
def test_credentials_that_expire_on_the_way_lose_nothing_that_was_sent(s3: S3, url: str, tmp_path: Path) -> None:
    root = tree(tmp_path / "dogs", photos=120, size=400_000)
    ask(url, "POST", "faults", *[{"operation": "s3:PutObject", "kind": "error", "after": True}] * 3)
    ask(url, "POST", "faults", {"operation": "s3:PutObject", "kind": "expired_token", "times": 1000})
    with pytest.raises(ConfigError, match=r"^sending photos to s3://photos/dogs/: .*the credentials have expired"):
        upload_packed(root, client(url, attempts=5), BUCKET, "dogs", workers=1)
    ask(url, "DELETE", "faults")
    there = len(keys(s3))
    found = upload_packed(root, s3, BUCKET, "dogs")
    assert there > 0
    assert found.sent == found.objects - there


def test_a_second_upload_asks_little(s3: S3, url: str, tmp_path: Path) -> None:
    root = tree(tmp_path / "dogs", photos=300)
    upload_packed(root, s3, BUCKET, "dogs")
    before = ask(url, "GET", "requests")
    upload_packed(root, s3, BUCKET, "dogs")
    after = ask(url, "GET", "requests")
    assert {k: n - before.get(k, 0) for k, n in after.items() if n != before.get(k, 0)} == {"s3:ListObjectsV2": 2}


class Stuck(BaseHTTPRequestHandler):
    """An S3 with an empty bucket that refuses one photo and never answers for the others."""

    protocol_version = "HTTP/1.1"
    refused = ""

    def do_GET(self) -> None:
        self.answer(200, b"<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>")

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.refused and self.refused in self.path:
            self.answer(403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
        else:
            threading.Event().wait()

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stuck() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stuck)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


UPLOAD = """
import sys, boto3
from botocore.config import Config
from pathlib import Path
from sagehound.errors import SagehoundError
from sagemaker_emulator.server import Emulator
from sagehound_launchers.sagemaker.photo_upload import upload_loose
url, root = sys.argv[1:]
s3 = boto3.client("s3", "us-east-1", endpoint_url=url, aws_access_key_id="x", aws_secret_access_key="x",
    config=Config(read_timeout=600))
try:
    upload_loose(Path(root), s3, "photos", "dogs")
except SagehoundError as error:
    sys.exit(str(error))
"""


def test_one_photo_that_is_refused_ends_an_upload_that_hangs(
    stuck: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stuck, "refused", "00000.jpg")
    command = [sys.executable, "-c", UPLOAD, stuck, str(tree(tmp_path / "dogs"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("sending photos to s3://photos/dogs/photos/: these credentials lack a permission: no")


def test_ctrl_c_ends_an_upload_that_hangs(stuck: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", UPLOAD, stuck, str(tree(tmp_path / "dogs"))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "Sending 60 photos to s3://photos/dogs/photos/\n"
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize("upload", [upload_packed, upload_loose])
def test_a_photo_that_vanishes_or_is_kept_from_us_is_named(s3: S3, tmp_path: Path, upload: Upload) -> None:
    root = tree(tmp_path / "dogs")
    (root / "train/000.class 0/link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(InputError, match=r"link.jpg cannot be read \(No such file or directory\): fix or remove it"):
        upload(root, s3, BUCKET, "dogs")
    assert not [k for k in keys(s3) if k.endswith(".manifest")]


@pytest.mark.parametrize("upload", [upload_packed, upload_loose])
def test_a_folder_without_photos_is_refused(s3: S3, tmp_path: Path, upload: Upload) -> None:
    (tmp_path / "train/dog").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no photos in class folders"):
        upload(tmp_path, s3, BUCKET, "dogs")


def test_names_that_are_no_text_survive_packing_and_are_refused_loose(s3: S3, tmp_path: Path) -> None:
    root = tree(tmp_path / "dogs", photos=4)
    odd = Path(os.fsdecode(os.fsencode(root / "train/000.class 0") + b"/caf\xe9.jpg"))
    odd.write_bytes(b"odd")
    long = root / "train/000.class 0" / ("d" * 200) / f"{'n' * 200}.jpg"
    long.parent.mkdir()
    long.write_bytes(b"long")
    found = upload_packed(root, s3, BUCKET, "dogs")
    assert contents(unpack(download(s3, found.uri, tmp_path / "channel"))) == contents(root)
    with pytest.raises(InputError, match="is no UTF-8, which S3 asks for; rename it"):
        upload_loose(root, s3, BUCKET, "dogs")
    odd.unlink()
    with pytest.raises(InputError, match="more than S3's 1024 bytes"):
        upload_loose(root, s3, BUCKET, "dogs/" + "p" * 700)


def test_links_in_a_circle_are_followed_once(s3: S3, tmp_path: Path) -> None:
    root = tree(tmp_path / "dogs", photos=4)
    (root / "train/000.class 0/again").symlink_to(root / "train/000.class 0")
    assert upload_loose(root, s3, BUCKET, "dogs").objects == 4
