"""Threads of the emulator, and how they end."""

import sys
import threading
import time
from collections.abc import Callable
from typing import Any


def report(message: str) -> None:
    """Print an error of the emulator to stderr."""
    print(f"sagemaker-emulator: {message}", file=sys.stderr, flush=True)


class Tasks:
    """Threads that run beside the server. ``stopping`` is set when the emulator ends; each of them checks it."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def background(self, function: Callable[..., None], *args: Any) -> threading.Thread:  # noqa: ANN401 - any thread's
        """Run a function in a thread. An error that it raises is printed."""

        def run() -> None:
            try:
                function(*args)
            except Exception as error:
                report(f"{getattr(function, '__name__', 'a task')}: {error!r}")

        thread = threading.Thread(target=run, daemon=True)
        with self._lock:
            self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        thread.start()
        return thread

    def close(self, timeout: float = 30.0) -> None:
        """Set ``stopping`` and wait until the threads have ended, for ``timeout`` seconds in all."""
        self.stopping.set()
        until = time.monotonic() + timeout
        for thread in list(self._threads):
            thread.join(max(until - time.monotonic(), 0))
