"""A container with many models, which it is told of when they are asked for: a multi-model endpoint."""

import hashlib
import json
import shutil
import tarfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

from sagehound_launchers.emulator.model_server import ModelServer, NoReply, Reply, unpack
from sagehound_launchers.emulator.world import Failed, Record, Refused, World, join_uri, split_uri

_TARGET = "X-Amzn-SageMaker-Target-Model"


class LoadFailed(Exception):
    """The container could not load a model; its answer says why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"{reply.status}")
        self.reply = reply


class ManyModels(ModelServer):
    """One container with the models under a prefix; the least recently used are unloaded where memory is short."""

    def __init__(
        self, world: World, model: Record, folder: Path, environment: Mapping[str, str], log: Callable[[str], None]
    ) -> None:
        super().__init__(world, model, folder, {**environment, "SAGEMAKER_MULTI_MODEL": "true"}, log)
        self._loaded: OrderedDict[str, str] = OrderedDict()  # the container's names by target; least recent first
        self._known = threading.Lock()  # around the above
        self._loading = threading.Lock()  # one model at a time; others are asked meanwhile

    def invoke(self, body: bytes, headers: Mapping[str, str], seconds: float, model: str | None = None) -> Reply:
        """What the model that ``model`` names answers; it is loaded first where it is not.

        Raises:
            NoReply: the container did not answer within ``seconds``, or is not there.
            LoadFailed: it could not load the model.
            Refused: there is no such model, or it is still being loaded.
        """
        assert model is not None, "a container with many models is asked for one of them"
        until = time.monotonic() + seconds
        named = {**headers, _TARGET: model}
        name = self._ensure(model, until)
        reply = self.ask("POST", f"/models/{name}/invoke", body, named, seconds)
        if reply.status == 404:  # unloaded meanwhile for another model, or the container was started again
            with self._known:
                self._loaded.pop(model, None)
            name = self._ensure(model, until)
            reply = self.ask("POST", f"/models/{name}/invoke", body, named, seconds)
        return reply

    def _fetch(self) -> None:
        """Nothing: models come when they are asked for."""

    def _ensure(self, model: str, until: float) -> str:
        """The container's name of a model, which is loaded unless it is."""
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
        """Download a model and have the container load it, after others were unloaded if it says 507."""
        uri = join_uri(self.model["ModelDataUrl"], model.lstrip("/"))
        name = hashlib.sha256(uri.encode()).hexdigest()[:32]
        folder = self._opt_ml / "models" / name / "model"
        if not folder.exists():
            _download(self._world, uri, folder)
        request = json.dumps({"model_name": name, "url": str(folder)}).encode()
        headers = {"Content-Type": "application/json", _TARGET: model}
        while True:
            try:
                reply = self.ask("POST", "/models", request, headers, max(until - time.monotonic(), 0.01))
            except NoReply as error:
                if self.runs:
                    raise _not_ready(model) from error  # it goes on loading, and says 409 when it is asked again
                raise
            if reply.status in (200, 409):
                return name
            if reply.status != 507 or not self._unload_one(until):
                shutil.rmtree(folder.parent, ignore_errors=True)
                raise LoadFailed(reply)

    def _unload_one(self, until: float) -> bool:
        """Unload the model that was not asked for the longest; False where none is loaded."""
        with self._known:
            if not self._loaded:
                return False
            _, name = self._loaded.popitem(last=False)
        self.ask("DELETE", f"/models/{name}", b"", {}, max(until - time.monotonic(), 0.01))
        shutil.rmtree(self._opt_ml / "models" / name, ignore_errors=True)
        return True


def _download(world: World, uri: str, folder: Path) -> None:
    """Unpack a model, in AWS's words if there is none; a folder that is there is whole."""
    bucket, key = split_uri(uri)
    partial = folder.with_name("partial")
    try:
        unpack(world, uri, partial)
        partial.rename(folder)
    except Failed as error:
        raise Refused(
            "ValidationError",
            f"Failed to download model data(bucket: {bucket}, key: {key}). Please ensure that there is an object "
            "located at the URL and that the role passed to CreateModel has permissions to download the model.",
        ) from error
    except (tarfile.TarError, EOFError, OSError) as error:
        shutil.rmtree(folder.parent, ignore_errors=True)
        raise Refused(
            "ValidationError",
            f"Failed to extract model data archive(bucket: {bucket}, key: {key}). Please ensure that the object "
            "located at the URL is a valid tar.gz archive.",
        ) from error


def _not_ready(model: str) -> Refused:
    return Refused("ModelNotReadyException", f"Model {model} is still being loaded; ask again.", 429)
