"""The state of each operation of SageMaker's API: executed, kept, passed to moto or refused."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import urllib3

from sagemaker_emulator.request_validation import service_model
from sagemaker_emulator.server import Emulator
from sagemaker_emulator.services import EXECUTED, SERVICES

STATES = {
    "executed": "it acts on jobs and endpoints that really run",
    "kept": "its resource is stored, and nothing runs",
    "moto": "passed to moto, which stores it or invents a response",
    "refused": "error 501, NotImplemented",
}
_REFUSED = 501


def states() -> Iterator[tuple[str, str, str]]:
    """Each operation of the services ``sagemaker`` and ``sagemaker-runtime``: service, operation, state.

    The state of the emulator's own operations comes from the registry in ``services.py``. An empty request to an
    emulator without state shows whether it refuses an operation.
    """
    with tempfile.TemporaryDirectory() as folder, Emulator(Path(folder)) as emulator:
        for service in ("sagemaker", "sagemaker-runtime"):
            model = service_model(service)
            for operation in model.operation_names:
                http = model.operation_model(operation).http
                target = {"X-Amz-Target": f"SageMaker.{operation}"} if service == "sagemaker" else {}
                path = http["requestUri"].replace("{EndpointName}", "none")
                answer = urllib3.request(http["method"], emulator.url + path, body=b"{}", headers=target, retries=False)
                yield service, operation, "refused" if answer.status == _REFUSED else _own(operation)


def _own(operation: str) -> str:
    """The state of an operation that is not refused."""
    for kind in SERVICES:
        if hasattr(kind, operation):
            return "executed" if kind in EXECUTED else "kept"
    return "moto"


def table() -> str:
    """A line for each operation, and the numbers."""
    rows = list(states())
    lines = [f"{state:9} {service:18} {operation}" for service, operation, state in rows]
    order = list(STATES)
    lines.sort(key=lambda line: order.index(line.split()[0]))
    counts = Counter(state for _, _, state in rows)
    numbers = [f"{counts[state]:4} {state}: {meaning}" for state, meaning in STATES.items()]
    return "\n".join([*lines, "", *numbers])
