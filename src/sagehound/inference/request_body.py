"""The photos in the body of a request, for the server and the artifact's inference.py. Imports no torch."""

import base64
import binascii
import json
from typing import Any, NamedTuple

from sagehound.inference import multipart
from sagehound.inference.headers import kind_of
from sagehound.inference.input_errors import InputError

JSON, LINES, FORM = "application/json", "application/jsonlines", "multipart/form-data"
PHOTO = (
    *("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff"),
    *("image/avif", "image/heic", "image/heif", "image/jp2", "application/x-image", "application/octet-stream"),
    *("image/jpg", "image/pjpeg", "image/x-png", "image/x-ms-bmp"),  # other names that clients use
)
_UNSAID = ("", "application/x-www-form-urlencoded")  # no type at all; and what curl sends if it is given none
MAX_INSTANCES = 1_000  # photos in one request
_MARKS = 10 * MAX_INSTANCES  # commas and brackets, or line ends; parsing millions of them would need a gigabyte


class UnsupportedContentType(InputError):
    """The content type cannot be read."""


class RequestBody(NamedTuple):
    """The photos of a request, each as the bytes of a file, or the reason why it cannot be read."""

    photos: list[bytes | InputError]
    single: bool  # one photo, not a list of one; its response is not a list either
    files: list[str | None]  # the name of each photo's file, if the client gives names


def is_photo(content_type: str) -> bool:
    """Whether the body is a single photo."""
    return media_of(content_type) in PHOTO


def media_of(content_type: str) -> str:
    """The type without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def photos_in(body: bytes, content_type: str | None) -> RequestBody:
    """The photos of a request.

    A single photo is the body itself. application/json holds {"instances": [...]}, application/jsonlines one instance
    per line. An instance is a photo in base64 or a data URL, or {"b64": the same}. multipart/form-data holds a file for
    each photo; one file is a single photo. Without a type, the first bytes decide between a photo and JSON.

    Raises:
        UnsupportedContentType: the content type is none of these.
        InputError: the body cannot be read, or holds no photo or more than a thousand.
    """
    content_type = content_type or ""
    media = media_of(content_type)
    if media in _UNSAID:
        media = _sniffed(body)
    if media in PHOTO:
        return RequestBody([body], True, [None])
    if media == FORM:
        return _files(multipart.files_in(body, content_type, MAX_INSTANCES))
    marks = {JSON: (b",", b"[", b"{"), LINES: (b",", b"[", b"{", b"\n", b"\r")}  # none is in base64
    if sum(map(body.count, marks.get(media, ()))) > _MARKS:
        raise InputError(f"too many values or lines: send {MAX_INSTANCES:,} photos at most in a request")
    if media == JSON:
        return _list([_instance(item) for item in _counted(_instances(body))])
    if media == LINES:
        return _list([_line(line) for line in _counted([line for line in body.splitlines() if line.strip()])])
    given = repr(media) if media else "none, and the body does not begin like a photo or JSON"
    raise UnsupportedContentType(
        f"content type {given}: send a photo as {', '.join(PHOTO)}, or several as {FORM}, {JSON} or {LINES}"
    )


def _sniffed(body: bytes) -> str:
    if kind_of(body):
        return "application/octet-stream"
    return JSON if body.lstrip()[:1] == b"{" else ""


def _list(photos: list[bytes | InputError]) -> RequestBody:
    return RequestBody(photos, False, [None] * len(photos))


def _files(files: list[multipart.File]) -> RequestBody:
    if not files:
        raise InputError('the form has no file: send each photo as a file, as in curl -F "file=@dog.jpg"')
    _counted(files)
    contents = [decoded(file.content.decode("latin-1")) if file.is_base64 else file.content for file in files]
    return RequestBody(contents, len(files) == 1, [file.name for file in files])


def _instances(body: bytes) -> list[Any]:
    try:
        content = json.loads(body, strict=False)  # base64 with line ends, as the program base64 writes it
    except (ValueError, RecursionError) as error:
        raise InputError(f"no JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("instances"), list):
        raise InputError('send {"instances": [...]}, each a photo in base64 or {"b64": a photo in base64}')
    return list(content["instances"])


def _counted(items: list[Any]) -> list[Any]:
    if not 0 < len(items) <= MAX_INSTANCES:
        raise InputError(f"{len(items)} photos: send 1 to {MAX_INSTANCES:,} in a request")
    return items


def _line(line: bytes) -> bytes | InputError:
    try:
        return _instance(json.loads(line))
    except (ValueError, RecursionError) as error:
        return InputError(f"no JSON: {error}")


def _instance(item: Any) -> bytes | InputError:  # noqa: ANN401 - whatever JSON holds
    text = item.get("b64") if isinstance(item, dict) else item
    if not isinstance(text, str):
        return InputError('an instance must be a photo in base64, or {"b64": a photo in base64}')
    return decoded(text)


def decoded(text: str) -> bytes | InputError:
    """The bytes of base64, with or without line ends, or of a data URL (RFC 2397)."""
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not head.lower().endswith(";base64"):
            return InputError("a data URL that is not in base64: send data:image/jpeg;base64,...")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        return InputError(f"no base64: {error}")
