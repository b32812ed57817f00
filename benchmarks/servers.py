"""The servers of the benchmark: ours by its command, and its peers."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from common import ROOT

HERE = Path(__file__).parent
START = 60  # seconds until a server must listen
IDLE = 60  # seconds until a server has nothing left to do
# each peer in two settings; the faster one is compared. The end of its script names the arguments
SETTINGS: dict[str, tuple[str, list[tuple[int, ...]]]] = {
    "FastAPI": ("plain_server.py", [(1, 1), (1, 2)]),  # workers, threads of ONNX Runtime
    "FastAPI, 2 workers": ("plain_server.py", [(2, 1), (2, 2)]),
    "LitServe": ("lit_server.py", [(2, 1, 1), (1, 8, 2)]),  # workers, photos of a batch, threads of ONNX Runtime
}


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    name: str
    address: str
    process: psutil.Process

    def processor_time(self) -> float:
        """Seconds that it and its workers have computed."""
        seconds = 0.0
        for process in [self.process, *self.process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                used = process.cpu_times()
                seconds += used.user + used.system
        return seconds

    def wait_until_idle(self) -> None:
        """Wait until it has dropped or computed the requests of clients that left, so that it slows no other server."""
        end, before = time.monotonic() + IDLE, self.processor_time()
        while time.monotonic() < end:
            time.sleep(0.5)
            now = self.processor_time()
            if now - before < 0.05:
                return
            before = now


@contextmanager
def ours(run: Path, *overrides: str, name: str = "Sagehound") -> Iterator[Server]:
    """Our server, by the command."""
    out = run.with_name(f"launch-{run.name}")
    command = [sys.executable, str(ROOT / "launch.py"), "deploy=local", f"model={run}", "deploy.port=0", *overrides]
    with subprocess.Popen([*command, f"hydra.run.dir={out}"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        if "http://" not in line:
            sys.exit(f"{' '.join(command)} did not start: {line}")
        try:
            yield Server(name, line.split("http://")[1].split()[0], psutil.Process(process.pid))
        finally:
            process.send_signal(signal.SIGTERM)


@contextmanager
def peer(name: str, setting: Sequence[int], model: Path, python: str) -> Iterator[Server]:
    """A peer; ``model`` is an unpacked model.tar.gz, ``python`` the interpreter that has LitServe."""
    script = SETTINGS[name][0]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [python if name == "LitServe" else sys.executable, str(HERE / script), str(model), str(port)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    with (
        tempfile.TemporaryFile("w+") as output,  # LitServe prints a traceback for each client that leaves
        subprocess.Popen(
            [*command, *map(str, setting)], env=environment, start_new_session=True, stdout=output, stderr=output
        ) as process,
    ):
        try:
            if not _listens(process, port):
                output.seek(0)
                sys.exit(f"{name} does not listen after {START} s, or has ended:\n{output.read()}")
            yield Server(name, f"127.0.0.1:{port}", psutil.Process(process.pid))
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # LitServe's workers too


def check_litserve(python: str) -> None:
    """End with a clear error if this interpreter lacks LitServe."""
    code = "import importlib.util as u, sys; sys.exit(any(u.find_spec(m) is None for m in sys.argv[1:]))"
    needed = ("litserve", "onnxruntime", "PIL")
    if python == sys.executable:
        found = all(importlib.util.find_spec(module) for module in needed)
    else:
        with suppress(OSError):
            found = not subprocess.run([python, "-c", code, *needed], check=False).returncode
    if not found:
        sys.exit(
            f"{python} has no litserve, onnxruntime or pillow: make an environment as the docstring says and give "
            "--litserve ITS_PYTHON, or leave LitServe out with --peers 'FastAPI' 'FastAPI, 2 workers'"
        )


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    end = time.monotonic() + START
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as trial:
            if not trial.connect_ex(("127.0.0.1", port)):
                return True
        time.sleep(0.1)
    return False
