"""The command `sagehound predict`: prints one line for each photo. Imports no torch."""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn

from sagehound.cli import predictions
from sagehound.cli.command import clear_errors
from sagehound.cli.predictions import Remote
from sagehound.errors import ConfigError, InputError
from sagehound.inference.formats import PhotoResult, failure
from sagehound.serving.prediction_lines import CSV_HEADER, csv_line, json_line
from sagehound.storage.atomic import replacing, writing_failed
from sagehound.system import console, interrupts

_FORMATS = ("text", "csv", "jsonl")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        top_k = " (did you mean --top-k N?)" if "unrecognized" in message and "top" in message else ""
        raise ConfigError(f"{message}{top_k}; {self.prog} TARGET PHOTO... [--top-k N]")


def predict(program: str, argv: Sequence[str]) -> None:
    """Print file, label and probability of each photo, or on stderr the reason why it cannot be read.

    Args:
        program: the program's name, as the user types it.
        argv: the rest of the command line.

    Raises:
        SystemExit: with exit code 2 (wrong command) or 3 (no model, or a photo that could not be read).
    """
    with clear_errors():
        arguments = _parser(program).parse_intermixed_args(argv)
        _check(arguments)
        interrupts.restore_keyboard_interrupt()
        if arguments.explain:
            _explain(Path(arguments.target).expanduser(), arguments.photos, Path(arguments.explain).expanduser())
        emulator = arguments.emulator_folder if arguments.emulator else None
        remote = Remote(arguments.region, arguments.profile, emulator, arguments.target_model)
        results = predictions.predict(arguments.target, arguments.photos, arguments.top_k or 1, remote)
        failed = _print(results, arguments.top_k) if arguments.format == "text" else _write(results, arguments)
    if failed:
        sys.exit(InputError.exit_code)


def _parser(program: str) -> _Parser:
    parser = _Parser(prog=program, description="Classify photos, a line each. Exit code 3: one could not be read.")
    parser.add_argument(
        "target", metavar="TARGET", help="a run, a model.tar.gz, a server's address, or an endpoint's name on SageMaker"
    )
    parser.add_argument("photos", metavar="PHOTO", nargs="+", help="a file, a folder, or s3://BUCKET/PREFIX")
    parser.add_argument("--top-k", type=int, metavar="N", help="print the N most probable labels as well")
    parser.add_argument("--format", choices=_FORMATS, default="text", help="text for people, csv or jsonl")
    parser.add_argument("--output", metavar="FILE", help="a file for csv or jsonl; it appears when it is complete")
    parser.add_argument("--explain", metavar="FOLDER", help="also write a picture of what the model looked at")
    parser.add_argument("--target-model", metavar="NAME", help="the model of a multi-model endpoint")
    parser.add_argument("--region", help="AWS region; without it, as boto3 finds it")
    parser.add_argument("--profile", help="profile of ~/.aws")
    parser.add_argument("--emulator", action="store_true", help="reach the emulator, as aws=emulator does")
    parser.add_argument("--emulator-folder", metavar="FOLDER", default=".emulator", help="the emulator's state")
    return parser


def _check(arguments: argparse.Namespace) -> None:
    if arguments.top_k is not None and arguments.top_k < 1:
        raise ConfigError(f"--top-k {arguments.top_k}: must be at least 1")
    for photo in arguments.photos:
        if re.fullmatch(r"top[-_]?k=.*", photo) and not Path(photo).exists():
            raise ConfigError(f"{photo}: did you mean --top-k {photo.partition('=')[2]}?")
    if arguments.output and arguments.format == "text":
        raise ConfigError(f"--output {arguments.output}: add --format csv or --format jsonl")
    is_run = Path(arguments.target).expanduser().exists()
    if arguments.target_model and (is_run or arguments.target.startswith(("http://", "https://"))):
        raise ConfigError(
            f"--target-model {arguments.target_model} is of endpoints on SageMaker, not {arguments.target}"
        )
    if arguments.explain and not Path(arguments.target).expanduser().exists():
        raise ConfigError(f"--explain needs a run on this machine, not {arguments.target}")


def _explain(run: Path, photos: Sequence[str], folder: Path) -> None:
    """Write the pictures; photos that cannot be read are named with the predictions."""
    from sagehound.report import explanation  # which imports torch

    for photo, picture in explanation.write(run, [Path(photo).expanduser() for photo in photos], folder):
        if isinstance(picture, Path):
            console.info(f"{photo}: {picture} shows what the model looked at")


def _print(results: Iterator[tuple[str, PhotoResult | InputError]], top_k: int | None) -> int:
    """Print the predictions; returns how many photos have none."""
    failed = 0
    for name, result in results:
        if isinstance(result, InputError):
            failed += 1
            sys.stdout.flush()
            print(console.printable(f"sagehound: {name}: {result}"), file=sys.stderr, flush=True)
        else:
            console.info(f"{name}: {_in_words(result, top_k)}")
    sys.stdout.flush()
    return failed


def _write(results: Iterator[tuple[str, PhotoResult | InputError]], arguments: argparse.Namespace) -> int:
    """Write the predictions as CSV or JSON; returns how many photos have none."""
    line, failed = csv_line if arguments.format == "csv" else json_line, 0
    with _opened(arguments.output) as file:
        if arguments.format == "csv":
            file.write(CSV_HEADER)
        for name, result in results:
            failed += isinstance(result, InputError)
            file.write(line(name, failure(result) if isinstance(result, InputError) else result))
        file.flush()
    return failed


@contextmanager
def _opened(output: str | None) -> Iterator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        return
    path = Path(output).expanduser()
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            yield file
    except OSError as error:
        raise writing_failed(path, error) from error
    console.info(f"predictions: {path}")


def _in_words(result: PhotoResult, top_k: int | None) -> str:
    best = f"{result['label']}, probability {result['probability']:.1%}"
    if not top_k:
        return best
    ranked = ", ".join(f"{one['label']} {one['probability']:.1%}" for one in result["top"])
    return f"{best}; top {len(result['top'])}: {ranked}"
