"""HTTP for the emulator: requests and responses as plain values, over a server that keeps connections open."""

import io
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from moto.moto_server.werkzeug_app import MotoRequestHandler
from urllib3 import HTTPHeaderDict


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
        code, _, reason = status.partition(" ")
        self.send_response(int(code), reason)
        for name, value in headers:
            self.send_header(name, value)
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
