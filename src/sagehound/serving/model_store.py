"""The models of a server, loaded by name. The least recently used one is evicted if memory is short."""

import threading
from collections import OrderedDict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sagehound.artifact import archive
from sagehound.errors import InputError
from sagehound.serving.predictor import Predictor, needed

_CARD_BYTES = 16 * 2**20  # of MODEL_CARD.md; a thousand classes need 0.1 MB


class UnknownModel(InputError):
    """No model of that name was loaded."""


class NoCard(InputError):
    """The model has no model card."""


class AlreadyLoaded(InputError):
    """A model of that name is loaded already."""


class NoMemory(InputError):
    """The model does not fit, even alone."""


@dataclass(eq=False)
class _Model:
    url: str
    folder: Path
    bytes: int  # memory that it needs while it is open
    resources: ExitStack  # folder of the unpacked model
    about: dict[str, Any]  # its model.json
    predictor: Predictor | None = None


class ModelStore:
    """Models by name, for many threads.

    An evicted model keeps its name and is loaded again at its next request.

    Args:
        max_bytes: memory for all open models.
        default: the model of a request without a name; None: the only model.
    """

    def __init__(self, max_bytes: int, default: str | None = None) -> None:
        self.max_bytes, self._default = max_bytes, default
        self._models: OrderedDict[str, _Model] = OrderedDict()  # least recently used first
        self._lock = threading.RLock()
        self._opening = (
            threading.Lock()
        )  # load one model at a time, so that the limit holds; requests for others continue
        self._closed = False

    def load(self, name: str, url: str) -> None:
        """Open a run, a model.tar.gz or an unpacked one under a name.

        Raises:
            AlreadyLoaded: the name is in use.
            NoMemory: the model alone needs more than the limit.
            InputError: there is no such model, or it cannot be opened.
        """
        if name in self._models:
            raise AlreadyLoaded(f"model {name} is loaded: delete it first, or load this one under another name")
        with ExitStack() as stack:
            folder = stack.enter_context(archive.opened(url.removeprefix("file://")))
            size = needed(folder)
            if size > self.max_bytes:
                raise NoMemory(
                    f"model {name} needs {size / 1e6:.0f} MB of memory, models may hold {self.max_bytes / 1e6:.0f} MB: "
                    "give the server more (deploy.model_gb), or a smaller model"
                )
            model = _Model(url, folder, size, ExitStack(), archive.Card.read(folder).about)
            self._open(model)
            with self._lock:
                if name in self._models:
                    raise AlreadyLoaded(f"model {name} was loaded by another request meanwhile")
                if self._closed:
                    raise InputError("the server is stopping")
                model.resources = stack.pop_all()
                self._models[name] = model

    def get(self, name: str | None) -> Predictor | None:
        """The model of that name; None if it is evicted: call ``reopen``. Without a name, the default or the only one.

        Raises:
            UnknownModel: there is none.
            InputError: there are several and no name was given.
        """
        with self._lock:
            name = self.name_of(name)
            model = self._find(name)
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

    def _open(self, model: _Model) -> Predictor:
        with self._opening:
            if model.predictor is None:
                self._make_room(model)
                model.predictor = Predictor(model.folder)
            return model.predictor

    def _make_room(self, wanted: _Model) -> None:
        """Evict models, least recently used first, until one more fits. Requests in progress keep their model."""
        with self._lock:
            held = [m for m in self._models.values() if m.predictor is not None]
            while held and wanted.bytes + sum(m.bytes for m in held) > self.max_bytes:
                held.pop(0).predictor = None

    def unload(self, name: str) -> None:
        """Unload a model.

        Raises:
            UnknownModel: there is none of that name.
        """
        with self._lock:
            self._find(name)
            model = self._models.pop(name)
        model.resources.close()

    def describe(self, name: str) -> dict[str, Any]:
        """A description of a model: SageMaker's modelName and modelUrl, whether it is in memory, and its model.json.

        Raises:
            UnknownModel: there is none of that name.
        """
        with self._lock:
            model = self._find(name)
        return {**_entry(name, model), "card": model.about}

    def card(self, name: str) -> archive.Card:
        """The card of a model, whether or not it is in memory.

        Raises:
            UnknownModel: there is none of that name.
            InputError: its file cannot be read.
        """
        with self._lock:
            folder = self._find(name).folder
        return archive.Card.read(folder)

    def model_card(self, name: str | None) -> str:
        """The text of a model's MODEL_CARD.md.

        Raises:
            UnknownModel: there is none of that name.
            NoCard: an older Sagehound wrote the model, or the file cannot be read.
        """
        with self._lock:
            path = self._find(self.name_of(name)).folder / archive.MODEL_CARD
        try:
            if path.is_file() and not path.is_symlink() and path.stat().st_size <= _CARD_BYTES:
                return path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise NoCard(f"{archive.MODEL_CARD} cannot be read: {error.strerror}") from error
        raise NoCard(f"the model has no {archive.MODEL_CARD}: an older Sagehound wrote it")

    def listed(self) -> list[dict[str, Any]]:
        """Every model's modelName, modelUrl, and whether it is in memory, by name."""
        with self._lock:
            return [_entry(name, model) for name, model in sorted(self._models.items())]

    def close(self) -> None:
        """Unload all models, remove their folders, and load no more."""
        with self._lock:
            self._closed = True
        for entry in self.listed():
            self.unload(entry["modelName"])

    def _find(self, name: str) -> _Model:
        if name not in self._models:
            there = f"; loaded: {', '.join(sorted(self._models))}" if self._models else ""
            raise UnknownModel(f"no model {name!r} is loaded{there}")
        return self._models[name]


def _entry(name: str, model: _Model) -> dict[str, Any]:
    return {"modelName": name, "modelUrl": model.url, "inMemory": model.predictor is not None}
