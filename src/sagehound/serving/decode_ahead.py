"""Limits how many photos of one model are decoded, or wait as pixels, before they are computed."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class DecodeAhead:
    """Begins photos in the order in which they came, a few more than are computed; the others wait.

    Without a limit, threads decode all photos that wait and so take the cores from those that could be answered: with
    256 clients, photos came out 7 % more slowly. The content of a file also needs less memory than its pixels. Pixels
    have places, too: they would go before all files that wait.

    Args:
        most: photos that are begun and not yet answered.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._inside: set[Future[Any]] = set()
        self._waiting: dict[Future[Any], Callable[[], object]] = {}  # in order
        self._is_admitting = False  # in some thread
        self._lock = threading.Lock()

    def enter(self, answer: Future[Any], begin: Callable[[], object]) -> None:
        """Call ``begin``, now or later in a thread, unless ``answer`` is cancelled before."""
        with self._lock:
            self._waiting[answer] = begin
        answer.add_done_callback(self.leave)
        self._admit()

    def leave(self, answer: Future[Any]) -> None:
        """No longer count a photo: it is answered, or takes so long to decode that others should not wait for it."""
        with self._lock:
            self._waiting.pop(answer, None)
            self._inside.discard(answer)
        self._admit()

    def cancel(self) -> None:
        """Cancel the photos that wait."""
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
        for answer in waiting:
            answer.cancel()

    def _admit(self) -> None:
        """Begin photos while there are places.

        What is begun may be answered at once, which comes here again. So one thread admits at a time, in a loop.
        """
        with self._lock:
            if self._is_admitting:
                return
            self._is_admitting = True
        try:
            while begin := self._next():
                begin()
        except BaseException:
            self._is_admitting = False
            raise

    def _next(self) -> Callable[[], object] | None:
        with self._lock:
            if not self._waiting or len(self._inside) >= self._most:
                self._is_admitting = False
                return None
            answer = next(iter(self._waiting))
            self._inside.add(answer)
            return self._waiting.pop(answer)
