"""The container of a multi-model endpoint: models are loaded at their first request."""

import hashlib
import json
import shutil
import tarfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

from sagemaker_emulator.errors import ApiError, JobFailed
from sagemaker_emulator.hosting.model_container import ModelContainer, NoReply, Reply, unpack
from sagemaker_emulator.processes.containers import Containers
from sagemaker_emulator.storage.records import Record
from sagemaker_emulator.storage.transfers import Transfers, join_uri, split_uri

_TARGET = "X-Amzn-SageMaker-Target-Model"


class LoadFailed(Exception):
    """The container could not load a model; its answer says why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"{reply.status}")
        self.reply = reply


class MultiModelContainer(ModelContainer):
    """One container with the models under a prefix. The least recently used one is unloaded if memory is short."""

    def __init__(
        self,
        containers: Containers,
        transfers: Transfers,
        model: Record,
        folder: Path,
        environment: Mapping[str, str],
        log: Callable[[str], None],
    ) -> None:
        variables = {**environment, "SAGEMAKER_MULTI_MODEL": "true"}
        super().__init__(containers, transfers, model, folder, variables, log)
        self._loaded: OrderedDict[str, str] = OrderedDict()  # the container's names by target; least recent first
        self._known = threading.Lock()  # guards the attribute above
        self._loading = threading.Lock()  # load one model at a time; requests for others continue

    def invoke(self, body: bytes, headers: Mapping[str, str], seconds: float, model: str | None = None) -> Reply:
        """The response of the model; it is loaded first if needed.

        Raises:
            NoReply: the container did not respond within ``seconds``, or does not run.
            LoadFailed: it could not load the model.
            ApiError: there is no such model, or it is still being loaded.
        """
        assert model is not None, "a container with many models is asked for one of them"
        until = time.monotonic() + seconds
        named = {**headers, _TARGET: model}
        name = self._ensure(model, until)
        reply = self.request("POST", f"/models/{name}/invoke", body, named, seconds)
        if reply.status == 404:  # unloaded meanwhile, or the container was restarted
            with self._known:
                self._loaded.pop(model, None)
            name = self._ensure(model, until)
            reply = self.request("POST", f"/models/{name}/invoke", body, named, seconds)
        return reply

    def _fetch(self) -> None:
        """Do nothing: models are fetched at their first request."""

    def _ensure(self, model: str, until: float) -> str:
        """Load a model if needed; returns its name in the container."""
        name = self._touch(model)
        if name is not None:
            return name
        if not self._loading.acquire(timeout=max(until - time.monotonic(), 0.01)):
            raise _not_ready(model)
        try:
            name = self._touch(model)
            if name is None:
                name = self._load(model, until)
                with self._known:
                    self._loaded[model] = name
            return name
        finally:
            self._loading.release()

    def _touch(self, model: str) -> str | None:
        with self._known:
            if model in self._loaded:
                self._loaded.move_to_end(model)
            return self._loaded.get(model)

    def _load(self, model: str, until: float) -> str:
        """Download a model and load it; unload others if the container returns 507."""
        uri = join_uri(self.model["ModelDataUrl"], model.lstrip("/"))
        name = hashlib.sha256(uri.encode()).hexdigest()[:32]
        folder = self._opt_ml / "models" / name / "model"
        if not folder.exists():
            _download(self._transfers, uri, folder)
        url = self._containers.translate(f"/opt/ml/models/{name}/model", self._opt_ml)
        request = json.dumps({"model_name": name, "url": url}).encode()
        headers = {"Content-Type": "application/json", _TARGET: model}
        while True:
            try:
                reply = self.request("POST", "/models", request, headers, max(until - time.monotonic(), 0.01))
            except NoReply as error:
                if self.runs:
                    raise _not_ready(model) from error  # it continues to load, and returns 409 at the next request
                raise
            if reply.status in (200, 409):
                return name
            if reply.status != 507 or not self._unload_one(until):
                shutil.rmtree(folder.parent, ignore_errors=True)
                raise LoadFailed(reply)

    def _unload_one(self, until: float) -> bool:
        """Unload the least recently used model; returns False if none is loaded."""
        with self._known:
            if not self._loaded:
                return False
            _, name = self._loaded.popitem(last=False)
        self.request("DELETE", f"/models/{name}", b"", {}, max(until - time.monotonic(), 0.01))
        shutil.rmtree(self._opt_ml / "models" / name, ignore_errors=True)
        return True


def _download(transfers: Transfers, uri: str, folder: Path) -> None:
    """Download and unpack a model. The folder appears in one step."""
    bucket, key = split_uri(uri)
    partial = folder.with_name("partial")
    try:
        unpack(transfers, uri, partial)
        partial.rename(folder)
    except JobFailed as error:
        raise ApiError(
            "ValidationError",
            f"Failed to download model data(bucket: {bucket}, key: {key}). Please ensure that there is an object "
            "located at the URL and that the role passed to CreateModel has permissions to download the model.",
        ) from error
    except (tarfile.TarError, EOFError, OSError) as error:
        shutil.rmtree(folder.parent, ignore_errors=True)
        raise ApiError(
            "ValidationError",
            f"Failed to extract model data archive(bucket: {bucket}, key: {key}). Please ensure that the object "
            "located at the URL is a valid tar.gz archive.",
        ) from error


def _not_ready(model: str) -> ApiError:
    return ApiError("ModelNotReadyException", f"Model {model} is still being loaded; ask again.", 429)
