"""HTTP for the emulator: requests and responses as plain values, over a server that keeps connections open."""

import io
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from moto.moto_server.werkzeug_app import MotoRequestHandler
from urllib3 import HTTPHeaderDict

_LARGEST = 5 * 2**30  # bytes of a body: those of S3's largest PutObject
_NOT_IN_HEADERS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]")  # control characters, and what is not Latin-1
_SAFE = "".join(map(chr, range(32, 127)))


@dataclass(frozen=True)
class Request:
    """A request."""

    method: str
    path: str  # with %XX resolved
    query: str
    headers: Mapping[str, str]  # names as in Content-Type, without regard to case
    body: bytes


@dataclass(frozen=True)
class Response:
    """A response."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Handler(MotoRequestHandler):
    """A request handler that reads the body whole, and so can keep the connection: werkzeug's own closes each one."""

    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body in one packet

    def run_wsgi(self) -> None:
        """Respond to one request. If the application raises ConnectionError, the connection is closed."""
        environ = self.make_environ()
        try:
            body = self._body(environ)
        except (ValueError, OSError) as error:
            self.close_connection = True  # where the next request begins is unknown
            self._respond("400 Bad Request", [("Connection", "close")], f"{error}\n".encode())
            return
        environ["wsgi.input"] = io.BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        environ["emulator.body"] = body
        environ["emulator.headers"] = HTTPHeaderDict(self.headers.items())
        started: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], _: object = None) -> Any:  # noqa: ANN401 - WSGI's
            started[:] = [status, headers]
            return lambda _: None

        try:
            content = b"".join(self.server.app(environ, start_response))
        except ConnectionError:
            self.close_connection = True
            return
        except Exception:  # report an error of the emulator to the client
            started[:] = ["500 Internal Server Error", []]
            content = traceback.format_exc(limit=-3).encode()
        status, headers = started
        self._respond(status, headers, content)

    def _body(self, environ: dict[str, Any]) -> bytes:
        """The whole body.

        Raises:
            ValueError: Content-Length is no number, or too large.
            OSError: a chunk is malformed, or the client has closed the connection.
        """
        if "chunked" in environ.get("HTTP_TRANSFER_ENCODING", ""):
            return bytes(environ["wsgi.input"].read())
        text = environ.get("CONTENT_LENGTH") or "0"
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= _LARGEST):
            raise ValueError(f"Content-Length: {text[:20]}: it must be a number up to {_LARGEST}")
        source: Any = self.rfile
        return bytes(source.read(int(text)))

    def _respond(self, status: str, headers: list[tuple[str, str]], content: bytes) -> None:
        code, _, reason = status.partition(" ")
        self.send_response(int(code), reason)
        for name, value in headers:
            self.send_header(name, quote(value, safe=_SAFE) if _NOT_IN_HEADERS.search(value) else value)
        if "content-length" not in {name.lower() for name, _ in headers}:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def handle_expect_100(self) -> bool:
        """Tell the client at once to send its body, which it would hold back for a second."""
        sent = super().handle_expect_100()
        self.wfile.flush()
        return sent

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Print nothing: the logs of the jobs matter."""
