"""A model's container: fetches its model, serves HTTP requests, and is restarted if it exits."""

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

from sagemaker_emulator.errors import JobFailed
from sagemaker_emulator.processes.containers import Container, Containers
from sagemaker_emulator.storage.records import Record
from sagemaker_emulator.storage.transfers import Transfers

_POLL = 0.05  # seconds between two polls of a container
_PING = 2.0  # SageMaker's timeout of /ping, in seconds
_BLOCK = 1 << 20  # bytes read at a time
_PORTS = range(20_000, 30_000)
_ports = itertools.cycle(random.sample(_PORTS, len(_PORTS)))  # in random order, because there may be other emulators
_ports_lock = threading.Lock()
_PAUSE = 1.0  # seconds before a restart
_GRACE = 30.0  # seconds between SIGTERM and SIGKILL


@dataclass(frozen=True)
class Reply:
    """A container's response."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NoReply(Exception):
    """A container closed the connection without a response, or does not run."""


class TimedOut(NoReply):
    """A container did not respond in time."""


class NotReady(Exception):
    """A container did not respond to /ping with 200 in time."""


class ModelContainer:
    """One container with one model."""

    def __init__(
        self,
        containers: Containers,
        transfers: Transfers,
        model: Record,
        folder: Path,
        environment: Mapping[str, str],
        log: Callable[[str], None],
    ) -> None:
        """Make it ready to be started.

        Args:
            containers: starts the container.
            transfers: fetches the model.
            model: a container's definition, as CreateModel takes it, with Image.
            folder: a new folder; its ``ml`` stands for /opt/ml.
            environment: additional variables.
            log: called with each line that the container prints.
        """
        self._containers, self._transfers, self.model, self._log = containers, transfers, model, log
        self._opt_ml = folder / "ml"
        self._environment = environment
        self._ended = threading.Event()
        self._lock = threading.Lock()  # guards starting and stopping the process
        self._container: Container | None = None
        self._port: int | None = None

    @property
    def runs(self) -> bool:
        """Whether the container's process runs."""
        return self._container is not None and self._container.code is None

    def start(self, seconds: float, given_up: Callable[[], bool]) -> None:
        """Fetch the model, run the image's ``serve``, and wait until /ping returns 200.

        Args:
            seconds: time limit.
            given_up: whether to stop waiting.

        Raises:
            JobFailed: the model cannot be fetched, or there is no such command.
            NotReady: it exited, did not respond in time, or was given up.
        """
        self._opt_ml.mkdir(parents=True, exist_ok=True)
        self._fetch()
        self._launch()
        self._wait(seconds, given_up)

    def request(self, method: str, path: str, body: bytes, headers: Mapping[str, str], seconds: float) -> Reply:
        """Send a request to the container.

        Raises:
            NoReply: it did not respond within ``seconds``, or does not run.
        """
        if self._port is None:
            raise NoReply("the container does not run")
        closing = {**headers, "Connection": "close"}  # the container may close a kept connection at any time
        try:
            with urllib3.HTTPConnectionPool("127.0.0.1", self._port) as pool:  # urllib3 reuses one that closes late
                answer = pool.urlopen(method, path, body, closing, retries=False, timeout=seconds)
        except urllib3.exceptions.TimeoutError as error:
            raise TimedOut(str(error)) from error
        except urllib3.exceptions.HTTPError as error:
            raise NoReply(str(error)) from error
        return Reply(answer.status, answer.headers, answer.data)

    def invoke(self, body: bytes, headers: Mapping[str, str], seconds: float, model: str | None = None) -> Reply:
        """The container's response to /invocations.

        Raises:
            NoReply: it did not respond within ``seconds``, or does not run.
        """
        assert model is None, "only a container with many models is asked for one of them"
        return self.request("POST", "/invocations", body, headers, seconds)

    def keep(self) -> None:
        """Restart the container whenever it exits, until ``stop``. Runs in a thread."""
        while not (self._ended.wait(_POLL) or self._containers.stopping):
            if self._container is not None and self._container.code is not None:
                self._container.wait(0)
                self._log(f"the container ended with exit code {self._container.code}; it is started again")
                if self._ended.wait(_PAUSE):
                    return
                with suppress(JobFailed):
                    self._launch()

    def stop(self) -> None:
        """Send SIGTERM, and SIGKILL after the grace; remove its folder."""
        self._ended.set()
        with self._lock:
            if self._container is not None:
                grace = self._containers.grace(_GRACE)
                self._container.stop(grace)
        shutil.rmtree(self._opt_ml.parent, ignore_errors=True)

    def _fetch(self) -> None:
        """Fetch the model to /opt/ml/model."""
        fetch_model(self._transfers, self.model, self._opt_ml / "model")

    def _launch(self) -> None:
        with self._lock:
            if self._ended.is_set():
                return
            port = _free_port()
            given = {"SAGEMAKER_BIND_TO_PORT": str(port), "SAGEMAKER_SAFE_PORT_RANGE": f"{port}-{port}"}
            command = self._containers.images.command(self.model["Image"], "serve")
            own = self.model.get("Environment", {})
            variables = given | dict(self._environment) | own
            self._container = self._containers.start(self.model["Image"], command, self._opt_ml, variables, self._log)
            self._port = port

    def _wait(self, seconds: float, given_up: Callable[[], bool]) -> None:
        until = time.monotonic() + seconds
        while True:
            assert self._container is not None
            if self._container.code is not None:
                self._container.wait(0)  # read its last output
                self._log(f"the container ended with exit code {self._container.code} before it was ready")
                raise NotReady
            with suppress(NoReply):
                if self.request("GET", "/ping", b"", {}, min(_PING, seconds)).status == 200:
                    return
            if given_up() or self._containers.stopping or time.monotonic() > until:
                raise NotReady
            self._ended.wait(_POLL)


def fetch_model(transfers: Transfers, model: Record, folder: Path) -> None:
    """Fetch the model of a container's definition into a new folder.

    Raises:
        JobFailed: the object is missing, or not a tar.gz.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = model.get("ModelDataSource", {}).get("S3DataSource")
    if source is None and "ModelDataUrl" not in model:
        return
    uri = source["S3Uri"] if source else model["ModelDataUrl"]
    try:
        if source and source["S3DataType"] == "S3Prefix":
            transfers.fetch(transfers.list(uri), folder)
        elif source and source["CompressionType"] == "None":
            transfers.fetch([(uri, uri.rpartition("/")[2])], folder)
        else:
            unpack(transfers, uri, folder)
    except JobFailed as error:
        raise JobFailed(
            f'Failed to download model data for container "container_1" from URL: "{uri}". Please ensure that there is '
            "an object located at the URL and that the role passed to CreateModel has permissions to download the "
            "object."
        ) from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise JobFailed(
            f'Failed to extract model data archive for container "container_1" from URL "{uri}". Please ensure that '
            "the object located at the URL is a valid tar.gz archive."
        ) from error


def unpack(transfers: Transfers, uri: str, folder: Path) -> None:
    """Unpack an object that is a tar.gz.

    Raises:
        JobFailed: there is no such object.
        tarfile.TarError, EOFError, OSError: it is not a tar.gz.
    """
    path = transfers.path(uri)
    if path is None:
        raise JobFailed(uri)
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "r:gz") as archive:
        archive.extractall(folder, filter="data")
        while archive.fileobj and archive.fileobj.read(_BLOCK):  # to its end, where gzip has the checksum
            pass


def instance_id() -> str:
    """A name like EC2's, for log streams."""
    return f"i-{secrets.token_hex(8)}"


def _free_port() -> int:
    """A free port, below the range of outgoing connections."""
    for _ in range(len(_PORTS)):
        with _ports_lock:
            port = next(_ports)
        with socket.socket() as candidate, suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            return port
    raise JobFailed("InternalServerError: there is no free port for the container")
