import gc
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from sagehound.artifact.archive import opened
from sagehound.errors import InputError
from sagehound.inference.formats import Probabilities
from sagehound.inference.preprocessing import Pixels, prepare
from sagehound.serving.batcher import Batcher
from sagehound.serving.model_store import AlreadyLoaded, ModelStore, NoMemory, UnknownModel
from sagehound.serving.predictor import needed


@pytest.fixture
def size(run: Path) -> int:
    """Bytes that the model of ``run`` is counted with."""
    with opened(run) as folder:
        return needed(folder)


def in_memory(models: ModelStore) -> list[str]:
    return [m["modelName"] for m in models.listed() if m["inMemory"]]


def test_the_least_recently_used_is_set_aside_and_comes_back(run: Path, size: int) -> None:
    models = ModelStore(2 * size)
    models.load("a", str(run))
    models.load("b", str(run))
    assert models.get("a") is not None  # now b was used longest ago
    assert models.get("b", is_use=False) is not None
    models.load("c", str(run))
    assert in_memory(models) == ["a", "c"]
    assert [m["modelName"] for m in models.listed()] == ["a", "b", "c"], "a name is kept"
    assert models.get("b") is None
    assert models.reopen("b").card.classes == ["Amber", "Moss", "Slate"]
    assert in_memory(models) == ["b", "c"]
    with pytest.raises(AlreadyLoaded, match="model b is loaded"):
        models.load("b", str(run))
    models.close()
    assert models.listed() == []


def test_a_model_that_does_not_fit_alone_is_refused(run: Path, size: int) -> None:
    models = ModelStore(size - 1)
    with pytest.raises(NoMemory, match=r"needs \d+ MB of memory, models may hold"):
        models.load("a", str(run))
    assert models.listed() == []


def test_a_name_is_needed_among_several(run: Path) -> None:
    models = ModelStore(10**9)
    with pytest.raises(UnknownModel, match="no model '' is loaded"):
        models.get(None)
    models.load("a", str(run))
    assert models.get(None) is models.get("a")
    models.load("b", f"file://{run}")
    with pytest.raises(InputError, match=r"which model\? .*: a, b"):
        models.get(None)
    models.unload("a")
    with pytest.raises(UnknownModel, match="no model 'a' is loaded; loaded: b"):
        models.unload("a")
    models.close()


def test_nothing_is_left_of_what_was_unpacked(
    run: Path, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    models = ModelStore(size)
    models.load("a", str(run))
    models.load("b", str(run))
    with pytest.raises(InputError):
        models.load("c", str(tmp_path / "nowhere"))
    assert len(list(tmp_path.iterdir())) == 2
    models.unload("a")
    assert len(list(tmp_path.iterdir())) == 1
    models.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_computes_with_a_model_goes_on_while_it_is_unloaded(run: Path, run_photos: Path) -> None:
    models = ModelStore(10**9)
    models.load("a", str(run))
    predictor = models.get("a")
    assert predictor is not None
    engine = Batcher(on_batch=lambda _: None)
    photo = next(iter(sorted((run_photos / "test/001.Amber").iterdir())))
    expected = predictor([prepare(photo, predictor.card.preprocessing)])[0].argmax()
    futures = [engine.submit(predictor, photo) for _ in range(50)]
    models.unload("a")
    del predictor
    gc.collect()
    assert {int(f.result(30).argmax()) for f in futures} == {int(expected)}
    engine.close()


def test_one_name_goes_to_one_of_many_that_ask_at_once(run: Path) -> None:
    models = ModelStore(10**9)
    together = threading.Barrier(6)

    def load(_: int) -> str:
        together.wait()
        try:
            models.load("a", str(run))
        except AlreadyLoaded:
            return "taken"
        return "loaded"

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(load, range(6))) == ["loaded", *["taken"] * 5]
    models.close()


def test_a_model_that_fails_does_not_stop_the_others(run: Path, run_photos: Path) -> None:
    models = ModelStore(10**9)
    models.load("a", str(run))
    good = models.get("a")
    assert good is not None

    class Short:
        card, stop, sessions = good.card, good.stop, good.sessions

        def __call__(self, photos: list[object], *, is_alone: bool) -> list[object]:
            return []

    engine = Batcher(on_batch=lambda _: None)
    photo = next(iter(sorted((run_photos / "test/001.Amber").iterdir())))
    with pytest.raises(ValueError, match="gave 0 answers to 1 photos"):
        engine.submit(Short(), photo).result(30)  # type: ignore[arg-type]
    assert engine.submit(good, photo).result(30).shape == (3,)
    engine.close()
    models.close()


def test_pixels_that_are_refused_are_no_longer_in_progress(run: Path) -> None:
    models = ModelStore(10**9)
    models.load("a", str(run))
    good = models.get("a")
    assert good is not None
    alone: list[bool] = []

    class Seen:
        card, stop, sessions = good.card, good.stop, good.sessions

        def __call__(self, photos: list[Pixels], *, is_alone: bool) -> Probabilities:
            alone.append(is_alone)
            return good(photos)

    engine = Batcher(on_batch=lambda _: None)
    pixels = np.zeros((*good.card.preprocessing.size, 3), np.uint8)
    with pytest.raises(InputError, match="this model sees"):
        engine.submit(good, pixels[:-1])
    engine.submit(Seen(), pixels).result(30)  # type: ignore[arg-type]
    assert alone == [True]
    engine.close()
    models.close()


def test_photos_that_wait_are_computed_together_and_each_gets_its_own(run: Path, run_photos: Path) -> None:
    models = ModelStore(10**9)
    models.load("a", str(run))
    models.load("b", str(run))
    a, b = models.get("a"), models.get("b")
    assert a is not None
    assert b is not None
    sizes: list[int] = []
    engine = Batcher(on_batch=sizes.append)
    photos = sorted(run_photos.glob("*/*/*.jpg"))
    futures = [(p, engine.submit(a if i % 3 else b, p)) for i, p in enumerate(photos)]
    for photo, future in futures:
        assert future.result(30) == pytest.approx(a([prepare(photo, a.card.preprocessing)])[0], abs=1e-5)
    engine.close()
    assert sum(sizes) == len(photos)
    assert max(sizes) <= 8
    models.close()


def test_a_photo_that_is_decoded_forever_is_noticed(run: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    models, ended = ModelStore(10**9), threading.Event()
    models.load("a", str(run))
    predictor = models.get("a")
    assert predictor is not None
    monkeypatch.setattr("sagehound.serving.decoders.prepare", lambda *_: ended.wait(30))
    engine = Batcher(on_batch=lambda _: None)
    engine.submit(predictor, photo)
    time.sleep(0.3)
    assert not engine.is_healthy(0.2)
    assert engine.is_healthy(10)
    ended.set()
    engine.close()
    assert engine.is_healthy(0.2)
    models.close()
