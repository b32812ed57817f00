"""The process that answers: models opened, a socket bound, uvicorn run until a signal comes."""

import errno
import socket
from collections.abc import Mapping

import uvicorn

from sagehound import console
from sagehound.errors import ConfigError
from sagehound.machine import memory, tune_allocator
from sagehound.serving.app import Limits, make_app
from sagehound.serving.models import Models

_DRAIN = 25  # seconds for what was begun when SIGTERM comes; a container is killed after thirty


def serve(
    models: Mapping[str, str], host: str, port: int, limits: Limits | None = None, model_bytes: int | None = None
) -> None:
    """Answer requests until SIGTERM or Ctrl-C; what was begun by then is answered first.

    Args:
        models: runs, model.tar.gz files or unpacked ones by name.
        host: address to listen on.
        port: 0 for any free one.
        limits: of requests.
        model_bytes: of memory that open models may hold; half of what there is without it.

    Raises:
        ConfigError: the port is taken.
        InputError: a model cannot be opened.
    """
    tune_allocator()
    held = Models(model_bytes or memory() // 2)
    try:
        for name, url in models.items():
            held.load(name, url)
        app = make_app(held, limits)
        listening = _listen(host, port)
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        address = f"http://{shown}:{listening.getsockname()[1]}"
        console.say(f"serving {', '.join(models) or 'no model yet'} at {address} (page /, description /docs)")
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=_DRAIN, lifespan="on", backlog=2048
        )
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        held.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        reason = "is taken by another program" if taken else f"cannot be listened on ({error.strerror})"
        raise ConfigError(f"deploy.port={port} at {host} {reason}; choose another, or 0 for any free one") from error
