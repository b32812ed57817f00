"""Reads the bodies of requests within limits. Slow clients do not keep out the others."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field

from fastapi import Request

from sagehound.errors import InputError
from sagehound.inference.request_body import UnsupportedContentType
from sagehound.serving.body_room import BodyRoom, Place
from sagehound.serving.slots import Busy

_MOST = 2048  # bodies that are read at a time; one needs about 20 KB beside its content
_SHARE = 2**20  # bytes; below, refusing a body frees too little memory

Deadline = Callable[[], AbstractAsyncContextManager[None]]


class TooLarge(InputError):
    """A body over the limit."""


class TooSlow(InputError):
    """A body that was sent too slowly."""


@dataclass(eq=False)
class Held:
    """The memory of a request, and the end of the time to send its body."""

    bytes: int = 0
    limit: asyncio.Timeout = field(default_factory=lambda: asyncio.Timeout(None))
    refused: bool = False
    place: Place = field(default_factory=Place)


class BodyReader:
    """Reads bodies. At a limit, the one that has been coming longest is refused to make room.

    Args:
        seconds: to send a body.
        most_bytes: of all requests that are read or answered.
        most_waiting: requests that wait until bodies are answered.
    """

    def __init__(self, seconds: float, most_bytes: int, most_waiting: int) -> None:
        self._seconds, self._most_bytes = seconds, most_bytes
        self._room = BodyRoom(most_bytes, most_waiting)
        self._bytes = 0
        self._coming: dict[Held, None] = {}  # oldest first

    @contextmanager
    def held(self) -> Iterator[Held]:
        """Count the bytes of a request until it is answered."""
        held = Held()
        try:
            yield held
        finally:
            self._bytes -= held.bytes
            self._room.leave(held.place)

    async def wait(self, request: Request, held: Held, most: int, deadline: Deadline) -> None:
        """Before ``read``: wait, within ``deadline``, while bodies that are being answered fill the memory.

        Raises:
            TooLarge: the body has more than ``most`` bytes.
            Busy: too many requests wait.
        """
        length = _length(request, most)
        if not self._room.take(held.place, length):
            async with deadline():
                await self._room.wait(held.place, length)

    async def read(self, request: Request, held: Held, most: int) -> bytes:
        """The body of a request, of ``most`` bytes.

        Raises:
            TooLarge: it has more.
            TooSlow: it does not come in time.
            Busy: the bodies of all requests are too large together.
            UnsupportedContentType: it is compressed.
        """
        _length(request, most)
        if request.headers.get("content-encoding", "identity") != "identity":
            raise UnsupportedContentType("content encodings are not read: send the body as it is")
        chunks = []
        self._coming[held] = None
        try:
            async with asyncio.timeout(self._seconds) as held.limit:
                if len(self._coming) > _MOST:
                    self._refuse(next(iter(self._coming)))
                async for chunk in request.stream():
                    self._count(held, len(chunk), most)
                    chunks.append(chunk)
        except TimeoutError as error:
            if held.refused:
                raise _busy() from error
            raise TooSlow(f"the body did not come within {self._seconds:g} s") from error
        finally:
            self._coming.pop(held, None)
        self._room.complete(held.place, held.bytes)
        return b"".join(chunks)

    def _count(self, held: Held, received: int, most: int) -> None:
        if held.refused:
            raise _busy()
        held.bytes += received
        held.place.received += received
        self._bytes += received
        if held.bytes > most:
            raise _too_large(most)
        while self._bytes > self._most_bytes:
            oldest = next((h for h in self._coming if h.bytes >= _SHARE), held)
            if oldest is held:
                raise _busy()
            self._refuse(oldest)

    def _refuse(self, held: Held) -> None:
        """End the reading of a body, and no longer count it; its task runs next and frees the memory."""
        del self._coming[held]
        self._bytes -= held.bytes
        held.bytes, held.refused = 0, True
        if not held.limit.expired():
            held.limit.reschedule(asyncio.get_running_loop().time())


def _length(request: Request, most: int) -> int:
    """The bytes that a body says it has; ``most`` if it does not say.

    Raises:
        TooLarge: more than ``most``.
    """
    length = request.headers.get("content-length", "").lstrip("0") or "0"
    if len(length) > 18 or (length.isdecimal() and int(length) > most):
        raise _too_large(most)
    return int(length) if length.isdecimal() and "content-length" in request.headers else most


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"a body of more than {most:,} bytes: send less at a time")


def _busy() -> Busy:
    return Busy("the requests being answered are too large together; try again in a second")
