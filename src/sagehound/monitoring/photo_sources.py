"""The photos that are compared: a folder of photos, or the captured requests of an endpoint."""

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from sagehound.data.folders import LeftOut, photos_below
from sagehound.errors import InputError
from sagehound.inference.decode import file_bytes
from sagehound.inference.request_body import photos_in

SUFFIX = ".jsonl"


@dataclass(frozen=True)
class Arrived:
    """A photo that reached the model.

    Attributes:
        name: the file, or the file of the capture with the event's id and the photo's number in the request.
        content: of the photo's file, or the reason why there is none.
        time: of the request; empty for a file.
    """

    name: str
    content: bytes | InputError
    time: str = ""


def of_folder(root: Path, seed: int = 0, key: str = "data.root") -> Iterator[Arrived]:
    """Every photo of a folder and below, or one photo, in random order: names do not tell which are newest.

    Args:
        root: the folder or the photo.
        seed: of the order.
        key: the setting that names it, for messages.

    Raises:
        InputError: there is no photo.
    """
    if not root.exists():
        raise InputError(f"{key}={root}: no such folder or photo (from {Path.cwd()})")
    left_out = LeftOut()
    names = list(photos_below(root, left_out))
    if not names:
        raise next(iter(left_out.folders), InputError(f"{key}={root}: no photo lies in it or below"))
    base = root if root.is_dir() else root.parent
    for i in np.random.default_rng(seed).permutation(len(names)):
        yield Arrived(names[i], _content(base / names[i]))


def of_captures(folder: Path, names: Mapping[str, str] = MappingProxyType({})) -> Iterator[Arrived]:
    """The photos of captured requests, newest first.

    The files are JSON lines as SageMaker's data capture writes them below ENDPOINT/VARIANT/yyyy/mm/dd/hh: each line has
    captureData.endpointInput with ``data`` and ``encoding``, and eventMetadata.

    Args:
        folder: of the files, or one file.
        names: other names of files, for the results and messages.

    Raises:
        InputError: there is no such file, a line is broken, or no line has a request.
    """
    files = capture_files(folder)
    found = False
    for file in files:
        name = file.relative_to(folder).as_posix() if file != folder else file.name
        name = names.get(name, name)
        lines = file_bytes(file).splitlines()
        for number, line in reversed(list(enumerate(lines, 1))):
            if not line.strip():
                continue
            for arrived in _photos_of(line, name, number):
                found = True
                yield arrived
    if not found:
        raise InputError(
            f"monitor.captured={folder}: its captures hold no requests; capture the input of the endpoint too "
            "(CaptureMode Input)"
        )


def capture_files(folder: Path) -> list[Path]:
    """The capture files of a folder and below, newest first, by the time in their paths.

    Raises:
        InputError: there is none.
    """
    if not folder.exists():
        raise InputError(f"monitor.captured={folder}: no such folder (from {Path.cwd()})")
    files = [folder] if folder.is_file() else [file for file in folder.rglob(f"*{SUFFIX}") if file.is_file()]
    if not files:
        raise InputError(f"monitor.captured={folder}: no {SUFFIX} file of captured requests lies in it or below")
    return sorted(files, key=lambda file: time_key(file.as_posix()), reverse=True)


def time_key(path: str) -> tuple[list[str], str]:
    """The sort key of a capture file: yyyy/mm/dd/hh/mm-ss-... at the end of its path, then the whole path."""
    return path.split("/")[-5:], path


def _photos_of(line: bytes, file: str, number: int) -> Iterator[Arrived]:
    """The photos of one captured request; none if it was not captured or a request of another kind."""
    try:
        record = json.loads(line)
        given, about = record["captureData"].get("endpointInput"), record["eventMetadata"]
        event, time = str(about["eventId"]), str(about["inferenceTime"])
        if given is None:
            return
        body = _body(given)
        content_type = str(given["observedContentType"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{file}, line {number}: not a captured request ({type(error).__name__}: {error}); "
            "remove the file, or give the folder that SageMaker's data capture or deploy.capture wrote"
        ) from error
    try:
        photos = photos_in(body, content_type).photos
    except InputError as error:
        yield Arrived(f"{file}#{event}", error, time)
        return
    for i, photo in enumerate(photos):
        yield Arrived(f"{file}#{event}" + (f"/{i}" if len(photos) > 1 else ""), photo, time)


def _body(given: dict[str, Any]) -> bytes:
    encoding, data = given["encoding"], given["data"]
    if encoding == "BASE64":
        return base64.b64decode(data, validate=True)
    if encoding in ("JSON", "CSV"):
        return str(data).encode()
    raise ValueError(f"encoding {encoding!r}")


def _content(path: Path) -> bytes | InputError:
    try:
        return file_bytes(path)
    except InputError as error:
        return error
