"""The connections of the server: their number, how long they may be idle, and uvicorn's protocol with these limits."""

import asyncio
import re
import sys
import time
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEAD_BYTES = 2**16  # headers of a request; as many as h11 allows
_HEAD_SECONDS = 20.0  # from the first byte of a connection or request to the end of its headers
_CLOSE_SECONDS = 3.0  # when the server stops, from the last response to the end of a connection
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_FILES = 128  # open files that are left for everything else
_MOST = 16_384  # connections; each needs about 10 kB
_WARN_EVERY = 60.0  # seconds
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"


def most_connections() -> int:
    """How many connections this process may hold. It raises its own limit of open files as far as it may."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return _MOST
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST + _FILES
    limit = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    else:
        limit = wanted if soft == resource.RLIM_INFINITY else min(soft, wanted)
    return max(limit - _FILES, limit // 2)


class Connections:
    """Connections that wait for their client. At the limit, the oldest of them makes room for a new one."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.silent: dict[LimitedProtocol, None] = {}  # before the end of a request's headers
        self.sending: dict[LimitedProtocol, None] = {}  # before the end of a request's body
        self.is_ending = False  # the server: a connection that was accepted a moment before is closed
        self._warned = -_WARN_EVERY

    def admit(self, opened: int) -> bool:
        """Whether a new connection, one of ``opened``, may stay."""
        if opened <= self.most:
            return True
        if time.monotonic() - self._warned >= _WARN_EVERY:
            self._warned = time.monotonic()
            text = f"{self.most} connections are open, the most that the limit of open files (ulimit -n) allows"
            print(f"warning: {text}: those that wait longest for their client are closed", file=sys.stderr, flush=True)
        waiting = self.silent or self.sending
        if not waiting:
            return False
        oldest = next(iter(waiting))
        self.forget(oldest)
        oldest.transport.abort()  # nothing is sent, so that a client that does not read cannot keep it
        return True

    def forget(self, connection: "LimitedProtocol") -> None:
        """The connection no longer waits for its client."""
        self.silent.pop(connection, None)
        self.sending.pop(connection, None)


class LimitedConfig(uvicorn.Config):
    """uvicorn's settings, and the connections of this server."""

    def __init__(self, app: ASGIApp, most_connections: int, **settings: Any) -> None:  # noqa: ANN401 - uvicorn's
        super().__init__(app, http=LimitedProtocol, **settings)
        self.open = Connections(most_connections)


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits for heads, trailers and silence.

    It also reads the body of clients that offer HTTP/2, and answers clients that have closed their sending side.
    """

    config: LimitedConfig
    head = 0  # bytes of an incomplete head, or of the trailers after a body
    in_body = stopping = False
    deadline: asyncio.TimerHandle | None = None  # for the end of a head

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Accept a connection, unless there are too many."""
        super().connection_made(transport)
        if self.config.open.is_ending:
            transport.close()
            return
        if not self.config.open.admit(len(self.connections)):
            transport.write(_FULL)
            transport.close()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def eof_received(self) -> bool | None:  # type: ignore[override] # uvicorn always closes
        """The client sends nothing more. Return True to keep the connection for a response that it waits for."""
        waits = self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body
        if not waits or self.scheme == "https":  # TLS has no half-closed connections
            return None
        self.cycle.keep_alive = False
        return True

    def shutdown(self) -> None:
        """Close the connection, now or after the response that was begun."""
        self.stopping = True
        super().shutdown()
        self._end_closing()

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
        if self.deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()  # super() ends uvicorn's own limit for idle connections
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
        """A body follows; the application counts its bytes and its seconds."""
        self._stop_waiting()
        super().on_headers_complete()
        self.config.open.sending[self] = None
        self.in_body, self.head = True, 0

    def on_message_complete(self) -> None:
        """Reset the counter for the next head."""
        super().on_message_complete()
        self.config.open.forget(self)
        if self.cycle.response_complete:
            self.config.open.silent[self] = None
        self.in_body, self.head = False, 0

    def on_response_complete(self) -> None:
        """Wait for the next request, for uvicorn's timeout_keep_alive."""
        super().on_response_complete()
        if self.stopping:
            self._end_closing()
        if not self.pipeline and not self.transport.is_closing():
            self.config.open.silent[self] = None

    def _await_head(self) -> None:
        self.deadline = self.loop.call_later(_HEAD_SECONDS, self._end_waiting)
        self.config.open.silent.setdefault(self)

    def _stop_waiting(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None
        self.config.open.forget(self)

    def _end_closing(self) -> None:
        """Do not wait for a client that leaves the end of TLS unanswered."""
        if self.transport.is_closing():
            self.loop.call_later(_CLOSE_SECONDS, self.transport.abort)

    def _end_waiting(self) -> None:
        self.deadline = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
