"""Examples in the description of the addresses: of every body in JSON or text. Photos' bytes have none."""

import json
from collections.abc import Iterator
from typing import Any

from sagehound.inference.formats import CSV
from sagehound.inference.request_body import JSON, LINES

TEXT = "text/plain"
# a PNG of 16 x 16 pixels in one colour, so that a page which sends the example gets a real response
PHOTO = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAGklEQVR42mPc12PDQApgYiARjGoY1TB0NAAA3CIBpjo1o0sAAAAASUVORK5CYII="
)
_ID = "fff9a34d5be64caf86871eedc2098289"
_ONE = {
    "label": "Beagle",
    "probability": 0.92,
    "top": [{"label": "Beagle", "probability": 0.92}, {"label": "Dingo", "probability": 0.05}],
}
_MODEL = {"modelName": "dogs", "modelUrl": "/models/dogs/model.tar.gz", "inMemory": True}
_INVOKE_REQUEST: dict[str, Any] = {JSON: {"instances": [PHOTO, {"b64": PHOTO}]}, LINES: json.dumps(PHOTO) + "\n"}
_INVOKE_RESPONSE: dict[str, Any] = {
    JSON: {"predictions": [_ONE, {"error": {"code": "bad_photo", "message": "not an image file"}}]},
    LINES: json.dumps(_ONE, separators=(",", ":")) + "\n",
    CSV: "Beagle,0.92\n",
}
_PHOTO_REQUEST: dict[str, Any] = {JSON: {"instances": [PHOTO]}, LINES: json.dumps(PHOTO) + "\n"}
_CARD = "# Model card\n\nA classifier of photos with 10 classes, trained with Sagehound.\n"
_REQUESTS: dict[tuple[str, str], dict[str, Any]] = {
    ("post", "/invocations"): _INVOKE_REQUEST,
    ("post", "/models/{name}/invoke"): _INVOKE_REQUEST,
    ("post", "/models/{name}/explain"): _PHOTO_REQUEST,
    ("post", "/models/{name}/feedback"): _PHOTO_REQUEST,
    ("post", "/models"): {JSON: {"model_name": "dogs", "url": "/models/dogs/model.tar.gz"}},
    ("post", "/v2/models/{name}/infer"): {
        JSON: {"id": "7", "inputs": [{"name": "photos", "shape": [1], "datatype": "BYTES", "data": [PHOTO]}]}
    },
}
_RESPONSES: dict[tuple[str, str], dict[str, Any]] = {
    ("get", "/ping"): {JSON: {}},
    ("get", "/health"): {JSON: {}},
    ("get", "/v2/health/ready"): {JSON: {}},
    ("get", "/v2/health/live"): {JSON: {"live": True}},
    ("post", "/invocations"): _INVOKE_RESPONSE,
    ("post", "/models/{name}/invoke"): _INVOKE_RESPONSE,
    ("get", "/metrics"): {TEXT: 'sagehound_photos_total{model="dogs",outcome="answered"} 41.0\n'},
    ("get", "/card"): {TEXT: _CARD},
    ("get", "/models/{name}/card"): {TEXT: _CARD},
    ("get", "/models"): {JSON: {"models": [_MODEL], "feedback": False}},
    ("post", "/models"): {JSON: _MODEL},
    ("get", "/models/{name}"): {
        JSON: _MODEL | {"device": "cpu", "card": {"format": 2, "classes": ["Beagle", "Dingo"]}}
    },
    ("delete", "/models/{name}"): {JSON: {}},
    ("post", "/models/{name}/explain"): {
        JSON: {"label": "Beagle", "probability": 0.92, "importance": [[0.01] * 7] * 6 + [[0.2] * 7]}
    },
    ("post", "/models/{name}/feedback"): {JSON: {"file": "photos/Beagle/5f0b1c5ad2a1c0de.jpeg"}},
    ("get", "/v2"): {JSON: {"name": "sagehound", "version": "0.1.0", "extensions": ["binary_tensor_data"]}},
    ("get", "/v2/models/{name}"): {
        JSON: {
            "name": "dogs",
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "photos", "datatype": "BYTES", "shape": [-1]}],
            "outputs": [
                {"name": "label", "datatype": "BYTES", "shape": [-1]},
                {"name": "probability", "datatype": "FP32", "shape": [-1]},
                {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
                {"name": "unknown_score", "datatype": "FP32", "shape": [-1]},
            ],
            "parameters": {"classes": ["Beagle", "Dingo"], "pixels": [-1, 224, 224, 3]},
        }
    },
    ("get", "/v2/models/{name}/ready"): {JSON: {"name": "dogs", "ready": True}},
    ("post", "/v2/models/{name}/infer"): {
        JSON: {
            "model_name": "dogs",
            "id": "7",
            "outputs": [
                {"name": "label", "datatype": "BYTES", "shape": [1], "data": ["Beagle"]},
                {"name": "probability", "datatype": "FP32", "shape": [1], "data": [0.92]},
                {"name": "probabilities", "datatype": "FP32", "shape": [1, 2], "data": [0.92, 0.08]},
                {"name": "unknown_score", "datatype": "FP32", "shape": [1], "data": [0.21]},
            ],
        }
    },
}
_FAILURES = {  # code and message by status
    "400": ("bad_photo", "not an image file"),
    "403": ("forbidden", "models are loaded and deleted from the server's own machine, or with its token"),
    "404": ("unknown_model", "no model 'cats' is loaded; loaded: dogs"),
    "406": ("not_acceptable", "Accept: image/png: choose application/json, application/jsonlines or text/csv"),
    "408": ("too_slow", "the body did not come within 20 s"),
    "409": ("already_loaded", "a model 'dogs' is loaded already"),
    "413": ("too_large", "a body of more than 26,214,400 bytes: send less at a time"),
    "415": ("unsupported_content_type", "content type 'text/plain': send image/jpeg"),
    "500": ("model_hung", "no model returns: restart the server"),
    "501": ("one_process", "a server with several processes keeps the models that it started with"),
    "503": ("busy", "512 requests are being answered; try again in a second"),
    "507": ("no_memory", "the model does not fit into memory"),
}


def add(description: dict[str, Any]) -> None:
    """Add an example to each body in JSON or text of a description in OpenAPI."""
    for method, path, operation in operations(description):
        for media, content in operation.get("requestBody", {}).get("content", {}).items():
            _put(content, _REQUESTS.get((method, path), {}), media)
        for status, response in operation["responses"].items():
            examples = _RESPONSES.get((method, path), {}) if status == "200" else _failure(status, path)
            for media, content in response.get("content", {}).items():
                _put(content, examples, media)


def operations(description: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield method, path and description of each operation."""
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def _failure(status: str, path: str) -> dict[str, Any]:
    code, message = _FAILURES[status]
    is_v2 = path.startswith("/v2/models")
    return {JSON: {"error": message if is_v2 else {"code": code, "message": message}, "request_id": _ID}}


def _put(content: dict[str, Any], examples: dict[str, Any], media: str) -> None:
    if media in examples:
        content["example"] = examples[media]
