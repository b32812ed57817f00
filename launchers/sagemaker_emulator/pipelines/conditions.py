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
        JobFailed: its values cannot be compared.
    """
    kind = condition["Type"]
    if kind == "Not":
        return not holds(
            condition["Expression"] if "Expression" in condition else condition["Condition"]
        )  # or the SDK's
    if kind == "Or":
        return any(holds(c) for c in condition["Conditions"])
    if kind == "In":
        return condition["QueryValue"] in condition["Values"]
    left, right = condition["LeftValue"], condition["RightValue"]
    try:
        return _COMPARE[kind](left, right)
    except TypeError as error:
        raise JobFailed(f"ClientError: {left!r} and {right!r} cannot be compared by {kind}") from error
