"""The containers of an endpoint: one per variant, whatever its number of instances."""

import random
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from sagemaker_emulator.aws_services import AwsServices
from sagemaker_emulator.errors import ApiError, JobFailed
from sagemaker_emulator.hosting.model_container import ModelContainer, NotReady, instance_id
from sagemaker_emulator.hosting.multi_model import MultiModelContainer
from sagemaker_emulator.processes.containers import Containers
from sagemaker_emulator.processes.tasks import Tasks
from sagemaker_emulator.storage.records import Record
from sagemaker_emulator.storage.transfers import Transfers

LOGS = "/aws/sagemaker/Endpoints"


class Deployment:
    """The containers of one version of an endpoint."""

    def __init__(
        self,
        containers: Containers,
        transfers: Transfers,
        aws: AwsServices,
        tasks: Tasks,
        endpoint: str,
        variants: list[Record],
        folder: Path,
    ) -> None:
        """Make it ready to be started.

        Args:
            containers: starts the containers.
            transfers: fetches the models.
            aws: takes the logs.
            tasks: run the threads that restart containers.
            endpoint: name of the endpoint.
            variants: of an endpoint configuration, each with its model's container as ``_Container``.
            folder: a new folder.
        """
        self._containers, self._aws, self._tasks = containers, aws, tasks
        self.endpoint, self._folder = endpoint, folder
        self._set(variants)
        self._servers: dict[str, ModelContainer] = {}
        self._failed: list[JobFailed] = []  # the first one is the reason
        self._in_use, self._served = 0, 0
        self._free = threading.Condition()
        for variant in variants:
            name, model = variant["VariantName"], variant["_Container"]
            kind = MultiModelContainer if model["Mode"] == "MultiModel" else ModelContainer
            log = partial(self._log, f"{name}/{instance_id()}")
            self._servers[name] = kind(containers, transfers, model, folder / name, {}, log)

    @property
    def config(self) -> Record:
        """Settings of the whole endpoint: its configuration's name, AsyncInferenceConfig and DataCaptureConfig."""
        settings: Record = self.variants[0].get("_Config", {})
        return settings

    def change(self, variants: list[Record]) -> None:
        """Change weights and numbers of instances."""
        self._set(variants)

    def _set(self, variants: list[Record]) -> None:
        self.variants = [v for v in variants if not v.get("_Shadow")]
        self.shadows = [v for v in variants if v.get("_Shadow")]

    def start(self) -> None:
        """Start all containers, and wait until they are ready.

        Raises:
            JobFailed: one did not become ready; all are stopped.
        """
        with ThreadPoolExecutor(len(self._servers)) as threads:
            list(threads.map(self._start, [*self.variants, *self.shadows]))
        if self._failed:
            self._stop()
            raise self._failed[0]
        for server in self._servers.values():
            self._tasks.background(server.keep)

    def choose(self, wanted: str | None) -> tuple[Record, ModelContainer]:
        """A production variant and its container: the requested one, or a random one by weight.

        Raises:
            ApiError: there is no such variant.
        """
        if wanted is None:
            weights = [v["InitialVariantWeight"] for v in self.variants]
            most = max(weights)  # the sum of large weights would be infinite
            (variant,) = random.choices(self.variants, [w / most for w in weights] if most else None)
            return variant, self._servers[variant["VariantName"]]
        for variant in self.variants:
            if variant["VariantName"] == wanted:
                return variant, self._servers[wanted]
        raise ApiError("ValidationError", f"Variant {wanted} of endpoint {self.endpoint} not found.")

    @contextmanager
    def slot(self, most: int | None) -> Iterator[bool]:
        """Take a slot for a request that must not wait, and yield whether one of ``most`` was free; None: no limit."""
        with self._free:
            is_free = most is None or self._served < most
            self._served += is_free
        try:
            yield is_free
        finally:
            with self._free:
                self._served -= is_free

    def begin(self) -> None:
        """Begin a request; the containers run until ``finish``."""
        with self._free:
            self._in_use += 1

    def finish(self) -> None:
        """End a request."""
        with self._free:
            self._in_use -= 1
            self._free.notify_all()

    def server(self, shadow: Record) -> ModelContainer:
        """The container of a shadow variant."""
        return self._servers[shadow["VariantName"]]

    def stop(self, seconds: float | None = None) -> None:
        """Stop the containers after the requests in progress.

        Args:
            seconds: that it waits for these requests; None: the time limit of a request.
        """
        until = time.monotonic() + (self._containers.settings.response if seconds is None else seconds)
        with self._free:
            while self._in_use and time.monotonic() < until and not self._tasks.stopping.is_set():
                self._free.wait(0.1)
        self._stop()

    def _stop(self) -> None:
        with ThreadPoolExecutor(len(self._servers)) as threads:
            list(threads.map(ModelContainer.stop, self._servers.values()))
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, variant: Record) -> None:
        name = variant["VariantName"]
        seconds = variant.get("ContainerStartupHealthCheckTimeoutInSeconds", self._containers.settings.startup)
        try:
            self._servers[name].start(seconds, lambda: bool(self._failed))
        except JobFailed as failed:
            self._failed.append(failed)
        except NotReady:
            reason = (
                f"The primary container for production variant {name} did not pass the ping health check. Please check "
                "CloudWatch logs for this endpoint."
            )
            self._failed.append(JobFailed(reason))
        except Exception as error:  # an internal error must not leave the endpoint in Creating
            self._failed.append(JobFailed(f"InternalServerError: {error!r}"))

    def _log(self, stream: str, line: str) -> None:
        self._aws.log(f"{LOGS}/{self.endpoint}", stream, [(int(time.time() * 1000), line)])
