"""Batch predictions of every photo below a folder, in constant memory, with resume."""

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from sagehound.artifact.archive import digest, opened
from sagehound.data.folders import LeftOut, photos_below
from sagehound.errors import InputError
from sagehound.inference.formats import Probabilities, ResponseFormat, failure, photo_result
from sagehound.inference.request_body import JSON
from sagehound.serving.batcher import Batcher
from sagehound.serving.prediction_lines import CSV_HEADER, csv_line, in_words, json_line
from sagehound.serving.predictor import Predictor
from sagehound.storage.atomic import locked, write_json, writing_failed
from sagehound.system import console

_AHEAD = 64  # photos that are being decoded or are waiting
_EVERY = 1.0  # seconds between two saves of the progress


@dataclass
class Progress:
    """The progress of a folder."""

    photos: int = 0  # photos whose lines are written
    failed: int = 0  # of these, photos that could not be read
    first: str = ""  # the first photo's name with its prediction, or the reason why it could not be read
    bytes: int = 0  # size of the output then


def predict_folder(model: str | Path, root: Path, output: Path, top_k: int = 5) -> tuple[Progress, LeftOut]:
    """Write a line for every photo below ``root``, a folder or one photo, to ``output``, a .csv or a .jsonl.

    A line of CSV holds file, prediction, probability, top (class:probability, most probable first) and error; a line of
    JSON the file and an endpoint's response. The file gets its name when it is complete. Until then the same call
    resumes, unless the model, top_k or the photos have changed.

    Returns:
        the number of photos, and the other files.

    Raises:
        InputError: there is no such model or folder, or no photo in it.
        SagehoundError: the disk is full, or another process is writing the same file.
    """
    if not root.exists():
        raise InputError(f"data.root={root}: no such folder or photo (from {Path.cwd()})")
    if output.is_dir():
        raise InputError(f"{output} is a folder: give the name of a file")
    left_out = LeftOut()
    total, state = _census(root, left_out)
    if not total:
        raise next(iter(left_out.folders), InputError(f"data.root={root}: no photo lies in it or below"))
    part, note = (output.with_name(f".{output.name}.{kind}") for kind in ("part", "note"))
    task = {"model": digest(model), "root": str(root.resolve()), "photos": state, "top_k": top_k}
    with locked(output.with_name(f".{output.name}.lock"), busy=f"another process is writing {output}"):
        try:
            progress = _begun(note, part, task)
            if progress.photos:
                console.info(f"resuming after {progress.photos:,} of {total:,} photos")
            with opened(model) as folder, part.open("r+b" if progress.photos else "wb") as file:
                file.truncate(progress.bytes)
                file.seek(progress.bytes)
                keep = partial(_keep, note, task, progress, file)
                _predict(Predictor(folder), root, file, output.suffix, top_k, total, progress, keep)
            part.replace(output)
            note.unlink()
        except OSError as error:
            raise writing_failed(output, error) from error
    return progress, left_out


def _census(root: Path, left_out: LeftOut) -> tuple[int, str]:
    """The number of photos, and a digest of their names, sizes and times."""
    count, known, base = 0, hashlib.sha256(), _base(root)
    for name in photos_below(root, left_out):
        try:
            status = (base / name).stat()
            known.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
        except OSError:  # a broken link; it is reported later as a bad photo
            known.update(f"{name}\n".encode(errors="surrogateescape"))
        count += 1
    return count, known.hexdigest()


def _base(root: Path) -> Path:
    """The folder to which the photos' names are relative."""
    return root if root.is_dir() else root.parent


def _begun(note: Path, part: Path, task: dict[str, object]) -> Progress:
    """The progress of an earlier call for the same task."""
    try:
        state = json.loads(note.read_text(encoding="utf-8"))
        progress = Progress(**state["progress"])
        if state["task"] == task and part.stat().st_size >= progress.bytes:
            return progress
        console.info("the model, the photos or top_k have changed since: beginning again")
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing was begun, or it cannot be read
    return Progress()


def _keep(note: Path, task: dict[str, object], progress: Progress, file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    write_json(note, {"task": task, "progress": asdict(progress)})


def _predict(
    predictor: Predictor,
    root: Path,
    file: BinaryIO,
    suffix: str,
    top_k: int,
    total: int,
    progress: Progress,
    keep: Callable[[], None],
) -> None:
    """Write the missing lines, update ``progress``, and call ``keep`` regularly."""
    line = json_line if suffix == ".jsonl" else csv_line
    if not progress.photos and suffix != ".jsonl":
        progress.bytes += file.write(CSV_HEADER)
    want = ResponseFormat(JSON, top_k)
    engine = Batcher(on_batch=lambda _: None)
    saved_at = time.monotonic()
    try:
        for name, future in _submitted(engine, predictor, root, progress.photos, total):
            try:
                result = photo_result(predictor.card.classes, future.result(), want)
            except InputError as error:
                result = failure(error)
            progress.bytes += file.write(line(name, result))
            progress.first = progress.first or in_words(name, result)
            progress.photos += 1
            progress.failed += "error" in result
            if time.monotonic() - saved_at > _EVERY:
                keep()
                saved_at = time.monotonic()
    finally:
        engine.close()
        keep()


def _submitted(
    engine: Batcher, predictor: Predictor, root: Path, done: int, total: int
) -> Iterator[tuple[str, Future[Probabilities]]]:
    """The remaining photos in order, with their futures; a few are always submitted ahead."""
    names, base = islice(photos_below(root, LeftOut()), done, None), _base(root)
    ahead: deque[tuple[str, Future[Probabilities]]] = deque()
    for name in console.track(names, "Predicting", total - done):
        ahead.append((name, engine.submit(predictor, base / name)))
        if len(ahead) == _AHEAD:
            yield ahead.popleft()
    yield from ahead
