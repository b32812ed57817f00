"""SageMaker's HTTP contract, the same on a laptop and in a container: photos in, their most probable classes out."""

import asyncio
import importlib.metadata
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from sagehound.data.decode import TooManyPixels
from sagehound.errors import InputError
from sagehound.serving import formats
from sagehound.serving.engine import Engine
from sagehound.serving.formats import Answer, NotAcceptable, UnsupportedContentType, Wanted
from sagehound.serving.metrics import Measured, Metrics
from sagehound.serving.models import AlreadyLoaded, Models, NoMemory, UnknownModel
from sagehound.serving.predictor import Predictor

_PAGE = Path(__file__).parent / "page"
_AT_ONCE = 16  # photos of one request that are being decoded or computed
_LOAD_BYTES = 2**16  # of a request to load a model
_LONG = 2**18  # bytes of JSON that the other requests should not wait for


@dataclass(frozen=True)
class Limits:
    """What a server takes on."""

    body_bytes: int = 25 * 2**20  # of one request; SageMaker's own limit
    bodies_bytes: int = 256 * 2**20  # of all requests that are read or answered at a time
    requests: int = 64  # that are read or answered at a time
    pixels: int = 50_000_000  # of one photo: a large phone camera's, 150 MB in memory
    body_seconds: float = 20.0  # that a client may take to send one; less than a server that stops waits


class Busy(InputError):
    """More requests than the server takes on."""


class TooLarge(InputError):
    """A body over the limit."""


class TooSlow(InputError):
    """A body that did not come in time."""


# what each error means to a client; the first that fits
_STATUS: list[tuple[type[InputError], int]] = [
    (TooManyPixels, 413),
    (TooLarge, 413),
    (TooSlow, 408),
    (UnsupportedContentType, 415),
    (NotAcceptable, 406),
    (Busy, 503),
    (UnknownModel, 404),
    (AlreadyLoaded, 409),
    (NoMemory, 507),
    (InputError, 400),
]


class Error(BaseModel):
    """Why there is no answer."""

    code: str
    message: str


class Failure(BaseModel):
    """The body of every answer that is not 200, and the place of a photo that could not be read in a batch."""

    error: Error


class Load(BaseModel):
    """The model to load."""

    model_config = ConfigDict(protected_namespaces=())
    model_name: str = Field(min_length=1, max_length=256, pattern=r"^[\w][\w.-]*$")
    url: str = Field(min_length=1, max_length=4096, description="a run's folder, a model.tar.gz, or an unpacked one")


class Model(BaseModel):
    """A model that the server knows."""

    modelName: str
    modelUrl: str
    inMemory: bool  # false: set aside for want of memory, and opened again when it is asked for


class ModelWithCard(Model):
    """A model, and its model.json."""

    card: dict[str, Any]


class Listing(BaseModel):
    """The models that the server knows."""

    models: list[Model]


class Nothing(BaseModel):
    """An empty object."""


@dataclass
class _Held:
    """What of a request is in memory."""

    bytes: int = 0


class Desk:
    """Takes requests on, reads them, and has them answered."""

    def __init__(self, models: Models, engine: Engine, limits: Limits, metrics: Metrics) -> None:
        self._models, self._engine, self._limits, self._metrics = models, engine, limits, metrics
        self._requests = self._bytes = 0

    async def answer(self, request: Request, name: str | None, top_k: int | None, every: bool | None) -> Response:
        """The answer to the photo or photos of a request.

        Raises:
            InputError: there is none; _STATUS knows what kinds there are.
        """
        with self._taken_on() as held:
            content_type = request.headers.get("content-type", "")
            want = formats.wanted(request.headers.get("accept"), content_type, top_k, every)
            self._models.get(name)  # there is such a model, or nothing need be read
            body = await self._read(request, held, self._limits.body_bytes)
            predictor = self._models.get(name)
            if predictor is None:
                predictor = await run_in_threadpool(self._models.reopen, name)
            if formats.is_photo(content_type):
                answers = [await self._one(predictor, body, want)]
            else:
                photos = await self._unpacked(body, content_type)
                del body
                room = asyncio.Semaphore(_AT_ONCE)
                answers = await asyncio.gather(*(self._of_many(request, predictor, p, want, room) for p in photos))
            content = formats.written(answers, want, single=formats.is_photo(content_type))
        return Response(content, media_type=want.media)

    async def load(self, request: Request) -> Load:
        """Load the model that a request names.

        Raises:
            InputError: the request is no such thing, or the model cannot be loaded.
        """
        with self._taken_on() as held:
            media = formats.media_of(request.headers.get("content-type", ""))
            if media != formats.JSON:  # which a page of another site cannot send without asking
                raise UnsupportedContentType(f"content type {media!r}: send {formats.JSON}")
            body = await self._read(request, held, _LOAD_BYTES)
            try:
                wanted = Load.model_validate_json(body)
            except ValidationError as error:
                raise RequestValidationError(error.errors()) from error
            await run_in_threadpool(self._models.load, wanted.model_name, wanted.url)
            return wanted

    @contextmanager
    def _taken_on(self) -> Iterator[_Held]:
        """Count a request, and its bytes, as long as it lasts."""
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
        too_large = TooLarge(f"more than {most / 2**20:g} MiB: send fewer or smaller photos")
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

    async def _unpacked(self, body: bytes, content_type: str) -> list[bytes | InputError]:
        if len(body) < _LONG:
            return formats.photos_in(body, content_type)
        return await run_in_threadpool(formats.photos_in, body, content_type)

    async def _of_many(
        self, request: Request, predictor: Predictor, photo: bytes | InputError, want: Wanted, room: asyncio.Semaphore
    ) -> Answer:
        """The answer to one photo of several, which fails alone."""
        async with room:
            if await request.is_disconnected():
                raise ClientDisconnect
            try:
                if isinstance(photo, InputError):
                    self._metrics.photos.labels("refused").inc()
                    raise photo
                return await self._one(predictor, photo, want)
            except InputError as error:
                return formats.failure(error)

    async def _one(self, predictor: Predictor, photo: bytes, want: Wanted) -> Answer:
        try:
            probabilities = await asyncio.wrap_future(self._engine.submit(predictor, photo))
        except InputError:
            self._metrics.photos.labels("refused").inc()
            raise
        self._metrics.photos.labels("answered").inc()
        return formats.answer(predictor.card.classes, probabilities, want)


def make_app(models: Models, limits: Limits | None = None) -> FastAPI:
    """The application over ``models``; when it ends, what was begun is answered and the models are closed."""
    limits = limits or Limits()
    metrics = Metrics(models)
    engine = Engine(metrics.batches.observe, limits.pixels)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.close()
        models.close()

    app = FastAPIOffline(
        title="Sagehound",
        version=importlib.metadata.version("sagehound"),
        description="Classifies photos, by SageMaker's HTTP contract.",
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,  # to whatever host a client names
    )
    for kind in (InputError, HTTPException, RequestValidationError, ClientDisconnect, Exception):
        app.add_exception_handler(kind, _refused)
    app.add_middleware(Measured, metrics=metrics)
    _add_routes(app, Desk(models, engine, limits, metrics), models, metrics)
    for path in app.openapi()["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)  # FastAPI's own status for what is 400 here
    return app


def _refused(_: Request, error: Exception) -> Response:
    """Every error as JSON with its status."""
    headers = dict(getattr(error, "headers", None) or {})
    said: Any = formats.failure(error)
    if isinstance(error, InputError):
        status = next(status for kind, status in _STATUS if isinstance(error, kind))
        headers |= {"Retry-After": "1"} if status == 503 else {}
    elif isinstance(error, HTTPException):  # of the router: no such address, no such method
        status, code = error.status_code, HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        said = {"error": {"code": code, "message": f"{error.detail}: GET /docs describes every address"}}
    elif isinstance(error, RequestValidationError):
        wrong = "; ".join(f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors())
        status, said = 400, {"error": {"code": "bad_request", "message": wrong}}
    elif isinstance(error, ClientDisconnect):
        status = 400  # nobody reads it
    else:
        status, said = 500, {"error": {"code": "internal", "message": "the server failed; its log says why"}}
    return JSONResponse(said, status, headers)


def _failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Failure, "description": HTTPStatus(status).phrase} for status in statuses}


_PHOTO = {"type": "string", "format": "binary"}
_INSTANCE = {
    "oneOf": [
        {"type": "string", "contentEncoding": "base64", "description": "a photo's file in base64"},
        {"type": "object", "properties": {"b64": {"type": "string"}}, "required": ["b64"]},
    ]
}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {media: {"schema": _PHOTO} for media in formats.PHOTO}
        | {
            formats.JSON: {
                "schema": {
                    "type": "object",
                    "properties": {
                        "instances": {
                            "type": "array",
                            "items": _INSTANCE,
                            "minItems": 1,
                            "maxItems": formats.MAX_INSTANCES,
                        }
                    },
                    "required": ["instances"],
                }
            },
            formats.LINES: {"schema": {"type": "string", "description": "an instance a line"}},
        },
    }
}
_LOAD: dict[str, Any] = {
    "requestBody": {"required": True, "content": {formats.JSON: {"schema": Load.model_json_schema()}}}
}
_RANKED = {
    "type": "object",
    "properties": {"label": {"type": "string"}, "probability": {"type": "number"}},
    "required": ["label", "probability"],
}
_ONE = {
    "type": "object",
    "properties": {
        **_RANKED["properties"],  # type: ignore[dict-item] # of a dict
        "top": {"type": "array", "items": _RANKED},
        "probabilities": {"type": "object", "additionalProperties": {"type": "number"}},
    },
    "required": ["label", "probability", "top"],
}
_MANY = {
    "type": "object",
    "properties": {
        "predictions": {"type": "array", "items": {"anyOf": [_ONE, {"$ref": "#/components/schemas/Failure"}]}}
    },
    "required": ["predictions"],
}
_ANSWERED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Of one photo its own answer, of several one for each in order",
        "content": {
            formats.JSON: {"schema": {"oneOf": [_ONE, _MANY]}},
            formats.LINES: {"schema": {"type": "string"}},
            formats.CSV: {"schema": {"type": "string"}},
        },
    },
    **_failures(400, 406, 408, 413, 415, 503),
}
Name = Annotated[str, InPath(max_length=256)]
TopK = Annotated[int | None, Query(ge=1, le=100_000, description="how many labels; five without it")]
Every = Annotated[Literal["all"] | None, Query(description="the probability of every class as well")]


def _add_routes(app: FastAPI, desk: Desk, models: Models, metrics: Metrics) -> None:
    @app.get("/ping", summary="Whether the server is ready")
    async def ping() -> Nothing:
        return Nothing()

    @app.post("/invocations", responses=_ANSWERED | _failures(404), openapi_extra=_BODY)
    async def invocations(request: Request, top_k: TopK = None, probabilities: Every = None) -> Response:
        """Classify one photo or several with the model that is loaded.

        The header Accept says how to answer: application/json, application/jsonlines or text/csv, with the parameters
        top_k=N and probabilities=all where an address cannot have a query, as in SageMaker.
        """
        return await desk.answer(request, None, top_k, probabilities and True)

    @app.get("/models", summary="The models that are loaded")
    async def list_models() -> Listing:
        return Listing.model_validate({"models": models.listed()})

    @app.post("/models", responses=_failures(400, 408, 409, 413, 415, 503, 507), openapi_extra=_LOAD)
    async def load(request: Request) -> Model:
        """Load a model under a name."""
        wanted = await desk.load(request)
        return Model(modelName=wanted.model_name, modelUrl=wanted.url, inMemory=True)

    @app.get(
        "/models/{name}", response_model=ModelWithCard, responses=_failures(400, 404), summary="A model and its card"
    )
    async def describe(name: Name) -> Response:
        return JSONResponse(await run_in_threadpool(models.describe, name))

    @app.delete("/models/{name}", responses=_failures(400, 404), summary="Forget a model")
    async def unload(name: Name) -> Nothing:
        await run_in_threadpool(models.unload, name)
        return Nothing()

    @app.post("/models/{name}/invoke", responses=_ANSWERED | _failures(404), openapi_extra=_BODY)
    async def invoke(name: Name, request: Request, top_k: TopK = None, probabilities: Every = None) -> Response:
        """Classify one photo or several with one of the models; see /invocations."""
        return await desk.answer(request, name, top_k, probabilities and True)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def prometheus() -> Response:
        """Counters for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_PAGE / "index.html", headers=_ONLY_FROM_HERE)

    app.mount("/page", StaticFiles(directory=_PAGE), name="page")


_ONLY_FROM_HERE = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
