"""The description of the server's addresses in OpenAPI: bodies and responses."""

from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import Depends, Query
from fastapi import Path as InPath
from pydantic import BaseModel

from sagehound.inference.formats import CSV
from sagehound.inference.request_body import FORM, JSON, LINES, MAX_INSTANCES, PHOTO
from sagehound.serving.protocols import Asked
from sagehound.serving.request_handler import Load


class Error(BaseModel):
    """An error."""

    code: str
    message: str


class Failure(BaseModel):
    """The body of every response that is not 200, and the response for a failed photo of several."""

    error: Error
    request_id: str | None = None  # of the response's header X-Request-Id; a failed photo has none


class V2Failure(BaseModel):
    """An error of the Open Inference Protocol."""

    error: str
    request_id: str


class Model(BaseModel):
    """A model of the server."""

    modelName: str
    modelUrl: str
    inMemory: bool  # false: evicted to save memory; it is loaded again at its next request


class ModelWithCard(Model):
    """A model, and its model.json."""

    device: str | None  # cpu or cuda; null: it is not in memory
    card: dict[str, Any]


class Listing(BaseModel):
    """The models of the server."""

    models: list[Model]
    feedback: bool  # whether photos with their right class are kept


class Nothing(BaseModel):
    """An empty object."""


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The description of responses with these statuses."""
    return {status: {"model": Failure, "description": HTTPStatus(status).phrase} for status in statuses}


_PHOTO = {"type": "string", "format": "binary"}
_FILES = {"type": "array", "items": _PHOTO, "minItems": 1, "maxItems": MAX_INSTANCES}
_INSTANCE = {
    "oneOf": [
        {"type": "string", "contentEncoding": "base64", "description": "a photo's file in base64, or a data URL"},
        {"type": "object", "properties": {"b64": {"type": "string"}}, "required": ["b64"]},
    ]
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {media: {"schema": _PHOTO} for media in PHOTO}
        | {
            FORM: {"schema": {"type": "object", "properties": {"file": _FILES}, "required": ["file"]}},
            JSON: {
                "schema": {
                    "type": "object",
                    "properties": {
                        "instances": {
                            "type": "array",
                            "items": _INSTANCE,
                            "minItems": 1,
                            "maxItems": MAX_INSTANCES,
                        }
                    },
                    "required": ["instances"],
                }
            },
            LINES: {"schema": {"type": "string", "description": "an instance a line"}},
        },
    }
}
LOAD: dict[str, Any] = {"requestBody": {"required": True, "content": {JSON: {"schema": Load.model_json_schema()}}}}
_RANKED = {
    "type": "object",
    "properties": {"label": {"type": "string"}, "probability": {"type": "number"}},
    "required": ["label", "probability"],
}
_ONE = {
    "type": "object",
    "properties": {
        **_RANKED["properties"],  # type: ignore[dict-item] # of a dict
        "file": {"type": "string", "description": "the name of the photo's file in a form"},
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
ANSWERED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Of one photo its own answer, of several one for each in order",
        "content": {
            JSON: {"schema": {"oneOf": [_ONE, _MANY]}},
            LINES: {"schema": {"type": "string"}},
            CSV: {"schema": {"type": "string"}},
        },
    },
    **failures(400, 406, 408, 413, 415, 503),
}
Name = Annotated[str, InPath(max_length=256)]
TopK = Annotated[int | None, Query(ge=1, le=100_000, description="how many labels; five without it")]
Every = Annotated[Literal["all"] | None, Query(description="the probability of every class as well")]
Unknown = Annotated[bool | None, Query(description="whether the photo is unlike the photos of every class, as well")]
Coverage = Annotated[
    float | None, Query(gt=0, lt=1, description="a set of classes that holds the right one this often, as well: 0.9")
]


async def _asked(  # a plain function would run in another thread
    top_k: TopK = None, probabilities: Every = None, unknown: Unknown = None, coverage: Coverage = None
) -> Asked:
    return Asked(top_k, probabilities and True, unknown, coverage)


AskedFor = Annotated[Asked, Depends(_asked)]
