"""Keeps photos that were classified wrongly or rightly, as users say: deploy.feedback=FOLDER."""

import hashlib
import json
import re
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from sagehound.artifact.archive import Card
from sagehound.errors import ConfigError, InputError
from sagehound.inference.formats import PhotoResult, ResponseFormat
from sagehound.inference.headers import kind_of
from sagehound.inference.request_body import JSON
from sagehound.serving.api_description import BODY, Name, failures
from sagehound.serving.protocols import Asked, Given, Invocation
from sagehound.serving.request_handler import RequestHandler
from sagehound.storage.atomic import replacing

_UNSAFE = re.compile(r"^\.|[/\\\0]")  # a name that is no folder inside of another


class NoFeedback(InputError):
    """The server keeps no feedback."""


class NotKept(InputError):
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

    def add(self, photo: bytes, model: str, said: PhotoResult, right: str | None) -> str:
        """Keep a photo; returns its path below the folder. The same photo of the same class is kept once.

        Args:
            photo: its file.
            model: the model's name.
            said: what the model said.
            right: the class as the user says; None: none of them.

        Raises:
            NotKept: the disk is full, or the folder cannot be written.
        """
        kind = (kind_of(photo) or "jpeg").lower()
        name = f"{hashlib.sha256(photo).hexdigest()[:16]}.{'jp2' if kind == 'jpeg2000' else kind}"
        path = Path("other", name) if right is None else Path("photos", right, name)
        line = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": model,
            "file": path.as_posix(),
            "label": said["label"],
            "probability": said["probability"],
            "right": right,
        }
        try:
            with self._lock:
                self._write(path, photo, json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            raise NotKept(f"the feedback cannot be written: {error.strerror}") from error
        return path.as_posix()

    def _write(self, path: Path, photo: bytes, line: str) -> None:
        (self._folder / path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(self._folder / path) as temporary:
            temporary.write_bytes(photo)
        with (self._folder / "feedback.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(line)


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
        if len(given.photos) != 1 or not isinstance(given.photos[0], bytes):
            raise InputError("send one photo")
        self.photo = given.photos[0]
        return Given(given.photos, single=True, names=given.names)

    def encode(self, answers: Sequence[PhotoResult], want: ResponseFormat, given: Given) -> bytes:
        """What the model says."""
        return json.dumps(answers[0]).encode()


class Kept(BaseModel):
    """Where a photo was kept, below the folder of feedback."""

    file: str


Right = Annotated[str | None, Query(max_length=256, description="the right class; without it, none of the classes")]


def add_feedback(app: FastAPI, handler: RequestHandler, feedback: Feedback | None) -> None:
    """Add the address for feedback."""

    @app.post("/models/{name}/feedback", responses=failures(400, 404, 408, 413, 415, 503), openapi_extra=BODY)
    async def keep(name: Name, request: Request, right: Right = None) -> Kept:
        """Keep a photo with its right class, to train with; the server needs deploy.feedback=FOLDER."""
        if feedback is None:
            raise NoFeedback("this server keeps no feedback: start it with deploy.feedback=FOLDER")
        correction = Correction(right)
        response = await handler.respond(request, name, Asked(), correction)
        said: dict[str, Any] = json.loads(bytes(response.body))
        return Kept(file=await run_in_threadpool(feedback.add, correction.photo, name, said, right))
