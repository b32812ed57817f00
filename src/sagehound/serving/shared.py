"""What the processes of one server share: the counters' folder, and the rate of each client."""

import hashlib
import mmap
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sagehound.errors import InputError
from sagehound.serving.access import client_of, refilled, seconds_until

_SETS, _WAYS = 2048, 8  # 16,384 clients; those of a set are few, so that a look-up takes microseconds
_SLOT = np.dtype([("client", "<u8"), ("left", "<f8"), ("at", "<f8")])


class OneProcess(InputError):
    """Only a server with one process can do this."""


class SharedRateLimit:
    """As ``RateLimit``, for processes that are forked from this one.

    The lock of a set is one of the file system, which ends with the process that holds it.

    Args:
        rate: requests a second of one client.
    """

    def __init__(self, rate: float) -> None:
        import fcntl  # Windows has neither this nor several processes

        self._locked = fcntl.lockf
        self._take, self._free = fcntl.LOCK_EX, fcntl.LOCK_UN
        self._rate = rate
        self._memory = mmap.mmap(-1, _SETS * _WAYS * _SLOT.itemsize)
        self._table = np.frombuffer(self._memory, _SLOT).reshape(_SETS, _WAYS)
        self._lock = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the server
        self._secret = os.urandom(16)  # nobody can choose addresses that evict another client

    def wait(self, address: str) -> int:
        """Count a request; returns 0, or after how many seconds the client may send the next one."""
        digest = hashlib.blake2b(client_of(address).encode(), digest_size=8, key=self._secret).digest()
        client = int.from_bytes(digest, "little") or 1  # 0 is an empty slot
        number = client % _SETS
        slots = self._table[number]
        self._locked(self._lock, self._take, 1, number)
        try:
            now = time.monotonic()
            known = np.flatnonzero(slots["client"] == client)
            slot = int(known[0]) if len(known) else int(slots["at"].argmin())
            left, at = (float(slots["left"][slot]), float(slots["at"][slot])) if len(known) else (None, now)
            left = refilled(self._rate, left, now - at)
            slots[slot] = (client, left - 1 if left >= 1 else left, now)
        finally:
            self._locked(self._lock, self._free, 1, number)
        return seconds_until(self._rate, left)


@dataclass(frozen=True)
class Shared:
    """What the processes of one server share."""

    metrics: Path  # the folder of prometheus_client's counters
    rate: SharedRateLimit | None = None
