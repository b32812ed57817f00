"""POST /models/NAME/explain: where a photo shows its class."""

import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import Server
from PIL import Image

from sagehound.artifact.archive import opened
from sagehound.inference.formats import Probabilities
from sagehound.inference.preprocessing import Pixels, prepare
from sagehound.serving.batcher import Batcher
from sagehound.serving.occlusion import covered
from sagehound.serving.predictor import Predictor


def explained(server: Server, photo: bytes, query: str = "") -> tuple[int, dict[str, object]]:
    answer = server.request("POST", f"/models/run/explain{query}", photo, Content_Type="image/png")
    return answer.status, json.loads(answer.data)


def half(left: tuple[int, int, int], right: tuple[int, int, int]) -> bytes:
    """A photo of two colours."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32], pixels[:, 32:] = left, right
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_the_places_that_show_the_class_matter(server: Server) -> None:
    """The classes of the model are colours: on a grey photo with one coloured half, that half counts."""
    grey, colour = (128, 128, 128), (200, 140, 40)
    for photo, coloured in ((half(colour, grey), slice(0, 3)), (half(grey, colour), slice(4, 7))):
        status, said = explained(server, photo, "?label=Amber")
        assert status == 200
        importance = np.array(said["importance"])
        assert importance.shape == (7, 7)
        other = slice(4, 7) if coloured.start == 0 else slice(0, 3)
        assert np.abs(importance[:, coloured]).mean() > 3 * np.abs(importance[:, other]).mean()


def test_the_most_probable_class_is_explained_without_a_label(server: Server, photo: bytes) -> None:
    _, said = explained(server, photo)
    answer = json.loads(server.request("POST", "/models/run/invoke", photo, Content_Type="image/jpeg").data)
    assert (said["label"], said["probability"]) == (answer["label"], pytest.approx(answer["probability"], abs=1e-4))


@pytest.mark.parametrize(
    ("body", "query", "message"),
    [
        (b"no photo", "", "not an image file"),
        (half((0, 0, 0), (0, 0, 0)), "?label=Poodle", "label=Poodle: the model has no such class"),
    ],
)
def test_what_cannot_be_explained_is_one_message(server: Server, body: bytes, query: str, message: str) -> None:
    status, said = explained(server, body, query)
    assert status == 400
    assert said["error"]["message"] == message  # type: ignore[index]


@pytest.mark.slow
def test_many_explanations_stall_nobody(server: Server, photo: bytes) -> None:
    with ThreadPoolExecutor(60) as pool:
        attacks = [pool.submit(explained, server, photo) for _ in range(60)]
        time.sleep(0.2)
        begun = time.monotonic()
        assert server.invoke(photo).status == 200
        assert time.monotonic() - begun < 5, "0.1 s on a quiet machine"
        statuses = [attack.result()[0] for attack in attacks]
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 32, "as many as may wait"


def test_photos_that_nobody_waits_for_are_not_computed(run: Path, photo: bytes) -> None:
    seen: list[int] = []
    begun, may_end = threading.Event(), threading.Event()
    with opened(run) as folder:
        predictor = Predictor(folder)
        pixels = prepare(photo, predictor.card.preprocessing)

        class Slow(Predictor):
            def __call__(self, photos: list[Pixels], *, is_alone: bool = True) -> Probabilities:
                begun.set()
                assert may_end.wait(30)
                seen.append(len(photos))
                return super().__call__(photos)

        engine = Batcher(lambda _: None)
        predictor.__class__ = Slow
        predictor.sessions.calls = 1
        first = engine.submit(predictor, pixels)
        assert begun.wait(30)
        waiting = [engine.submit(predictor, pixels) for _ in range(20)]
        for answer in waiting[:19]:
            answer.cancel()
        may_end.set()
        assert waiting[19].result(30).shape == first.result(30).shape
        engine.close()
    assert sum(seen) == 2


def test_each_place_is_covered_once_and_all_of_the_photo_with_them() -> None:
    photo = np.zeros((60, 90, 3), np.uint8)
    variants = list(covered(photo))
    assert len(variants) == 49
    assert all((variant == 128).mean() <= 0.1 for variant in variants)
    assert (np.max(variants, axis=0) == 128).all()
    assert not photo.any(), "the photo itself is unchanged"
