"""Keeps photos that were classified wrongly or rightly, as users say: deploy.feedback=FOLDER."""

import asyncio
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Query, Request
from pydantic import BaseModel

from sagehound.artifact.archive import Card
from sagehound.errors import ConfigError, InputError, SagehoundError
from sagehound.inference.formats import PhotoResult, ResponseFormat
from sagehound.inference.headers import kind_of
from sagehound.inference.request_body import JSON
from sagehound.serving.api_description import BODY, Name, failures
from sagehound.serving.protocols import Asked, Given, Invocation
from sagehound.serving.request_handler import RequestHandler
from sagehound.serving.slots import Busy
from sagehound.storage.atomic import locked, replacing

_UNSAFE = re.compile(r"^\.|[/\\\0-\x1f]")  # a name that is no folder inside of another
_LINES = "feedback.jsonl"
_LOCK = ".lock"  # of the processes that write
_LEAST_FREE = 10**9  # bytes of the disk that are left to others
_SECONDS = 10.0  # for writing


class NoFeedback(InputError):
    """The server keeps no feedback."""


class NotSaved(InputError):
    """The feedback cannot be written."""


class Feedback:
    """Writes photos and a line of JSON for each.

    A photo of a class is FOLDER/photos/CLASS/HASH.TYPE, so that FOLDER/photos is a folder to train with. One that shows
    none of the classes is FOLDER/other/HASH.TYPE. The lines are in FOLDER/feedback.jsonl.

    Args:
        folder: made if it is missing.

    Raises:
        ConfigError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"deploy.feedback={folder} cannot be made: {error.strerror}; give a folder") from error
        self._folder, self._lock = folder, threading.Lock()
        self._paths: dict[str, str] = {}  # the path of each photo, by its name
        self._known = 0  # bytes of the lines that are known; other processes add lines, too

    def add(self, photo: bytes, model: str, prediction: PhotoResult, right: str | None) -> str:
        """Keep a photo; returns its path below the folder. It is kept once; the last class that is told counts.

        Args:
            photo: its file.
            model: the model's name.
            prediction: what the model said.
            right: the class as the user says; None: none of them.

        Raises:
            NotSaved: the disk is full, or the folder cannot be written.
        """
        kind = (kind_of(photo) or "jpeg").lower()
        name = f"{hashlib.sha256(photo).hexdigest()[:16]}.{'jp2' if kind == 'jpeg2000' else kind}"
        path = Path("other", name) if right is None else Path("photos", right, name)
        line = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": model,
            "file": path.as_posix(),
            "label": prediction["label"],
            "probability": prediction["probability"],
            "right": right,
        }
        try:
            with self._lock, locked(self._folder / _LOCK):
                self._write(path, photo, json.dumps(line, ensure_ascii=False))
        except (OSError, SagehoundError) as error:
            raise NotSaved(f"the feedback cannot be written: {error}") from error
        return path.as_posix()

    def _write(self, path: Path, photo: bytes, line: str) -> None:
        self._read()
        before = self._paths.get(path.name)
        if before == path.as_posix():
            return
        if shutil.disk_usage(self._folder).free < _LEAST_FREE:
            raise NotSaved(
                f"the feedback is not kept, because less than {_LEAST_FREE / 1e9:.0f} GB of the disk are free"
            )
        (self._folder / path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(self._folder / path) as temporary:
            temporary.write_bytes(photo)
        with (self._folder / _LINES).open("a", encoding="utf-8") as lines:
            lines.write(("" if _ends_with_a_line(self._folder / _LINES) else "\n") + line + "\n")
        self._paths[path.name] = path.as_posix()
        if before is not None:  # it was told to be of another class
            (self._folder / before).unlink(missing_ok=True)

    def _read(self) -> None:
        """Read name and path of each photo of the lines that were added, oldest first.

        Half a line, of a full disk, is left out. The file may be another one, or gone.
        """
        file = self._folder / _LINES
        size = file.stat().st_size if file.exists() else 0
        if size < self._known:
            self._paths.clear()
            self._known = 0
        if size == self._known:
            return
        with file.open("rb") as lines:
            lines.seek(self._known)
            for line in lines.read().splitlines():
                with suppress(ValueError, KeyError, TypeError):
                    path = str(json.loads(line)["file"])
                    self._paths[Path(path).name] = path
        self._known = size


def _ends_with_a_line(path: Path) -> bool:
    if not path.exists() or path.stat().st_size == 0:
        return True
    with path.open("rb") as content:
        content.seek(-1, 2)
        return content.read() == b"\n"


class Correction(Invocation):
    """Classifies the photo again, so that only photos are kept, with what this model says."""

    is_captured = False

    def __init__(self, right: str | None) -> None:
        self._right = right
        self.photo = b""

    def response_format(self, request: Request, asked: Asked) -> ResponseFormat:
        """JSON."""
        self._content_type = request.headers.get("content-type", "")
        return ResponseFormat(JSON, top_k=1)

    def completed(self, want: ResponseFormat, card: Card) -> ResponseFormat:
        """The same.

        Raises:
            InputError: the model has no such class, or its name cannot be that of a folder.
        """
        if self._right is not None and self._right not in card.classes:
            raise InputError(f"right={self._right}: the model has no such class")
        if self._right is not None and _UNSAFE.search(self._right):
            raise InputError(f"right={self._right}: no folder can have this name")
        return want

    def photos(self, body: bytes) -> Given:
        """The one photo.

        Raises:
            InputError: the body is not one photo.
        """
        given = super().photos(body)
        photo, *others = given.photos
        if isinstance(photo, InputError):
            raise photo
        if others or not isinstance(photo, bytes):
            raise InputError("send one photo")
        self.photo = photo
        return Given(given.photos, single=True, names=given.names)

    def encode(self, answers: Sequence[PhotoResult], want: ResponseFormat, given: Given) -> bytes:
        """What the model says."""
        return json.dumps(answers[0]).encode()


class Saved(BaseModel):
    """Where a photo was kept, below the folder of feedback."""

    file: str


Right = Annotated[str | None, Query(max_length=256, description="the right class; without it, none of the classes")]


def add_feedback(app: FastAPI, handler: RequestHandler, feedback: Feedback | None) -> None:
    """Add the address for feedback. One thread writes, so that a slow disk does not stop what else the server does."""
    writer = CapacityLimiter(1)

    @app.post("/models/{name}/feedback", responses=failures(400, 404, 408, 413, 415, 503), openapi_extra=BODY)
    async def keep(name: Name, request: Request, right: Right = None) -> Saved:
        """Keep a photo with its right class, to train with; the server needs deploy.feedback=FOLDER."""
        if feedback is None:
            raise NoFeedback("this server keeps no feedback: start it with deploy.feedback=FOLDER")
        correction = Correction(right)
        response = await handler.respond(request, name, Asked(), correction)
        prediction: dict[str, Any] = json.loads(bytes(response.body))
        try:
            async with asyncio.timeout(_SECONDS):
                add = partial(feedback.add, correction.photo, name, prediction, right)
                return Saved(file=await to_thread.run_sync(add, abandon_on_cancel=True, limiter=writer))
        except TimeoutError as error:
            raise Busy(f"the feedback could not be written within {_SECONDS:g} s; try again in a second") from error
