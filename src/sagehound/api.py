"""Trains and launches from Python with the same config as the commands."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock, Thread
from typing import IO

from sagehound.config.overrides import override
from sagehound.errors import ConfigError, InputError, SagehoundError
from sagehound.runs.run import Run

_ERROR = "sagehound: "  # begins the line in which a command says why it failed
_LOCK = RLock()  # Hydra's state and the random generators are global to the process


def train(*overrides: str, config_dir: str | Path | None = None, **groups: object) -> Run:
    """Train as ``sagehound train`` does, and return the run.

    Calls from several threads run one after the other. Only a run in the main thread writes a checkpoint when a signal
    stops it.

    Args:
        overrides: overrides as on the command line, such as "data=folder" or "optimizer.lr=0.01".
        config_dir: a folder with config groups of your own.
        groups: overrides as keyword arguments, such as backbone="resnet34" or seed=1.

    Raises:
        ConfigError: an override is wrong, or ``config_dir`` is not a folder.
        InputError: the photos, the weights or a checkpoint cannot be used.
        SagehoundError: the loss is no longer finite, or the disk is full.
    """
    from sagehound import config
    from sagehound.cli import command

    given = _given("train", overrides, groups)
    if flags := [word for word in given if word.startswith("-")]:
        raise ConfigError(
            f"{flags[0]}: flags belong to the command; sagehound.train takes key=value and trains one run"
        )
    with _LOCK, _schema(config.Train), command.raised_errors(), command.composed(given, config_dir) as cfg:
        folder = Path(cfg.hydra.run.dir).absolute()
        return Run(folder, command.run_training(config.typed(cfg), folder, cfg.hydra.overrides.task))


def launch(*overrides: str, config_dir: str | Path | None = None, **groups: object) -> None:
    """Run the command ``sagehound launch``: search, train on SageMaker, register, deploy, predict photos.

    The command runs in a process of its own, and its output is printed here. Name the folder of the results with
    ``hydra.run.dir``, or ``hydra.sweep.dir`` for a search. ``deploy=local`` serves until it is interrupted.

    Args:
        overrides: what follows ``sagehound launch`` on the command line, such as "-m" and "hpo=optuna", or "list".
        config_dir: a folder with config groups of your own.
        groups: overrides as keyword arguments, such as deploy="sagemaker" or model=run.

    Raises:
        ConfigError: the command or the config is wrong.
        InputError: photos, weights or a model cannot be used.
        SagehoundError: a step, a job or an endpoint failed; ``exit_code`` is that of the command.
    """
    given = _given("launch", overrides, groups)
    if config_dir:
        given += ["--config-dir", str(Path(config_dir).expanduser())]
    # Jupyter sets FORCE_COLOR, with which a command writes for a terminal: colours, and lines that replace each other
    environment = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "sagehound.cli", "launch", *given],
        env=environment,
        process_group=0,  # Ctrl-C reaches it once, by the code below, and not in the middle of its own cleaning up
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    code, errors = _followed(process)
    if code:
        kind = {ConfigError.exit_code: ConfigError, InputError.exit_code: InputError}.get(code, SagehoundError)
        error = kind(errors[-1] if errors else f"sagehound launch ended with exit code {code}")
        error.exit_code = code
        raise error


def _followed(process: "subprocess.Popen[str]") -> tuple[int, list[str]]:
    """Print a command's output until it ends; returns its exit code and its error messages."""
    errors: list[str] = []
    reader = Thread(target=_forward_errors, args=(process.stderr, errors), daemon=True)
    reader.start()
    try:
        with _forwarded(signal.SIGTERM, process):
            for line in process.stdout or ():
                print(line, end="", flush=True)
            return process.wait(), errors
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    finally:
        process.terminate()
        process.wait()
        reader.join(2)  # before errors are read; a process that the command has left may keep the pipe open


@contextmanager
def _forwarded(signum: signal.Signals, process: "subprocess.Popen[str]") -> Iterator[None]:
    """Pass a signal that would end this program on to a command, wait for the command, then end this program."""
    if threading.current_thread() is not threading.main_thread():  # only this one handles signals
        yield
        return
    received: list[int] = []

    def forward(number: int, _: object) -> None:
        received.append(number)
        process.send_signal(number)

    before = signal.signal(signum, forward)
    try:
        yield
    finally:
        signal.signal(signum, before or signal.SIG_DFL)
        if received:
            os.kill(os.getpid(), signum)


def _forward_errors(stream: IO[str] | None, errors: list[str]) -> None:
    """Print the stderr of a command, except its error messages, which are appended to ``errors``."""
    for line in stream or ():
        if line.startswith(_ERROR):
            errors.append(line.removeprefix(_ERROR).rstrip("\n"))
        else:
            print(line, end="", file=sys.stderr, flush=True)


def _given(function: str, overrides: Sequence[object], groups: Mapping[str, object]) -> list[str]:
    """The overrides of a call as words of a command line.

    Raises:
        ConfigError: one of them is not text, or a keyword argument is a dictionary.
    """
    words = []
    for word in overrides:
        if not isinstance(word, str):
            raise ConfigError(
                f"{word!r}: an override is a string, such as 'data=folder'; give several as {function}(*overrides)"
            )
        words.append(word)
    return [*words, *(_override(key, value) for key, value in groups.items())]


def _override(key: str, value: object) -> str:
    """Write a keyword argument as an override."""
    if isinstance(value, dict):
        keys = ", ".join(f'"{key}.{k}={v}"' for k, v in value.items())
        raise ConfigError(f"{key}={value}: give each key as an override of its own: {keys}")

    if value is None or isinstance(value, bool | int | float):
        return f"{key}={json.dumps(value)}"
    if isinstance(value, list | tuple):
        return f"{key}={json.dumps([_plain(item) for item in value])}"
    return override(key, str(_plain(value)))


def _plain(value: object) -> object:
    """A path or a run as text."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


@contextmanager
def _schema(schema: type) -> Iterator[None]:
    """Register a schema for this block, and restore the previous one afterwards."""
    from sagehound import config

    previous = config.registered() if config.is_registered() else None
    config.register(schema)
    try:
        yield
    finally:
        if previous:
            config.register(previous)
