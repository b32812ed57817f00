"""Metrics in the lines of a job's log.

The regexes are the user's and may backtrack for hours, while Python runs no other thread. So a small process matches
them, and ends itself when one takes too long.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

_LIMIT = 0.25  # seconds of CPU time for one regex and one line
_PROGRAM = f"""
import json, re, signal, sys
regexes = [re.compile(text) for text in json.loads(sys.stdin.readline())]
for request in sys.stdin:
    first, line = json.loads(request)
    for regex in regexes[first:]:
        signal.setitimer(signal.ITIMER_VIRTUAL, {_LIMIT})  # its signal ends this process, also within a match
        values = [match[1] if regex.groups else match[0] for match in regex.finditer(line)]
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        print(json.dumps(values), flush=True)
"""


class MetricRegexes:
    """Finds metrics in lines.

    Args:
        definitions: name and regex of each metric.
        on_slow: called with the name of a metric that is no longer looked for, as its regex took too long.
    """

    def __init__(self, definitions: Sequence[tuple[str, str]], on_slow: Callable[[str], None]) -> None:
        self._definitions, self._on_slow = list(definitions), on_slow
        self._lock = threading.Lock()  # several instances of a job have one
        self._process: subprocess.Popen[str] | None = None
        self._is_closed = False

    def values(self, line: str) -> list[tuple[str, str | None]]:
        """Name and text of each metric in a line; the text of a group that took no part in its match is None."""
        found: list[tuple[str, str | None]] = []
        done = 0
        with self._lock:
            while done < len(self._definitions) and not self._is_closed:
                for name, replies in self._match(done, line):
                    if replies is None:
                        self._definitions.pop(done)
                        self._end()
                        self._on_slow(name)
                        break
                    found += [(name, text) for text in replies]
                    done += 1
        return found

    def close(self) -> None:
        """End the process; ``values`` finds nothing from now on."""
        with self._lock:
            self._is_closed = True
            self._end()

    def _match(self, first: int, line: str) -> "list[tuple[str, list[str | None] | None]]":
        """The matches of each regex from ``first`` on; None for one that took too long, which is the last then."""
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        names = [name for name, _ in self._definitions[first:]]
        try:
            process.stdin.write(json.dumps([first, line]) + "\n")
            process.stdin.flush()
        except OSError:  # it has ended
            return [(names[0], None)]
        matches: list[tuple[str, list[str | None] | None]] = []
        for name in names:
            reply = process.stdout.readline()
            matches.append((name, json.loads(reply) if reply else None))
            if not reply:
                break
        return matches

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C must not end it first
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps([regex for _, regex in self._definitions]) + "\n")
        return process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
