"""Several server processes behind one socket: starts them, replaces those that die, and ends all of them.

uvicorn's own supervisor does not fit: it starts each process from nothing, which imports for a second and shares no
memory, restarts without end a process that dies at once, waits without limit at the end, and leaves orphans when it is
killed.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import NoReturn

from sagehound.errors import ConfigError, SagehoundError
from sagehound.system.machine import cores

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SOON = 10.0  # seconds in service; a worker that dies before failed at its start
_MOST_FAILED = 5  # such deaths within _WINDOW, after which the server ends
_WINDOW = 600.0  # seconds
_PAUSE = 1.0  # seconds before such a worker is replaced
_POLL = 1.0  # seconds between two looks at a signal
_GRACE = 0.5  # seconds beyond the limit of one server, after which a worker is killed

Work = Callable[[Callable[[], None]], None]  # serves until a signal; it calls its argument when it is ready


def number(given: str) -> int:
    """The number of workers that ``deploy.workers`` asks for: a number, or auto, which is one for each core.

    Raises:
        ConfigError: it is neither, or this system cannot fork.
    """
    if given != "auto" and not (given.isascii() and given.isdecimal() and 1 <= int(given) <= 256):
        raise ConfigError(f"deploy.workers={given}: give auto, or a number from 1 to 256")
    if not hasattr(os, "fork"):  # Windows
        if given not in ("1", "auto"):
            raise ConfigError(f"deploy.workers={given} needs Linux or macOS: drop it")
        return 1
    return cores() if given == "auto" else int(given)


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    news: Connection  # None when it is ready, or the error that ended it
    ready: float | None = None  # when it was ready


class Supervisor:
    """Runs ``work`` in several forked processes until SIGTERM or Ctrl-C.

    The processes end by themselves if this one is killed: each of them reads a pipe that only this process keeps open.

    Args:
        work: what a process does.
        workers: how many of them.
        seconds: in which each of them ends after a signal.
        on_ready: called when all of them serve for the first time.
        on_death: called with the process id of each that has ended.
        on_stop: called at a signal.
    """

    def __init__(
        self,
        work: Work,
        workers: int,
        seconds: float,
        on_ready: Callable[[], object],
        on_death: Callable[[int], object],
        on_stop: Callable[[], object] = lambda: None,
    ) -> None:
        self._work, self._number, self._seconds = work, workers, seconds
        self._on_ready, self._on_death, self._on_stop = on_ready, on_death, on_stop
        self._fork = multiprocessing.get_context("fork")
        self._alive, self._lifeline = os.pipe()
        self._workers: list[_Worker] = []
        self._failed: deque[float] = deque()  # when workers died soon after their start
        self._next = 0.0  # when the next worker may start
        self._is_ready = False
        self._signal: int | None = None

    def run(self) -> int:
        """Serve; returns the number of the signal that ended it.

        Raises:
            SagehoundError: a worker cannot serve, or workers die again and again.
        """
        before = {number: signal.signal(number, self._stop) for number in _SIGNALS}
        try:
            while self._signal is None:
                if len(self._workers) < self._number and time.monotonic() >= self._next:
                    self._start()
                    continue
                self._watch()
            return self._signal
        finally:
            self._end()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _start(self) -> None:
        """Start a worker. Signals wait meanwhile, so that none is lost and the fork does not handle one as this."""
        news, told = self._fork.Pipe(duplex=False)
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            process = self._fork.Process(target=self._serve, args=(told,), daemon=True)
            process.start()
            self._workers.append(_Worker(process, news))
        except OSError as error:  # no memory, or too many processes
            news.close()
            self._note_failure(f"no process could be started ({error.strerror})")
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            told.close()

    def _serve(self, told: Connection) -> NoReturn:
        """What a forked process does."""
        os.close(self._lifeline)
        signal.signal(signal.SIGTERM, _exit)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        threading.Thread(target=self._end_as_orphan, name="lifeline", daemon=True).start()
        try:
            self._work(lambda: told.send(None))
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
        except SagehoundError as error:
            told.send(error)
            sys.exit(error.exit_code)
        sys.exit()

    def _end_as_orphan(self) -> None:
        os.read(self._alive, 1)  # returns when the supervisor has ended
        os.kill(os.getpid(), signal.SIGTERM)

    def _watch(self) -> None:
        """Wait until something happens to a worker, or until one may be started."""
        pause = _POLL if len(self._workers) == self._number else max(0.0, self._next - time.monotonic())
        quiet = [w.news for w in self._workers if w.ready is None and not w.news.closed]
        wait([*quiet, *(w.process.sentinel for w in self._workers)], pause)
        for worker in list(self._workers):
            if worker.ready is None and not worker.news.closed and worker.news.poll():
                self._listen(worker)
            if worker.process.exitcode is not None:
                self._bury(worker)
        if not self._is_ready and len(self._workers) == self._number and all(w.ready for w in self._workers):
            self._is_ready = True
            self._on_ready()

    def _listen(self, worker: _Worker) -> None:
        """Read what a worker says.

        Raises:
            SagehoundError: it cannot serve.
        """
        try:
            error = worker.news.recv()
        except EOFError:  # it has died
            worker.news.close()
            return
        if error is not None:
            raise error
        worker.ready = time.monotonic()

    def _bury(self, worker: _Worker) -> None:
        """Note that a worker has died, so that another one is started.

        Raises:
            SagehoundError: too many of them died soon after their start.
        """
        self._workers.remove(worker)
        process, now = worker.process, time.monotonic()
        process.join()
        worker.news.close()
        self._on_death(process.pid or 0)
        if self._signal is not None:
            return
        reason = f"server process {process.pid} ended by {_reason(process.exitcode or 0)}"
        if worker.ready is None or now - worker.ready < _SOON:
            self._note_failure(reason)
        else:
            _warn(reason)

    def _note_failure(self, reason: str) -> None:
        """Wait before the next start.

        Raises:
            SagehoundError: too many starts have failed.
        """
        now = time.monotonic()
        self._failed.append(now)
        while self._failed[0] < now - _WINDOW:
            self._failed.popleft()
        self._next = now + _PAUSE
        if len(self._failed) >= _MOST_FAILED:
            raise SagehoundError(
                f"{len(self._failed)} server processes failed at or soon after their start, and at last {reason}: the "
                "lines above may say why; with too little memory, give fewer deploy.workers"
            )
        _warn(reason)

    def _stop(self, signum: int, _: FrameType | None) -> None:
        """Pass a signal on. A terminal's first Ctrl-C has reached the workers, too, whom a second one would abort."""
        number = signal.SIGINT if self._signal is not None and signum == signal.SIGINT else signal.SIGTERM
        self._signal = self._signal or signum
        self._on_stop()
        for worker in list(self._workers):
            if worker.process.pid and worker.process.exitcode is None:
                with suppress(ProcessLookupError):  # this handler may interrupt what notes the end of a worker
                    os.kill(worker.process.pid, number)

    def _end(self) -> None:
        """End all workers: by a signal, and those that remain after their time by force."""
        for worker in self._workers:
            worker.process.terminate()
        until = time.monotonic() + self._seconds + _GRACE
        while (left := until - time.monotonic()) > 0:
            remaining = [w.process.sentinel for w in self._workers if w.process.exitcode is None]
            if not remaining:
                break
            wait(remaining, left)
        for worker in self._workers:
            worker.process.kill()
            worker.process.join()
            worker.news.close()
        for end in (self._alive, self._lifeline):
            os.close(end)


def _warn(reason: str) -> None:
    print(f"warning: {reason}; another one is started", file=sys.stderr, flush=True)


def _exit(signum: int, _: FrameType | None) -> None:
    sys.exit(128 + signum)


def _reason(code: int) -> str:
    """Why a process ended, by its exit code: below 0 or over 128 it is a signal."""
    number = -code if code < 0 else code - 128
    if 0 <= code <= 128:
        return f"exit code {code}"
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
