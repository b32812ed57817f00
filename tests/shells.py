"""A command ``sagehound`` for the shell scripts of guides and notebooks, which saves the seconds of its imports.

The shell starts a small program, and that asks the process of the tests for a fork, which has imported everything; see
forked.py. The fork writes to the program's streams. A server, which runs until it is killed, and what imports little
are the installed command.
"""

import json
import os
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path

import forked

FORKED = ("train", "launch", "audit", "report", "doctor")
_CLIENT = """#!{python} -IS
import json, os, socket, sys
if sys.argv[1:2] not in {forked}:
    os.execv({installed!r}, ["sagehound", *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as test:
    test.connect({address!r})
    asked = [sys.argv[1:], os.getcwd(), dict(os.environ), os.getpid()]
    test.sendall(json.dumps(asked).encode() + b"\\n")
    sys.exit(int(test.makefile().read() or 1))
"""
_PROGRAM = "from sagehound.cli.main import main\nmain()\n"


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    program: Path


class _Asked(socketserver.StreamRequestHandler):
    """One command: its fork ends, or the program that asked for it is killed."""

    def handle(self) -> None:
        assert isinstance(self.server, _Server)
        arguments, folder, environment, number = json.loads(self.rfile.readline())
        streams = [Path(f"/proc/{number}/fd/{stream}") for stream in (1, 2)]
        process = forked.start(self.server.program, Path(folder), arguments, streams, environment)
        if process.sentinel not in wait([process.sentinel, self.connection]):
            process.terminate()
        process.join()
        code = process.exitcode or 0
        self.wfile.write(str(code if code >= 0 else 128 - code).encode())


@contextmanager
def sagehound_for_shells(folder: Path) -> Iterator[str]:
    """Offer the command while the block runs; yields a PATH that begins with its folder.

    Args:
        folder: for its files; its path is short, as it has a socket.
    """
    installed = Path(sys.executable).parent
    usual = os.pathsep.join([str(installed), os.environ["PATH"]])
    if not sys.platform.startswith("linux"):  # no /proc
        yield usual
        return
    folder.mkdir(exist_ok=True)
    server = _Server(str(folder / "tests.sock"), _Asked)
    server.program = folder / "program/sagehound"
    client = folder / "bin/sagehound"
    for path, text in {
        server.program: _PROGRAM,
        client: _CLIENT.format(
            python=sys.executable,
            forked=[[name] for name in FORKED],
            installed=str(installed / "sagehound"),
            address=str(folder / "tests.sock"),
        ),
    }.items():
        path.parent.mkdir(parents=True)
        path.write_text(text)
        path.chmod(0o755)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield os.pathsep.join([str(client.parent), usual])
    finally:
        server.shutdown()
        server.server_close()
