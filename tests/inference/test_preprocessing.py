import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from sagehound.config import Augment
from sagehound.data.augmentation import Augmentation, random_box
from sagehound.inference.preprocessing import Preprocessing, centre, shrink, to_pixels

TO = Preprocessing((224, 224), 256, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def photo(width: int = 500, height: int = 375) -> Image.Image:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def augment(**changes: object) -> Augment:
    return Augment(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (256, 256), (1000, 300), (97, 61)])
def test_the_centre_is_what_torchvision_cuts_out(size: tuple[int, int]) -> None:
    mode = InterpolationMode.BICUBIC
    expected = v2.CenterCrop(224)(v2.Resize(256, interpolation=mode)(photo(*size)))
    assert_same(np.asarray(centre(photo(*size), TO)), np.asarray(expected))


def test_the_centre_is_what_timm_evaluates() -> None:
    from timm.data import create_transform

    with_timm = create_transform(224, interpolation="bicubic", crop_pct=0.875, normalize=False)
    assert_same(to_pixels(centre(photo(), TO)), with_timm(photo()).permute(1, 2, 0).numpy())


@pytest.mark.parametrize("resize", [256, 0])
def test_the_centre_of_a_shrunken_photo_is_the_centre_of_the_photo(resize: int) -> None:
    preprocessing = replace(TO, resize=resize)
    small = shrink(photo(), preprocessing)
    assert small.size == ((341, 256) if resize else (224, 224))
    assert_same(np.asarray(centre(small, preprocessing)), np.asarray(centre(photo(), preprocessing)))
    assert shrink(photo(200, 150), preprocessing).size == (200, 150), "nothing is enlarged"


def assert_same(a: np.ndarray, b: np.ndarray) -> None:
    """The same pixels, but for the rounding of a few."""
    difference = np.abs(a.astype(int) - b.astype(int))
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.005


@pytest.mark.parametrize(("size", "resize"), [((224, 224), 200), ((320, 224), 256)])
def test_a_crop_larger_than_the_photo_has_a_black_margin(size: tuple[int, int], resize: int) -> None:
    pixels = to_pixels(centre(photo(300, 300), replace(TO, size=size, resize=resize)))
    assert pixels.shape == (*size, 3)
    assert not pixels[0].any()
    assert pixels[size[0] // 2, size[1] // 2].any()


def test_preprocessing_follows_the_weights() -> None:
    import timm

    model = timm.create_model("test_resnet")
    preprocessing = Preprocessing.of_weights(timm.data.resolve_data_config({}, model=model))
    assert preprocessing == Preprocessing((160, 160), 168, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize("kind", [{"crop": 0.3, "flip": True}, {"crop": 0.3, "flip": True, "randaugment": 9}])
def test_augmentation_follows_from_the_seed(kind: dict[str, object]) -> None:
    transform = Augmentation(augment(**kind), TO)
    one, same, other = (np.asarray(transform(photo(), seed)) for seed in (1, 1, 2))
    assert one.shape == (224, 224, 3)
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_augmentation_leaves_the_global_generators_alone() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    Augmentation(augment(crop=0.3, flip=True, randaugment=9), TO)(photo(), 5)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index]


def test_without_augmentation_training_sees_the_centre() -> None:
    assert np.array_equal(np.asarray(Augmentation(augment(), TO)(photo(), 3)), np.asarray(centre(photo(), TO)))


@pytest.mark.parametrize("size", [(500, 375), (300, 900), (40, 3000)])
def test_random_crops_lie_in_the_photo_and_have_the_promised_area_and_shape(size: tuple[int, int]) -> None:
    width, height = size
    shares = []
    for seed in range(300):
        left, top, right, bottom = random_box(size, 0.3, random.Random(seed))
        assert 0 <= left < right <= width + 1e-6
        assert 0 <= top < bottom <= height + 1e-6
        assert 3 / 4 - 1e-6 <= (right - left) / (bottom - top) <= 4 / 3 + 1e-6
        shares.append((right - left) * (bottom - top) / (width * height))
    if size == (500, 375):
        assert 0.3 <= min(shares) < 0.4
        assert 0.9 < max(shares) <= 1
        assert 0.5 < sum(shares) / 300 < 0.6, "as torchvision draws them: 0.55"


def test_half_of_the_photos_are_mirrored() -> None:
    flip = Augmentation(augment(flip=True), TO)
    plain = np.asarray(centre(photo(), TO))
    mirrored = [not np.array_equal(np.asarray(flip(photo(), seed)), plain) for seed in range(60)]
    assert 15 < sum(mirrored) < 45


def test_a_photo_as_long_as_a_thread_takes_no_more_memory_than_others() -> None:
    """Only what is seen of a resized photo is made, with a margin or without."""
    thread = Image.new("RGB", (1, 65_000), "red")
    for resize in (0, 56, 64, 73):
        preprocessing = Preprocessing((64, 64), resize, "bicubic", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
        seen = centre(thread, preprocessing)
        assert seen.size == (64, 64)
        assert seen.getpixel((32, 32)) == (255, 0, 0)
        assert (seen.getpixel((0, 0)) == (0, 0, 0)) == (resize == 56)
