"""Conditions of a Condition step."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

from sagemaker_emulator.errors import JobFailed
from sagemaker_emulator.pipelines.definition import Json

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "Equals": operator.eq,
    "GreaterThan": operator.gt,
    "GreaterThanOrEqualTo": operator.ge,
    "LessThan": operator.lt,
    "LessThanOrEqualTo": operator.le,
}


def holds(condition: Mapping[str, Json]) -> bool:
    """Whether a condition without references is met.

    Raises:
        JobFailed: a member is missing or of another type, or its values cannot be compared.
    """
    kind = condition["Type"]
    if kind == "Not":  # its member is Expression in the schema, Condition in what the SDK writes
        return not holds(_member(condition, "Condition" if "Condition" in condition else "Expression", Mapping))
    if kind == "Or":
        return any(holds(c) for c in _member(condition, "Conditions", list))
    if kind == "In":
        return _member(condition, "QueryValue") in _member(condition, "Values", list)
    left, right = _member(condition, "LeftValue"), _member(condition, "RightValue")
    try:
        return _COMPARE[kind](left, right)
    except TypeError as error:
        raise JobFailed(f"ClientError: {left!r} and {right!r} cannot be compared by {kind}") from error


def _member(condition: Mapping[str, Json], name: str, kind: type = object) -> Json:
    if name not in condition:
        raise JobFailed(f"ClientError: a condition {condition['Type']} has no {name}")
    if not isinstance(condition[name], kind):
        needed = "a list" if kind is list else "a condition"
        raise JobFailed(f"ClientError: {name} of a condition {condition['Type']} is not {needed}: {condition[name]!r}")
    return condition[name]
