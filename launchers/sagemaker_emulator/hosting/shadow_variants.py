"""Shadow variants: they get copies of requests, and their responses are thrown away."""

import random
import threading
import time
from collections.abc import Mapping

from sagemaker_emulator.errors import JobFailed
from sagemaker_emulator.hosting.data_capture import capture
from sagemaker_emulator.hosting.deployment import Deployment
from sagemaker_emulator.hosting.endpoints import Endpoints
from sagemaker_emulator.hosting.invocation_metrics import InvocationMetrics
from sagemaker_emulator.hosting.model_container import NoReply, Reply
from sagemaker_emulator.processes.containers import Containers
from sagemaker_emulator.processes.tasks import Tasks
from sagemaker_emulator.storage.records import Record
from sagemaker_emulator.storage.transfers import Transfers
from sagemaker_emulator.web import Request

_MOST = 64  # copies in progress; more are dropped, so that a slow shadow variant costs the caller nothing


class ShadowVariants:
    """Sends copies of requests in the background."""

    def __init__(
        self,
        endpoints: Endpoints,
        containers: Containers,
        transfers: Transfers,
        tasks: Tasks,
        metrics: InvocationMetrics,
    ) -> None:
        self._endpoints, self._containers, self._transfers, self._tasks = endpoints, containers, transfers, tasks
        self._metrics = metrics
        self._free = threading.BoundedSemaphore(_MOST)

    def copy(self, deployment: Deployment, call: Request, headers: Mapping[str, str]) -> None:
        """Send a request to the shadow variants that sample it, and return at once.

        The share of the requests that a shadow variant gets is its weight divided by that of the production variant, 1
        at most. AWS's API reference does not say it; this is from memory.

        Args:
            deployment: that serves the request; its containers run until the copy is processed.
            call: the request.
            headers: those that containers get.
        """
        for shadow in deployment.shadows:
            weight = sum(v["InitialVariantWeight"] for v in deployment.variants)
            if random.random() * weight >= shadow["InitialVariantWeight"]:
                continue
            if not self._free.acquire(blocking=False):
                line = f"{_MOST} requests wait for {shadow['VariantName']}: one more is dropped"
                self._endpoints.log(deployment.endpoint, line)
                continue
            deployment.begin()
            self._tasks.background(self._send, deployment, shadow, call, headers)

    def _send(self, deployment: Deployment, shadow: Record, call: Request, headers: Mapping[str, str]) -> None:
        try:
            started = time.monotonic()
            reply = self._reply(deployment, shadow, call.body, headers)
            latency = time.monotonic() - started
            self._metrics.add(deployment, shadow, reply.status, latency, 0.0)
            config = deployment.config.get("DataCaptureConfig")
            if config and 200 <= reply.status < 300:
                answer = ({"Content-Type": reply.headers.get("Content-Type", "application/octet-stream")}, reply.body)
                capture(self._transfers, config, deployment.endpoint, shadow["VariantName"], call, answer)
        except JobFailed as error:
            self._endpoints.log(deployment.endpoint, f"data capture: {error}")
        finally:
            deployment.finish()
            self._free.release()

    def _reply(self, deployment: Deployment, shadow: Record, body: bytes, headers: Mapping[str, str]) -> Reply:
        """The container's response; status 0: it did not respond."""
        try:
            return deployment.server(shadow).invoke(body, headers, self._containers.settings.response)
        except NoReply:
            return Reply(0, {}, b"")
