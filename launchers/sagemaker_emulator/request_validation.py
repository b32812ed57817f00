"""Validates requests offline, with the service models in botocore.

botocore itself checks required members, types and minimums. This module also checks enums, patterns and maximums, as
the service does.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from sagemaker_emulator.errors import invalid

_LONGEST_TEXT = 60  # characters of a value in a message
_CLASSES = {  # Python has no \p; AWS's model uses L, N and _ together only, as \w does
    r"\p{L}": r"\w",
    r"\p{N}": r"\w",
    r"\p{Z}": " \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000",
}


@cache
def service_model(service: str) -> Any:  # noqa: ANN401 - botocore ships no types
    """Botocore's model of a service, read once."""
    import botocore.session

    return botocore.session.get_session().get_service_model(service)


def problems(operation: str, request: dict[str, Any], service: str = "sagemaker") -> list[str]:
    """The problems of a request, a line each with the member's path; empty if it is valid.

    Args:
        operation: AWS's name: CreateTrainingJob.
        request: the request.
        service: boto3's name of the service.
    """
    from botocore.validate import ParamValidator

    shape = service_model(service).operation_model(operation).input_shape
    report = ParamValidator().validate(request, shape).generate_report()
    return [*report.splitlines(), *_broken(shape, request, "")]


def check(operation: str, request: dict[str, Any]) -> None:
    """Check a request to SageMaker.

    Raises:
        ApiError: it is not valid; the message lists every problem.
    """
    try:
        wrong = problems(operation, request)
    except RuntimeError as error:  # of botocore: a time too far away; or nested too deeply, a RecursionError
        wrong = ["it is nested too deeply" if isinstance(error, RecursionError) else str(error)]
    if wrong:
        count = "1 validation error" if len(wrong) == 1 else f"{len(wrong)} validation errors"
        raise invalid(f"{count} detected: {'; '.join(wrong)}")


def _broken(shape: Any, value: Any, path: str) -> Iterator[str]:  # noqa: ANN401 - botocore ships no types
    """Check maximums, enums and patterns recursively; botocore reports wrong types."""
    most = shape.metadata.get("max")
    if shape.type_name == "structure" and isinstance(value, dict):
        for name in value.keys() & shape.members.keys():
            yield from _broken(shape.members[name], value[name], f"{path}.{name}".lstrip("."))
    elif shape.type_name == "list" and isinstance(value, list | tuple):
        if most is not None and len(value) > most:
            yield f"{path}: {len(value)} items, at most {most} are allowed"
        for i, item in enumerate(value):
            yield from _broken(shape.member, item, f"{path}[{i}]")
    elif shape.type_name == "map" and isinstance(value, dict):
        if most is not None and len(value) > most:
            yield f"{path}: {len(value)} entries, at most {most} are allowed"
        for key, item in value.items():
            yield from _broken(shape.key, key, f"{path}'s key")
            yield from _broken(shape.value, item, f"{path}[{key}]")
    elif shape.type_name == "string" and isinstance(value, str):
        yield from _text(shape, value, path)
    elif shape.type_name == "timestamp" and isinstance(value, str):  # botocore reads texts, AWS's protocol has numbers
        yield f"{path}: {value[:_LONGEST_TEXT]!r} is not a number of seconds"
    elif most is not None and isinstance(value, int | float) and value > most:
        yield f"{path}: {value}, at most {most} is allowed"


def _text(shape: Any, value: str, path: str) -> Iterator[str]:  # noqa: ANN401 - botocore ships no types
    shown = value if len(value) <= _LONGEST_TEXT else value[:_LONGEST_TEXT] + "..."
    most, pattern = shape.metadata.get("max"), shape.metadata.get("pattern")
    if most is not None and len(value) > most:
        yield f"{path}: {shown!r} has {len(value)} characters, at most {most} are allowed"
    if shape.enum and value not in shape.enum:
        yield f"{path}: {shown!r} is none of AWS's values ({len(shape.enum)} of them, such as {shape.enum[0]})"
    python = _python(pattern) if pattern else None
    if python and not python.fullmatch(value):
        yield f"{path}: {shown!r} does not have the form {pattern}"


@cache
def _python(pattern: str) -> re.Pattern[str] | None:
    """Convert a Java pattern of AWS to Python; None for the few that Python cannot read."""
    for java, python in _CLASSES.items():
        pattern = pattern.replace(java, python)
    try:
        pattern = re.sub(r"\$\{\d+,\d+\}", "$", pattern)  # Java may repeat the end
        return re.compile(pattern.replace(r"\z", r"\Z"), re.DOTALL)
    except re.error:
        return None
