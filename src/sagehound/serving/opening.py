"""Loads a model in a thread of its own, because ONNX Runtime may never return."""

import threading
import weakref
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sagehound.serving.batcher import ModelHung
from sagehound.serving.predictor import Predictor, Stop
from sagehound.serving.sessions import Execution

_PAUSE = 10.0  # seconds until a model that hung is loaded again; twice as many after each time


class Footprint:
    """The memory of a model until it is freed: while it is loaded, and while anybody has its predictor."""

    def __init__(self, bytes: int, thread: threading.Thread, stop: Stop) -> None:
        self.bytes, self.thread, self.stop = bytes, thread, stop
        self.predictor: weakref.ref[Predictor] | None = None
        self.is_evicted = False

    def is_resident(self) -> bool:
        """Whether the memory is in use."""
        return self.thread.is_alive() or (self.predictor is not None and self.predictor() is not None)


class Opening:
    """A model that is being loaded, or that was loaded.

    Args:
        folder: an unpacked artifact.
        bytes: memory that it needs.
        execution: device and threads.
    """

    def __init__(self, folder: Path, bytes: int, execution: Execution) -> None:
        self._stop = Stop()
        self._done: Future[Predictor] = Future()
        self.thread = threading.Thread(target=self._work, args=(folder, execution), name="load", daemon=True)
        self.footprint = Footprint(bytes, self.thread, self._stop)
        self.thread.start()

    def _work(self, folder: Path, execution: Execution) -> None:
        try:
            predictor = Predictor(folder, execution, self._stop)
        except BaseException as error:
            self._done.set_exception(error)
        else:
            self.footprint.predictor = weakref.ref(predictor)
            self._done.set_result(predictor)

    @property
    def predictor(self) -> Predictor | None:
        """The model, if it is loaded."""
        return self._done.result() if self._done.done() and not self._done.exception() else None

    def result(self, seconds: float) -> Predictor:
        """Wait for the model.

        Raises:
            ModelHung: it is not loaded in time; the thread may never end.
            InputError: it cannot be used.
        """
        try:
            return self._done.result(seconds)
        except TimeoutError as error:
            self._stop()
            raise ModelHung(
                f"the model was not loaded within {seconds:g} s: give it more time (deploy.timeout), or give another"
            ) from error


@dataclass(eq=False)
class StoredModel:
    """A model of a store, in memory or evicted."""

    url: str
    folder: Path
    bytes: int  # memory that it needs while it is open
    resources: ExitStack  # folder of the unpacked model
    about: dict[str, Any]  # its model.json
    opening: Opening | None = None  # None: evicted
    stop: weakref.ref[Stop] | None = None  # of the last opening, which an evicted model may still compute with
    is_out: bool = False  # it hung, and was not loaded again since
    pause: float = _PAUSE

    @property
    def predictor(self) -> Predictor | None:
        """The model, if it is in memory."""
        return self.opening.predictor if self.opening is not None else None
