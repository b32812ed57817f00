"""A model's container: it gets its model, answers requests over HTTP, and is started again when it ends by itself."""

import itertools
import random
import secrets
import shutil
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import urllib3

from sagehound_launchers.emulator.processes import Container, command_of
from sagehound_launchers.emulator.world import Failed, Record, World, split_uri

_POLL = 0.05  # seconds between two looks at a container
_PING = 2.0  # seconds that SageMaker waits for the answer to /ping
_PORTS = range(20_000, 30_000)
_ports = itertools.cycle(random.sample(_PORTS, len(_PORTS)))  # at random: there may be other emulators
_ports_lock = threading.Lock()
_PAUSE = 1.0  # seconds before a container that ended is started again
_AT_ONCE = 256  # requests, beyond which urllib3 would complain
_GRACE = 30.0  # seconds between SIGTERM and SIGKILL, where SageMaker gives jobs more


@dataclass(frozen=True)
class Reply:
    """What a container answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NoReply(Exception):
    """A container closed the connection without an answer, or is not there."""


class TimedOut(NoReply):
    """A container did not answer in time."""


class NotReady(Exception):
    """A container did not answer /ping with 200 in time."""


class ModelServer:
    """One container with one model."""

    def __init__(
        self, world: World, model: Record, folder: Path, environment: Mapping[str, str], log: Callable[[str], None]
    ) -> None:
        """Make it ready to be started.

        Args:
            world: the emulator.
            model: a container's definition, as CreateModel takes it, with Image.
            folder: a new folder; its ``ml`` stands for /opt/ml.
            environment: what is set beside the model's own.
            log: called with each line that the container prints.
        """
        self._world, self.model, self._log = world, model, log
        self._opt_ml = folder / "ml"
        self._environment = environment
        self._ended = threading.Event()
        self._lock = threading.Lock()  # around starting and ending the process
        self._container: Container | None = None
        self._pool: urllib3.HTTPConnectionPool | None = None

    @property
    def runs(self) -> bool:
        """Whether the container's process lives."""
        return self._container is not None and self._container.code is None

    def start(self, seconds: float, given_up: Callable[[], bool]) -> None:
        """Fetch the model, run the image's ``serve``, and wait until it answers /ping with 200.

        Args:
            seconds: how long that may take.
            given_up: whether to stop waiting.

        Raises:
            Failed: the model cannot be fetched, or there is no such command.
            NotReady: it ended, did not answer in time, or was given up.
        """
        self._opt_ml.mkdir(parents=True, exist_ok=True)
        self._fetch()
        self._launch()
        self._wait(seconds, given_up)

    def ask(self, method: str, path: str, body: bytes, headers: Mapping[str, str], seconds: float) -> Reply:
        """Send a request to the container.

        Raises:
            NoReply: it did not answer within ``seconds``, or is not there.
        """
        pool = self._pool
        if pool is None:
            raise NoReply("the container does not run")
        closing = {**headers, "Connection": "close"}  # one that is kept may be closed by the container at any time
        try:
            answer = pool.urlopen(method, path, body, closing, retries=False, timeout=seconds)
        except urllib3.exceptions.TimeoutError as error:
            raise TimedOut(str(error)) from error
        except urllib3.exceptions.HTTPError as error:
            raise NoReply(str(error)) from error
        return Reply(answer.status, answer.headers, answer.data)

    def invoke(self, body: bytes, headers: Mapping[str, str], seconds: float, model: str | None = None) -> Reply:
        """What the container answers to /invocations.

        Raises:
            NoReply: it did not answer within ``seconds``, or is not there.
        """
        assert model is None, "only a container with many models is asked for one of them"
        return self.ask("POST", "/invocations", body, headers, seconds)

    def keep(self) -> None:
        """Start the container again whenever it ends by itself; a thread's work, until ``stop``."""
        while not (self._ended.wait(_POLL) or self._world.stopping.is_set()):
            if self._container is not None and self._container.code is not None:
                self._container.wait(0)
                self._log(f"the container ended with exit code {self._container.code}; it is started again")
                if self._ended.wait(_PAUSE):
                    return
                with suppress(Failed):
                    self._launch()

    def stop(self) -> None:
        """SIGTERM, SIGKILL once the grace is over, and its folder goes."""
        self._ended.set()
        with self._lock:
            if self._container is not None:
                grace = 1.0 if self._world.stopping.is_set() else min(self._world.settings.grace, _GRACE)
                self._container.stop(grace)
        shutil.rmtree(self._opt_ml.parent, ignore_errors=True)

    def _fetch(self) -> None:
        """Put the model to /opt/ml/model."""
        fetch_model(self._world, self.model, self._opt_ml / "model")

    def _launch(self) -> None:
        with self._lock:
            if self._ended.is_set():
                return
            port = _free_port()
            given = {"SAGEMAKER_BIND_TO_PORT": str(port), "SAGEMAKER_SAFE_PORT_RANGE": f"{port}-{port}"}
            command = command_of(self._world, self.model["Image"], "serve")
            own = self.model.get("Environment", {})
            self._container = Container(
                self._world, command, self._opt_ml, given | dict(self._environment) | own, self._log
            )
            self._pool = urllib3.HTTPConnectionPool("127.0.0.1", port, maxsize=_AT_ONCE)

    def _wait(self, seconds: float, given_up: Callable[[], bool]) -> None:
        until = time.monotonic() + seconds
        while True:
            assert self._container is not None
            if self._container.code is not None:
                self._container.wait(0)  # its last words reach the log
                self._log(f"the container ended with exit code {self._container.code} before it was ready")
                raise NotReady
            with suppress(NoReply):
                if self.ask("GET", "/ping", b"", {}, min(_PING, seconds)).status == 200:
                    return
            if given_up() or self._world.stopping.is_set() or time.monotonic() > until:
                raise NotReady
            self._ended.wait(_POLL)


def fetch_model(world: World, model: Record, folder: Path) -> None:
    """Put what a container's definition names as its model into a new folder.

    Raises:
        Failed: with AWS's words, if the object is gone or no tar.gz.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = model.get("ModelDataSource", {}).get("S3DataSource")
    if source is None and "ModelDataUrl" not in model:
        return
    uri = source["S3Uri"] if source else model["ModelDataUrl"]
    try:
        if source and source["S3DataType"] == "S3Prefix":
            world.fetch(world.list_objects(uri), folder)
        elif source and source["CompressionType"] == "None":
            world.fetch([(uri, uri.rpartition("/")[2])], folder)
        else:
            unpack(world, uri, folder)
    except Failed as error:
        raise Failed(
            f'Failed to download model data for container "container_1" from URL: "{uri}". Please ensure that there is '
            "an object located at the URL and that the role passed to CreateModel has permissions to download the "
            "object."
        ) from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise Failed(
            f'Failed to extract model data archive for container "container_1" from URL "{uri}". Please ensure that '
            "the object located at the URL is a valid tar.gz archive."
        ) from error


def unpack(world: World, uri: str, folder: Path) -> None:
    """Unpack an object that is a tar.gz.

    Raises:
        Failed: there is no such object.
        tarfile.TarError, EOFError, OSError: it is no tar.gz.
    """
    path = world.objects.path(*split_uri(uri))
    if path is None:
        raise Failed(uri)
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "r:gz") as archive:
        archive.extractall(folder, filter="data")


def instance_id() -> str:
    """A name as EC2 gives it, of which log streams are made."""
    return f"i-{secrets.token_hex(8)}"


def _free_port() -> int:
    """A port that nobody listens on, below those that outgoing connections get and might take in between."""
    for _ in range(len(_PORTS)):
        with _ports_lock:
            port = next(_ports)
        with socket.socket() as asked, suppress(OSError):
            asked.bind(("127.0.0.1", port))
            return port
    raise Failed("InternalServerError: there is no free port for the container")
