"""Decodes the photos of many requests in threads, and batches waiting photos for the model."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from sagehound.errors import InputError
from sagehound.inference.decode import file_bytes, is_large
from sagehound.inference.formats import Probabilities
from sagehound.inference.preprocessing import Pixels, prepare
from sagehound.serving.predictor import Predictor, ScoredPredictor
from sagehound.system.machine import cores

MAX_BATCH = 8  # photos; on two cores a photo costs 4.0 ms in a batch of eight, 5.0 alone, 4.1 in sixteen

_Answer = Future[Probabilities]
_Item = tuple[Predictor | ScoredPredictor, Pixels, _Answer]


class Batcher:
    """Batches photos for all models of a server.

    Args:
        on_batch: called with the size of each batch.
        max_pixels: largest width x height that is decoded.
    """

    def __init__(self, on_batch: Callable[[int], object], max_pixels: int | None = None) -> None:
        self._on_batch, self._max_pixels = on_batch, max_pixels
        self._decoders = ThreadPoolExecutor(cores(), "decode")
        self._waiting: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._alone = threading.Lock()
        self._worker = threading.Thread(target=self._work, name="predict", daemon=True)
        self._worker.start()

    def submit(self, predictor: Predictor | ScoredPredictor, photo: Path | bytes | Pixels) -> _Answer:
        """Submit a photo's file, or its pixels as the model sees them.

        Returns a future of its row, c or c + 1, that raises BadPhoto or TooManyPixels, or InputError for pixels of
        another size.
        """
        answer: _Answer = Future()
        if isinstance(photo, np.ndarray):
            if photo.shape != (*predictor.card.preprocessing.size, 3):
                raise InputError(f"pixels of {photo.shape}: this model sees {(*predictor.card.preprocessing.size, 3)}")
            self._waiting.put((predictor, photo, answer))
            return answer
        self._decoders.submit(self._decode, predictor, photo, answer)
        return answer

    def _decode(self, predictor: Predictor | ScoredPredictor, photo: Path | bytes, answer: _Answer) -> None:
        if not answer.set_running_or_notify_cancel():
            return  # the client has disconnected
        try:
            content = photo if isinstance(photo, bytes) else file_bytes(photo)
            with self._alone if is_large(content) else nullcontext():
                pixels = prepare(content, predictor.card.preprocessing, self._max_pixels)
        except BaseException as error:
            answer.set_exception(error)
            return
        self._waiting.put((predictor, pixels, answer))

    def _work(self) -> None:
        """Take the waiting photos of one model, up to a batch, without waiting for more."""
        ahead: list[_Item | None] = []  # the next photo is of another model
        while (first := ahead.pop() if ahead else self._waiting.get()) is not None:
            batch = [first]
            while len(batch) < MAX_BATCH and not self._waiting.empty():
                following = self._waiting.get()  # this is the only consumer
                if following is None or following[0] is not first[0]:
                    ahead.append(following)
                    break
                batch.append(following)
            self._on_batch(len(batch))
            self._answer(first[0], batch)
            del first, batch  # an evicted model frees its memory now

    @staticmethod
    def _answer(predictor: Predictor | ScoredPredictor, batch: list[_Item]) -> None:
        """Compute a batch. Errors belong to the batch; the thread continues."""
        try:
            probabilities = predictor([pixels for _, pixels, _ in batch])
            if len(probabilities) != len(batch) or not np.isfinite(probabilities).all():
                raise ValueError(f"the model gave {len(probabilities)} answers to {len(batch)} photos, or no numbers")
        except Exception as error:
            for _, _, answer in batch:
                answer.set_exception(error)
            return
        for (_, _, answer), row in zip(batch, probabilities, strict=True):
            answer.set_result(row)

    def close(self) -> None:
        """Finish the photos that were begun, cancel the others, and end the threads."""
        self._decoders.shutdown(cancel_futures=True)
        self._waiting.put(None)
        self._worker.join()
