"""The server process: loads models, binds a socket, and runs uvicorn until a signal."""

import errno
import gc
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

import uvicorn
from fastapi import FastAPI

from sagehound.artifact import archive
from sagehound.errors import ConfigError
from sagehound.serving import sessions, tracing
from sagehound.serving.access import Access, is_loopback
from sagehound.serving.app import make_app
from sagehound.serving.connections import LimitedConfig, most_connections
from sagehound.serving.feedback import Feedback
from sagehound.serving.model_store import ModelStore
from sagehound.serving.request_capture import RequestCapture
from sagehound.serving.request_handler import Limits
from sagehound.serving.server_metrics import forget_process
from sagehound.serving.sessions import Execution
from sagehound.serving.shared import Shared, SharedRateLimit
from sagehound.serving.workers import Supervisor
from sagehound.storage.scratch import remove_leftovers, scratch_folder
from sagehound.system import console
from sagehound.system.machine import cores, give_back_large_blocks, memory

_DRAIN = 25  # seconds to finish requests after SIGTERM; a container is killed after thirty
_END = 3  # seconds for everything after that


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int  # 0: any free one
    cert: str | None = None  # a PEM file for TLS
    key: str | None = None  # a PEM file; None: the private key is in ``cert``
    keep_alive: float = 75.0  # seconds that a connection may be idle between requests


def serve(
    models: Mapping[str, str],
    address: Address,
    limits: Limits | None = None,
    model_bytes: int | None = None,
    capture: RequestCapture | None = None,
    access: Access | None = None,
    *,
    feedback: Feedback | None = None,
    log_json: bool = False,
    device: str = "cpu",
    workers: int = 1,
    traces: str | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish the requests in progress.

    Args:
        models: runs, model.tar.gz files or unpacked ones by name.
        address: host, port and certificate.
        limits: of requests.
        model_bytes: memory for open models; None: half of the machine's.
        capture: of requests and responses.
        access: who may do what; None: everybody everything, as in a SageMaker container.
        feedback: writes users' corrections; None: the server takes none.
        log_json: whether to print a line of JSON for each request.
        device: cpu, cuda (a GPU of NVIDIA), or auto (a GPU if it works).
        workers: processes, among which limits, memory and cores are divided.
        traces: where OpenTelemetry's spans go, otlp or console; None: none are made.

    Raises:
        ConfigError: the port is in use, the certificate cannot be read, or ONNX Runtime has no such device.
        InputError: a model cannot be opened.
        SagehoundError: processes die again and again.
    """
    give_back_large_blocks()
    signal.signal(signal.SIGTERM, _stop)  # while models are loaded; later uvicorn's handler, which calls it at the end
    _check_certificate(address)
    sessions.check(device)
    if traces is not None:
        tracing.check(traces)
    remove_leftovers()
    gc.freeze()  # the imported objects stay: collections that visit them took 2 to 4 % of the processor time
    limits, model_bytes = limits or Limits(), model_bytes or memory() // 2
    server = _Program(
        models, address, limits, model_bytes, capture, access, feedback, log_json, Execution(device), traces
    )
    if workers == 1:
        server.run()
    else:
        _serve_together(server, workers)


@dataclass(frozen=True)
class _Program:
    """What one process of a server does."""

    models: Mapping[str, str]
    address: Address
    limits: Limits
    model_bytes: int
    capture: RequestCapture | None
    access: Access | None
    feedback: Feedback | None
    log_json: bool
    execution: Execution
    traces: str | None = None
    shared: Shared | None = None
    unpacked: Mapping[str, Path] = field(default_factory=dict)  # folders of the models, if they are unpacked already

    def divided(self, workers: int, shared: Shared, unpacked: Mapping[str, Path]) -> "_Program":
        """The same for one of several processes."""
        limits = replace(
            self.limits,
            requests=-(-self.limits.requests // workers),
            bodies_bytes=max(self.limits.bodies_bytes // workers, self.limits.body_bytes),
        )
        execution = replace(self.execution, threads=max(1, cores() // workers))
        return replace(
            self,
            limits=limits,
            model_bytes=self.model_bytes // workers,
            execution=execution,
            shared=shared,
            unpacked=unpacked,
        )

    def run(self, listening: socket.socket | None = None, on_ready: Callable[[], None] | None = None) -> None:
        """Load the models, then serve; without a socket, listen and print the address."""
        default = next(iter(self.models)) if len(self.models) == 1 else None
        held = ModelStore(self.model_bytes, default, self.limits.seconds, self.execution)
        try:
            for name, url in self.models.items():
                held.load(name, url, self.unpacked.get(name))
            app = make_app(
                *(held, self.limits, self.capture, self.access),
                feedback=self.feedback,
                log_json=self.log_json,
                execution=self.execution,
                shared=self.shared,
                tracing=tracing.Tracing(self.traces) if self.traces else None,
            )
            if listening is None:
                listening = _listen(self.address.host, self.address.port)
                _announce(self.models, self.address, listening.getsockname()[1], self.access)
            _Server(app, self.address, on_ready).run(sockets=[listening])
        except SystemExit as ended:
            if not held.close():  # Python's own end aborts while ONNX Runtime computes
                sys.stdout.flush()
                os._exit(ended.code if isinstance(ended.code, int) else 1)
            raise
        finally:
            held.close()


def _serve_together(program: _Program, workers: int) -> NoReturn:
    """Serve by several processes, which this one starts and ends."""
    with ExitStack() as stack:
        # unpacked once, so that a process that replaces another one has the same models
        unpacked = {
            name: stack.enter_context(archive.opened(url.removeprefix("file://")))
            for name, url in program.models.items()
        }
        counters = stack.enter_context(scratch_folder())
        rate = program.access.rate if program.access else None
        shared = Shared(counters, SharedRateLimit(rate) if rate else None)
        listening = stack.enter_context(_listen(program.address.host, program.address.port))
        port = listening.getsockname()[1]
        divided = program.divided(workers, shared, unpacked)
        supervisor = Supervisor(
            lambda ready: divided.run(listening, ready),
            workers,
            _DRAIN + _END,
            lambda: _announce(program.models, program.address, port, program.access, workers),
            lambda pid: forget_process(pid, counters),
            listening.close,  # otherwise connections were accepted that nobody serves
        )
        signum = supervisor.run()
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + signum)


def _settings(app: FastAPI, address: Address) -> LimitedConfig:
    return LimitedConfig(
        app,
        most_connections=most_connections(),
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=round(address.keep_alive),
        timeout_graceful_shutdown=_DRAIN,
        lifespan="on",
        backlog=2048,
        ssl_certfile=address.cert,
        ssl_keyfile=address.key,
    )


class _Server(uvicorn.Server):
    """uvicorn's server, which always ends after a signal."""

    def __init__(self, app: FastAPI, address: Address, on_ready: Callable[[], None] | None) -> None:
        settings = _settings(app, address)
        super().__init__(settings)
        self._open = settings.open
        self._on_ready = on_ready
        app.state.handler.is_stopping = lambda: self.should_exit

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        await super().startup(sockets)
        if self._on_ready is not None:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more connections, and finish the requests in progress."""
        self._open.is_ending = True
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Finish the requests in progress; end the process at the limit, whatever still runs."""
        super().handle_exit(sig, frame)
        last = threading.Timer(_DRAIN + _END, os._exit, (128 + sig,))
        last.daemon = True
        last.start()


def _stop(signum: int, _: FrameType | None) -> None:
    sys.exit(128 + signum)


def _announce(models: Mapping[str, str], address: Address, port: int, access: Access | None, workers: int = 1) -> None:
    """Print the address, and a warning if others can use the server or read along."""
    shown = "127.0.0.1" if address.host in ("0.0.0.0", "::") else address.host
    url = f"{'https' if address.cert else 'http'}://{f'[{shown}]' if ':' in shown else shown}:{port}"
    by = f" by {workers} processes" if workers > 1 else ""
    console.info(f"serving {', '.join(models) or 'no model yet'} at {url}{by} (page /, description /docs)")
    missing = [] if access is None or access.token else ["no token, so that anybody can use it (deploy.token)"]
    missing += [] if address.cert else ["no TLS, so that others can read photos and token (deploy.cert)"]
    if access is not None and missing and not is_loopback(address.host):
        reasons = " and ".join(missing)
        print(f"warning: other machines reach this server, which has {reasons}", file=sys.stderr, flush=True)


def _check_certificate(address: Address) -> None:
    """Read certificate and key.

    Raises:
        ConfigError: they cannot be read or do not belong together.
    """
    if address.cert is None:
        return
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(address.cert, address.key, password=lambda: b"")  # never ask at the terminal
    except (OSError, ValueError) as error:  # SSLError is an OSError
        files = f"deploy.cert={address.cert}" + (f" and deploy.key={address.key}" if address.key else "")
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigError(
            f"{files} cannot be used ({reason}): give a certificate and its key, without a password, as PEM files"
        ) from error


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} at {host} is taken by another program; choose another, or 0 for any"
            ) from error
        raise ConfigError(f"{host}:{port} cannot be listened on: {error.strerror or error}") from error
