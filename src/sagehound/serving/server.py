"""The server process: loads models, binds a socket, and runs uvicorn until a signal."""

import errno
import re
import signal
import socket
import sys
from collections.abc import Mapping
from types import FrameType

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sagehound.errors import ConfigError
from sagehound.serving.app import make_app
from sagehound.serving.model_store import ModelStore
from sagehound.serving.request_capture import RequestCapture
from sagehound.serving.request_handler import Limits
from sagehound.system import console
from sagehound.system.machine import give_back_large_blocks, memory

_HEAD_BYTES = 2**16  # headers of a request; as many as h11 allows
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_DRAIN = 25  # seconds to finish requests after SIGTERM; a container is killed after thirty


def serve(
    models: Mapping[str, str],
    host: str,
    port: int,
    limits: Limits | None = None,
    model_bytes: int | None = None,
    capture: RequestCapture | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish the requests in progress.

    Args:
        models: runs, model.tar.gz files or unpacked ones by name.
        host: address to listen on.
        port: 0 for any free one.
        limits: of requests.
        model_bytes: memory for open models; None: half of the machine's.
        capture: of requests and responses.

    Raises:
        ConfigError: the port is in use.
        InputError: a model cannot be opened.
    """
    give_back_large_blocks()
    signal.signal(signal.SIGTERM, _stop)  # while models are loaded; later uvicorn's handler, which calls it at the end
    held = ModelStore(model_bytes or memory() // 2, default=next(iter(models)) if len(models) == 1 else None)
    try:
        for name, url in models.items():
            held.load(name, url)
        app = make_app(held, limits, capture)
        listening = _listen(host, port)
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        address = f"http://{shown}:{listening.getsockname()[1]}"
        console.info(f"serving {', '.join(models) or 'no model yet'} at {address} (page /, description /docs)")
        config = uvicorn.Config(
            app,
            http=ShortHeads,
            ws="none",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_DRAIN,
            lifespan="on",
            backlog=2048,
        )
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        held.close()


def _stop(signum: int, _: FrameType | None) -> None:
    sys.exit(128 + signum)


class ShortHeads(HttpToolsProtocol):
    """uvicorn's protocol with limits for heads and trailers; it also reads the body of clients that offer HTTP/2."""

    head = 0  # bytes of an incomplete head, or of the trailers after a body
    in_body = False

    def data_received(self, data: bytes) -> None:
        """Process received data, unless a head is too long."""
        if self.head > _HEAD_BYTES:
            self.transport.close()
            return
        if not self.in_body:
            if not self.head:  # Java's client offers an upgrade in every request
                end = data.find(b"\r\n\r\n")
                if match := _UPGRADE.search(data, 0, end if end >= 0 else len(data)):
                    data = data[: match.start()] + b"\r\nx-upgrade:" + data[match.end() :]
            self.head += len(data)
        super().data_received(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header; ignore trailers."""
        if not self.in_body:
            super().on_header(name, value)
            return
        self.head += len(name) + len(value)
        if self.head > _HEAD_BYTES:
            self.transport.close()

    def on_headers_complete(self) -> None:
        """A body follows; the application counts its bytes."""
        super().on_headers_complete()
        self.in_body, self.head = True, 0

    def on_message_complete(self) -> None:
        """Reset the counter for the next head."""
        super().on_message_complete()
        self.in_body, self.head = False, 0


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} at {host} is taken by another program; choose another, or 0 for any"
            ) from error
        raise ConfigError(f"{host}:{port} cannot be listened on: {error.strerror or error}") from error
