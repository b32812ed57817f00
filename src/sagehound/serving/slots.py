"""The requests that are answered at a time, and how many of them one model or large photos may be."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from sagehound.errors import InputError


class Unavailable(InputError):
    """The server cannot answer now."""


class Busy(Unavailable):
    """The server has too many requests."""


class Slots:
    """Counts the requests whose body was read.

    Args:
        most: at a time. At most half of them have large photos, and three quarters are of one model of several, so
            that the others are answered.
    """

    def __init__(self, most: int) -> None:
        self._most, self._taken, self._slow = most, 0, 0
        self._by_model: Counter[str] = Counter()
        self._lock = threading.Lock()

    def check(self) -> None:
        """Check that a slot is free.

        Raises:
            Busy: there is none.
        """
        if self._taken >= self._most:
            raise Busy(f"{self._taken} requests are being answered; try again in a second")

    @contextmanager
    def taken(self, model: str, models: int) -> Iterator["Slot"]:
        """Take a slot for a request.

        Args:
            model: of the request.
            models: number of the server's models.

        Raises:
            Busy: there is none.
        """
        self.check()
        if models > 1 and 4 * (self._by_model[model] + 1) > max(4, 3 * self._most):
            raise Busy(f"{self._by_model[model]} requests of this model are being answered; try again in a second")
        self._taken += 1
        self._by_model[model] += 1
        slot = Slot(self)
        try:
            yield slot
        finally:
            self._taken -= 1
            self._by_model -= Counter([model])  # without those at 0
            slot.end()

    def count_slow(self, change: int) -> None:
        """Add ``change`` to the number of requests with large photos.

        Raises:
            Busy: there are too many.
        """
        with self._lock:
            if change > 0 and self._slow >= max(1, self._most // 2):
                raise Busy(f"{self._slow} requests with large photos are being answered; try again in a second")
            self._slow += change


class Slot:
    """The slot of one request."""

    def __init__(self, slots: Slots) -> None:
        self._slots, self._is_slow, self._has_ended = slots, False, False
        self._lock = threading.Lock()

    def slow(self) -> None:
        """Note, from any thread, that one of the request's photos takes long to decode.

        Raises:
            Busy: there are too many requests with such photos.
        """
        with self._lock:
            if not self._is_slow and not self._has_ended:
                self._slots.count_slow(1)
                self._is_slow = True

    def end(self) -> None:
        """The request is answered."""
        with self._lock:
            self._has_ended = True
            if self._is_slow:
                self._slots.count_slow(-1)
