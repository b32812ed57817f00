"""Reads requests within limits and returns responses."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from sagehound.errors import InputError
from sagehound.inference import formats
from sagehound.inference.formats import PhotoResult, ResponseFormat
from sagehound.inference.input_errors import in_file
from sagehound.inference.preprocessing import Pixels
from sagehound.inference.request_body import JSON, UnsupportedContentType, media_of
from sagehound.serving.access import Access
from sagehound.serving.batcher import Batcher
from sagehound.serving.model_store import ModelStore
from sagehound.serving.predictor import Predictor
from sagehound.serving.protocols import Asked, Given, InferenceProtocol, Invocation
from sagehound.serving.request_capture import CapturedCall, RequestCapture
from sagehound.serving.server_metrics import ServerMetrics

_AT_ONCE = 16  # photos of one request that are processed at a time
_LOAD_BYTES = 2**16  # bytes of a request to load a model


@dataclass(frozen=True)
class Limits:
    """The limits of a server."""

    requests: int = 64  # requests in progress
    pixels: int = 50_000_000  # pixels of one photo: a large phone camera's, 150 MB in memory
    body_bytes: int = 25 * 2**20  # photos in one request; SageMaker's own limit
    bodies_bytes: int = 256 * 2**20  # bytes of all requests in progress
    body_seconds: float = 20.0  # seconds to send a body; less than the grace of a stop


class Busy(InputError):
    """The server has too many requests."""


class TooLarge(InputError):
    """A body over the limit."""


class TooSlow(InputError):
    """A body that was sent too slowly."""


class Load(BaseModel):
    """The model to load."""

    model_config = ConfigDict(protected_namespaces=())
    model_name: str = Field(min_length=1, max_length=256, pattern=r"^[\w][\w.-]*$")
    url: str = Field(min_length=1, max_length=4096, description="a run's folder, a model.tar.gz, or an unpacked one")


@dataclass
class _Held:
    """The bytes of a request in memory."""

    bytes: int = 0


class RequestHandler:
    """Handles requests; successful ones are captured."""

    def __init__(
        self,
        models: ModelStore,
        engine: Batcher,
        limits: Limits,
        metrics: ServerMetrics,
        capture: RequestCapture | None,
        access: Access,
    ) -> None:
        self._models, self._engine, self._limits, self._metrics = models, engine, limits, metrics
        self._capture, self._access = capture, access
        self._requests = self._bytes = 0

    async def respond(
        self, request: Request, name: str | None, asked: Asked, protocol: InferenceProtocol | None = None
    ) -> Response:
        """The response to the photo or photos of a request.

        Raises:
            InputError: the request cannot be handled; app.py has the statuses of its kinds.
        """
        with self._taken_on() as held:
            content_type = request.headers.get("content-type", "")
            protocol = protocol or Invocation()
            want = protocol.response_format(request, asked)
            self._models.get(name)  # check the model before the body is read
            body = await self._read(request, held, self._limits.body_bytes)
            predictor, model = self._models.get(name), self._models.name_of(name)
            if predictor is None:
                predictor = await run_in_threadpool(self._models.reopen, name)
            want = protocol.completed(want, predictor.card)
            given = await self._unpacked(body, protocol)
            if self._capture is None:
                body = b""  # free the memory
            room = asyncio.Semaphore(_AT_ONCE)
            answers = await asyncio.gather(
                *(self._of_many(request, predictor, given, i, want, room) for i in range(len(given.photos)))
            )
            content = protocol.encode(answers, want, given)
            if self._capture is not None and protocol.is_captured:
                self._capture.add(CapturedCall(model, content_type, body, want.media, content))
        return Response(content, media_type=want.media)

    async def load(self, request: Request) -> Load:
        """Load the model that a request names.

        Raises:
            InputError: the request is malformed, or the model cannot be loaded.
        """
        with self._taken_on() as held:
            media = media_of(request.headers.get("content-type", ""))
            if media != JSON:  # pages of other sites cannot send this type without permission
                raise UnsupportedContentType(f"content type {media!r}: send {JSON}")
            body = await self._read(request, held, _LOAD_BYTES)
            try:
                wanted = Load.model_validate_json(body)
            except ValidationError as error:
                raise RequestValidationError(error.errors()) from error
            self._access.check_path(wanted.url)
            await run_in_threadpool(self._models.load, wanted.model_name, wanted.url)
            return wanted

    @contextmanager
    def _taken_on(self) -> Iterator[_Held]:
        """Count a request and its bytes while it is in progress."""
        if self._requests >= self._limits.requests:
            raise Busy(f"{self._requests} requests are being answered; try again in a second")
        held = _Held()
        self._requests += 1
        self._metrics.in_flight.inc()
        try:
            yield held
        finally:
            self._requests -= 1
            self._bytes -= held.bytes
            self._metrics.in_flight.dec()

    async def _read(self, request: Request, held: _Held, most: int) -> bytes:
        too_large = TooLarge(f"a body of more than {most:,} bytes: send less at a time")
        length = request.headers.get("content-length", "").lstrip("0")
        if len(length) > 18 or (length.isdecimal() and int(length) > most):
            raise too_large
        if request.headers.get("content-encoding", "identity") != "identity":
            raise UnsupportedContentType("content encodings are not read: send the body as it is")
        chunks = []
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                async for chunk in request.stream():
                    chunks.append(chunk)
                    held.bytes += len(chunk)
                    self._bytes += len(chunk)
                    if held.bytes > most:
                        raise too_large
                    if self._bytes > self._limits.bodies_bytes:
                        raise Busy("the requests being answered are too large together; try again in a second")
        except TimeoutError as error:
            raise TooSlow(f"the body did not come within {self._limits.body_seconds:g} s") from error
        return b"".join(chunks)

    async def _unpacked(self, body: bytes, protocol: InferenceProtocol) -> Given:
        return await run_in_threadpool(protocol.photos, body) if protocol.is_slow(body) else protocol.photos(body)

    async def _of_many(
        self,
        request: Request,
        predictor: Predictor,
        given: Given,
        i: int,
        want: ResponseFormat,
        room: asyncio.Semaphore,
    ) -> PhotoResult:
        """The response to photo ``i`` of a request; an error concerns only this photo, unless it is a single one."""
        photo, name = given.photos[i], given.names[i]
        async with room:
            if not given.single and await request.is_disconnected():
                raise ClientDisconnect
            try:
                if isinstance(photo, InputError):
                    self._metrics.photos.labels("refused").inc()
                    raise photo
                return await self._one(predictor, photo, want)
            except InputError as error:
                if given.single:
                    raise in_file(error, name) from error
                return formats.failure(in_file(error, name))

    async def _one(self, predictor: Predictor, photo: bytes | Pixels, want: ResponseFormat) -> PhotoResult:
        try:
            submitted = self._engine.submit(predictor.scored if want.unknown else predictor, photo)
            row = await asyncio.wrap_future(submitted)
        except InputError:
            self._metrics.photos.labels("refused").inc()
            raise
        self._metrics.photos.labels("answered").inc()
        classes = predictor.card.classes
        unknown = float(row[-1]) if want.unknown else None
        return formats.photo_result(classes, row[: len(classes)], want, predictor.card.thresholds, unknown)
