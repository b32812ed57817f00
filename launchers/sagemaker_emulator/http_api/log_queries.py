"""FilterLogEvents by the prefix of a stream, which moto ignores: it is passed the names of these streams."""

import json

from moto.backends import get_backend

from sagemaker_emulator.errors import ApiError
from sagemaker_emulator.http_api.json_body import json_object
from sagemaker_emulator.identity import ACCOUNT


def with_stream_names(body: bytes, region: str) -> bytes:
    """The body of a FilterLogEvents request with logStreamNames in place of logStreamNamePrefix.

    Raises:
        ApiError: both are given, or the body or one of its members has another type.
    """
    request = json_object(body)
    for name in ("logStreamNamePrefix", "logGroupName"):
        if not isinstance(request.get(name, ""), str):
            raise ApiError("InvalidParameterException", f"{name} must be a text.")
    prefix = request.pop("logStreamNamePrefix", None)
    group = get_backend("logs")[ACCOUNT][region].groups.get(request.get("logGroupName", ""))
    if prefix is None or group is None:
        return body
    if request.get("logStreamNames"):
        message = "logStreamNames and logStreamNamePrefix cannot both be specified."
        raise ApiError("InvalidParameterException", message)
    names = [name for name in list(group.streams) if name.startswith(prefix)]
    # no stream has the whole prefix as its name, so moto finds none; an empty list would mean all
    return json.dumps(request | {"logStreamNames": names or [prefix]}).encode()
