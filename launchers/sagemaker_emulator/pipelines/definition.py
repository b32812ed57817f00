"""Pipeline definitions, in the schema 2020-12-01 that SageMaker's SDKs write, checked before anything runs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeAlias

from sagemaker_emulator.errors import invalid

Json: TypeAlias = Any

VERSION = "2020-12-01"
TYPES = ("Training", "Tuning", "Processing", "Transform", "Model", "RegisterModel", "Condition", "Fail")
COMPARISONS = ("Equals", "GreaterThan", "GreaterThanOrEqualTo", "LessThan", "LessThanOrEqualTo")
CONDITIONS = (*COMPARISONS, "In", "Not", "Or")
_CASTS = {"String": str, "Integer": int, "Float": float, "Boolean": lambda text: {"true": True, "false": False}[text]}


@dataclass(frozen=True)
class Step:
    """One step."""

    name: str
    type: str
    content: Mapping[str, Json]  # as the definition has it
    after: frozenset[str]  # steps that must succeed before
    branch: tuple[str, bool] | None  # the condition and the outcome that lead to it

    @property
    def arguments(self) -> Mapping[str, Json]:
        """The request of its job, with references."""
        arguments: Mapping[str, Json] = self.content.get("Arguments", {})
        return arguments


@dataclass(frozen=True)
class Definition:
    """A checked definition."""

    parameters: Mapping[str, Mapping[str, Json]]  # Type, DefaultValue and EnumValues by name
    steps: Mapping[str, Step]  # also those inside of conditions


def parse(text: str) -> Definition:
    """Read and check a definition.

    Raises:
        ApiError: it is not JSON, a part is missing or of another type, its version or a step's type is not known, a
            name occurs twice, a reference names nothing, or steps wait for each other.
    """
    try:
        return _parse(json.loads(text))
    except RecursionError:
        problem = "it is nested too deeply"
    except ValueError as error:
        problem = f"it is not JSON: {error}"
    except KeyError as error:
        problem = f"{error} is missing"
    except (AttributeError, TypeError) as error:
        problem = f"a part has another type than the schema's: {error}"
    raise invalid(f"Unable to parse pipeline definition: {problem}.")


def _parse(content: Json) -> Definition:
    if not isinstance(content, dict) or content.get("Version") != VERSION:
        raise invalid(f"Unable to parse pipeline definition: Version must be {VERSION}.")
    if not content.get("Steps"):
        raise invalid("Unable to parse pipeline definition: it has no Steps.")
    parameters: dict[str, Mapping[str, Json]] = {}
    for parameter in content.get("Parameters", []):
        name = parameter["Name"]
        if name in parameters:
            raise invalid(f"Parameter {name} is defined twice.")
        if parameter["Type"] not in _CASTS:
            raise invalid(f"Parameter {name}: Type must be one of {', '.join(_CASTS)}.")
        parameters[name] = parameter
    steps: dict[str, Step] = {}
    for step in _flat(content["Steps"], None):
        if step.name in steps:
            raise invalid(f"Step name {step.name} is used twice; names must be unique within a pipeline.")
        steps[step.name] = step
    _check_references(parameters, steps)
    return Definition(parameters, steps)


def values(definition: Definition, given: Sequence[Mapping[str, str]]) -> dict[str, Json]:
    """The value of each parameter of an execution: the given one, or the default.

    Raises:
        ApiError: a parameter is unknown, missing, or has a value of another type.
    """
    texts = {p["Name"]: p["Value"] for p in given}
    if unknown := texts.keys() - definition.parameters.keys():
        raise invalid(f"Unknown parameters: {', '.join(sorted(unknown))}.")
    result = {}
    for name, parameter in definition.parameters.items():
        if name not in texts and "DefaultValue" not in parameter:
            raise invalid(f"Parameter {name} has no default value: give one.")
        value = texts.get(name, parameter.get("DefaultValue"))
        text = str(value).lower() if parameter["Type"] == "Boolean" else str(value)
        try:
            result[name] = _CASTS[parameter["Type"]](text)  # type: ignore[operator]
        except (ValueError, KeyError) as error:
            raise invalid(f"Parameter {name}: {value} is not of type {parameter['Type']}.") from error
        allowed = parameter.get("EnumValues")
        if allowed and result[name] not in allowed:
            raise invalid(f"Parameter {name}: {value} is not one of {', '.join(map(str, allowed))}.")
    return result


def references(value: Json) -> Iterator[str]:
    """The text of each ``{"Get": ...}`` inside a value."""
    if isinstance(value, Mapping):
        if isinstance(value.get("Get"), str) and len(value) == 1:
            yield value["Get"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def step_of(reference: str) -> str | None:
    """The name of the step that ``Steps.NAME...`` names."""
    if not reference.startswith("Steps."):
        return None
    return reference.removeprefix("Steps.").partition(".")[0].partition("[")[0]


def _flat(steps: Sequence[Mapping[str, Json]], branch: tuple[str, bool] | None) -> Iterator[Step]:
    for content in steps:
        name, kind = str(content.get("Name", "")), str(content.get("Type", ""))
        if not name:
            raise invalid("A step has no Name.")
        if kind not in TYPES:
            raise invalid(
                f"Step {name}: the emulator does not execute steps of type {kind}; it has {', '.join(TYPES)}."
            )
        own = {k: v for k, v in content.get("Arguments", {}).items() if k not in ("IfSteps", "ElseSteps")}
        needed = {s for r in references(own) if (s := step_of(r))}
        yield Step(name, kind, content, frozenset(needed | set(content.get("DependsOn", []))), branch)
        if kind == "Condition":
            _check_conditions(name, own.get("Conditions", []))
            for key, outcome in (("IfSteps", True), ("ElseSteps", False)):
                yield from _flat(content["Arguments"].get(key, []), (name, outcome))


def _check_conditions(name: str, conditions: Sequence[Mapping[str, Json]]) -> None:
    for condition in conditions:
        if condition.get("Type") not in CONDITIONS:
            raise invalid(f"Step {name}: there is no condition {condition.get('Type')}; use {', '.join(CONDITIONS)}.")
        _check_conditions(name, condition.get("Conditions", []))
        _check_conditions(name, [condition[key] for key in ("Expression", "Condition") if key in condition])


def _check_references(parameters: Mapping[str, Json], steps: Mapping[str, Step]) -> None:
    for step in steps.values():
        if unknown := step.after - steps.keys():
            raise invalid(f"Step {step.name} refers to {', '.join(sorted(unknown))}, which is no step of the pipeline.")
        for reference in references(dict(step.content)):
            kind, _, rest = reference.partition(".")
            if kind == "Parameters" and rest not in parameters:
                raise invalid(f"Step {step.name} refers to the parameter {rest}, which the pipeline does not have.")
            if kind not in ("Parameters", "Steps", "Execution"):
                raise invalid(f"Step {step.name}: {reference} is neither of Parameters, Steps nor Execution.")
    order = {s.name: {*s.after, *([s.branch[0]] if s.branch else [])} for s in steps.values()}
    try:
        TopologicalSorter(order).prepare()
    except CycleError as error:
        raise invalid(f"Steps wait for each other: {' -> '.join(error.args[1])}.") from error
