"""The HTTP application: SageMaker's contract, on a laptop and in a container."""

import importlib.metadata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from sagehound.errors import InputError
from sagehound.inference import formats
from sagehound.inference.decode import TooManyPixels
from sagehound.inference.formats import NotAcceptable, UnsupportedContentType
from sagehound.serving.batcher import Batcher
from sagehound.serving.model_store import AlreadyLoaded, ModelStore, NoMemory, UnknownModel
from sagehound.serving.request_capture import RequestCapture
from sagehound.serving.request_handler import Asked, Busy, Limits, Load, RequestHandler, TooLarge, TooSlow
from sagehound.serving.server_metrics import Measured, ServerMetrics

_PAGE = Path(__file__).parent / "page"

# status and code of each error; the first class that matches
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
    """An error."""

    code: str
    message: str


class Failure(BaseModel):
    """The body of every response that is not 200, and the response for a failed photo of several."""

    error: Error


class Model(BaseModel):
    """A model of the server."""

    modelName: str
    modelUrl: str
    inMemory: bool  # false: evicted to save memory; it is loaded again at its next request


class ModelWithCard(Model):
    """A model, and its model.json."""

    card: dict[str, Any]


class Listing(BaseModel):
    """The models of the server."""

    models: list[Model]


class Nothing(BaseModel):
    """An empty object."""


def make_app(models: ModelStore, limits: Limits | None = None, capture: RequestCapture | None = None) -> FastAPI:
    """Make the application. At its end, it finishes the requests that it has begun and closes models and capture."""
    limits = limits or Limits()
    metrics = ServerMetrics(models)
    engine = Batcher(metrics.batches.observe, limits.pixels)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.close()
        models.close()
        if capture is not None:
            await run_in_threadpool(capture.close)

    app = FastAPIOffline(
        title="Sagehound",
        version=importlib.metadata.version("sagehound"),
        description="Classifies photos, by SageMaker's HTTP contract.",
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,  # whatever host the client names
    )
    for kind in (InputError, HTTPException, RequestValidationError, ClientDisconnect, Exception):
        app.add_exception_handler(kind, _refused)
    app.add_middleware(Measured, metrics=metrics)
    _add_routes(app, RequestHandler(models, engine, limits, metrics, capture), models, metrics)
    for path in app.openapi()["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)  # FastAPI's status; here it is 400
    return app


def _refused(_: Request, error: Exception) -> Response:
    """Return every error as JSON with its status."""
    headers = dict(getattr(error, "headers", None) or {})
    content: Any = formats.failure(error)
    if isinstance(error, InputError):
        status = next(status for kind, status in _STATUS if isinstance(error, kind))
        headers |= {"Retry-After": "1"} if status == 503 else {}
    elif isinstance(error, HTTPException):  # from the router: no such address, no such method
        status, code = error.status_code, HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        content = {"error": {"code": code, "message": f"{error.detail}: GET /docs describes every address"}}
    elif isinstance(error, RequestValidationError):
        wrong = "; ".join(f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors())
        status, content = 400, {"error": {"code": "bad_request", "message": wrong}}
    elif isinstance(error, ClientDisconnect):
        status = 400  # nobody reads it
    else:
        status, content = 500, {"error": {"code": "internal", "message": "the server failed; its log says why"}}
    return JSONResponse(content, status, headers)


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
        "set": {"type": "array", "items": {"type": "string"}},
        "unknown": {"type": "boolean"},
        "unknown_score": {"type": "number"},
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

Unknown = Annotated[bool | None, Query(description="whether the photo is unlike the photos of every class, as well")]
Coverage = Annotated[
    float | None, Query(gt=0, lt=1, description="a set of classes that holds the right one this often, as well: 0.9")
]


def _asked(
    top_k: TopK = None, probabilities: Every = None, unknown: Unknown = None, coverage: Coverage = None
) -> Asked:
    return Asked(top_k, probabilities and True, unknown, coverage)


AskedFor = Annotated[Asked, Depends(_asked)]


def _add_routes(app: FastAPI, handler: RequestHandler, models: ModelStore, metrics: ServerMetrics) -> None:
    @app.get("/ping", summary="Whether the server is ready")
    async def ping() -> Nothing:
        return Nothing()

    @app.post("/invocations", responses=_ANSWERED | _failures(404), openapi_extra=_BODY)
    async def invocations(request: Request, asked: AskedFor) -> Response:
        """Classify one photo or several with the model that is loaded.

        The header Accept chooses application/json, application/jsonlines or text/csv, with the parameters of the query
        if the address cannot have one, as on SageMaker: top_k=N, probabilities=all, unknown=1, coverage=0.9.
        """
        return await handler.respond(request, None, asked)

    @app.get("/models", summary="The models that are loaded")
    async def list_models() -> Listing:
        return Listing.model_validate({"models": models.listed()})

    @app.post("/models", responses=_failures(400, 408, 409, 413, 415, 503, 507), openapi_extra=_LOAD)
    async def load(request: Request) -> Model:
        """Load a model under a name."""
        wanted = await handler.load(request)
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
    async def invoke(name: Name, request: Request, asked: AskedFor) -> Response:
        """Classify one photo or several with one of the models; see /invocations."""
        return await handler.respond(request, name, asked)

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
