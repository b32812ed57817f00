"""Decodes the photos of many requests in threads, and batches waiting photos for their models."""

import math
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from pathlib import Path

import numpy as np

from sagehound.errors import InputError
from sagehound.inference.formats import Probabilities
from sagehound.inference.preprocessing import Pixels
from sagehound.serving.decode_ahead import DecodeAhead
from sagehound.serving.decoders import Decoders
from sagehound.serving.parallel_sessions import Sessions
from sagehound.serving.photo_times import PhotoTimes, Span
from sagehound.serving.predictor import Predictor, ScoredPredictor, Stop
from sagehound.serving.slots import Unavailable
from sagehound.system.machine import cores

_END = 2.0  # seconds that a batch may still take when the server ends
_STOP = 0.5  # seconds from its stop to its end

_Answer = Future[Probabilities]
_Item = tuple[Predictor | ScoredPredictor, Pixels, _Answer, PhotoTimes]


class ModelHung(Unavailable):
    """The model does not return."""


class Batcher:
    """Batches photos for all models of a server. Each model has threads of its own, so that a slow one delays no other.

    Args:
        on_batch: called with the size of each batch.
        decoders: of the photos; None: all cores decode photos of any size.
    """

    def __init__(self, on_batch: Callable[[int], object], decoders: Decoders | None = None) -> None:
        self._on_batch = on_batch
        self._decoders = decoders or Decoders(slow=cores())
        self._lanes: weakref.WeakKeyDictionary[Stop, _Lane] = weakref.WeakKeyDictionary()  # until a model is freed
        self._lock = threading.RLock()  # a photo that is refused makes place for another one, in the same thread
        self._pending: set[_Answer] = set()

    def submit(
        self,
        predictor: Predictor | ScoredPredictor,
        photo: Path | bytes | Pixels,
        on_slow: Callable[[], object] = lambda: None,
        times: PhotoTimes | None = None,
    ) -> _Answer:
        """Submit a photo's file, or its pixels as the model sees them.

        Returns a future of its row, c or c + 1, that raises BadPhoto or TooManyPixels, or InputError for pixels of
        another size.

        Args:
            predictor: the model.
            photo: the file, its content, or pixels.
            on_slow: called in a thread if the photo takes long to decode; its error is the photo's.
            times: gets the times of the photo's steps.
        """
        seen = (*predictor.card.preprocessing.size, 3)
        if isinstance(photo, np.ndarray) and photo.shape != seen:
            raise InputError(f"pixels of {photo.shape}: this model sees {seen}")
        answer: _Answer = Future()
        times = times or PhotoTimes()
        self._pending.add(answer)
        answer.add_done_callback(self._pending.discard)
        lane = self._lane(predictor)

        def slow() -> None:
            lane.ahead.leave(answer)
            on_slow()

        def put(pixels: Pixels) -> None:
            self._put(lane, (predictor, pixels, answer, times))

        def begin() -> None:
            if isinstance(photo, np.ndarray):
                put(photo)
                return
            try:
                self._decoders.submit(predictor.card.preprocessing, photo, answer, put, slow, times)
            except RuntimeError:  # the server ends
                answer.cancel()

        lane.ahead.enter(answer, begin)
        return answer

    def _lane(self, predictor: Predictor | ScoredPredictor) -> "_Lane":
        stop = predictor.stop
        with self._lock:
            lane = self._lanes.get(stop)
            if lane is None:
                lane = self._lanes[stop] = _Lane(
                    self._on_batch, predictor.sessions, self._is_alone, self._decoders.threads
                )
                weakref.finalize(stop, lane.end).atexit = False
            return lane

    def _put(self, lane: "_Lane", item: _Item) -> None:
        with self._lock:  # not while the lane is abandoned
            lane.put(item)

    def _is_alone(self) -> bool:
        """Whether a single photo is being processed."""
        return len(self._pending) <= 1

    def abandon_hung(self, seconds: float) -> list[tuple[Stop, list[threading.Thread]]]:
        """Give up each model whose batch has taken longer, and refuse its photos.

        Returns what stopped it, and the threads that compute, which may never end. Then its memory is not freed.
        """
        with self._lock:
            hung = [(stop, lane) for stop, lane in self._lanes.items() if lane.busy_seconds() > seconds]
            for stop, lane in hung:
                stop()
                lane.abandon(seconds)
        return [(stop, lane.threads) for stop, lane in hung]

    def close(self) -> None:
        """Finish the photos that were begun, cancel the others, and end the threads, unless a model does not return."""
        for lane in list(self._lanes.values()):
            lane.ahead.cancel()
        self._decoders.close()
        lanes = [(stop, lane) for stop, lane in self._lanes.items() if not lane.is_abandoned]
        for _, lane in lanes:
            lane.end()
        until = time.monotonic() + _END
        for stop, lane in lanes:
            lane.join(until - time.monotonic())
            if any(thread.is_alive() for thread in lane.threads):
                stop()
                lane.join(_STOP)

    def is_healthy(self, seconds: float) -> bool:
        """Whether no photo is being decoded for longer."""
        return self._decoders.longest() <= seconds


class _Lane:
    """The photos that wait for one model, and the threads that compute them."""

    def __init__(
        self, on_batch: Callable[[int], object], sessions: Sessions, is_alone: Callable[[], bool], decoders: int
    ) -> None:
        self._on_batch, self._is_alone = on_batch, is_alone
        computed = sessions.calls * sessions.batch
        # while these are computed, the next ones are decoded: as many, or one in each thread
        self.ahead = DecodeAhead(computed + max(computed, decoders))
        self._waiting: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._running: dict[int, tuple[list[_Item], float]] = {}  # by thread: the batch in progress, when it began
        self._refusal: ModelHung | None = None
        name = f"predict-{id(self)}"  # one for all of them, by which model_store.py counts models that hang
        self.threads = [threading.Thread(target=self._work, name=name, daemon=True) for _ in range(sessions.calls)]
        for thread in self.threads:
            thread.start()

    def put(self, item: _Item) -> None:
        """Add a photo."""
        if self._refusal:
            _fail(item, self._refusal)
        else:
            self._waiting.put(item)

    @property
    def is_abandoned(self) -> bool:
        """Whether the model did not return."""
        return self._refusal is not None

    def busy_seconds(self) -> float:
        """How long the slowest batch in progress has taken."""
        return time.monotonic() - min((begun for _, begun in list(self._running.values())), default=math.inf)

    def end(self) -> None:
        """End the threads after the photos that wait."""
        for _ in self.threads:
            self._waiting.put(None)

    def join(self, seconds: float) -> None:
        """Wait until the threads have ended, but no longer."""
        until = time.monotonic() + seconds
        for thread in self.threads:
            thread.join(max(0.0, until - time.monotonic()))

    def abandon(self, seconds: float) -> None:
        """Refuse the photos in progress, those that wait, and those to come."""
        self._refusal = ModelHung(f"the model did not return within {seconds:g} s")
        running = list(self._running.values())
        self._running.clear()
        for item in (item for batch, _ in running for item in batch):
            _fail(item, self._refusal)
        with suppress(queue.Empty):
            while True:
                if waiting := self._waiting.get_nowait():
                    _fail(waiting, self._refusal)
        self.end()

    def _work(self) -> None:
        thread = threading.get_ident()
        ahead: list[_Item | None] = []  # the next photo, which wants other outputs
        while (first := ahead.pop() if ahead else self._waiting.get()) is not None:
            batch = [first, *self._following(first, ahead)]
            self._on_batch(len(batch))
            self._running[thread] = [*batch, *filter(None, ahead)], time.monotonic()
            self._answer(first[0], batch)
            self._running.pop(thread, None)
            del first, batch  # an evicted model frees its memory now

    def _following(self, first: _Item, ahead: list[_Item | None]) -> Iterator[_Item]:
        """Yield the photos that wait for the same outputs, up to a batch, without waiting for more."""
        for _ in range(first[0].sessions.batch - 1):
            try:
                following = self._waiting.get_nowait()
            except queue.Empty:
                return
            if following is None or following[0] is not first[0]:
                ahead.append(following)
                return
            yield following

    def _answer(self, predictor: Predictor | ScoredPredictor, batch: list[_Item]) -> None:
        """Compute a batch, without what nobody waits for. Errors belong to the batch; the thread continues."""
        batch = [item for item in batch if not item[2].cancelled()]
        if not batch:
            return
        begin = time.perf_counter_ns()
        try:
            probabilities = predictor([item[1] for item in batch], is_alone=self._is_alone())
            if len(probabilities) != len(batch) or not np.isfinite(probabilities).all():
                raise ValueError(f"the model gave {len(probabilities)} answers to {len(batch)} photos, or no numbers")
        except Exception as error:
            for item in batch:
                _fail(item, error)
            return
        span = Span(begin, time.perf_counter_ns())
        for (_, _, answer, times), row in zip(batch, probabilities, strict=True):
            times.inference = span
            with suppress(InvalidStateError):  # it was refused meanwhile
                answer.set_result(row)


def _fail(item: _Item, error: Exception) -> None:
    """Refuse a photo, unless it was answered or its client has left."""
    with suppress(InvalidStateError):
        item[2].set_exception(error)
