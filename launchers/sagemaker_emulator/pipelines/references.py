"""Replaces references of a definition by values: Get, Std:Join and Std:JsonGet."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from sagemaker_emulator.errors import JobFailed
from sagemaker_emulator.pipelines.definition import Json, references, step_of

_PROPERTY_FILE = re.compile(r"Steps\.([^.]+)\.PropertyFiles\.([^.]+)")
_PART = re.compile(r"\[(\d+)\]|\[['\"]([^'\"]+)['\"]\]|\.?([^.\[\]]+)")


class References:
    """What the references of one execution stand for."""

    def __init__(
        self,
        parameters: Mapping[str, Json],
        execution: Mapping[str, str],
        describe: Callable[[str], Json],
        property_file: Callable[[str, str], str],
        read: Callable[[str], str],
    ) -> None:
        """Keep where values come from.

        Args:
            parameters: values by name.
            execution: PipelineName, PipelineExecutionId, ...
            describe: the description of a step's job, by the step's name.
            property_file: the S3 address of a property file, by the names of its step and of the file.
            read: the text of an object in S3.
        """
        self._parameters, self._execution = parameters, execution
        self._describe, self._property_file, self._read = describe, property_file, read

    def resolve(self, value: Json) -> Json:
        """A value without references.

        Raises:
            JobFailed: a reference names nothing, or has not the form of one.
        """
        if isinstance(value, list):
            return [self.resolve(v) for v in value]
        if not isinstance(value, Mapping):
            return value
        if len(value) == 1:
            (key, content), *_ = value.items()
            if key == "Get" and isinstance(content, str):
                return self._get(content)
            if key == "Std:Join":
                return self._join(content)
            if key == "Std:JsonGet":
                return self._json(content)
        return {k: self.resolve(v) for k, v in value.items()}

    def _get(self, reference: str) -> Json:
        kind, _, rest = reference.partition(".")
        if kind == "Parameters":
            return self._parameters[rest]
        if kind == "Execution":
            if rest not in self._execution:
                raise JobFailed(f"ClientError: there is no execution variable {rest}")
            return self._execution[rest]
        step = step_of(reference) or ""
        return look_up(self._describe(step), reference.removeprefix(f"Steps.{step}"), reference)

    def _join(self, content: Json) -> str:
        values = content.get("Values") if isinstance(content, Mapping) else None
        if not isinstance(values, list) or not isinstance(content.get("On", ""), str):
            raise JobFailed(f"ClientError: Std:Join needs a text On and a list Values, not {json.dumps(content)[:200]}")
        return str(content.get("On", "")).join(_text(self.resolve(v)) for v in values)

    def _json(self, content: Json) -> Json:
        if not isinstance(content, Mapping) or "Path" not in content or not {"PropertyFile", "S3Uri"} & content.keys():
            shown = json.dumps(content)[:200]
            raise JobFailed(f"ClientError: Std:JsonGet needs a Path, and a PropertyFile or an S3Uri, not {shown}")
        if "PropertyFile" in content:
            match = _PROPERTY_FILE.fullmatch(next(references(content["PropertyFile"]), ""))
            if match is None:
                shown = json.dumps(content["PropertyFile"])[:200]
                raise JobFailed(f"ClientError: PropertyFile: {shown} is no reference to Steps.NAME.PropertyFiles.FILE")
            uri = self._property_file(match[1], match[2])
        else:
            uri = str(self.resolve(content["S3Uri"]))
        try:
            document = json.loads(self._read(uri))
        except ValueError as error:
            raise JobFailed(f"ClientError: {uri} is not JSON: {error}") from error
        return look_up(document, str(self.resolve(content["Path"])), f"{content['Path']} of {uri}")


def look_up(value: Json, path: str, shown: str) -> Json:
    """The member at a path such as ``.a.b[0]['c']``. A name selects a list's element by its OutputName or the like.

    Raises:
        JobFailed: there is no such member; the message has ``shown``.
    """
    for match in _PART.finditer(path.removeprefix("$")):
        index, quoted, plain = match.groups()
        try:
            if index is not None:
                value = value[int(index)]
            elif isinstance(value, list):
                value = next(v for v in value if (quoted or plain) in _names(v))
            else:
                value = value[quoted or plain]
        except (LookupError, TypeError, StopIteration) as error:
            raise JobFailed(f"ClientError: Cannot find {shown}: there is no {match[0].lstrip('.')}") from error
    return value


def _names(element: Any) -> list[str]:  # noqa: ANN401 - JSON's
    return [v for k, v in element.items() if k.endswith("Name")] if isinstance(element, Mapping) else []


def _text(value: Json) -> str:
    return json.dumps(value) if isinstance(value, bool | list | dict) else str(value)
