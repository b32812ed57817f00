"""The command ``sagemaker-emulator``."""

import argparse
import json
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sagemaker_emulator.client_setup import exports
from sagemaker_emulator.errors import EmulatorError
from sagemaker_emulator.settings import REGION, Settings

_FOLDER = Path(".emulator")
_WAKE = 0.5  # seconds between two looks for signals
_VERBS = ("train", "serve", "process", "python")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the emulator until Ctrl-C, SIGTERM or SIGHUP; its jobs end with it.

    Args:
        arguments: of the command line; None: those of this process.

    Raises:
        SystemExit: with an exit code, after one line that says why.
    """
    given = _parser().parse_args(arguments)
    if given.command == "env":
        try:
            print(exports(given.folder))
        except EmulatorError as error:
            print(f"sagemaker-emulator: {error}", file=sys.stderr)
            sys.exit(1)
        return
    try:
        if given.command == "conformance":
            from sagemaker_emulator.conformance import table  # as below

            print(table())
            return
        settings = Settings(
            region=given.region,
            grace=given.grace,
            images=dict(given.image),
            variables=tuple(given.variable),
            namespaces=not given.no_namespaces,
        )
        from sagemaker_emulator.server import Emulator  # after --help: importing moto takes seconds

        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: stop.set())
        if given.end_with_stdin:
            threading.Thread(target=_wait_for_stdin, args=(stop,), daemon=True).start()
        with Emulator(given.folder, given.port, settings) as emulator:
            where = "" if given.folder == _FOLDER else f" --folder {shlex.quote(str(given.folder))}"
            print(f"emulator: {emulator.url}, state in {given.folder}; Ctrl-C ends it and its jobs")
            print(f'In the shell that runs your code: eval "$(sagemaker-emulator env{where})"', flush=True)
            # a signal that another thread takes while it forks does not wake this one, so wake up to handle it
            while not stop.wait(_WAKE):
                pass
    except EmulatorError as error:
        print(f"sagemaker-emulator: {error}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        print(f"sagemaker-emulator needs {error.name}: pip install 'sagehound[emulator]'", file=sys.stderr)
        sys.exit(2)


def _wait_for_stdin(stop: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1024):  # unlike sys.stdin.read, it holds no lock when the process exits
        pass
    stop.set()


def _parser() -> argparse.ArgumentParser:
    about = "SageMaker and S3 on this machine: jobs really run, as processes, without Docker and without an account."
    parser = argparse.ArgumentParser(prog="sagemaker-emulator", description=about)
    parser.add_argument(
        "command",
        nargs="?",
        choices=("run", "env", "conformance"),
        default="run",
        help="run (default): run an emulator; env: print what sets up a shell for the one that runs; "
        "conformance: print what becomes of each operation of SageMaker's API",
    )
    parser.add_argument(
        "--port", type=int, default=0, help="port on 127.0.0.1; 0 (default): the last one, or a free one"
    )
    parser.add_argument("--folder", type=Path, default=_FOLDER, help="its state (default: .emulator)")
    parser.add_argument("--region", default=REGION, help=f"AWS's name of the region (default: {REGION})")
    parser.add_argument(
        "--grace", type=float, default=120.0, help="seconds from SIGTERM to SIGKILL (default: AWS's 120)"
    )
    parser.add_argument(
        "--image",
        type=_image,
        action="append",
        default=[],
        metavar="REGEX=FOLDER",
        help="run images whose name matches REGEX in the Python environment FOLDER: scripts of estimators and models "
        "by FOLDER/bin/python; FOLDER/bin/train, bin/serve and bin/process are run instead where they exist",
    )
    parser.add_argument(
        "--variable", action="append", default=[], metavar="NAME", help="an environment variable that jobs get too"
    )
    parser.add_argument(
        "--end-with-stdin",
        action="store_true",
        help="end when standard input is closed; for a program that starts the emulator, however that program ends",
    )
    parser.add_argument(
        "--no-namespaces",
        action="store_true",
        help="replace /opt/ml by a folder's path also where Linux could show each container one of its own",
    )
    try:
        number = version("sagehound")
    except PackageNotFoundError:
        number = "unknown"
    parser.add_argument("--version", action="version", version=f"sagemaker-emulator {number}")
    return parser


def _image(text: str) -> tuple[str, dict[str, list[str]]]:
    """An image's regex, and its commands by verb."""
    regex, _, folder = text.partition("=")
    commands = {verb: Path(folder, "bin", verb).absolute() for verb in _VERBS}
    files = {verb: [str(path)] for verb, path in commands.items() if path.is_file()}
    if not regex or not files:
        raise argparse.ArgumentTypeError(
            f"{json.dumps(text)}: give REGEX=FOLDER, where FOLDER is a Python environment with bin/python, or holds "
            "bin/train, bin/serve or bin/process"
        )
    try:
        re.compile(regex)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{json.dumps(regex)} is not a regular expression: {error}") from error
    return regex, files


if __name__ == "__main__":
    main()
