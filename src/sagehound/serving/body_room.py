"""Lets the clients of large bodies wait while the bodies being answered fill the memory, instead of refusing them."""

import asyncio
from collections import deque
from dataclasses import dataclass

from sagehound.serving.slots import Busy

LARGE = 2**20  # bytes of a body that may have to wait
_PROGRESS = 2**16  # bytes; a body of which fewer come within ``_QUIET`` seconds makes nobody wait
_QUIET = 0.2
_LOADED = 1.0  # the same while bodies that are being answered have a quarter of the memory: then all come more slowly


@dataclass(eq=False)
class Place:
    """What one request takes of the memory."""

    announced: int = 0  # bytes that its body may have, while it comes fast
    received: int = 0  # bytes that have come
    answered: int = 0  # bytes of its whole body


class BodyRoom:
    """Admits bodies in the order of their requests, as far as there is memory.

    Bodies make others wait that are being answered or come fast, because their memory is soon free. Those of slow
    clients do not: the reader of bodies refuses the oldest of them.

    Args:
        most_bytes: of all bodies. Those that others wait for have up to three quarters of it. The rest is for small
            bodies, which never wait, and for slow ones.
        most_waiting: requests that wait.
    """

    def __init__(self, most_bytes: int, most_waiting: int) -> None:
        self._most, self._most_waiting = most_bytes * 3 // 4, most_waiting
        self._announced = self._answered = self._large = 0  # the last: what large bodies have of ``_answered``
        self._waiting: deque[tuple[asyncio.Future[None], Place, int]] = deque()

    def take(self, place: Place, length: int) -> bool:
        """Admit a body of up to ``length`` bytes, or return False if its request must wait."""
        if length < LARGE:
            return True
        if self._waiting or not self._fits(length):
            return False
        self._admit(place, length)
        return True

    async def wait(self, place: Place, length: int) -> None:
        """Wait until the body is admitted.

        Raises:
            Busy: too many requests wait.
        """
        if len(self._waiting) >= self._most_waiting:
            raise Busy(f"{len(self._waiting)} requests wait until their bodies can be read; try again in a second")
        entry = asyncio.get_running_loop().create_future(), place, length
        self._waiting.append(entry)
        try:
            await entry[0]
        finally:
            if entry in self._waiting:  # it has waited too long, or its client has left
                self._waiting.remove(entry)

    def complete(self, place: Place, length: int) -> None:
        """The body has come."""
        place.answered = length
        self._count(length)
        self._forget(place)

    def leave(self, place: Place) -> None:
        """The request is answered."""
        self._count(-place.answered)
        place.answered = 0
        self._forget(place)

    def _count(self, answered: int) -> None:
        self._answered += answered
        self._large += answered if abs(answered) >= LARGE else 0

    def _fits(self, length: int) -> bool:
        """Whether there is memory. One large body has it always: small ones would keep it waiting without end."""
        is_first = not self._announced and not self._large
        return is_first or self._announced + self._answered + length <= self._most

    def _admit(self, place: Place, length: int) -> None:
        place.announced = length
        self._announced += length
        self._check_later(place)

    def _check_later(self, place: Place) -> None:
        """Check later whether the body still comes fast."""
        before, seconds = place.received, _LOADED if 4 * self._answered > self._most else _QUIET

        def check() -> None:
            if place.announced and place.received - before >= _PROGRESS:
                self._check_later(place)
            else:
                self._forget(place)

        asyncio.get_running_loop().call_later(seconds, check)

    def _forget(self, place: Place) -> None:
        """Give back the bytes that a body has to itself, and admit those that wait."""
        self._announced -= place.announced
        place.announced = 0
        while self._waiting and self._fits(self._waiting[0][2]):
            future, waiting, length = self._waiting.popleft()
            if not future.done():
                self._admit(waiting, length)
                future.set_result(None)
