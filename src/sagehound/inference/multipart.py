"""Reads the files of a form, multipart/form-data: RFC 7578 and RFC 2046, section 5.1. Imports no torch.

Python's parser of e-mails splits binary content into lines, which takes seconds for large photos.
"""

from email.message import Message
from email.parser import HeaderParser
from typing import NamedTuple

from sagehound.inference.input_errors import InputError

_HEAD_BYTES = 2**12  # headers of one part
_HEAD_MARKS = 16  # lines and parameters of these headers; the time to parse them grows with the square of their number
_FIELDS = 100  # parts that are no files
_NAME = 255  # characters of a file's name in messages and responses
_PLAIN = ("", "7bit", "8bit", "binary")  # transfer encodings that leave the bytes as they are


class File(NamedTuple):
    """A file of a form."""

    name: str | None
    content: bytes
    is_base64: bool = False


def files_in(body: bytes, content_type: str, most: int) -> list[File]:
    """The files of a form in order; other fields are left out.

    A part is a file if it has a file's name, or the type of an image or of any bytes. A browser's field without a file,
    which has an empty name and no content, is left out.

    Args:
        body: of the request.
        content_type: with the parameter boundary.
        most: how many files the caller wants at most.

    Raises:
        InputError: it is not such a form, ends too early, or has many more parts.
    """
    if len(content_type) > _HEAD_BYTES or content_type.count(";") > _HEAD_MARKS:
        raise InputError("the content type is too long")
    boundary = _headers(f"Content-Type: {content_type}").get_param("boundary")
    if not isinstance(boundary, str) or not 0 < len(boundary) <= 70:
        raise InputError("multipart/form-data without a boundary: let the client's library write the header")
    delimiter = b"\r\n--" + boundary.encode("latin-1", "replace")
    body = b"\r\n" + body
    if body.count(delimiter) > most + _FIELDS:
        raise InputError(f"too many parts of a form: send {most:,} photos at most in a request")
    _, *parts = body.split(delimiter)
    files: list[File] = []
    for part in parts:
        if part.startswith(b"--"):
            return files
        file = _file(part)
        if file is not None:
            files.append(file)
    raise InputError("the form ends too early, or its boundary is not the one of the header (truncated)")


def _file(part: bytes) -> File | None:
    """The file that a part holds, None if it is another field. ``part`` begins after its delimiter."""
    padding, line, rest = part.partition(b"\r\n")
    head, end, content = (b"\r\n" + rest).partition(b"\r\n\r\n")
    if padding.strip(b" \t") or not line or not end:
        raise InputError("a part of the form cannot be read: its headers have no end")
    if len(head) > _HEAD_BYTES or head.count(b";") + head.count(b"\n") > _HEAD_MARKS:
        raise InputError("a part of the form has too many headers, or too long ones")
    headers = _headers(head.decode(errors="replace").lstrip())
    name, kind = headers.get_filename(), headers.get_content_type()
    if name is None and not kind.startswith("image/") and kind != "application/octet-stream":
        return None
    if not name and not content:
        return None
    encoding = str(headers.get("content-transfer-encoding", "")).strip().lower()
    if encoding not in (*_PLAIN, "base64"):
        raise InputError(f"content-transfer-encoding {encoding!r}: send the file as it is")
    return File(name[:_NAME] if name else None, content, encoding == "base64")


def _headers(text: str) -> Message:
    """Headers as text, parsed."""
    return HeaderParser().parsestr(text)
