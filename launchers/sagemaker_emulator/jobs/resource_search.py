"""Search: jobs, endpoints, packages and pipelines by their members."""

import operator
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from sagemaker_emulator.errors import invalid
from sagemaker_emulator.request_validation import service_model
from sagemaker_emulator.storage.listing import page
from sagemaker_emulator.storage.records import Record, Records
from sagemaker_emulator.storage.tags import Tags

_KINDS = {  # by Resource: the kind of its records, and the member with its ARN
    "TrainingJob": ("training-job", "TrainingJobArn"),
    "HyperParameterTuningJob": ("tuning-job", "HyperParameterTuningJobArn"),
    "Endpoint": ("endpoint", "EndpointArn"),
    "ModelPackage": ("model-package", "ModelPackageArn"),
    "ModelPackageGroup": ("model-package-group", "ModelPackageGroupArn"),
    "Pipeline": ("pipeline", "PipelineArn"),
    "PipelineExecution": ("pipeline-execution", "PipelineExecutionArn"),
}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "GreaterThan": operator.gt,
    "GreaterThanOrEqualTo": operator.ge,
    "LessThan": operator.lt,
    "LessThanOrEqualTo": operator.le,
}


class Search:
    """The operation Search."""

    def __init__(self, records: Records, tags: Tags) -> None:
        self._records, self._tags = records, tags

    def Search(self, request: Record) -> Record:
        """One page of the resources that fit an expression, by default the one changed last first."""
        resource = request["Resource"]
        if resource not in _KINDS:
            raise invalid(f"The emulator searches {', '.join(_KINDS)}, not {resource}.")
        kind, arn = _KINDS[resource]
        # its name may differ from the resource's
        shape = service_model("sagemaker").shape_for("SearchRecord").members[resource]
        expression = _with_seconds(request.get("SearchExpression", {}), shape)
        shown = []
        for record in self._records.all(kind):
            item = {k: v for k, v in record.items() if k in shape.members}
            item["Tags"] = self._tags.of(record[arn])
            if _fits(expression, item):
                shown.append(item)
        key = request.get("SortBy", "LastModifiedTime")
        present = [item for item in shown if _values(item, key)]
        present.sort(key=lambda item: _sort_key(_values(item, key)[0]), reverse=request.get("SortOrder") != "Ascending")
        rest = [item for item in shown if not _values(item, key)]
        hits = {"TotalHits": {"Value": len(shown), "Relation": "EqualTo"}}
        return page(request, "Results", [{resource: item} for item in [*present, *rest]]) | hits


def _with_seconds(expression: Record, shape: Any, inside: str = "") -> Record:  # noqa: ANN401 - botocore ships no types
    """An expression in which times, which AWS takes in ISO 8601, are seconds since 1970 as in records."""

    def converted(condition: Record) -> Record:
        name = condition["Name"] if condition["Name"].startswith(inside) else inside + condition["Name"]
        if "Value" not in condition or not _is_time(shape, name) or _number(condition["Value"]) is not None:
            return condition
        try:
            moment = datetime.fromisoformat(condition["Value"])
        except ValueError as error:
            raise invalid(f"Filter {name}: {condition['Value']} is not a time in ISO 8601.") from error
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return condition | {"Value": str(moment.timestamp())}

    nested = [
        n | {"Filters": _with_seconds({"Filters": n["Filters"]}, shape, f"{n['NestedPropertyName']}.")["Filters"]}
        for n in expression.get("NestedFilters", [])
    ]
    return expression | {
        "Filters": [converted(f) for f in expression.get("Filters", [])],
        "NestedFilters": nested,
        "SubExpressions": [_with_seconds(e, shape) for e in expression.get("SubExpressions", [])],
    }


def _is_time(shape: Any, name: str) -> bool:  # noqa: ANN401 - botocore ships no types
    for part in name.split("."):
        while shape.type_name == "list":
            shape = shape.member
        if shape.type_name != "structure" or part not in shape.members:
            return False
        shape = shape.members[part]
    return bool(shape.type_name == "timestamp")


def _fits(expression: Record, item: Record) -> bool:
    """Whether a record fits; And, unless Operator is Or."""
    results = [_passes(f, item) for f in expression.get("Filters", [])]
    results += [_fits(e, item) for e in expression.get("SubExpressions", [])]
    for nested in expression.get("NestedFilters", []):
        start = f"{nested['NestedPropertyName']}."
        filters = [f | {"Name": f["Name"].removeprefix(start)} for f in nested["Filters"]]
        elements = _values(item, nested["NestedPropertyName"])
        results.append(any(all(_passes(f, element) for f in filters) for element in elements))
    return any(results) if expression.get("Operator") == "Or" and results else all(results)


def _passes(condition: Record, item: Record) -> bool:
    values = _values(item, condition["Name"])
    kind, wanted = str(condition.get("Operator", "Equals")), condition.get("Value")
    if kind in ("Exists", "NotExists"):
        return bool(values) == (kind == "Exists")
    if wanted is None:
        raise invalid(f"Filter {condition['Name']}: {kind} needs a Value.")
    if kind == "NotEquals":
        return all(str(v) != str(wanted) for v in values)
    if kind == "Contains":
        return any(str(wanted).lower() in str(v).lower() for v in values)
    if kind == "In":
        return any(str(v) in str(wanted).split(",") for v in values)
    if kind == "Equals":
        return any(str(v) == wanted or _number(v) == _number(wanted) is not None for v in values)
    limit = _number(wanted)
    numbers = [n for v in values if (n := _number(v)) is not None]
    if limit is None:
        raise invalid(f"Filter {condition['Name']}: {wanted} is not a number.")
    return any(_COMPARE[kind](number, limit) for number in numbers)


def _values(item: Any, name: str) -> list[Any]:  # noqa: ANN401 - JSON's
    """The values at a path such as HyperParameters.lr, Metrics.acc, Tags.team or InputDataConfig."""
    if name.startswith("Metrics."):
        wanted = name.removeprefix("Metrics.")
        return [m["Value"] for m in item.get("FinalMetricDataList", []) if m["MetricName"] == wanted]
    if name.startswith("Tags."):
        return [t["Value"] for t in item.get("Tags", []) if t["Key"] == name.removeprefix("Tags.")]
    return list(_walk(item, name))


def _walk(value: Any, name: str) -> Iterator[Any]:  # noqa: ANN401 - JSON's
    if isinstance(value, list):
        for element in value:
            yield from _walk(element, name)
    elif not name:
        yield value
    elif isinstance(value, dict) and name in value:  # the name of a hyperparameter may have a dot
        yield from _walk(value[name], "")
    elif isinstance(value, dict):
        first, _, rest = name.partition(".")
        if first in value and rest:
            yield from _walk(value[first], rest)


def _sort_key(value: object) -> tuple[bool, float, str]:
    """Numbers in their order, then texts in theirs."""
    number = _number(value)
    return number is None, number or 0.0, str(value)


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None
