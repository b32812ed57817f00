"""What the model looked at: a part of the photo after the other is covered, and the probability measured again."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request, Response

from sagehound.artifact.archive import Card
from sagehound.errors import InputError
from sagehound.inference.formats import PhotoResult, ResponseFormat
from sagehound.inference.preprocessing import Pixels, prepare
from sagehound.inference.request_body import JSON
from sagehound.serving.api_description import BODY, Name, failures
from sagehound.serving.protocols import Asked, Given, Invocation
from sagehound.serving.request_handler import RequestHandler
from sagehound.serving.slots import Busy

_PLACES = 7  # of each side; 49 photos, 0.25 s with mobilenetv2 on two cores
_SHARE = 2 / 7  # of each side that is covered; a seventh changes the probability of clear photos too little
_GREY = 128
_AT_ONCE = 2  # explanations, each of which decodes a photo and has 50 copies of its pixels
_MOST = 32  # that are computed or wait

_IMPORTANCE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "label": {"type": "string"},
        "probability": {"type": "number"},
        "importance": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
    },
    "required": ["label", "probability", "importance"],
}


class Explanation(Invocation):
    """Explains one class of one photo.

    Occlusion: Zeiler and Fergus, "Visualizing and understanding convolutional networks" (2014), section 4.2.

    Args:
        label: the class; None: the most probable one.
        max_pixels: largest width x height that is decoded.
    """

    is_captured = False
    is_explanation = True

    def __init__(self, label: str | None, max_pixels: int) -> None:
        self._label, self._max_pixels = label, max_pixels

    def response_format(self, request: Request, asked: Asked) -> ResponseFormat:
        """JSON."""
        self._content_type = request.headers.get("content-type", "")
        return ResponseFormat(JSON, all=True)

    def completed(self, want: ResponseFormat, card: Card) -> ResponseFormat:
        """The same.

        Raises:
            InputError: the model has no such class.
        """
        if self._label is not None and self._label not in card.classes:
            raise InputError(f"label={self._label}: the model has no such class")
        self._preprocessing = card.preprocessing
        return want

    def is_slow(self, body: bytes) -> bool:
        """The photo is decoded."""
        return True

    def photos(self, body: bytes) -> Given:
        """The photo as the model sees it, then with each place covered.

        Raises:
            InputError: the body is not one photo that can be read.
        """
        (photo, *others), _, names = super().photos(body)
        if others:
            raise InputError("send one photo")
        if not isinstance(photo, bytes):
            raise photo if isinstance(photo, InputError) else InputError("send a photo's file")
        pixels = prepare(photo, self._preprocessing, self._max_pixels)
        variants = [pixels, *covered(pixels)]
        return Given(variants, single=True, names=[names[0]] * len(variants))

    def encode(self, answers: Sequence[PhotoResult], want: ResponseFormat, given: Given) -> bytes:
        """The class, its probability, and how much it falls when each place is covered, rows x columns."""
        label = self._label or answers[0]["label"]
        before, *after = (answer["probabilities"][label] for answer in answers)
        falls = (before - np.array(after)).reshape(_PLACES, _PLACES).round(6)
        return json.dumps({"label": label, "probability": before, "importance": falls.tolist()}).encode()


def covered(pixels: Pixels) -> Iterator[Pixels]:
    """The photo with a grey square at each of 7 x 7 places, row by row; two sevenths of each side are covered."""
    height, width, _ = pixels.shape
    for row in range(_PLACES):
        for column in range(_PLACES):
            variant = pixels.copy()
            variant[_span(row, height), _span(column, width)] = _GREY
            yield variant


def _span(place: int, length: int) -> slice:
    middle = (place + 0.5) / _PLACES
    return slice(max(round((middle - _SHARE / 2) * length), 0), round((middle + _SHARE / 2) * length))


Label = Annotated[str | None, Query(max_length=256, description="the class to explain; the most probable without it")]


def add_explanations(app: FastAPI, handler: RequestHandler, max_pixels: int) -> None:
    """Add the address of explanations."""
    room, asked = asyncio.Semaphore(_AT_ONCE), 0

    @app.post(
        "/models/{name}/explain",
        responses={
            200: {"content": {JSON: {"schema": _IMPORTANCE}}, "description": "The importance of each place"},
            **failures(400, 404, 408, 413, 415, 503),
        },
        openapi_extra=BODY,
    )
    async def explain(name: Name, request: Request, label: Label = None) -> Response:
        """Where a photo shows its class: the probability that is lost when a place is covered, 7 x 7 places.

        The places divide the part of the photo that the model sees. A value below 0 says that the place speaks against
        the class.
        """
        nonlocal asked
        if asked >= _MOST:
            raise Busy(f"{asked} explanations are computed or wait; try again in a second")
        asked += 1
        try:
            async with room:
                return await handler.respond(request, name, Asked(), Explanation(label, max_pixels))
        finally:
            asked -= 1
