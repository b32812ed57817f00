"""The last requests, for the page."""

import threading
import time
from collections import deque
from dataclasses import dataclass, replace

_MOST = 100  # requests that are remembered


@dataclass(frozen=True)
class Entry:
    """One request."""

    time: float  # seconds since 1970
    method: str
    operation: str  # CreateTrainingJob, s3:PutObject
    status: int | None  # None: the connection was closed
    times: int  # in a row; time is that of the last one
    executed: bool  # by the emulator: not refused, not passed on, and no fault in its place


class RequestLog:
    """The last requests, the newest first. It is lost at a restart."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: deque[Entry] = deque(maxlen=_MOST)

    def add(self, method: str, operation: str, status: int | None, executed: bool) -> None:
        """Remember a request."""
        with self._lock:
            last = self._entries[0] if self._entries else None
            if last and (last.method, last.operation, last.status, last.executed) == (
                method,
                operation,
                status,
                executed,
            ):
                self._entries[0] = replace(last, time=time.time(), times=last.times + 1)  # clients that wait ask often
            else:
                self._entries.appendleft(Entry(time.time(), method, operation, status, 1, executed))

    def entries(self) -> list[Entry]:
        """The last requests."""
        with self._lock:
            return list(self._entries)
