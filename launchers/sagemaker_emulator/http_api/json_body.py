"""Bodies of requests as JSON, without what Python reads beyond the standard."""

import json
import math
from typing import Any

from sagemaker_emulator.errors import ApiError


def json_body(body: bytes) -> Any:  # noqa: ANN401 - JSON's
    """The content of a body; an empty one is an empty object.

    Raises:
        ApiError: it is not JSON, has a number that is not finite, or is nested too deeply.
    """
    try:
        return json.loads(body or b"{}", parse_constant=_finite, parse_float=_finite)
    except RecursionError as error:
        raise ApiError("SerializationException", "the body is nested too deeply") from error
    except ValueError as error:
        raise ApiError("SerializationException", f"the body is not JSON: {error}") from error


def json_object(body: bytes) -> dict[str, Any]:
    """The members of a body.

    Raises:
        ApiError: as ``json_body``, or it is not an object.
    """
    content = json_body(body)
    if not isinstance(content, dict):
        raise ApiError("SerializationException", "the body is not a JSON object")
    return content


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number
