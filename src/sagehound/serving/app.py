"""The HTTP application: SageMaker's contract, on a laptop and in a container."""

import asyncio
import importlib.metadata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from sagehound.errors import InputError
from sagehound.inference import formats
from sagehound.inference.decode import NoDecoder, TooManyPixels
from sagehound.inference.formats import NotAcceptable
from sagehound.inference.request_body import UnsupportedContentType
from sagehound.serving.access import Access, Forbidden, RateLimit
from sagehound.serving.api_description import (
    ANSWERED,
    BODY,
    LOAD,
    AskedFor,
    Listing,
    Model,
    ModelWithCard,
    Name,
    Nothing,
    failures,
)
from sagehound.serving.batcher import Batcher, ModelHung
from sagehound.serving.body_reader import TooLarge, TooSlow
from sagehound.serving.card_routes import NoCard, add_cards
from sagehound.serving.decoders import Decoders
from sagehound.serving.feedback import Feedback, NoFeedback, NotSaved, add_feedback
from sagehound.serving.guard import Guard, HeadAsGet
from sagehound.serving.model_store import AlreadyLoaded, ModelStore, NoMemory, UnknownModel
from sagehound.serving.occlusion import add_explanations
from sagehound.serving.request_capture import RequestCapture
from sagehound.serving.request_handler import Limits, RequestHandler
from sagehound.serving.request_log import HEADER, RequestLog, error_body
from sagehound.serving.server_metrics import Measured, ServerMetrics
from sagehound.serving.sessions import Execution
from sagehound.serving.shared import OneProcess, Shared
from sagehound.serving.slots import Unavailable
from sagehound.serving.v2_routes import add_v2

_PAGE = Path(__file__).parent / "page"

# status and code of each error; the first class that matches
_STATUS: list[tuple[type[InputError], int]] = [
    (TooManyPixels, 413),
    (TooLarge, 413),
    (TooSlow, 408),
    (NoDecoder, 415),
    (UnsupportedContentType, 415),
    (NotAcceptable, 406),
    (Unavailable, 503),
    (Forbidden, 403),
    (UnknownModel, 404),
    (NoCard, 404),
    (NoFeedback, 404),
    (AlreadyLoaded, 409),
    (NoMemory, 507),
    (NotSaved, 507),
    (OneProcess, 501),
    (InputError, 400),
]


def make_app(
    models: ModelStore,
    limits: Limits | None = None,
    capture: RequestCapture | None = None,
    access: Access | None = None,
    *,
    feedback: Feedback | None = None,
    log_json: bool = False,
    execution: Execution | None = None,
    shared: Shared | None = None,
) -> FastAPI:
    """Make the application. At its end, it finishes the requests that it has begun and closes models and capture.

    Args:
        models: the models that it serves.
        limits: of requests.
        capture: of requests and responses.
        access: who may do what; None: everybody everything, as in a SageMaker container.
        feedback: writes users' corrections; None: the server takes none.
        log_json: whether to print a line of JSON for each request.
        execution: threads that decode photos.
        shared: what it shares with other processes of the same server.
    """
    limits, access, execution = limits or Limits(), access or Access(), execution or Execution()
    metrics = ServerMetrics(models, shared.metrics if shared else None)
    engine = Batcher(metrics.batches.observe, Decoders(limits.pixels, threads=execution.threads))

    app = FastAPIOffline(
        title="Sagehound",
        version=importlib.metadata.version("sagehound"),
        description="Classifies photos, by SageMaker's HTTP contract.",
        lifespan=lambda app: _lifespan(app, engine, models, capture),
        redoc_url=None,
        redirect_slashes=False,  # whatever host the client names
    )
    _add_middleware(app, access, metrics, shared, log_json=log_json)
    handler = RequestHandler(models, engine, limits, metrics, capture, access)
    _add_routes(app, handler, metrics)
    _add_models(app, handler, models, shared, takes_feedback=feedback is not None)
    add_explanations(app, handler, limits.pixels)
    add_feedback(app, handler, feedback)
    add_v2(app, handler, models)
    _describe(app)
    return app


@asynccontextmanager
async def _lifespan(
    app: FastAPI, engine: Batcher, models: ModelStore, capture: RequestCapture | None
) -> AsyncIterator[None]:
    watching = asyncio.create_task(app.state.handler.watch())
    yield
    watching.cancel()
    engine.close()
    models.close()
    if capture is not None:
        await run_in_threadpool(capture.close)


def _describe(app: FastAPI) -> None:
    """Correct the description of the addresses."""
    for path in app.openapi()["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)  # FastAPI's status; here it is 400


def _add_middleware(
    app: FastAPI, access: Access, metrics: ServerMetrics, shared: Shared | None, *, log_json: bool
) -> None:
    limit = shared.rate if shared else RateLimit(access.rate) if access.rate else None
    for kind in (InputError, HTTPException, RequestValidationError, ClientDisconnect, Exception):
        app.add_exception_handler(kind, _refused)
    app.add_middleware(Guard, access=access, docs=_docs(app), limit=limit)
    app.add_middleware(Measured, metrics=metrics)
    app.add_middleware(HeadAsGet)
    app.add_middleware(
        RequestLog, as_json=log_json, with_process=shared is not None
    )  # the last one that is added is the first to handle a request


def _docs(app: FastAPI) -> bytes:
    """The page at /docs; its inline script depends on these values only."""
    openapi, redirect = str(app.openapi_url), app.swagger_ui_oauth2_redirect_url
    page = get_swagger_ui_html(openapi_url=openapi, title=f"{app.title} - Swagger UI", oauth2_redirect_url=redirect)
    return bytes(page.body)


def _administer(request: Request, shared: Shared | None) -> None:
    """Check that the client may load and delete models, and that this server can.

    Raises:
        Forbidden: it may not.
        OneProcess: the server has several processes.
    """
    if not request.scope["is_admin"]:
        raise Forbidden(
            "models are loaded and deleted from the server's own machine, or with its token: set deploy.token"
        )
    if shared is not None:
        raise OneProcess(
            "a server with several processes keeps the models that it started with: start it with deploy.workers=1, or "
            "with the models that you need (model=[RUN,RUN])"
        )


def _refused(request: Request, error: Exception) -> Response:
    """Return every error as JSON with its status and the identifier of the request."""
    headers = dict(getattr(error, "headers", None) or {})
    code, message = formats.failure(error)["error"].values()
    if isinstance(error, InputError):
        status = next(status for kind, status in _STATUS if isinstance(error, kind))
        headers |= {"Retry-After": "1"} if status == 503 else {}
    elif isinstance(error, HTTPException):  # from the router: no such address, no such method
        status, code = error.status_code, HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        message = f"{error.detail}: GET /docs describes every address"
    elif isinstance(error, RequestValidationError):
        message = "; ".join(f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors())
        status, code = 400, "bad_request"
    elif isinstance(error, ClientDisconnect):
        status = 400  # nobody reads it
    else:
        status, code, message = 500, "internal", "the server failed; its log says why"
        headers[HEADER] = request.scope["request_id"]  # no middleware sees this response
    return JSONResponse(error_body(request.scope, code, message), status, headers)


def _add_routes(app: FastAPI, handler: RequestHandler, metrics: ServerMetrics) -> None:
    app.state.handler = handler  # for the server, which sets is_stopping

    @app.get("/ping", summary="Whether the server is ready", response_model=Nothing, responses=failures(500))
    @app.get("/health", summary="The same", response_model=Nothing, responses=failures(500))
    @app.get("/v2/health/ready", summary="The same", response_model=Nothing, responses=failures(500))
    async def ping() -> Response:
        if handler.is_healthy():
            return JSONResponse({})
        return JSONResponse(formats.failure(ModelHung("no model returns: restart the server")), 500)

    @app.post("/invocations", responses=ANSWERED | failures(404), openapi_extra=BODY)
    async def invocations(request: Request, asked: AskedFor) -> Response:
        """Classify one photo or several with the model that is loaded.

        The header Accept chooses application/json, application/jsonlines or text/csv, with the parameters of the query
        if the address cannot have one, as on SageMaker: top_k=N, probabilities=all, unknown=1, coverage=0.9.
        """
        return await handler.respond(request, None, asked)

    @app.post("/models/{name}/invoke", responses=ANSWERED | failures(404), openapi_extra=BODY)
    async def invoke(name: Name, request: Request, asked: AskedFor) -> Response:
        """Classify one photo or several with one of the models; see /invocations."""
        return await handler.respond(request, name, asked)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def prometheus() -> Response:
        """Counters for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_PAGE / "index.html")

    app.mount("/page", StaticFiles(directory=_PAGE), name="page")


def _add_models(
    app: FastAPI, handler: RequestHandler, models: ModelStore, shared: Shared | None, *, takes_feedback: bool
) -> None:
    add_cards(app, models)

    @app.get("/models", summary="The models that are loaded")
    async def list_models(request: Request) -> Listing:
        listed = models.listed()
        if not request.scope["is_admin"]:
            listed = [model | {"modelUrl": Path(model["modelUrl"]).name} for model in listed]
        return Listing.model_validate({"models": listed, "feedback": takes_feedback})

    @app.post("/models", responses=failures(400, 403, 408, 409, 413, 415, 501, 503, 507), openapi_extra=LOAD)
    async def load(request: Request) -> Model:
        """Load a model under a name."""
        _administer(request, shared)
        wanted = await handler.load(request)
        return Model(modelName=wanted.model_name, modelUrl=wanted.url, inMemory=True)

    @app.get(
        "/models/{name}", response_model=ModelWithCard, responses=failures(400, 404), summary="A model and its card"
    )
    async def describe(name: Name, request: Request) -> Response:
        described = await run_in_threadpool(models.describe, name)
        if not request.scope["is_admin"]:
            described["modelUrl"] = Path(described["modelUrl"]).name  # the path is nobody else's business
        return JSONResponse(described)

    @app.delete("/models/{name}", responses=failures(400, 403, 404, 501), summary="Forget a model")
    async def unload(name: Name, request: Request) -> Nothing:
        _administer(request, shared)
        await run_in_threadpool(models.unload, name)
        return Nothing()
