"""Decodes the photos of many requests in threads, and batches waiting photos for the model."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from sagehound.inference.formats import Probabilities
from sagehound.inference.preprocessing import Pixels
from sagehound.serving.decoders import Decoders
from sagehound.serving.predictor import Predictor, ScoredPredictor
from sagehound.system.machine import cores

MAX_BATCH = 8  # photos; on two cores a photo costs 4.0 ms in a batch of eight, 5.0 alone, 4.1 in sixteen

_Answer = Future[Probabilities]
_Item = tuple[Predictor | ScoredPredictor, Pixels, _Answer]


class Batcher:
    """Batches photos for all models of a server.

    Args:
        on_batch: called with the size of each batch.
        decoders: of the photos; None: all cores decode photos of any size.
    """

    def __init__(self, on_batch: Callable[[int], object], decoders: Decoders | None = None) -> None:
        self._on_batch = on_batch
        self._decoders = decoders or Decoders(slow=cores())
        self._waiting: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="predict", daemon=True)
        self._worker.start()

    def submit(self, predictor: Predictor | ScoredPredictor, photo: Path | bytes) -> _Answer:
        """Submit a photo's file; returns a future of its row, c or c + 1, that raises BadPhoto or TooManyPixels."""
        answer: _Answer = Future()
        self._decoders.submit(
            predictor.card.preprocessing, photo, answer, lambda pixels: self._waiting.put((predictor, pixels, answer))
        )
        return answer

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
        self._decoders.close()
        self._waiting.put(None)
        self._worker.join()
