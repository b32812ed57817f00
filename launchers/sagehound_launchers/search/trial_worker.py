"""A process that trains trials for a search, and ends with it."""

import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from functools import partial
from io import StringIO
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, env_override, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig

from sagehound.errors import SagehoundError, Stopped
from sagehound.system import console
from sagehound.system.machine import cores
from sagehound_launchers.search import pruning

OUTPUT = "output.txt"  # in a trial's folder: its output
_IMPORTS = "sagehound_launchers.search.trial_imports"
# On Linux all processes are forked from one that has imported torch, so the import needs its time and memory only once.
# It takes seconds; a signal that comes meanwhile is handled after it.
_START = "forkserver" if sys.platform == "linux" else "spawn"


@dataclass(frozen=True)
class Failure:
    """An error that is sent to another process."""

    kind: type[SagehoundError]
    message: str
    exit_code: int

    def error(self) -> SagehoundError:
        """The original error."""
        if self.kind is Stopped:
            return Stopped(self.message, self.exit_code - 128)
        return self.kind(self.message)


@dataclass(frozen=True)
class Done:
    """The result of a trial: metrics.json, or the error."""

    metrics: Mapping[str, Any] | Failure
    seconds: float | None


Message = tuple[int, float] | Done  # an epoch's report, or the end


class Worker:
    """A handle of the process for its parent."""

    def __init__(self, place: int, of: int, context: HydraContext, *, tells: bool) -> None:
        """Start process ``place`` of ``of``. With ``tells`` it reports each epoch and waits for a response."""
        self.place = place
        resource_tracker.ensure_running()  # it unblocks the signal at its first start
        share = {
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores() // of))),
            "NO_COLOR": "1",  # its output is in a file
        }
        processes: Any = multiprocessing.get_context(_START)
        if _START == "forkserver":
            processes.set_forkserver_preload([_IMPORTS])
        self.pipe: Connection
        self.pipe, theirs = processes.Pipe()
        given = (theirs, place, of, context, tells, os.environ | share)
        self.process: BaseProcess = processes.Process(target=_work, args=given)
        self.folder = Path()
        try:
            with _without_interrupt(), env_override(share):
                self.process.start()
        finally:
            theirs.close()

    @property
    def alive(self) -> bool:
        """Whether it can run another trial."""
        return not self.pipe.closed

    def start(self, cfg: DictConfig) -> None:
        """Start a trial; its config includes Hydra's part."""
        self.folder = Path(cfg.hydra.sweep.dir, str(cfg.hydra.sweep.subdir))
        with suppress(BrokenPipeError):  # it died; receive() returns the error
            self.pipe.send(cfg)

    def receive(self) -> Message:
        """Receive a message; a dead process gives an error."""
        try:
            received: Message = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.pipe.close()
            self.process.join()
            code = self.process.exitcode or 0
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            hint = ", as it does where memory runs out" if how == "SIGKILL" else ""
            message = f"its process ended with {how}{hint}; {self.folder / OUTPUT} has what it printed"
            return Done(Failure(SagehoundError, message, 1), None)
        return received

    def answer(self, prune: bool) -> None:
        """Respond to a report."""
        with suppress(BrokenPipeError):
            self.pipe.send(prune)


@contextmanager
def _without_interrupt() -> Iterator[None]:
    """A process that starts in the block ignores Ctrl-C: a terminal sends it to all, but the parent sends SIGTERM."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows a process inherits no mask
        yield
        return
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _work(
    pipe: Connection, place: int, of: int, context: HydraContext, tells: bool, environment: Mapping[str, str]
) -> None:
    """The main function of the process."""
    os.environ.clear()  # it is that of the first search in this program
    os.environ.update(environment)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    setup_globals()
    share_gpus(place, of)
    importlib.import_module(_IMPORTS)  # some seconds that are not the first trial's
    with ExitStack() as stack, suppress(BrokenPipeError, EOFError):
        if tells:
            stack.enter_context(pruning.listening(partial(_tell, pipe)))
        while True:
            cfg = pipe.recv()
            if cfg.data.workers is None:
                cfg.data.workers = min(max(1, cores() // of), 16)
            start = time.perf_counter()
            result = _trial(cfg, context)
            pipe.send(Done(result, time.perf_counter() - start))
            if isinstance(result, Failure) and result.kind is Stopped:
                return


def _end_with(parent: Any) -> None:  # noqa: ANN401 - multiprocessing's own, which has no name
    """End this process if the parent is killed."""
    parent.join()
    os._exit(1)


def share_gpus(place: int, of: int) -> None:
    """Give this process its share of several GPUs: every ``of``-th, at least one."""
    import torch

    gpus = torch.cuda.device_count()
    if gpus > 1:
        known = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(known.split(",")[:gpus][place % gpus :: of])


def _tell(pipe: Connection, epochs: int, value: float) -> bool:
    pipe.send((epochs, value))
    return bool(pipe.recv())


def _trial(cfg: DictConfig, context: HydraContext) -> Mapping[str, Any] | Failure:
    """Train as Hydra's launcher does, with all output in the trial's folder."""
    from sagehound_launchers.search.train_trial import train_trial

    folder = Path(cfg.hydra.sweep.dir, str(cfg.hydra.sweep.subdir))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / OUTPUT).open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    try:
        return returned(run_job(train_trial, cfg, "hydra.sweep.dir", "hydra.sweep.subdir", context))
    except SagehoundError as error:
        console.info(str(error))
        return Failure(type(error), str(error), error.exit_code)
    except Exception as error:
        traceback.print_exc()
        where = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        return Failure(SagehoundError, f"{where}; {folder / OUTPUT} has the traceback", 1)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def returned(job: JobReturn) -> Mapping[str, Any]:
    """A job's metrics.json, or its error, without Hydra's line on stderr that repeats the overrides.

    Raises:
        SagehoundError: the trial's error, or its launcher returned no metrics.
    """
    with redirect_stderr(StringIO()):
        metrics = job.return_value
    if not isinstance(metrics, Mapping):
        raise SagehoundError("its launcher returned no metrics")
    return metrics
