"""dogImages: 133 breeds, downloaded as a zip with resume, and unpacked in one step."""

import http.client
import shutil
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

from rich.progress import Progress, TaskID

from sagehound.config.overrides import override
from sagehound.data import photo_archives
from sagehound.data.folders import Tree
from sagehound.errors import InputError
from sagehound.storage.archive_reader import DamagedArchive
from sagehound.storage.atomic import locked, writing_failed
from sagehound.system import console, program

BREEDS = 133
PHOTOS = {"train": 6680, "valid": 835, "test": 836}
_TRIES = 5  # connections; each resumes the download
_CHUNK = 1 << 18  # bytes


def fetch(root: Path, url: str | None) -> None:
    """Download and unpack the photos into ``root`` unless it exists.

    Raises:
        InputError: the zip cannot be fetched, is damaged or unsafe.
        SagehoundError: the disk is full.
    """
    if root.exists():
        return
    if not url:
        raise InputError(f"data.root={root} does not exist and data.url is not given. {_ways_on()}")
    with locked(root.with_name(f".{root.name}.lock")):
        if root.exists():  # another process has just downloaded it
            return
        archive = root.with_name(f".{root.name}.zip.part")
        try:
            _download(url, archive)
            _unpack(archive, root)
        except OSError as error:
            raise writing_failed(root, error) from error
        archive.unlink()


def check(tree: Tree) -> None:
    """Make sure that all photos are there.

    Raises:
        InputError: a breed or a photo is missing or too many.
    """
    counts = dict(Counter(p.split for p in tree.photos))
    breeds = len({p.label for p in tree.photos})
    if (breeds, counts) != (BREEDS, PHOTOS):
        root = program.quoted(override("data.root", str(tree.root)))
        raise InputError(
            f"did you mean data=folder {root}? data=dogimages takes only dogImages, {BREEDS} breeds of "
            f"{_counts(PHOTOS)} photos; data.root={tree.root} holds {breeds} and {_counts(counts)}. If it is a broken "
            "copy of dogImages, remove it to fetch it again"
        )


def _counts(photos: dict[str, int]) -> str:
    return "/".join(f"{photos.get(s, 0):,}" for s in PHOTOS)


def _ways_on() -> str:
    return (
        "Three solutions: data.root=FOLDER if you have the photos unpacked, data.url=URL of a mirror of dogImages.zip, "
        "or data=demo for photos that are drawn here"
    )


def _download(url: str, part: Path) -> None:
    """Append to ``part`` until the download is complete. A broken connection loses nothing."""
    part.parent.mkdir(parents=True, exist_ok=True)
    with console.bar(bytes_=True) as progress:
        console.info(f"Fetching {url}")
        task = progress.add_task("dogImages.zip", total=None)
        for attempt in range(1, _TRIES + 1):
            try:
                return _append(url, part, progress, task)
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    raise InputError(f"{url} cannot be fetched: {error.code} {error.reason}. {_ways_on()}") from error
                reason = f"{error.code} {error.reason}"
            except (
                urllib.error.URLError,
                http.client.HTTPException,
                ConnectionError,
                TimeoutError,
                ValueError,
            ) as error:
                reason = str(getattr(error, "reason", error))
                if not part.exists() and attempt == 1:  # nothing was received: trying again is useless
                    raise InputError(f"{url} cannot be fetched: {reason}. {_ways_on()}") from error
            time.sleep(min(0.2 * 2**attempt, 5))
    raise InputError(
        f"{url} was interrupted {_TRIES} times ({reason}); run the same command to resume at {part}. {_ways_on()}"
    )


def _append(url: str, part: Path, progress: Progress, task: TaskID) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # the download is complete
            return
        raise
    with response:
        if response.status != 206:  # the server sends everything again
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        progress.update(task, total=total, completed=have)
        with part.open("ab" if have else "wb") as out:
            while chunk := _receive(response):
                out.write(chunk)
                progress.advance(task, len(chunk))
        if total is not None and part.stat().st_size < total:
            raise ConnectionError(f"{part.stat().st_size:,} of {total:,} bytes")


def _receive(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_CHUNK)
    except OSError as error:  # of the network, with TLS; disk errors come from write() only
        raise ConnectionError(str(error)) from error


def _unpack(archive: Path, root: Path) -> None:
    """Unpack beside ``root``, verify every checksum, and move the folder with train into place in one step."""
    unpacked = root.with_name(f".{root.name}.unpacked")
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        photo_archives.extract(archive, unpacked)
        inner = next((p.parent for p in sorted(unpacked.rglob("train")) if p.is_dir()), None)
        if inner is None:
            raise InputError(f"{archive.name} has no train folder: data.url must be a mirror of dogImages.zip")
        inner.rename(root)
    except DamagedArchive as error:
        archive.unlink()
        raise InputError(f"the zip was damaged on its way ({error}) and removed: run the same command again") from error
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
