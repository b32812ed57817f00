"""Jobs do not live on without the emulator, however it ends."""

import subprocess
import sys
import threading

# Reads "+group" and "-group" lines; once the emulator is gone, however it went, it kills the groups that are left.
_WATCHMAN = """
import os, signal, sys
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
"""


class Watch:
    """A small process that outlives the emulator by a moment, to kill the jobs that it left."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def tell(self, sign: str, group: int) -> None:
        """Add (+) a process group to those that must not live on, or take it off (-)."""
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _WATCHMAN],
                    stdin=subprocess.PIPE,
                    text=True,
                    start_new_session=True,  # Ctrl-C must not end it first
                )
            if self._process.stdin:
                self._process.stdin.write(f"{sign}{group}\n")
                self._process.stdin.flush()

    def close(self) -> None:
        """Kill what is left, and end."""
        with self._lock:
            if self._process is not None and self._process.stdin:
                self._process.stdin.close()
                self._process.wait()
            self._process = None
