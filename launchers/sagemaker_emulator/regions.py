"""SageMaker in each region that clients use: services, records and logs of its own."""

import re
import threading
from collections.abc import Callable, Iterable
from typing import Any

from sagemaker_emulator.aws_services import AwsServices
from sagemaker_emulator.errors import ApiError
from sagemaker_emulator.identity import Identity
from sagemaker_emulator.request_validation import service_model
from sagemaker_emulator.storage.records import Records

_NAME = re.compile(r"[a-z]{2,}(-[a-z]+)+-\d+")


class Region:
    """One region: the methods of its services by operation.

    ``operations`` take a request of SageMaker's API. ``handlers`` take one of its runtime; ``routes`` has their paths.
    """

    def __init__(self, services: list[Any], records: Records, aws: AwsServices, identity: Identity) -> None:
        self.records, self.aws, self.identity = records, aws, identity
        self._services = services
        known = set(service_model("sagemaker").operation_names)
        self.operations: dict[str, Callable[..., Any]] = {}
        self.handlers: dict[str, Callable[..., Any]] = {}
        self.routes: list[tuple[re.Pattern[str], str]] = []
        for service in services:
            routes: dict[str, str] = getattr(service, "ROUTES", {})
            self.operations |= {name: getattr(service, name) for name in known & set(dir(service))}
            self.handlers |= {name: getattr(service, name) for name in routes.values()}
            self.routes += [(re.compile(pattern), name) for pattern, name in routes.items()]

    def recover(self) -> None:
        """Let the services recover from an earlier run."""
        for service in self._services:
            if hasattr(service, "recover"):
                service.recover()

    def close(self) -> None:
        """Let the services end their jobs."""
        for service in reversed(self._services):
            if hasattr(service, "close"):
                service.close()


class Regions:
    """All regions; one is made when a client first uses it."""

    def __init__(self, make: Callable[[str], Region], first: str) -> None:
        """Make the first region.

        Args:
            make: makes a region by its name.
            first: the region of requests that are not signed.
        """
        self._make, self._lock = make, threading.Lock()
        self.name, self.first = first, make(first)
        self._regions = {first: self.first}

    def get(self, name: str | None) -> Region:
        """The region of a request.

        Raises:
            ApiError: AWS has no region of such a name.
        """
        if name is None:
            return self.first
        with self._lock:
            if name not in self._regions:
                if not _NAME.fullmatch(name):
                    message = f"Credential should be scoped to a valid region, not '{name}'."
                    raise ApiError("InvalidSignatureException", message)
                made = self._make(name)
                made.recover()
                self._regions[name] = made
            return self._regions[name]

    def all(self) -> dict[str, Region]:
        """All regions by name."""
        with self._lock:
            return dict(self._regions)

    def recover(self, others: Iterable[str]) -> None:
        """Let the first region and those of an earlier run recover."""
        self.first.recover()
        for name in others:
            self.get(name)

    def close(self) -> None:
        """Let all regions end their jobs."""
        for region in self.all().values():
            region.close()
