"""Decodes photos in threads. Those that take long are decoded apart, so that the others do not wait for them."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

from sagehound.errors import InputError
from sagehound.inference.decode import cost, file_bytes
from sagehound.inference.formats import Probabilities
from sagehound.inference.headers import JpegScans
from sagehound.inference.preprocessing import Pixels, Preprocessing, prepare
from sagehound.serving.photo_times import PhotoTimes, Span
from sagehound.system.machine import cores

_SLOW = 4_000_000  # pixels of a PNG; they take 0.1 to 0.15 s, a photo of a phone in JPEG 0.03 s
_SLOW_BYTES = 16 * 2**20  # a JPEG of this size takes 0.12 s
_LARGE = 12_000_000  # pixels, whose copies need hundreds of megabytes; most cameras' photos have fewer


class Decoders:
    """Threads that decode and preprocess photos.

    Photos over 4 megapixels (a plain JPEG: over 40) have threads of their own, half as many. Those over 12 megapixels
    that are held in memory whole are decoded one at a time.

    Args:
        max_pixels: largest width x height that is decoded.
        slow: threads for photos that take long; None: half as many as ``threads``.
        threads: for the others; None: one for each core.
    """

    def __init__(self, max_pixels: int | None = None, slow: int | None = None, threads: int | None = None) -> None:
        self._max_pixels, self.threads = max_pixels, threads or cores()
        self._quick = ThreadPoolExecutor(self.threads, "decode")
        self._slow = ThreadPoolExecutor(slow or max(1, self.threads // 2), "decode-slow")
        self._alone = threading.Lock()
        self._is_closed = False
        self._begun: dict[int, float] = {}  # when each thread began its photo

    def submit(
        self,
        preprocessing: Preprocessing,
        photo: Path | bytes,
        answer: Future[Probabilities],
        then: Callable[[Pixels], object],
        on_slow: Callable[[], object],
        times: PhotoTimes,
    ) -> None:
        """Decode a photo's file and pass its pixels to ``then``; ``answer`` gets the error if it cannot be read.

        ``on_slow`` is called before the decoding of a photo that takes long; ``times`` gets when it was decoded.
        """

        def begin() -> None:
            if answer.cancelled():
                return  # the client has disconnected
            try:
                content = photo if isinstance(photo, bytes) else file_bytes(photo)
                needed = cost(content)
                is_slow = needed.work > _SLOW or len(content) > _SLOW_BYTES
                if is_slow:
                    on_slow()
            except BaseException as error:
                _fail(answer, error)
                return
            if not is_slow:
                decode(content, scans=needed.scans)
                return
            try:
                # a file is read again, so that those that wait need no memory
                self._slow.submit(decode, photo, needed.held > _LARGE)
            except RuntimeError:  # the server ends
                answer.cancel()

        def decode(source: Path | bytes, is_large: bool = False, scans: JpegScans | None = None) -> None:
            with self._alone if is_large else nullcontext():
                if self._is_closed:
                    answer.cancel()
                if not answer.set_running_or_notify_cancel():
                    return
                try:
                    with self._timed(times):
                        pixels = prepare(source, preprocessing, self._max_pixels, scans)
                except BaseException as error:
                    answer.set_exception(_light(error))
                    return
            then(pixels)

        self._quick.submit(begin)

    @contextmanager
    def _timed(self, times: PhotoTimes) -> Iterator[None]:
        thread, begin = threading.get_ident(), time.perf_counter_ns()
        self._begun[thread] = time.monotonic()
        try:
            yield
        finally:
            del self._begun[thread]
            times.decode = Span(begin, time.perf_counter_ns())

    def longest(self) -> float:
        """For how many seconds the slowest photo is being decoded."""
        return time.monotonic() - min(list(self._begun.values()), default=math.inf)

    def close(self) -> None:
        """Finish the photos that were begun, and cancel the others."""
        self._is_closed = True
        self._quick.shutdown()
        self._slow.shutdown()


def _fail(answer: Future[Probabilities], error: BaseException) -> None:
    if answer.set_running_or_notify_cancel():
        answer.set_exception(_light(error))


def _light(error: BaseException) -> BaseException:
    """A refused photo's error without its frames, which would hold the model until Python collects its garbage."""
    if isinstance(error, InputError):
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    return error
