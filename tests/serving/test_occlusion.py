"""POST /models/NAME/explain: where a photo shows its class."""

import io
import json

import numpy as np
import pytest
from helpers import Server
from PIL import Image

from sagehound.serving.occlusion import covered


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


def test_each_place_is_covered_once_and_all_of_the_photo_with_them() -> None:
    photo = np.zeros((60, 90, 3), np.uint8)
    variants = list(covered(photo))
    assert len(variants) == 49
    assert all((variant == 128).mean() <= 0.1 for variant in variants)
    assert (np.max(variants, axis=0) == 128).all()
    assert not photo.any(), "the photo itself is unchanged"
