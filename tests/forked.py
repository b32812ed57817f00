"""Runs train.py and launch.py in a fork of a process that has already imported their packages.

The imports take seconds, and hundreds of tests run a command. The fork has its own folder, environment, arguments,
streams and exit code. Tests of the start-up itself, and everything in tests/e2e, start a real process.
"""

import atexit
import gc
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

_IMPORTS = "forked_imports"
_READ_LATER = (
    "SAGEHOUND_",
    "AWS_",
    "PYTEST_",
    "SM_",
    "HOME",
    "GIT_DIR",
    "OMP_",
    "GOMP_",
    "TORCHINDUCTOR_",
    "PYTHONPATH",
    "PATH",
    "COMP_",
    "KMP_",
    "MLFLOW_",
    "WANDB_",
    "NETRC",
    "PWD",
    "OLDPWD",
    "SHLVL",
    "_",
)  # not when a package is imported
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([_IMPORTS])
_before: dict[str, str] = {}  # the environment before the test; imports and trainings of others have changed it, too


def begin_test() -> None:
    """Remember the environment, so that ``run`` sees what this test, or this fixture of several tests, changes."""
    _before.clear()
    _before.update(os.environ)


def run(script: Path, folder: Path, arguments: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Run a script to its end, with ``folder`` as the current one and the environment of the test.

    Raises:
        AssertionError: a test has changed a variable that may be read when a package is imported.
        subprocess.TimeoutExpired: it took longer than ``timeout`` seconds.
    """
    command = [sys.executable, str(script), *arguments]
    with tempfile.TemporaryDirectory() as streams:
        outputs = [Path(streams, name) for name in ("stdout", "stderr")]
        process = start(script, folder, arguments, outputs)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, timeout)
        stdout, stderr = (file.read_text() if file.exists() else "" for file in outputs)
    return subprocess.CompletedProcess(command, process.exitcode, stdout, stderr)


def _start_server() -> None:
    """Start the process that is forked. Python 3.11 does not tell it pytest's paths, and it skips what is missing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        multiprocessing.forkserver.ensure_running()


def start(
    script: Path,
    folder: Path,
    arguments: Sequence[str],
    outputs: list[Path],
    environment: Mapping[str, str] | None = None,
) -> ForkServerProcess:
    """Start a script as ``run`` does; returns its process.

    Args:
        script: to run.
        folder: the current one.
        arguments: of the script.
        outputs: files for stdout and stderr.
        environment: of the script; None: that of the test.

    Raises:
        AssertionError: a test has changed a variable that may be read when a package is imported.
    """
    own = dict(os.environ if environment is None else environment)
    changed = {name for name in {*own, *_before} if own.get(name) != _before.get(name)}
    read_early = sorted(name for name in changed if not name.startswith(_READ_LATER))
    assert not read_early, f"{read_early} may be read when a package is imported: add it to _READ_LATER if it is not"
    _start_server()
    process = _context.Process(target=_main, args=([str(script), *arguments], folder, own, outputs))
    process.start()
    return process


def _main(arguments: list[str], folder: Path, environment: dict[str, str], outputs: list[Path]) -> None:
    assert _IMPORTS in sys.modules, "the imports of the fork server failed"
    gc.freeze()  # otherwise each garbage collection visits the million objects of the imported packages
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, (name, file) in enumerate(zip(("stdout", "stderr"), outputs, strict=True), 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        setattr(sys, name, open(number, "w", buffering=1 if number == 2 else -1, closefd=False))  # noqa: SIM115
    sys.argv[:] = arguments
    own = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [str(Path(arguments[0]).parent), *(path for path in own if path and path not in sys.path)]
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which a process of multiprocessing leaves out
        sys.stdout.flush()
