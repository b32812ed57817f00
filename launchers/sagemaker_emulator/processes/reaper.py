"""Jobs end with the emulator, however it ends."""

import subprocess
import sys
import threading

# Reads "+group" and "-group" lines. When the emulator is gone, it kills the process groups that are left.
_PROGRAM = """
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


class Reaper:
    """A small process that outlives the emulator for a moment and kills the jobs that are left."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def add(self, group: int) -> None:
        """Kill this process group when the emulator ends."""
        self._send(f"+{group}")

    def remove(self, group: int) -> None:
        """Do not kill this process group: it has ended."""
        self._send(f"-{group}")

    def close(self) -> None:
        """Kill the groups that are left, and end."""
        with self._lock:
            if self._process is not None and self._process.stdin:
                self._process.stdin.close()
                self._process.wait()
            self._process = None

    def _send(self, line: str) -> None:
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _PROGRAM],
                    stdin=subprocess.PIPE,
                    text=True,
                    start_new_session=True,  # Ctrl-C must not end it first
                )
            if self._process.stdin:
                self._process.stdin.write(f"{line}\n")
                self._process.stdin.flush()
