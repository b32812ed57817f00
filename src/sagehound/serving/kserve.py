"""The Open Inference Protocol (KServe V2) over HTTP.

Specification: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md. Tensors may
also follow the JSON as bytes, by the extension binary_tensor_data of Triton: triton-inference-server/server,
docs/protocol/extension_binary_data.md. Responses are always JSON.
"""

import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import Request

from sagehound.artifact.archive import Card
from sagehound.errors import InputError
from sagehound.inference.formats import PhotoResult, ResponseFormat
from sagehound.inference.preprocessing import Pixels
from sagehound.inference.request_body import JSON, MAX_INSTANCES, decoded
from sagehound.serving.protocols import Asked, Given

_LONG = 2**16  # bytes of a body; longer ones are parsed in a thread
_DIMENSIONS = 4  # of pixels: photos, height, width, colours
_VALUES = 2**18  # of pixels in JSON, a photo of 295 x 295; nothing else runs while Python parses them, 0.03 s
_MARKS = 10 * MAX_INSTANCES  # commas and brackets of other requests
_ALONE = threading.Lock()  # large JSON is parsed one after the other, so that memory is bounded
_KINDS = {"FP32": "<f4", "UINT8": "u1"}  # of pixels, little-endian


def server_metadata(version: str) -> dict[str, Any]:
    """The response of GET /v2."""
    return {"name": "sagehound", "version": version, "extensions": ["binary_tensor_data"]}


def model_metadata(name: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """The response of GET /v2/models/NAME, from its model.json."""
    classes = about["classes"]
    outputs = [("label", "BYTES", [-1]), ("probability", "FP32", [-1])]
    outputs.append(("probabilities", "FP32", [-1, len(classes)]))
    outputs += [("unknown_score", "FP32", [-1])] if "unknown" in about else []
    return {
        "name": name,
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "photos", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": n, "datatype": kind, "shape": shape} for n, kind, shape in outputs],
        "parameters": {"classes": classes, "pixels": [-1, *about["preprocessing"]["size"], 3]},
    }


class Inference:
    """One request for inference; a photo that cannot be read fails the whole request.

    Args:
        name: of the model.
    """

    is_captured = False
    is_explanation = False

    def __init__(self, name: str) -> None:
        self._name = name
        self._id: str | None = None
        self._outputs: list[str] = []  # what the client wants; empty: all

    def response_format(self, request: Request, asked: Asked) -> ResponseFormat:
        """What to compute."""
        self._head = request.headers.get("inference-header-content-length")
        return ResponseFormat(JSON, top_k=1, all=True)

    def completed(self, want: ResponseFormat, card: Card) -> ResponseFormat:
        """With the score of unknown photos if the model has one."""
        return replace(want, unknown=card.thresholds.unknown is not None)

    def is_slow(self, body: bytes) -> bool:
        """JSON is parsed, and base64 or pixels are copied."""
        return len(body) >= _LONG

    def photos(self, body: bytes) -> Given:
        """The photos of a request, or pixels.

        Raises:
            InputError: it is not a request of this protocol, or not one that this model can handle.
        """
        head, rest = self._split(body)
        request = _parsed(head)
        inputs = request.get("inputs")
        if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
            raise InputError('send one input: {"inputs": [{"name": "photos", "shape": [1], "datatype": "BYTES", ...}]}')
        self._id = request["id"] if isinstance(request.get("id"), str) else None
        self._outputs = _names(request.get("outputs") or [])
        photos = _photos(inputs[0], rest)
        if not 0 < len(photos) <= MAX_INSTANCES:
            raise InputError(f"{len(photos)} photos: send 1 to {MAX_INSTANCES:,} in a request")
        names = [f"photo {i + 1} of {len(photos)}" if len(photos) > 1 else None for i in range(len(photos))]
        return Given(photos, True, names)

    def _split(self, body: bytes) -> tuple[bytes, bytes]:
        """The JSON, and the bytes of tensors after it."""
        if self._head is None:
            return body, b""
        if not self._head.isdecimal() or len(self._head) > 18 or int(self._head) > len(body):
            raise InputError("the header Inference-Header-Content-Length is not the length of the JSON")
        return body[: int(self._head)], body[int(self._head) :]

    def encode(self, answers: Sequence[PhotoResult], want: ResponseFormat, given: Given) -> bytes:
        """The response.

        Raises:
            InputError: an output was requested that the model does not have.
        """
        made: dict[str, tuple[str, list[int], list[Any]]] = {
            "label": ("BYTES", [len(answers)], [a["label"] for a in answers]),
            "probability": ("FP32", [len(answers)], [a["probability"] for a in answers]),
        }
        rows = [list(a["probabilities"].values()) for a in answers]
        made["probabilities"] = "FP32", [len(rows), len(rows[0])], [p for row in rows for p in row]
        if want.unknown:
            made["unknown_score"] = "FP32", [len(answers)], [a["unknown_score"] for a in answers]
        unknown = [name for name in self._outputs if name not in made]
        if unknown:
            raise InputError(f"no output {unknown[0]!r}: choose from {', '.join(made)}")
        outputs = [
            {"name": name, "datatype": made[name][0], "shape": made[name][1], "data": made[name][2]}
            for name in self._outputs or made
        ]
        content = {"model_name": self._name} | ({} if self._id is None else {"id": self._id}) | {"outputs": outputs}
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(errors="backslashreplace")


def _names(outputs: Any) -> list[str]:  # noqa: ANN401 - whatever JSON holds
    """The outputs that the client wants."""
    if not isinstance(outputs, list) or not all(
        isinstance(o, dict) and isinstance(o.get("name"), str) for o in outputs
    ):
        raise InputError('outputs must be a list: [{"name": "label"}]')
    names = [o["name"] for o in outputs]
    if len(set(names)) < len(names):
        raise InputError("outputs names one of them twice")
    return names


def _parsed(head: bytes) -> dict[str, Any]:
    marks = sum(map(head.count, (b",", b"[", b"{")))
    if marks > _VALUES:
        raise InputError(f"more than {_VALUES:,} values: send photos as BYTES, or pixels as binary data")
    try:
        if marks > _MARKS:
            with _ALONE:
                content = _with_array(json.loads(head, strict=False))
        else:
            content = json.loads(head, strict=False)
    except (ValueError, RecursionError) as error:
        raise InputError(f"no JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError("the request must be an object")
    return content


def _with_array(content: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    """With a small array in place of the numbers of pixels."""
    inputs = content.get("inputs") if isinstance(content, dict) else None
    for tensor in inputs if isinstance(inputs, list) else ():
        if isinstance(tensor, dict) and tensor.get("datatype") in _KINDS:
            tensor["data"] = _array(tensor.get("data"))
    return content


def _array(data: Any) -> npt.NDArray[np.float32]:  # noqa: ANN401 - whatever JSON holds
    if not isinstance(data, list | np.ndarray):
        raise InputError("the pixels are not numbers: data must be a list")
    try:
        return np.asarray(data, np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"the pixels are not numbers: {error}") from error


def _photos(tensor: Mapping[str, Any], rest: bytes) -> list[bytes | Pixels | InputError]:
    shape, kind = tensor.get("shape"), tensor.get("datatype")
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
        raise InputError("shape must be a list of whole numbers")
    if not 0 < len(shape) <= _DIMENSIONS:
        raise InputError(f"shape has {len(shape):,} numbers: 1 to {_DIMENSIONS} are possible")
    parameters = tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is not None and (type(size) is not int or size != len(rest)):
        raise InputError(f"binary_data_size is {size!r}, but {len(rest):,} bytes follow the JSON")
    if kind == "BYTES":
        photos = list(_elements(rest)) if size is not None else _texts(tensor.get("data"))
        if math.prod(shape) != len(photos):
            raise InputError(f"shape {shape} does not fit {len(photos):,} photos")
        return list(photos)
    if kind not in _KINDS:
        raise InputError(f"datatype {kind!r}: send photos as BYTES, or pixels as {' or '.join(_KINDS)}")
    if size is None:
        values: npt.NDArray[Any] = _array(tensor.get("data"))
    elif size % np.dtype(_KINDS[kind]).itemsize:
        raise InputError(f"{size:,} bytes are no whole number of {kind}")
    else:
        values = np.frombuffer(rest, _KINDS[kind])
    if len(shape) != 4 or shape[0] > MAX_INSTANCES or values.size != math.prod(shape):
        raise InputError(f"shape {shape} does not fit {values.size:,} values: pixels have photos x height x width x 3")
    return list(_pixels(values.reshape(shape)))


def _texts(data: Any) -> list[bytes | InputError]:  # noqa: ANN401 - whatever JSON holds
    if not isinstance(data, list):
        raise InputError("data must be a list of photos in base64")
    while len(data) == 1 and isinstance(data[0], list):  # shape [1, n]
        data = data[0]
    flat = [item for row in data for item in (row if isinstance(row, list) else [row])]
    return [decoded(i) if isinstance(i, str) else InputError("a photo must be text in base64") for i in flat]


def _elements(rest: bytes) -> Iterator[bytes]:
    """Photos as bytes, each after its length as four bytes, little-endian."""
    at = count = 0
    while at < len(rest):
        count += 1
        if count > MAX_INSTANCES:
            raise InputError(f"more than {MAX_INSTANCES:,} photos")
        length = int.from_bytes(rest[at : at + 4], "little")
        if at + 4 + length > len(rest):
            raise InputError("the binary data ends too early (truncated)")
        yield rest[at + 4 : at + 4 + length]
        at += 4 + length


def _pixels(values: npt.NDArray[Any]) -> Pixels:
    """Photos as uint8.

    Raises:
        InputError: the values are not those of 8-bit colours.
    """
    if values.dtype == np.uint8:
        return values
    if not np.isfinite(values).all() or values.size == 0 or values.min() < 0 or values.max() > 255:
        raise InputError("pixels must be RGB between 0 and 255, as they are in the photo: the model normalises them")
    if values.max() <= 1 and (values % 1).any():
        raise InputError("pixels between 0 and 1: multiply them by 255; the model normalises them")
    return values.round().astype(np.uint8)
