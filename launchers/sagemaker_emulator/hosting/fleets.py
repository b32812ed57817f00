"""The containers that serve each endpoint. While an update shifts traffic, there are two deployments of an endpoint."""

import random
import threading

from sagemaker_emulator.hosting.deployment import Deployment
from sagemaker_emulator.processes.tasks import Tasks


class Fleets:
    """Deployments by endpoint: the one in service, and that of an update with its share of the requests."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._live: dict[str, Deployment] = {}
        self._new: dict[str, tuple[Deployment, float]] = {}
        self._lock = threading.Lock()  # guards the attributes above

    def begin(self, name: str) -> Deployment | None:
        """Choose the deployment for one request; it runs until its ``finish``. None: the endpoint has none."""
        with self._lock:
            new, share = self._new.get(name, (None, 0.0))
            chosen = new if new and random.random() < share else self._live.get(name)
            if chosen:
                chosen.begin()  # before an update can replace it
            return chosen

    def get(self, name: str) -> Deployment | None:
        """The deployment in service."""
        with self._lock:
            return self._live.get(name)

    def put(self, name: str, deployment: Deployment) -> bool:
        """Put a deployment into service, with all requests; returns False, and stops it, if the emulator ends."""
        with self._lock:
            self._new.pop(name, None)
            if not self._tasks.stopping.is_set():
                self._live[name] = deployment
                return True
        deployment.stop()
        return False

    def shift(self, name: str, deployment: Deployment, share: float) -> None:
        """Send a share of the requests, from 0 to 1, to the deployment of an update."""
        with self._lock:
            self._new[name] = (deployment, share)

    def shift_back(self, name: str) -> None:
        """Send all requests to the deployment in service."""
        with self._lock:
            self._new.pop(name, None)

    def pop(self, name: str) -> Deployment | None:
        """Take a deployment out of service."""
        with self._lock:
            return self._live.pop(name, None)

    def close(self) -> None:
        """Stop all deployments in service."""
        with self._lock:
            live, self._live = list(self._live.values()), {}
        for deployment in live:
            deployment.stop()
