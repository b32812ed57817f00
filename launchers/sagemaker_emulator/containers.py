"""Containers without Docker: the command runs as a process of its own group, over a folder that stands for /opt/ml."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from sagehound import console
from sagehound_launchers.emulator.world import KEYS, Failed, World

_FROM_HOST = ("HOME", "LANG", "TMPDIR", "OMP_NUM_THREADS", "SAGEHOUND_CACHE")  # all that a job sees of this machine
_OPT_ML = re.compile(r"/opt/ml(?![\w.-])")


class Container:
    """One running container."""

    def __init__(
        self,
        world: World,
        command: list[str],
        opt_ml: Path,
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
    ) -> None:
        """Start it.

        Args:
            world: the emulator.
            command: what runs; /opt/ml in its words and in the environment's values becomes ``opt_ml``.
            opt_ml: the container's /opt/ml, which exists; its parent is the working folder.
            environment: what SageMaker and the request set.
            on_line: called in a thread with each line that the container prints, without its end.

        Raises:
            Failed: there is no such command.
        """
        self.opt_ml = opt_ml
        self._watch = world.watch
        host = {k: os.environ[k] for k in _FROM_HOST if k in os.environ}
        paths = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        given = {k: translate(v, opt_ml) for k, v in environment.items()}
        try:
            self._process = subprocess.Popen(
                [translate(word, opt_ml) for word in command],
                cwd=opt_ml.parent,
                env=host | {"PATH": os.pathsep.join(paths)} | aws(world) | given | {"SAGEHOUND_OPT_ML": str(opt_ml)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:  # ValueError: a text with a null byte
            why = error.strerror if isinstance(error, OSError) else error
            raise Failed(f"ClientError: the container could not be started: {command[0]}: {why}") from error
        self._watch.tell("+", self._process.pid)
        self._reader = threading.Thread(target=self._read, args=(on_line,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process's number, which is its group's too."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code as Docker tells it (128 + the signal's number), or None while it runs."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit code once the process has ended and its output was read; None if that takes too long."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        self._signal(signal.SIGKILL)  # a container ends with its first process
        self._watch.tell("-", self.pid)
        self._reader.join(5)
        return self.code

    def terminate(self) -> None:
        """Send SIGTERM, as a stop and a spot interruption do."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to it and to all that it started."""
        self._signal(signal.SIGKILL)

    def stop(self, grace: float) -> int:
        """SIGTERM, then SIGKILL once the grace (seconds) is over; the exit code."""
        self.terminate()
        code = self.wait(grace)
        if code is None:
            self.kill()
            code = self.wait()
        return code or 0

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):  # macOS says so of a group that has ended
            os.killpg(self._process.pid, number)

    def _read(self, on_line: Callable[[str], None]) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                try:
                    on_line(line.decode(errors="replace").rstrip("\r\n"))
                except Exception as error:  # a container whose output nobody reads would wait for ever
                    console.warn(f"emulator: a line of process {self.pid}: {error!r}")


def command_of(world: World, image: str, verb: str) -> list[str]:
    """What an image runs to ``train`` or to ``serve``: the settings' command, else our own container's."""
    for pattern, commands in world.settings.images.items():
        if re.search(pattern, image) and verb in commands:
            return list(commands[verb])
    return [sys.executable, "-P", "-c", f"from sagehound.container import {verb}; {verb}()"]


def aws(world: World) -> dict[str, str]:
    """The environment that leads a process to the emulator."""
    return {
        "AWS_REGION": world.region,
        "AWS_DEFAULT_REGION": world.region,
        "AWS_ENDPOINT_URL": world.url,
        "AWS_EC2_METADATA_DISABLED": "true",
        **{name.upper(): value for name, value in KEYS.items()},
    }


def translate(text: str, opt_ml: Path) -> str:
    """A text with /opt/ml as the container's folder."""
    return _OPT_ML.sub(lambda _: str(opt_ml), text)


def host_path(opt_ml: Path, path: str) -> Path:
    """Where a container's path lies.

    Raises:
        Failed: it is not under /opt/ml, which is all that is mapped.
    """
    inside = path.rstrip("/").removeprefix("/opt/ml").lstrip("/")
    if not _OPT_ML.match(path) or ".." in Path(inside).parts:
        raise Failed(f"ClientError: {path}: the emulator maps only paths under /opt/ml")
    return opt_ml / inside
