"""The command `sagehound predict`: prints one line for each photo. Imports no torch."""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NoReturn

from sagehound.artifact.archive import opened
from sagehound.cli.command import clear_errors
from sagehound.config.overrides import override
from sagehound.errors import ConfigError, InputError
from sagehound.inference.formats import JSON, PhotoResult, Probabilities, ResponseFormat, photo_result
from sagehound.serving.batcher import Batcher
from sagehound.serving.predictor import Predictor
from sagehound.system import console, interrupts
from sagehound.system.program import quoted

_AHEAD = 64  # photos in progress


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        top_k = " (did you mean --top-k N?)" if "unrecognized" in message and "top" in message else ""
        raise ConfigError(f"{message}{top_k}; {self.prog} MODEL PHOTO... [--top-k N]")


def predict(program: str, argv: Sequence[str]) -> None:
    """Print file, label and probability of each photo, or on stderr the reason why it cannot be read.

    Args:
        program: the program's name, as the user types it.
        argv: the rest of the command line.

    Raises:
        SystemExit: with exit code 2 (wrong command) or 3 (no model, or a photo that could not be read).
    """
    parser = _Parser(prog=program, description="Classify photos, a line each. Exit code 3: one could not be read.")
    parser.add_argument("model", metavar="MODEL", help="a run's folder or a model.tar.gz")
    parser.add_argument("photos", metavar="PHOTO", nargs="+", help="a file; for a folder there is transform=local")
    parser.add_argument("--top-k", type=int, metavar="N", help="print the N most probable labels as well")
    parser.add_argument("--explain", metavar="FOLDER", help="also write a picture of what the model looked at")
    with clear_errors():
        arguments = parser.parse_intermixed_args(argv)
        if arguments.top_k is not None and arguments.top_k < 1:
            raise ConfigError(f"--top-k {arguments.top_k}: must be at least 1")
        for photo in arguments.photos:
            if re.fullmatch(r"top[-_]?k=.*", photo) and not Path(photo).exists():
                raise ConfigError(f"{photo}: did you mean --top-k {photo.partition('=')[2]}?")
        interrupts.restore_keyboard_interrupt()
        failed = 0
        if arguments.explain:
            _explain(Path(arguments.model).expanduser(), arguments.photos, Path(arguments.explain).expanduser())
        for name, result in _predictions(arguments.model, arguments.photos, arguments.top_k or 1):
            if isinstance(result, InputError):
                failed += 1
                sys.stdout.flush()
                print(f"sagehound: {_printable(name)}: {result}", file=sys.stderr, flush=True)
            else:
                console.info(f"{name}: {_in_words(result, arguments.top_k)}")
        sys.stdout.flush()
    if failed:
        sys.exit(InputError.exit_code)


def _explain(run: Path, photos: Sequence[str], folder: Path) -> None:
    """Write the pictures; photos that cannot be read are named with the predictions."""
    from sagehound.report import explanation  # which imports torch

    for photo, picture in explanation.write(run, [Path(photo).expanduser() for photo in photos], folder):
        if isinstance(picture, Path):
            console.info(f"{_printable(str(photo))}: {_printable(str(picture))} shows what the model looked at")


def _predictions(model: str, photos: Sequence[str], top_k: int) -> Iterator[tuple[str, PhotoResult | InputError]]:
    """Yield each photo in order, with its prediction or the error."""
    with opened(model) as folder:
        predictor = Predictor(folder)
        batcher = Batcher(on_batch=lambda _: None)
        want = ResponseFormat(JSON, top_k)
        try:
            ahead: list[tuple[str, Future[Probabilities] | InputError]] = []
            for photo in photos:
                path = Path(photo).expanduser()
                ahead.append((photo, _folder_error(model, photo) if path.is_dir() else batcher.submit(predictor, path)))
                if len(ahead) == _AHEAD:
                    yield _prediction(predictor, want, *ahead.pop(0))
            for name, future in ahead:
                yield _prediction(predictor, want, name, future)
        finally:
            batcher.close()


def _prediction(
    predictor: Predictor, want: ResponseFormat, name: str, future: Future[Probabilities] | InputError
) -> tuple[str, PhotoResult | InputError]:
    if isinstance(future, InputError):
        return name, future
    try:
        return name, photo_result(predictor.card.classes, future.result(), want)
    except InputError as error:
        return name, error


def _folder_error(model: str, photo: str) -> InputError:
    overrides = ["transform=local", override("model", model), override("data.root", photo)]
    return InputError(f"a folder; to predict all of its photos: sagehound launch {' '.join(map(quoted, overrides))}")


def _in_words(result: PhotoResult, top_k: int | None) -> str:
    best = f"{result['label']}, probability {result['probability']:.1%}"
    if not top_k:
        return best
    ranked = ", ".join(f"{one['label']} {one['probability']:.1%}" for one in result["top"])
    return f"{best}; top {len(result['top'])}: {ranked}"


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
