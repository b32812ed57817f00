"""The program of a fresh process: opens an artifact as a server does, sends requests and prints the responses.

Usage: python -P verify_worker.py server|inference, then on stdin a line of JSON:
{"model": PATH, "requests": [{"content_type": TYPE, "photos": [PATH, ...]}, ...]}. The last line of stdout is JSON:
{"through": what was called, "responses": [[the response to each photo of a request, ...], ...]}, or {"error": REASON}.
It imports its packages first, so that it can be started before the artifact exists. It ends if stdin is closed.
"""

import asyncio
import base64
import gc
import importlib
import json
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message

Request = dict[str, Any]
Answers = list[Any]

_JSON, _LINES = "application/json", "application/jsonlines"
_PARAMETERS = "; probabilities=all; unknown=1"
_AT_ONCE = 8  # requests at a time
_LOW = 10  # niceness of the imports, because the run trains meanwhile
_HEAVY = {
    "server": ("onnxruntime", "PIL.Image", "sagehound.serving.app", "sagehound.serving.predictor"),
    "inference": ("torch", "timm", "safetensors.torch"),
}


def through_server(model: str, requests: list[Request]) -> tuple[str, list[Answers]]:
    """Send requests to the server's application by ASGI; ``model`` is the archive.

    Without the extra `serve`, call the functions of the application directly.
    """
    try:
        from sagehound.serving.app import make_app
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("sagehound"):
            raise
        return "the server's functions", _through_functions(model, requests)
    from sagehound.serving.model_store import ModelStore
    from sagehound.serving.request_handler import Limits

    models = ModelStore(max_bytes=sys.maxsize)
    models.load("model", model)
    limits = Limits(
        body_bytes=2**40, bodies_bytes=2**40, pixels=2**40, seconds=600
    )  # test photos may be larger than clients' photos
    return "the server", asyncio.run(_through_app(make_app(models, limits), requests))


async def _through_app(app: Any, requests: list[Request]) -> list[Answers]:  # noqa: ANN401 - FastAPI, if it is there
    answers: list[Answers] = []
    async with app.router.lifespan_context(app):
        for start in range(0, len(requests), _AT_ONCE):
            answers += await asyncio.gather(*(_post(app, request) for request in requests[start : start + _AT_ONCE]))
    return answers


async def _post(app: "ASGIApp", request: Request) -> Answers:
    """The responses of one POST /invocations.

    Raises:
        ValueError: the status is not 200.
    """
    content_type, accept = request["content_type"], _accept(request["content_type"])
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/invocations",
        "raw_path": b"/invocations",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", content_type.encode()), (b"accept", accept.encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
    }
    body, sent = _body(request), list[Any]()
    waiting = asyncio.Event()  # the client stays connected and sends nothing more

    async def receive() -> "Message":
        if sent:
            await waiting.wait()
        sent.append(None)
        return {"type": "http.request", "body": body, "more_body": False}

    status, content = 0, b""

    async def send(message: "Message") -> None:
        nonlocal status, content
        status = message.get("status", status)
        content += message.get("body", b"")

    await app(scope, receive, send)
    if status != 200:
        raise ValueError(f"the server answered {content_type} with {status} {content.decode(errors='replace')}")
    return _read(content, content_type)


def _through_functions(model: str, requests: list[Request]) -> list[Answers]:
    import numpy as np

    from sagehound.artifact.archive import opened
    from sagehound.errors import InputError
    from sagehound.inference import formats
    from sagehound.inference.preprocessing import prepare
    from sagehound.inference.request_body import photos_in
    from sagehound.serving.predictor import Predictor

    responses = []
    with opened(model) as folder:
        predictor = Predictor(folder)
        classes, preprocessing = predictor.card.classes, predictor.card.preprocessing
        for request in requests:
            content_type = request["content_type"]
            want = formats.response_format(_accept(content_type), content_type)
            answers = []
            given = photos_in(_body(request), content_type)
            for photo in given.photos:
                if isinstance(photo, InputError):
                    raise photo
                *probabilities, unknown = predictor.scored([prepare(photo, preprocessing)])[0]
                thresholds = predictor.card.thresholds
                row = np.array(probabilities, np.float32)
                answers.append(formats.photo_result(classes, row, want, thresholds, float(unknown)))
            content = formats.encode(answers, want, single=given.single)
            responses.append(_read(content, content_type))
    return responses


def through_inference(model: str, requests: list[Request]) -> tuple[str, list[Answers]]:
    """Call the artifact's inference.py as SageMaker's containers do; ``model`` is the unpacked folder."""
    sys.path.insert(0, str(Path(model, "code")))
    inference = importlib.import_module("inference")
    beside = Path(inference.model_fn.__code__.co_filename)
    if not beside.is_relative_to(Path(model).resolve()) and not beside.is_relative_to(model):
        raise ImportError(f"inference.py took {beside} from outside of the artifact")
    loaded = inference.model_fn(model)
    answers = []
    for request in requests:
        content_type, body = request["content_type"], _body(request)
        given = inference.input_fn(body.decode() if content_type == _JSON else body, content_type)  # JSON is text
        body = inference.output_fn(inference.predict_fn(given, loaded), _accept(content_type))
        answers.append(_read(body, content_type))
    return "inference.py", answers


def _body(request: Request) -> bytes:
    photos = [Path(photo).read_bytes() for photo in request["photos"]]
    instances = [base64.b64encode(photo).decode() for photo in photos]
    if request["content_type"] == _JSON:
        return json.dumps({"instances": instances}).encode()
    if request["content_type"] == _LINES:
        return b"".join(json.dumps({"b64": instance}).encode() + b"\n" for instance in instances)
    return photos[0]


def _accept(content_type: str) -> str:
    return (_LINES if content_type == _LINES else _JSON) + _PARAMETERS


def _read(content: bytes, content_type: str) -> Answers:
    if content_type == _LINES:
        return [json.loads(line) for line in content.splitlines()]
    body = json.loads(content)
    return list(body["predictions"]) if content_type == _JSON else [body]


def _import(names: tuple[str, ...]) -> None:
    """Import modules at low priority; on Linux niceness is per thread."""

    def work() -> None:
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOW)
        for name in names:
            with suppress(ImportError):  # raised again when it is needed
                importlib.import_module(name)

    sys.modules["wandb"] = None  # type: ignore[assignment]  # timm would import it, which takes a second
    gc.disable()  # garbage collection takes a fifth of the time of importing torch and timm
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    gc.freeze()  # imported objects stay
    gc.enable()


if __name__ == "__main__":
    through: Callable[[str, list[Request]], tuple[str, list[Answers]]]
    through = through_server if sys.argv[1] == "server" else through_inference
    _import(_HEAVY[sys.argv[1]])
    if line := sys.stdin.readline():
        request = json.loads(line)
        try:
            called, responses = through(request["model"], request["requests"])
            print(json.dumps({"through": called, "responses": responses}))
        except Exception as error:  # a broken artifact raises errors of any kind
            print(json.dumps({"error": " ".join(f"{type(error).__name__}: {error}".split())}))
    sys.stdout.flush()
    os._exit(0)  # shutting down torch and its threads takes a second
