import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sagehound.inference.formats import Probabilities
from sagehound.inference.preprocessing import Pixels, prepare
from sagehound.serving.batcher import Batcher, ModelHung
from sagehound.serving.decoders import Decoders
from sagehound.serving.model_store import ModelStore
from sagehound.serving.photo_times import PhotoTimes
from sagehound.serving.predictor import Predictor


class Paused:
    """A model that computes nothing before it is released."""

    def __init__(self, model: Predictor) -> None:
        self.card, self.stop, self.sessions = model.card, model.stop, model.sessions
        self.released, self._model = threading.Event(), model

    def __call__(self, photos: list[Pixels], *, is_alone: bool) -> Probabilities:
        self.released.wait(30)
        return self._model(photos, is_alone=is_alone)


@pytest.fixture
def paused(run: Path) -> Iterator[Paused]:
    models = ModelStore(10**9)
    models.load("a", str(run))
    model = models.get("a")
    assert model is not None
    yield (paused := Paused(model))
    paused.released.set()
    models.close()


def settled(count: Callable[[], int]) -> int:
    """The count once it no longer changes."""
    before, now = -1, count()
    while before != now:
        time.sleep(0.3)
        before, now = now, count()
    return now


def test_photos_wait_as_files_until_they_can_be_computed(paused: Paused, photo: bytes) -> None:
    engine, times = Batcher(on_batch=lambda _: None), [PhotoTimes() for _ in range(100)]
    futures = [engine.submit(paused, photo, times=t) for t in times]  # type: ignore[arg-type]
    computed = paused.sessions.calls * paused.sessions.batch
    decoded = settled(lambda: sum(t.decode is not None for t in times))
    assert decoded == 2 * computed, "those that are computed, and as many again"
    assert all(t.decode is not None for t in times[:decoded]), "first come, first served"
    paused.released.set()
    assert not wait(futures, 30).not_done
    assert len({row.tobytes() for row in (np.round(f.result(), 4) for f in futures)}) == 1
    engine.close()


def test_clients_that_leave_take_no_place(paused: Paused, photo: bytes) -> None:
    engine = Batcher(on_batch=lambda _: None)
    futures = [engine.submit(paused, photo) for _ in range(60)]  # type: ignore[arg-type]
    left = futures[1:-1]
    for future in left:
        future.cancel()
    paused.released.set()
    assert futures[0].result(30).shape == futures[-1].result(30).shape == (3,)
    engine.close()


def test_the_end_cancels_those_that_wait(paused: Paused, photo: bytes) -> None:
    engine = Batcher(on_batch=lambda _: None)
    futures = [engine.submit(paused, photo) for _ in range(2000)]  # type: ignore[arg-type]
    threading.Timer(0.2, paused.released.set).start()
    engine.close()
    assert all(f.done() for f in futures)
    assert sum(f.cancelled() for f in futures) > 1900
    assert engine.submit(paused, photo).cancelled()  # type: ignore[arg-type]


@pytest.mark.slow
def test_photos_that_take_long_to_decode_do_not_hold_up_small_ones(
    paused: Paused, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = io.BytesIO()
    Image.new("RGB", (2100, 2000)).save(large, "PNG")
    ended = threading.Event()

    def held_up(source: bytes, *rest: Any) -> Pixels:  # noqa: ANN401
        if len(source) == len(large.getvalue()):
            ended.wait(30)
        return prepare(source, *rest)

    monkeypatch.setattr("sagehound.serving.decoders.prepare", held_up)
    paused.released.set()
    engine = Batcher(on_batch=lambda _: None)
    slow = [engine.submit(paused, large.getvalue()) for _ in range(50)]  # type: ignore[arg-type]
    assert engine.submit(paused, photo).result(30).shape == (3,)  # type: ignore[arg-type]
    assert not any(f.done() for f in slow)
    ended.set()
    assert not wait(slow, 30).not_done
    engine.close()


def test_pixels_wait_behind_the_files_that_came_before(paused: Paused, photo: bytes) -> None:
    engine, pixels = Batcher(on_batch=lambda _: None), np.zeros((*paused.card.preprocessing.size, 3), np.uint8)
    files = [engine.submit(paused, photo) for _ in range(40)]  # type: ignore[arg-type]
    others = [engine.submit(paused, pixels) for _ in range(80)]  # type: ignore[arg-type]
    before: list[int] = []  # pixels that were answered when a file was
    for file in files:
        file.add_done_callback(lambda _: before.append(sum(f.done() for f in others)))
    paused.released.set()
    assert not wait(files + others, 30).not_done
    assert max(before) <= 2 * paused.sessions.calls * paused.sessions.batch
    engine.close()


def test_all_photos_that_wait_for_a_model_that_hangs_are_refused(paused: Paused, photo: bytes) -> None:
    engine, pixels = Batcher(on_batch=lambda _: None), np.zeros((*paused.card.preprocessing.size, 3), np.uint8)
    futures = [engine.submit(paused, pixels) for _ in range(2000)]  # type: ignore[arg-type]
    futures += [engine.submit(paused, photo) for _ in range(20)]  # type: ignore[arg-type]
    time.sleep(0.1)
    assert [stop for stop, _ in engine.abandon_hung(0.05)] == [paused.stop]
    assert not wait(futures, 30).not_done
    assert {type(f.exception()) for f in futures} == {ModelHung}
    engine.close()


def test_many_photos_that_are_refused_at_once_take_no_deeper_stack(paused: Paused, photo: bytes) -> None:
    """Whoever is refused admits the next one, who is refused, and so on."""
    engine = Batcher(on_batch=lambda _: None, decoders=(decoders := Decoders()))
    futures = [engine.submit(paused, photo) for _ in range(2000)]  # type: ignore[arg-type]
    decoders.close()
    paused.released.set()
    assert settled(lambda: sum(f.done() for f in futures)) == len(futures)
    engine.close()


def test_the_end_cancels_large_photos_that_are_not_begun(paused: Paused) -> None:
    large = io.BytesIO()
    Image.new("L", (2100, 2000)).save(large, "PNG")
    paused.released.set()
    engine = Batcher(on_batch=lambda _: None, decoders=Decoders(slow=1))
    futures = [engine.submit(paused, large.getvalue()) for _ in range(50)]  # type: ignore[arg-type]
    engine.close()
    assert all(f.done() for f in futures)
    assert any(f.cancelled() for f in futures)


def test_every_core_decodes_while_a_batch_is_computed(
    paused: Paused, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, begun = threading.Event(), list[int]()

    def held_up(*arguments: Any) -> Pixels:  # noqa: ANN401
        begun.append(1)
        ended.wait(30)
        return prepare(*arguments)

    engine = Batcher(on_batch=lambda _: None, decoders=Decoders(threads=64))
    computed = paused.sessions.calls * paused.sessions.batch
    first = [engine.submit(paused, photo) for _ in range(computed)]  # type: ignore[arg-type]
    settled(lambda: sum(f.running() for f in first))
    monkeypatch.setattr("sagehound.serving.decoders.prepare", held_up)
    futures = [engine.submit(paused, photo) for _ in range(70)]  # type: ignore[arg-type]
    assert settled(lambda: len(begun)) == 64
    ended.set()
    paused.released.set()
    assert not wait(first + futures, 30).not_done
    engine.close()
