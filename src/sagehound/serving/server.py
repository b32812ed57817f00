"""The server process: loads models, binds a socket, and runs uvicorn until a signal."""

import errno
import gc
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType

import uvicorn
from fastapi import FastAPI

from sagehound.errors import ConfigError
from sagehound.serving.access import Access, is_loopback
from sagehound.serving.app import make_app
from sagehound.serving.connections import LimitedConfig, most_connections
from sagehound.serving.feedback import Feedback
from sagehound.serving.model_store import ModelStore
from sagehound.serving.request_capture import RequestCapture
from sagehound.serving.request_handler import Limits
from sagehound.storage.scratch import remove_leftovers
from sagehound.system import console
from sagehound.system.machine import give_back_large_blocks, memory

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

    Raises:
        ConfigError: the port is in use, or the certificate cannot be read.
        InputError: a model cannot be opened.
    """
    give_back_large_blocks()
    signal.signal(signal.SIGTERM, _stop)  # while models are loaded; later uvicorn's handler, which calls it at the end
    _check_certificate(address)
    remove_leftovers()
    limits = limits or Limits()
    default = next(iter(models)) if len(models) == 1 else None
    held = ModelStore(model_bytes or memory() // 2, default, limits.seconds)
    gc.freeze()  # the imported objects stay: collections that visit them took 2 to 4 % of the processor time
    try:
        for name, url in models.items():
            held.load(name, url)
        app = make_app(held, limits, capture, access, feedback=feedback, log_json=log_json)
        listening = _listen(address.host, address.port)
        _announce(models, address, listening.getsockname()[1], access)
        _Server(app, address).run(sockets=[listening])
    except SystemExit as ended:
        if not held.close():  # Python's own end aborts while ONNX Runtime computes
            sys.stdout.flush()
            os._exit(ended.code if isinstance(ended.code, int) else 1)
        raise
    finally:
        held.close()


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

    def __init__(self, app: FastAPI, address: Address) -> None:
        super().__init__(_settings(app, address))
        app.state.handler.is_stopping = lambda: self.should_exit

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Finish the requests in progress; end the process at the limit, whatever still runs."""
        super().handle_exit(sig, frame)
        last = threading.Timer(_DRAIN + _END, os._exit, (128 + sig,))
        last.daemon = True
        last.start()


def _stop(signum: int, _: FrameType | None) -> None:
    sys.exit(128 + signum)


def _announce(models: Mapping[str, str], address: Address, port: int, access: Access | None) -> None:
    """Print the address, and a warning if others can use the server or read along."""
    shown = "127.0.0.1" if address.host in ("0.0.0.0", "::") else address.host
    url = f"{'https' if address.cert else 'http'}://{f'[{shown}]' if ':' in shown else shown}:{port}"
    console.info(f"serving {', '.join(models) or 'no model yet'} at {url} (page /, description /docs)")
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
