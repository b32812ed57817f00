"""Containers without Docker: a command runs in namespaces of its own, where a folder is /opt/ml.

Where the system allows no namespaces, it runs in a process group of its own, and the folder stands for /opt/ml.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from sagemaker_emulator.errors import JobFailed
from sagemaker_emulator.identity import Identity
from sagemaker_emulator.processes import namespaces
from sagemaker_emulator.processes.images import Images
from sagemaker_emulator.processes.reaper import Reaper
from sagemaker_emulator.processes.rule_evaluation import RuleEvaluation
from sagemaker_emulator.processes.tasks import Tasks, report
from sagemaker_emulator.settings import Settings
from sagemaker_emulator.storage.records import Record

OPT_ML = "SAGEMAKER_EMULATOR_OPT_ML"  # the variable that names the folder which stands for /opt/ml
# variables of the emulator that a container gets too
_FROM_HOST = ("HOME", "LANG", "TMPDIR", "OMP_NUM_THREADS")
_ML = "/opt/ml"
_OPT_ML = re.compile(r"/opt/ml(?![\w.-])")


class Container:
    """One running container."""

    def __init__(
        self,
        command: list[str],
        opt_ml: Path,
        environment: Mapping[str, str],
        reaper: Reaper,
        on_line: Callable[[str], None],
    ) -> None:
        """Start it; see ``Containers.start``."""
        self.opt_ml = opt_ml
        self._reaper = reaper
        try:
            self._process = subprocess.Popen(
                command,
                cwd=opt_ml.parent,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:  # ValueError: a text with a null byte
            why = error.strerror if isinstance(error, OSError) else error
            raise JobFailed(f"ClientError: the container could not be started: {command[0]}: {why}") from error
        self._reaper.add(self._process.pid)
        self._reader = threading.Thread(target=self._read, args=(on_line,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The number of the process and of its group."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code as Docker reports it (128 + the signal's number), or None while the container runs."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until the process has ended and its output is read; returns the exit code, or None after ``timeout``."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        self._signal(signal.SIGKILL)  # a container ends with its first process
        self._reaper.remove(self.pid)
        self._reader.join(5)
        return self.code

    def terminate(self) -> None:
        """Send SIGTERM, as a stop and a spot interruption do."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the process and to all that it started."""
        self._signal(signal.SIGKILL)

    def stop(self, grace: float) -> int:
        """Send SIGTERM, and SIGKILL after ``grace`` seconds; returns the exit code."""
        self.terminate()
        code = self.wait(grace)
        if code is None:
            self.kill()
            code = self.wait()
        return code or 0

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):  # macOS: PermissionError for a group that has ended
            os.killpg(self._process.pid, number)

    def _read(self, on_line: Callable[[str], None]) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                try:
                    on_line(line.decode(errors="replace").rstrip("\r\n"))
                except Exception as error:  # go on reading: a full pipe would block the container
                    report(f"a line of process {self.pid}: {error!r}")


class Containers:
    """Starts containers, and knows how long they may take to end."""

    def __init__(
        self, folder: Path, settings: Settings, identity: Identity, images: Images, tasks: Tasks, reaper: Reaper
    ) -> None:
        self.folder, self.settings, self.images = folder, settings, images
        self._identity, self._tasks, self._reaper = identity, tasks, reaper
        refusal = namespaces.refusal() if settings.namespaces else "they are switched off"
        self._literal = not refusal
        if settings.namespaces and refusal:
            report(
                f"no namespaces for containers ({refusal}): /opt/ml is replaced by a folder's path in commands, "
                "variables and configuration, but not inside of scripts"
            )

    @property
    def stopping(self) -> bool:
        """Whether the emulator ends."""
        return self._tasks.stopping.is_set()

    def grace(self, most: float = float("inf")) -> float:
        """Seconds between SIGTERM and SIGKILL; one when the emulator ends."""
        return 1.0 if self.stopping else min(self.settings.grace, most)

    def start(
        self,
        image: str,
        command: list[str],
        opt_ml: Path,
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
    ) -> Container:
        """Start a container.

        Args:
            image: its name; the folder of its Python comes first on the PATH, also for a command of the system.
            command: what to run.
            opt_ml: an existing folder that is or stands for /opt/ml; its parent is the working folder.
            environment: variables that SageMaker and the request set.
            on_line: called in a thread with each line that the container prints, without the line end.

        Raises:
            JobFailed: there is no such command.
        """
        passed = (*_FROM_HOST, *self.settings.variables)
        host = {name: os.environ[name] for name in passed if name in os.environ}
        folders = self.images.folders(image, command[0])
        folders += [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        given = {name: self.translate(value, opt_ml) for name, value in environment.items()}
        variables = host | {"PATH": os.pathsep.join(folders)} | self._identity.environment() | given
        words = [self.translate(word, opt_ml) for word in command]
        if self._literal:
            _check_command(words[0], opt_ml, variables["PATH"])
            words = namespaces.wrap(words, opt_ml)
        return Container(words, opt_ml, variables | {OPT_ML: self.translate(_ML, opt_ml)}, self._reaper, on_line)

    def make_hosts(self, folder: Path, count: int) -> dict[str, Path]:
        """The names of a job's instances, each with its folder for /opt/ml, which does not exist yet.

        The names are algo-1, algo-2, ..., as at AWS, where a container has namespaces, and 127.0.0.1, ... elsewhere.

        Args:
            folder: for all of them.
            count: number of instances.
        """
        hosts = {}
        for number in range(1, count + 1):
            name = f"algo-{number}" if self._literal else f"127.0.0.{number}"
            hosts[name] = folder / name / "ml"
            hosts[name].parent.mkdir(parents=True)
            if self._literal:
                namespaces.name_hosts(hosts[name].parent, count)
        return hosts

    def translate(self, text: str, opt_ml: Path) -> str:
        """A text as the container must see it: without namespaces, /opt/ml in it is replaced by the folder's path."""
        return text if self._literal else _OPT_ML.sub(lambda _: str(opt_ml), text)

    def evaluate_rules(self, record: Record, opt_ml: Path) -> RuleEvaluation:
        """Start to evaluate the rules of a training job over the tensors that it will write."""
        hook = record.get("DebugHookConfig", {})
        tensors = host_path(opt_ml, hook.get("LocalPath", "/opt/ml/output/tensors"))
        return RuleEvaluation(record, tensors, opt_ml.parent / "rules", self._reaper)


def _check_command(name: str, opt_ml: Path, path: str) -> None:
    """Refuse a command that does not exist, which the container itself could report only in its log.

    Raises:
        JobFailed: there is no such command.
    """
    if "\0" in name or not shutil.which(_OPT_ML.sub(lambda _: str(opt_ml), name), path=path):
        raise JobFailed(f"ClientError: the container could not be started: {name}: there is no such command")


def host_path(opt_ml: Path, path: str) -> Path:
    """The path on this machine of a path in the container.

    Raises:
        JobFailed: it is not under /opt/ml; other paths are not mapped.
    """
    inside = path.rstrip("/").removeprefix("/opt/ml").lstrip("/")
    if not _OPT_ML.match(path) or ".." in Path(inside).parts:
        raise JobFailed(f"ClientError: {path}: the emulator maps only paths under /opt/ml")
    return opt_ml / inside
