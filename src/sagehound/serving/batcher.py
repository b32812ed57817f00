"""From the photos of many requests to probabilities: decoded in threads, computed in batches of what is waiting."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from sagehound.inference.decode import file_bytes, is_large
from sagehound.inference.formats import Probabilities
from sagehound.inference.preprocessing import Pixels, prepare
from sagehound.machine import cores
from sagehound.serving.predictor import Predictor

MAX_BATCH = 8  # photos; on two cores eight at once cost 4.0 ms each, one 5.0 and sixteen 4.1

_Answer = Future[Probabilities]
_Item = tuple[Predictor, Pixels, _Answer]


class Engine:
    """One for a server, whatever number of models.

    Args:
        on_batch: is told how many photos were computed at once.
        max_pixels: width x height that is decoded at most.
    """

    def __init__(self, on_batch: Callable[[int], object], max_pixels: int | None = None) -> None:
        self._on_batch, self._max_pixels = on_batch, max_pixels
        self._decoders = ThreadPoolExecutor(cores(), "decode")
        self._waiting: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._alone = threading.Lock()
        self._worker = threading.Thread(target=self._work, name="predict", daemon=True)
        self._worker.start()

    def submit(self, predictor: Predictor, photo: Path | bytes) -> _Answer:
        """Probabilities, c, of a photo's file; the future raises BadPhoto or TooManyPixels."""
        answer: _Answer = Future()
        self._decoders.submit(self._decode, predictor, photo, answer)
        return answer

    def _decode(self, predictor: Predictor, photo: Path | bytes, answer: _Answer) -> None:
        if not answer.set_running_or_notify_cancel():
            return  # the client is gone
        try:
            content = photo if isinstance(photo, bytes) else file_bytes(photo)
            with self._alone if is_large(content) else nullcontext():
                pixels = prepare(content, predictor.card.to, self._max_pixels)
        except BaseException as error:
            answer.set_exception(error)
            return
        self._waiting.put((predictor, pixels, answer))

    def _work(self) -> None:
        """Take what is waiting for one model, up to a batch, and never wait for more."""
        ahead: list[_Item | None] = []  # taken already, but for another model
        while (first := ahead.pop() if ahead else self._waiting.get()) is not None:
            batch = [first]
            while len(batch) < MAX_BATCH and not self._waiting.empty():
                following = self._waiting.get()  # nobody else takes any
                if following is None or following[0] is not first[0]:
                    ahead.append(following)
                    break
                batch.append(following)
            self._on_batch(len(batch))
            self._answer(first[0], batch)
            del first, batch  # a model that was set aside frees its memory now

    @staticmethod
    def _answer(predictor: Predictor, batch: list[_Item]) -> None:
        """Whatever goes wrong belongs to the batch: the thread lives on."""
        try:
            found = predictor([pixels for _, pixels, _ in batch])
            if len(found) != len(batch) or not np.isfinite(found).all():
                raise ValueError(f"the model gave {len(found)} answers to {len(batch)} photos, or no numbers")
        except Exception as error:
            for _, _, answer in batch:
                answer.set_exception(error)
            return
        for (_, _, answer), row in zip(batch, found, strict=True):
            answer.set_result(row)

    def close(self) -> None:
        """End the threads once what was begun is answered; what still waits for a decoder is not."""
        self._decoders.shutdown(cancel_futures=True)
        self._waiting.put(None)
        self._worker.join()
