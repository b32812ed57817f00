"""The models of a server, loaded by name. The least recently used one is evicted if memory is short."""

import gc
import threading
import time
import weakref
from collections import OrderedDict
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any

from sagehound.artifact import archive
from sagehound.errors import InputError
from sagehound.serving.batcher import ModelHung
from sagehound.serving.opening import Footprint, Opening, StoredModel
from sagehound.serving.predictor import Predictor, Stop, needed
from sagehound.serving.sessions import Execution

_LONGEST_PAUSE = 3600.0
_COLLECT = 1.0  # seconds until garbage is collected, which takes a tenth of a second
_END = 1.0  # seconds that a model may still be loaded when the server ends
_MOST_STUCK = 4  # threads that do not return; with more, nothing is loaded


class UnknownModel(InputError):
    """No model of that name was loaded."""


class AlreadyLoaded(InputError):
    """A model of that name is loaded already."""


class NoMemory(InputError):
    """The model does not fit, even alone."""


class ModelStore:
    """Models by name, for many threads.

    An evicted model keeps its name and is loaded again at its next request. One that hangs is out of service: it is
    evicted, and loaded again after a pause.

    Args:
        max_bytes: memory for all open models.
        default: the model of a request without a name; None: the only model.
        seconds: after which a model that is being loaded is given up.
        execution: what computes; None: the CPU, a thread for each core.
    """

    def __init__(
        self,
        max_bytes: int,
        default: str | None = None,
        seconds: float = 600.0,
        execution: Execution | None = None,
    ) -> None:
        self.max_bytes, self._default, self._seconds = max_bytes, default, seconds
        self._execution = execution or Execution()
        self._models: OrderedDict[str, StoredModel] = OrderedDict()  # least recently used first
        self._footprints: list[Footprint] = []
        self._stuck: list[threading.Thread] = []
        self._lock = threading.RLock()
        self._closed = threading.Event()

    def load(self, name: str, url: str, unpacked: Path | None = None) -> None:
        """Open a run, a model.tar.gz or an unpacked one under a name; ``unpacked`` is its folder, if there is one.

        Raises:
            AlreadyLoaded: the name is in use.
            NoMemory: the model alone needs more than the limit, or others that are in use leave no memory.
            ModelHung: it is not loaded in time.
            InputError: there is no such model, or it cannot be opened.
        """
        if name in self._models:
            raise AlreadyLoaded(f"model {name} is loaded: delete it first, or load this one under another name")
        with ExitStack() as stack:
            folder = stack.enter_context(
                nullcontext(unpacked) if unpacked else archive.opened(url.removeprefix("file://"))
            )
            size = needed(folder)
            if size > self.max_bytes:
                raise NoMemory(
                    f"model {name} needs {size / 1e6:.0f} MB of memory, models may hold {self.max_bytes / 1e6:.0f} MB: "
                    "give the server more (deploy.model_gb), or a smaller model"
                )
            model = StoredModel(url, folder, size, ExitStack(), archive.Card.read(folder).about)
            self._open(model)
            with self._lock:
                if name in self._models:
                    raise AlreadyLoaded(f"model {name} was loaded by another request meanwhile")
                if self._closed.is_set():
                    raise InputError("the server is stopping")
                model.resources = stack.pop_all()
                self._models[name] = model

    def get(self, name: str | None, *, is_use: bool = True) -> Predictor | None:
        """The model of that name; None if it is evicted: call ``reopen``. Without a name, the default or the only one.

        Raises:
            UnknownModel: there is none.
            ModelHung: it is out of service.
            InputError: there are several and no name was given.
        """
        with self._lock:
            model = self._find(name := self.name_of(name))
            if model.is_out:
                raise ModelHung(f"model {name} did not return: it is out of service until it is loaded again")
            if is_use:
                self._models.move_to_end(name)
            return model.predictor

    def name_of(self, name: str | None) -> str:
        """The name of the model that a request means: the default or the only one if it gives none.

        Raises:
            InputError: there are several and no name was given.
        """
        name = name or self._default
        if name is None and len(self._models) > 1:
            raise InputError(f"which model? Send it to /models/NAME/invoke: {', '.join(sorted(self._models))}")
        return next(iter(self._models), "") if name is None else name

    def reopen(self, name: str | None) -> Predictor:
        """The model of that name, loaded again if it was evicted.

        Raises:
            UnknownModel: there is none.
            InputError: its files are gone.
        """
        with self._lock:
            model = self._find(self.name_of(name))
        try:
            return self._open(model)
        except InputError as error:
            with self._lock:
                if model not in self._models.values():
                    raise UnknownModel("the model was deleted meanwhile") from error
            raise

    def _open(self, model: StoredModel) -> Predictor:
        start, is_collected = time.monotonic(), False
        while (opening := self._begin(model)) is None:
            waited = time.monotonic() - start
            if waited > self._seconds:
                raise NoMemory("the models in use leave no memory for another one; try again in a second")
            if waited > _COLLECT and not is_collected:
                gc.collect()  # a cycle, such as an error and its frames, may hold an evicted model
                is_collected = True
            time.sleep(0.01)
        try:
            return opening.result(self._seconds)
        except BaseException as error:
            with self._lock:
                is_first = model.opening is opening  # of the requests that wait for it
                if is_first:
                    model.opening = None
                    opening.footprint.is_evicted = True
                if is_first and isinstance(error, ModelHung):
                    self._stuck.append(opening.thread)
                    self._begin_outage(model)
            raise

    def _begin(self, model: StoredModel) -> Opening | None:
        """Begin to load a model, if it is not in memory; None while others must be freed first.

        Raises:
            ModelHung: too many threads do not return.
        """
        with self._lock:
            if model.opening is None:
                if self._stuck_threads() >= _MOST_STUCK:
                    raise ModelHung(f"{_MOST_STUCK} models do not return, so no other is loaded: restart the server")
                if not self._make_room(model.bytes):
                    return None
                model.opening = Opening(model.folder, model.bytes, self._execution)
                model.stop = weakref.ref(model.opening.footprint.stop)
                self._footprints.append(model.opening.footprint)
            return model.opening

    def _make_room(self, wanted: int) -> bool:
        """Evict models, least recently used first, until more bytes will fit. Returns whether they fit now.

        Requests in progress keep their model until they end.
        """
        free = self.max_bytes - sum(f.bytes for f in self._resident() if not f.is_evicted)
        for model in list(self._models.values()):
            if free < wanted and model.predictor is not None:
                free += model.bytes
                self._evict(model)
        return sum(f.bytes for f in self._resident()) + wanted <= self.max_bytes

    def _resident(self) -> list[Footprint]:
        self._footprints = [f for f in self._footprints if f.is_resident()]
        return self._footprints

    def _evict(self, model: StoredModel) -> None:
        if model.opening is not None:
            model.opening.footprint.is_evicted = True
            model.opening = None

    def take_out(self, stop: Stop, threads: list[threading.Thread]) -> None:
        """Take the model with this stop out of service, because a thread of it does not return."""
        with self._lock:
            self._stuck = [t for t in (*self._stuck, *threads) if t.is_alive()]
            for model in self._models.values():
                if model.stop is not None and model.stop() is stop:
                    self._evict(model)
                    self._begin_outage(model)

    def _begin_outage(self, model: StoredModel) -> None:
        if model in self._models.values() and not model.is_out:
            model.is_out = True
            threading.Thread(target=self._retry, args=(model,), name="retry", daemon=True).start()

    def _retry(self, model: StoredModel) -> None:
        """Load a model that hung after a pause; it is in service again if that works."""
        while not self._closed.wait(model.pause) and model in self._models.values():
            model.pause = min(2 * model.pause, _LONGEST_PAUSE)
            with suppress(InputError):
                self._open(model)
                model.is_out = False
                return

    def _stuck_threads(self) -> int:
        """Those that do not return; the threads of one model have one name, and count once."""
        alive = [t for t in self._stuck if t.is_alive()]
        return len({t.name if t.name.startswith("predict-") else t.ident for t in alive})

    def is_healthy(self) -> bool:
        """Whether models can be loaded, and one of them at least is in service, if there are any."""
        with self._lock:
            in_service = not self._models or not all(m.is_out for m in self._models.values())
            return in_service and self._stuck_threads() < _MOST_STUCK

    def unload(self, name: str) -> None:
        """Unload a model.

        Raises:
            UnknownModel: there is none of that name.
        """
        with self._lock:
            self._evict(self._find(name))
            model = self._models.pop(name)
        model.resources.close()

    def describe(self, name: str) -> dict[str, Any]:
        """A model: modelName, modelUrl, whether it is in memory, its device if it is, and its model.json.

        Raises:
            UnknownModel: there is none of that name.
        """
        model = self._find(name)
        predictor = model.predictor
        return {**_entry(name, model), "device": predictor and predictor.device, "card": model.about}

    def count(self) -> int:
        """Number of models, whether or not they are in memory."""
        return len(self._models)

    def folder(self, name: str | None) -> Path:
        """The folder of an unpacked model. It raises UnknownModel and InputError as ``get`` does."""
        return self._find(self.name_of(name)).folder

    def listed(self) -> list[dict[str, Any]]:
        """Every model's modelName, modelUrl, and whether it is in memory, by name."""
        with self._lock:
            return [_entry(name, model) for name, model in sorted(self._models.items())]

    def close(self) -> bool:
        """Unload all models, remove their folders, and load no more. Returns whether all threads have ended."""
        self._closed.set()
        with self._lock:
            threads = [*self._stuck, *(f.thread for f in self._resident())]
            for footprint in self._resident():
                if footprint.thread.is_alive():
                    footprint.stop()
        for entry in self.listed():
            self.unload(entry["modelName"])
        until = time.monotonic() + _END
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _find(self, name: str) -> StoredModel:
        if name not in self._models:
            there = f"; loaded: {', '.join(sorted(self._models))}" if self._models else ""
            raise UnknownModel(f"no model {name!r} is loaded{there}")
        return self._models[name]


def _entry(name: str, model: StoredModel) -> dict[str, Any]:
    return {"modelName": name, "modelUrl": model.url, "inMemory": model.predictor is not None}
