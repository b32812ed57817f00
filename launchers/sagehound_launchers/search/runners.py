"""Runs the trials of a search: with Hydra's launcher, or in separate processes on this machine."""

import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import connection
from types import FrameType
from typing import Any, Protocol, Self

from hydra.core.utils import JobReturn
from hydra.types import HydraContext
from omegaconf import DictConfig

from sagehound.errors import SagehoundError, Stopped
from sagehound.system import console, interrupts
from sagehound_launchers.search import pruning
from sagehound_launchers.search.trial_worker import Failure, Worker, returned

Launch = Callable[[Sequence[Sequence[str]], int], Sequence[JobReturn]]
Report = Callable[[int, int, float], bool]  # trial, finished epochs, objective; returns whether to end

_PATIENCE = 10.0  # seconds for a stopped trial to finish its step


@dataclass(frozen=True)
class Job:
    """A trial to run."""

    number: int
    overrides: list[str]


@dataclass(frozen=True)
class Result:
    """The result of a trial."""

    number: int
    metrics: Mapping[str, Any] | SagehoundError  # metrics.json, or why there is none
    seconds: float | None


class Runner(Protocol):
    """Runs several trials at a time."""

    @property
    def room(self) -> int:
        """The number of trials that ``run`` accepts now."""

    def run(self, jobs: list[Job]) -> list[Result]:
        """Start jobs, wait for some of the started ones, and return their results."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None:
        """End the trials that still run."""


class Batches:
    """Runs trials with Hydra's launcher, ``room`` per call; the launcher decides how many run at a time."""

    def __init__(self, launch: Launch, room: int, report: Report | None) -> None:
        self._launch, self._report, self.room = launch, report, room

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def run(self, jobs: list[Job]) -> list[Result]:
        """Run a batch to its end.

        Raises:
            Stopped: a signal ended a trial.
        """
        start = time.perf_counter()
        with ExitStack() as stack:
            if report := self._report:  # then room is one
                stack.enter_context(pruning.listening(lambda epochs, value: report(jobs[0].number, epochs, value)))
            done = self._launch([job.overrides for job in jobs], jobs[0].number)
        seconds = time.perf_counter() - start if len(jobs) == 1 else None
        return [_result(job.number, one, seconds) for job, one in zip(jobs, done, strict=True)]


def _result(number: int, job: JobReturn, seconds: float | None) -> Result:
    """A job's result. Without ``seconds``, the time of a trial is the sum of its phases."""
    metrics = outcome_of(job)
    if seconds is None and not isinstance(metrics, SagehoundError):
        seconds = sum(metrics.get("seconds", {}).values())
    return Result(number, metrics, seconds)


def outcome_of(job: JobReturn) -> Mapping[str, Any] | SagehoundError:
    """metrics.json of a trial, or the error.

    Raises:
        Stopped: a signal ended it.
    """
    try:
        return returned(job)
    except Stopped:
        raise
    except SagehoundError as error:
        return error
    except Exception as error:
        traceback.print_exception(error)
        return SagehoundError(_line(error))


def reported(launch: Launch, name: str) -> Launch:
    """The same launcher with errors of one line.

    Args:
        launch: of one of Hydra's launchers.
        name: the option of hydra/launcher.
    """

    def run(jobs: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        try:
            return launch(jobs, first)
        except SagehoundError:
            raise
        except Exception as error:
            raise SagehoundError(f"hydra/launcher={name}: {_line(error)}") from error

    return run


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


class Processes:
    """Runs trials in processes that share the machine's cores and GPUs. Their output is in their folders.

    With ``ordered``, a trial is proposed from all earlier trials except the last ``most`` - 1, whichever ended first,
    so a search can be repeated. Without it, a trial is proposed as soon as a process is free.
    """

    def __init__(
        self,
        most: int,
        context: HydraContext,
        compose: Callable[[Sequence[str], int], DictConfig],
        report: Report | None,
        *,
        ordered: bool,
    ) -> None:
        self._most, self._context, self._compose, self._report = most, context, compose, report
        self._ordered = ordered
        self._workers: list[Worker] = []
        self._running: dict[int, Worker] = {}  # by the trial's number
        self._done: dict[int, Result] = {}  # not yet returned
        self._heard, self._signals = connection.Pipe(duplex=False)  # of signals, by number

    @property
    def room(self) -> int:
        """The number of trials that ``run`` accepts now."""
        return self._most - len(self._running) - (len(self._done) if self._ordered else 0)

    def run(self, jobs: list[Job]) -> list[Result]:
        """Start jobs; returns the oldest result that was not returned yet (``ordered``), or all new results.

        Raises:
            Stopped: a signal came.
        """
        for job in jobs:
            worker = self._free()
            self._running[job.number] = worker
            worker.start(self._compose(job.overrides, job.number))
        oldest = min([*self._running, *self._done])
        while oldest not in self._done if self._ordered else not self._done:
            self._listen()
        numbers = [oldest] if self._ordered else sorted(self._done)
        return [self._done.pop(number) for number in numbers]

    def _free(self) -> Worker:
        for worker in self._workers:
            if worker not in self._running.values():
                return worker
        taken = {worker.place for worker in self._workers}
        place = next(n for n in range(self._most) if n not in taken)  # the worker may have died
        worker = Worker(place, self._most, self._context, tells=self._report is not None)
        self._workers.append(worker)
        return worker

    def _listen(self) -> None:
        """Wait for a message of a trial, and respond."""
        pipes = {worker.pipe: number for number, worker in self._running.items()}
        ready = connection.wait([self._heard, *pipes])
        if self._heard in ready:
            _stop(self._heard.recv())
        for pipe in ready:
            number = pipes[pipe]  # type: ignore[index]
            worker = self._running[number]
            received = worker.receive()
            if isinstance(received, tuple):
                assert self._report is not None
                worker.answer(self._report(number, *received))
                continue
            if not worker.alive:
                self._workers.remove(worker)
            del self._running[number]
            metrics = received.metrics.error() if isinstance(received.metrics, Failure) else received.metrics
            if isinstance(metrics, Stopped):
                raise metrics
            self._done[number] = Result(number, metrics, received.seconds)

    def __enter__(self) -> Self:
        # not raised here: the process may be in the middle of a line of the journal, or in a library that reports it
        self._before = {
            s: signal.signal(s, lambda signum, _: self._signals.send(signum)) for s in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *error: object) -> None:
        for signum in self._before:
            signal.signal(signum, _stop)
        try:
            if self._running:
                console.info(f"ending {len(self._running)} trials")
            for worker in self._workers:
                worker.process.terminate()
            until = time.perf_counter() + _PATIENCE
            for worker in self._workers:
                worker.process.join(max(0.0, until - time.perf_counter()))
        finally:  # a second signal
            for worker in self._workers:
                worker.process.kill()
                worker.process.join()
            for signum, handler in self._before.items():
                signal.signal(signum, handler)


_received: list[int] = []  # signals inside ``terminable``


def _stop(signum: int, _: FrameType | None = None) -> None:
    _received.append(signum)
    raise Stopped(f"stopped by {signal.Signals(signum).name}", signum)


@contextmanager
def terminable() -> Iterator[None]:
    """In this block SIGTERM raises Stopped, as Ctrl-C raises KeyboardInterrupt."""
    before = signal.signal(signal.SIGTERM, _stop)
    interrupts.restore_keyboard_interrupt()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _received.clear()


def raise_lost_signal() -> None:
    """Raise Stopped again in the main thread if a signal came: botocore turns it into an error of the connection."""
    if _received and threading.current_thread() is threading.main_thread():
        _stop(_received.pop())


def stop_signal(error: BaseException) -> signal.Signals:
    """The signal of a Stopped or a KeyboardInterrupt."""
    return signal.Signals(error.exit_code - 128) if isinstance(error, Stopped) else signal.SIGINT
