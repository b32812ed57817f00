"""The containers of an endpoint: one for each variant, however many instances it asks for."""

import random
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from sagehound_launchers.emulator.many_models import ManyModels
from sagehound_launchers.emulator.model_server import ModelServer, NotReady, instance_id
from sagehound_launchers.emulator.world import Failed, Record, Refused, World

LOGS = "/aws/sagemaker/Endpoints"


class Deployment:
    """What serves an endpoint until it is updated or deleted."""

    def __init__(self, world: World, endpoint: str, variants: list[Record], folder: Path) -> None:
        """Make it ready to be started.

        Args:
            world: the emulator.
            endpoint: its name.
            variants: an endpoint configuration's, each with ``_Container``, what its model runs.
            folder: a new folder.
        """
        self._world, self.endpoint, self.variants, self._folder = world, endpoint, variants, folder
        self._servers: dict[str, ModelServer] = {}
        self._failed: list[Failed] = []  # the first is why
        self._in_use = 0
        self._free = threading.Condition()
        for variant in variants:
            name, model = variant["VariantName"], variant["_Container"]
            kind = ManyModels if model["Mode"] == "MultiModel" else ModelServer
            log = partial(self._log, f"{name}/{instance_id()}")
            self._servers[name] = kind(world, model, folder / name, {}, log)

    def start(self) -> None:
        """Start all containers, and wait until they are ready.

        Raises:
            Failed: one of them was not, in AWS's words; none runs then.
        """
        with ThreadPoolExecutor(len(self.variants)) as threads:
            list(threads.map(self._start, self.variants))
        if self._failed:
            self._stop()
            raise self._failed[0]
        for server in self._servers.values():
            self._world.background(server.keep)

    def choose(self, wanted: str | None) -> tuple[Record, ModelServer]:
        """A variant and its container: the wanted one, or one by weight.

        Raises:
            Refused: there is no such variant.
        """
        if wanted is None:
            weights = [v["InitialVariantWeight"] for v in self.variants]
            (variant,) = random.choices(self.variants, weights if any(weights) else None)
            return variant, self._servers[variant["VariantName"]]
        for variant in self.variants:
            if variant["VariantName"] == wanted:
                return variant, self._servers[wanted]
        raise Refused("ValidationError", f"Variant {wanted} of endpoint {self.endpoint} not found.")

    def begin(self) -> None:
        """Keep the containers from being ended, until ``finish``."""
        with self._free:
            self._in_use += 1

    def finish(self) -> None:
        """One request less that is being answered."""
        with self._free:
            self._in_use -= 1
            self._free.notify_all()

    def stop(self) -> None:
        """End the containers, once what was begun is answered."""
        until = time.monotonic() + self._world.settings.answer
        with self._free:
            while self._in_use and time.monotonic() < until and not self._world.stopping.is_set():
                self._free.wait(0.1)
        self._stop()

    def _stop(self) -> None:
        with ThreadPoolExecutor(len(self.variants)) as threads:
            list(threads.map(ModelServer.stop, self._servers.values()))
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, variant: Record) -> None:
        name = variant["VariantName"]
        seconds = variant.get("ContainerStartupHealthCheckTimeoutInSeconds", self._world.settings.startup)
        try:
            self._servers[name].start(seconds, lambda: bool(self._failed))
        except Failed as failed:
            self._failed.append(failed)
        except NotReady:
            reason = (
                f"The primary container for production variant {name} did not pass the ping health check. Please check "
                "CloudWatch logs for this endpoint."
            )
            self._failed.append(Failed(reason))
        except Exception as error:  # an error of ours must not leave the endpoint Creating for ever
            self._failed.append(Failed(f"InternalServerError: {error!r}"))

    def _log(self, stream: str, line: str) -> None:
        self._world.cloud.log(f"{LOGS}/{self.endpoint}", stream, [(int(time.time() * 1000), line)])
