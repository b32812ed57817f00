"""The addresses of the Open Inference Protocol (KServe V2)."""

import importlib.metadata
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from sagehound.inference.request_body import JSON
from sagehound.serving import kserve
from sagehound.serving.api_description import Name, V2Failure
from sagehound.serving.model_store import ModelStore
from sagehound.serving.protocols import Asked
from sagehound.serving.request_handler import RequestHandler


class Live(BaseModel):
    """Whether the server responds."""

    live: bool


class Ready(BaseModel):
    """Whether a model responds."""

    name: str
    ready: bool


_TENSOR = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "datatype": {"enum": ["BYTES", "FP32", "UINT8"]},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "data": {"type": "array", "items": {}},
        "parameters": {"type": "object"},
    },
    "required": ["name", "datatype", "shape"],
}
_INFER: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": {
                    "type": "object",
                    "properties": {
                        "id": {"type": "string"},
                        "inputs": {"type": "array", "items": _TENSOR, "minItems": 1, "maxItems": 1},
                        "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
                    },
                    "required": ["inputs"],
                },
                "example": {"inputs": [{"name": "photos", "shape": [1], "datatype": "BYTES", "data": ["<base64>"]}]},
            }
        },
    }
}


def _failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": V2Failure} for status in statuses}


def add_v2(app: FastAPI, handler: RequestHandler, models: ModelStore) -> None:
    """Add the addresses; /v2/health/ready is that of /ping, which app.py adds."""

    @app.get("/v2/health/live", summary="Whether the server responds")
    async def live() -> Live:
        return Live(live=True)

    @app.get("/v2", summary="The server, by the Open Inference Protocol (KServe V2)")
    async def server() -> dict[str, Any]:
        return kserve.server_metadata(importlib.metadata.version("sagehound"))

    @app.get("/v2/models/{name}", responses=_failures(400, 404), summary="Inputs and outputs of a model")
    async def model(name: Name) -> dict[str, Any]:
        return kserve.model_metadata(name, (await run_in_threadpool(models.describe, name))["card"])

    @app.get("/v2/models/{name}/ready", responses=_failures(400, 404, 503), summary="Whether a model responds")
    async def ready(name: Name) -> Ready:
        models.get(name, is_use=False)  # probes keep no model in memory
        return Ready(name=name, ready=True)

    @app.post(
        "/v2/models/{name}/infer",
        responses=_failures(400, 404, 408, 413, 415, 503),
        response_model=dict[str, Any],
        openapi_extra=_INFER,
    )
    async def infer(name: Name, request: Request) -> Response:
        """Classify photos in base64 (BYTES), or pixels between 0 and 255 (FP32, UINT8) of the size that the model sees.

        The outputs are label, probability, probabilities and, if the model has it, unknown_score.
        """
        return await handler.respond(request, name, Asked(), kserve.Inference(name))
