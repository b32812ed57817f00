"""HTTP for the emulator: a request and an answer as plain values, over a server that keeps connections open."""

import io
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from moto.moto_server.werkzeug_app import MotoRequestHandler
from urllib3 import HTTPHeaderDict


@dataclass(frozen=True)
class Call:
    """A request."""

    method: str
    path: str  # with %XX resolved
    query: str
    headers: Mapping[str, str]  # names as in Content-Type, without regard to case
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What goes back."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Handler(MotoRequestHandler):
    """A request handler that reads the body whole, and so can keep the connection: werkzeug's own closes each one."""

    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body in one packet

    def run_wsgi(self) -> None:
        """Answer one request; an application that raises ConnectionError closes the connection without an answer."""
        environ = self.make_environ()
        length = environ.get("CONTENT_LENGTH") or 0
        source: Any = self.rfile
        if "chunked" in environ.get("HTTP_TRANSFER_ENCODING", ""):
            body = environ["wsgi.input"].read()
        else:
            body = source.read(int(length))
        environ["wsgi.input"] = io.BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        environ["emulator.body"] = body
        environ["emulator.headers"] = HTTPHeaderDict(self.headers.items())
        said: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], _: object = None) -> Any:  # noqa: ANN401 - WSGI's
            said[:] = [status, headers]
            return lambda _: None

        try:
            answer = b"".join(self.server.app(environ, start_response))
        except ConnectionError:
            self.close_connection = True
            return
        except Exception:  # an error of ours reaches the client as one
            said[:] = ["500 Internal Server Error", []]
            answer = traceback.format_exc(limit=-3).encode()
        status, headers = said
        code, _, reason = status.partition(" ")
        self.send_response(int(code), reason)
        for name, value in headers:
            self.send_header(name, value)
        if "content-length" not in {name.lower() for name, _ in headers}:
            self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    def handle_expect_100(self) -> bool:
        """Tell the client at once to send its body, which it would hold back for a second."""
        told = super().handle_expect_100()
        self.wfile.flush()
        return told

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing: the logs of jobs are what counts."""
