"""Reads requests within limits and returns responses."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
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
from sagehound.serving.body_reader import BodyReader, Held
from sagehound.serving.model_store import ModelStore
from sagehound.serving.photo_times import PhotoTimes, Span
from sagehound.serving.predictor import Predictor
from sagehound.serving.protocols import Asked, Given, InferenceProtocol, Invocation
from sagehound.serving.request_capture import CapturedCall, RequestCapture
from sagehound.serving.server_metrics import ServerMetrics
from sagehound.serving.slots import Slot, Slots, Unavailable

_T = TypeVar("_T")
_AT_ONCE = 16  # photos of one request that are processed at a time
_LOAD_BYTES = 2**16  # bytes of a request to load a model
_TRACED = 32  # photos of one request whose steps are traced

Trace = Callable[[str, Span, int | None], None]  # the name of a step, when it was, and the photo of several


def no_trace(step: str, span: Span, photo: int | None) -> None:
    """Trace nothing."""


@dataclass(frozen=True)
class Limits:
    """The limits of a server."""

    requests: int = 512  # requests in progress, whose body was read; most of them wait for the model, 4 s at the end
    pixels: int = 50_000_000  # pixels of one photo: a large phone camera's, 150 MB in memory
    body_bytes: int = 25 * 2**20  # photos in one request; SageMaker's own limit
    bodies_bytes: int = 256 * 2**20  # bytes of all requests in progress
    body_seconds: float = 20.0  # seconds to send a body; less than the grace of a stop
    # seconds from a whole body to its response, or to load a model: SageMaker waits 60 s for a response (AWS's
    # reference, InvokeEndpoint), which must be on its way before
    seconds: float = 55.0
    stop_seconds: float = 20.0  # seconds from SIGTERM to the last response; less than the grace of a stop


class TimedOut(Unavailable):
    """A request whose response took too long."""


class Load(BaseModel):
    """The model to load."""

    model_config = ConfigDict(protected_namespaces=())
    model_name: str = Field(min_length=1, max_length=256, pattern=r"^[\w][\w.-]*$")
    url: str = Field(min_length=1, max_length=4096, description="a run's folder, a model.tar.gz, or an unpacked one")


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
        trace: Trace = no_trace,
    ) -> None:
        self._models, self._engine, self._limits, self._metrics = models, engine, limits, metrics
        self._capture, self._access, self._trace = capture, access, trace
        self._bodies = BodyReader(limits.body_seconds, limits.bodies_bytes, limits.requests)
        self._slots = Slots(limits.requests)
        self._loaders = CapacityLimiter(limits.requests)
        self._deadlines: set[asyncio.Timeout] = set()  # of the requests in progress
        self.is_stopping: Callable[[], bool] = lambda: False

    async def respond(
        self, request: Request, name: str | None, asked: Asked, protocol: InferenceProtocol | None = None
    ) -> Response:
        """The response to the photo or photos of a request.

        Raises:
            InputError: the request cannot be handled; app.py has the statuses of its kinds.
        """
        with self._taken_on() as held:
            protocol = protocol or Invocation()
            want = protocol.response_format(request, asked)
            self._models.get(name)  # check the model before the body is read
            model = self._models.name_of(name)
            request.scope["model"] = self._metrics.label(model)
            begin = time.perf_counter_ns()
            await self._bodies.wait(request, held, self._limits.body_bytes, self._deadline)
            body = await self._bodies.read(request, held, self._limits.body_bytes)
            self._trace("read", Span(begin, time.perf_counter_ns()), None)
            with self._slots.taken(model, self._models.count()) as slot, self._counted(protocol, model):
                async with self._deadline():
                    return await self._answered(request, name, want, body, protocol, slot)

    @contextmanager
    def _counted(self, protocol: InferenceProtocol, model: str) -> Iterator[None]:
        """Count an explanation; other photos are counted one by one."""
        try:
            yield
        except InputError:
            if protocol.is_explanation:
                self._metrics.count_explanation(model, "refused")
            raise
        if protocol.is_explanation:
            self._metrics.count_explanation(model, "answered")

    @asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        seconds = self._limits.seconds
        deadline = asyncio.timeout(seconds)
        self._deadlines.add(deadline)
        try:
            async with deadline:
                yield
        except TimeoutError as error:
            if self.is_stopping():
                raise TimedOut("the server is stopping; send the request again") from error
            raise TimedOut(f"no response within {seconds:g} s: the server or its model is too slow") from error
        finally:
            self._deadlines.discard(deadline)

    async def _answered(
        self,
        request: Request,
        name: str | None,
        want: ResponseFormat,
        body: bytes,
        protocol: InferenceProtocol,
        slot: Slot,
    ) -> Response:
        predictor, model = self._models.get(name), self._models.name_of(name)
        if predictor is None:
            predictor = await self._in_thread(self._models.reopen, name)
        want = protocol.completed(want, predictor.card)
        given = await self._unpacked(body, protocol)
        is_captured = self._capture is not None and protocol.is_captured
        if not is_captured:
            body = b""  # free the memory
        call = _Call(request, predictor, model, given, want, slot, is_counted=not protocol.is_explanation)
        each = [self._of_many(call, i) for i in range(len(given.photos))]
        content = protocol.encode(await _all(each), want, given)
        if self._capture is not None and is_captured:
            content_type = request.headers.get("content-type", "")
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
            body = await self._bodies.read(request, held, _LOAD_BYTES)
            try:
                wanted = Load.model_validate_json(body)
            except ValidationError as error:
                raise RequestValidationError(error.errors()) from error
            self._access.check_path(wanted.url)
            with self._slots.taken(wanted.model_name, self._models.count()):
                await self._in_thread(self._models.load, wanted.model_name, wanted.url)
            return wanted

    def is_healthy(self) -> bool:
        """Whether photos are decoded, and a model is in service, if there are any."""
        return self._engine.is_healthy(self._limits.seconds) and self._models.is_healthy()

    async def watch(self) -> None:
        """Take models that do not return out of service, and end requests before the server stops, until cancelled."""
        loop = asyncio.get_running_loop()
        last = math.inf  # when the last request must end
        while True:
            await asyncio.sleep(min(1.0, self._limits.seconds / 4))
            for stop, threads in self._engine.abandon_hung(self._limits.seconds):
                self._models.take_out(stop, threads)
            if self.is_stopping():
                last = min(last, loop.time() + self._limits.stop_seconds)
                for deadline in self._deadlines:
                    if not deadline.expired() and (deadline.when() or math.inf) > last:
                        deadline.reschedule(last)

    async def _in_thread(self, call: Callable[..., _T], *arguments: object) -> _T:
        """Call what loads a model. A request that has waited too long leaves; the others' threads are not used."""
        return await to_thread.run_sync(call, *arguments, abandon_on_cancel=True, limiter=self._loaders)

    @contextmanager
    def _taken_on(self) -> Iterator[Held]:
        """Count a request while it is in progress, and its bytes."""
        self._slots.check()  # before the body is read
        self._metrics.in_flight.inc()
        try:
            with self._bodies.held() as held:
                yield held
        finally:
            self._metrics.in_flight.dec()

    async def _unpacked(self, body: bytes, protocol: InferenceProtocol) -> Given:
        return await run_in_threadpool(protocol.photos, body) if protocol.is_slow(body) else protocol.photos(body)

    async def _of_many(self, call: "_Call", i: int) -> PhotoResult:
        """The response to photo ``i`` of a request; an error concerns only this photo, unless it is a single one."""
        photo, name = call.given.photos[i], call.given.names[i]
        async with call.room:
            if len(call.given.photos) > 1 and await call.request.is_disconnected():
                raise ClientDisconnect
            try:
                if isinstance(photo, InputError):
                    self._count(call, i, "refused", None)
                    raise photo
                return await self._one(call, i, photo)
            except Unavailable:
                raise  # the request can be sent again
            except InputError as error:
                if call.given.single:
                    raise in_file(error, name) from error
                return formats.failure(in_file(error, name))

    async def _one(self, call: "_Call", i: int, photo: bytes | Pixels) -> PhotoResult:
        want, card, times = call.want, call.predictor.card, PhotoTimes()
        predictor = call.predictor.scored if want.unknown else call.predictor
        try:
            # the future has no name here: an error's frame would hold it, and it the error, and both the model
            row = await asyncio.wrap_future(self._engine.submit(predictor, photo, call.slot.slow, times))
        except InputError:
            self._count(call, i, "refused", times)
            raise
        self._count(call, i, "answered", times)
        unknown = float(row[-1]) if want.unknown else None
        return formats.photo_result(card.classes, row[: len(card.classes)], want, card.thresholds, unknown)

    def _count(self, call: "_Call", i: int, outcome: str, times: PhotoTimes | None) -> None:
        if not call.is_counted:
            return
        self._metrics.count_photo(call.model, outcome, times)
        if times is not None and i < _TRACED:
            number = i if len(call.given.photos) > 1 else None
            for span in times.queues():
                self._trace("queue", span, number)
            for step, done in (("decode", times.decode), ("inference", times.inference)):
                if done:
                    self._trace(step, done, number)


@dataclass(frozen=True)
class _Call:
    """What the photos of one request share."""

    request: Request
    predictor: Predictor
    model: str
    given: Given
    want: ResponseFormat
    slot: Slot
    is_counted: bool  # its photos are counted one by one
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))


async def _all(photos: Sequence[Coroutine[None, None, PhotoResult]]) -> list[PhotoResult]:
    """The results in order. After an error, the others are cancelled."""
    if len(photos) == 1:
        return [await photos[0]]
    tasks = [asyncio.ensure_future(photo) for photo in photos]
    try:
        return await asyncio.gather(*tasks)
    finally:
        while tasks:  # an error's frame would hold them, and they the error
            tasks.pop().cancel()
