"""Requests of tests to the emulator itself: faults, spot interruptions, quotas, counts."""

import re
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any

from sagemaker_emulator.errors import ApiError

KINDS = ("throttle", "error", "expired_token", "timeout", "drop")
_LONGEST = 86_400  # seconds of a timeout
_TYPES: dict[str, tuple[type, ...]] = {  # types of the members of rules
    "operation": (str,),
    "kind": (str,),
    "job": (str,),
    "log": (str,),
    "times": (int,),
    "after": (bool,),
    "seconds": (float, int, type(None)),
}


@dataclass
class Fault:
    """A fault of the next requests for an operation."""

    operation: str  # CreateTrainingJob, s3:PutObject, or * for every one
    kind: str  # one of KINDS
    times: int = 1
    after: bool = False  # the operation is executed, and its response is lost
    seconds: float | None = None  # for kind timeout; None: the setting


@dataclass
class Interruption:
    """A spot job loses its instance when its log contains a text."""

    job: str  # a regex of the job's name
    log: str  # a text in a line
    times: int = 1


class Control:
    """State that clients set through ``/_emulator/...`` and services read. It is lost at a restart."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._interruptions: list[Interruption] = []
        self._quotas: dict[str, int] = {}
        self._served: Counter[str] = Counter()

    def handle(self, method: str, what: str, content: Any) -> Any:  # noqa: ANN401 - JSON's
        """A request to ``/_emulator/<what>``: POST adds, DELETE clears, GET returns.

        Raises:
            ApiError: ``what`` is unknown, or the content does not fit.
        """
        parts: dict[str, tuple[Any, type | None]] = {
            "faults": (self._faults, Fault),
            "interruptions": (self._interruptions, Interruption),
            "quotas": (self._quotas, None),
            "requests": (self._served, None),
        }
        if what not in parts:
            raise ApiError("NotFound", f"/_emulator/{what}: choose from {', '.join(parts)}", 404)
        state, kind = parts[what]
        with self._lock:
            if method == "DELETE":
                state.clear()
            elif method == "POST" and kind is not None:
                state.extend(_read(kind, content))
            elif method == "POST" and what == "quotas" and isinstance(content, dict):
                quotas = {str(k): int(v) for k, v in content.items()}
                if negative := [k for k, v in quotas.items() if v < 0]:
                    raise ApiError("ValidationException", f"{', '.join(negative)}: a quota must not be negative")
                state.update(quotas)
            elif method != "GET":
                raise ApiError("NotAllowed", f"/_emulator/{what} takes no {method} with this content", 405)
            return dict(state) if kind is None else [vars(rule) for rule in state]

    def count(self, operation: str) -> None:
        """Count an executed operation."""
        with self._lock:
            self._served[operation] += 1

    def fault(self, operation: str) -> Fault | None:
        """The fault of this request, if any; uses up one of its times."""
        with self._lock:
            matching: Fault | None = _take(self._faults, lambda f: f.operation in ("*", operation))
            return matching

    def interrupts(self, job: str, line: str) -> bool:
        """Whether this line of a spot job's log interrupts it; uses up one of the interruption's times."""
        with self._lock:
            interruption = _take(self._interruptions, lambda i: i.log in line and re.search(i.job, job) is not None)
            return interruption is not None

    def quota(self, instance: str, default: int) -> int:
        """The number of instances of a type that may run at once."""
        with self._lock:
            return self._quotas.get(instance, default)


def _take(rules: list[Any], fits: Any) -> Any:  # noqa: ANN401 - one of two kinds of rule
    for rule in rules:
        if rule.times > 0 and fits(rule):
            rule.times -= 1
            if rule.times == 0:
                rules.remove(rule)
            return rule
    return None


def _read(kind: type, content: Any) -> list[Any]:  # noqa: ANN401 - JSON's
    """Rules from JSON: one, or a list of them."""
    try:
        rules = [kind(**rule) for rule in (content if isinstance(content, list) else [content])]
    except TypeError as error:
        raise ApiError("ValidationException", f"{kind.__name__}: {error}") from error
    for rule in rules:
        for name, types in _TYPES.items():
            if not isinstance(getattr(rule, name, types[0]()), types):
                raise ApiError("ValidationException", f"{name}={getattr(rule, name)!r}: it must be {types[0].__name__}")
        if rule.times < 0:
            raise ApiError("ValidationException", f"times={rule.times}: it must not be negative")
        if isinstance(rule, Fault) and not 0 <= (rule.seconds or 0) <= _LONGEST:
            raise ApiError("ValidationException", f"seconds={rule.seconds}: it must be from 0 to {_LONGEST}")
        if isinstance(rule, Fault) and rule.kind not in KINDS:
            raise ApiError("ValidationException", f"kind={rule.kind}: choose from {', '.join(KINDS)}")
        if isinstance(rule, Interruption):
            try:
                re.compile(rule.job)
            except re.error as error:
                raise ApiError("ValidationException", f"job={rule.job}: not a regex: {error}") from error
    return rules
