"""Photos as the clients that people use send them, to a real server: curl, requests, httpx and browsers' forms."""

import base64
import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pillow_heif
import pytest
import requests
from helpers import Server
from PIL import Image

pillow_heif.register_heif_opener()


@pytest.fixture
def dogs(tmp_path: Path, photo: bytes) -> Path:
    """A folder with a photo in several formats, and a text under the name of one."""
    with Image.open(io.BytesIO(photo)) as image:
        for suffix in ("jpg", "png", "gif", "tiff", "avif", "heic"):
            image.save(tmp_path / f"dog.{suffix}", quality=95)
    (tmp_path / "not a dög.jpg").write_bytes(b"a text")
    return tmp_path


def curl(*arguments: str | Path) -> Any:  # noqa: ANN401 - JSON
    program = shutil.which("curl")
    if program is None:
        pytest.skip("no curl")
    done = subprocess.run([program, "-sS", "--noproxy", "*", *arguments], capture_output=True, check=True, timeout=60)
    return json.loads(done.stdout)


def test_curl_sends_forms_and_files_without_a_type(server: Server, dogs: Path) -> None:
    url = server.url + "/invocations"
    assert curl(url, "-F", f"file=@{dogs}/dog.jpg")["label"] == "Slate"
    several = curl(url + "?top_k=1", "-F", f"a=@{dogs}/dog.png", "-F", f"b=@{dogs}/not a dög.jpg", "-F", "note=x")
    good, bad = several["predictions"]
    assert (good["file"], good["label"], len(good["top"])) == ("dog.png", "Slate", 1)
    assert bad["file"] == "not a dög.jpg"
    assert bad["error"] == {"code": "bad_photo", "message": "not a dög.jpg: not an image file"}
    for suffix in ("jpg", "gif", "tiff", "avif", "heic"):  # curl then says application/x-www-form-urlencoded
        assert curl(url, "--data-binary", f"@{dogs}/dog.{suffix}")["label"] == "Slate", suffix
    assert curl(url, "-H", "Content-Type:", "--data-binary", f"@{dogs}/dog.jpg")["label"] == "Slate", "no type at all"
    (dogs / "body.json").write_text(  # as a shell writes it: the line ends of base64 are not escaped
        f'{{"instances": ["{base64.encodebytes((dogs / "dog.png").read_bytes()).decode()}"]}}'
    )
    assert curl(url, "--data-binary", f"@{dogs}/body.json")["predictions"][0]["label"] == "Slate"


def test_a_form_of_another_site_is_refused(server: Server, dogs: Path) -> None:
    for site, status in (("cross-site", 403), ("same-origin", 200), ("none", 200)):
        with (dogs / "dog.jpg").open("rb") as file:
            answer = requests.post(
                server.url + "/invocations", files={"file": file}, headers={"Sec-Fetch-Site": site}, timeout=60
            )
        assert answer.status_code == status, site
    assert server.request("GET", "/", Sec_Fetch_Site="cross-site").status == 200, "a link to the page"


@pytest.mark.parametrize("library", ["requests", "httpx2"])
def test_http_libraries_send_files(server: Server, dogs: Path, library: str) -> None:
    client, url = pytest.importorskip(library), server.url + "/invocations"
    with (dogs / "dog.jpg").open("rb") as file:
        one = client.post(url, files={"file": file}).json()
    assert (one["file"], one["label"]) == ("dog.jpg", "Slate")
    with (dogs / "not a dög.jpg").open("rb") as file:
        refused = client.post(url, files={"file": file})
    assert refused.status_code == 400
    assert refused.json()["error"] == {"code": "bad_photo", "message": "not a dög.jpg: not an image file"}
    files = [("file", (f"{i}.jpg", (dogs / "dog.jpg").read_bytes(), "image/jpeg")) for i in range(20)]
    many = client.post(url, files=files, headers={"Accept": "application/jsonlines"}).text.splitlines()
    assert [json.loads(line)["file"] for line in many] == [f"{i}.jpg" for i in range(20)]
    content = (dogs / "dog.gif").read_bytes()
    assert client.post(url, **{"data" if library == "requests" else "content": content}).json()["label"] == "Slate"


def test_a_form_without_a_photo_is_refused(server: Server) -> None:
    refused = requests.post(server.url + "/invocations", files={"file": b""}, timeout=60)
    assert (refused.status_code, refused.json()["error"]["message"]) == (400, "file: empty file")
    refused = requests.post(server.url + "/invocations", data={"file": "dog.jpg"}, timeout=60)
    assert (refused.status_code, refused.json()["error"]["code"]) == (415, "unsupported_content_type")


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        *(("dog.jpg", kind) for kind in ("image/jpg", "image/pjpeg", "application/octet-stream", "image/png")),
        *(("dog.gif", "image/gif"), ("dog.tiff", "image/tiff"), ("dog.avif", "image/avif"), ("dog.heic", "image/heic")),
    ],
)
def test_types_that_clients_give_photos(server: Server, dogs: Path, name: str, content_type: str) -> None:
    assert server.invoke((dogs / name).read_bytes(), content_type).json()["label"] == "Slate"


def test_data_urls_and_wrapped_base64_are_photos(server: Server, photo: bytes) -> None:
    wrapped = base64.encodebytes(photo).decode()
    url = "data:image/jpeg;base64," + base64.b64encode(photo).decode()
    body = json.dumps({"instances": [wrapped, {"b64": url}, "data:text/plain,dog"]}).encode()
    one, two, bad = server.invoke(body, "application/json").json()["predictions"]
    assert one == two
    assert one["label"] == "Slate"
    assert bad["error"]["code"] == "input_error"


def test_a_form_under_attack_stalls_nobody(server: Server, photo: bytes) -> None:
    head = b'Content-Disposition: form-data; filename="' + b';"' * 14 + b"a" * 3900
    bodies = [
        (b"\r\n--xyz" * 3_000_000, 400),
        (b"--xyz\r\n" + b"\r\n--xyz\r\n".join([head + b"\r\n\r\nx"] * 1000) + b"\r\n--xyz--", 200),
        (b"--xyz\r\n" + b"; " * 10**7, 400),
    ]
    for body, status in bodies:
        assert server.invoke(body, "multipart/form-data; boundary=xyz").status == status
        assert server.invoke(photo).json()["label"] == "Slate"
