"""What features show about labels, classes and the number of photos, on features whose answer is known."""

import numpy as np
import pytest

from sagehound.diagnosis.class_pairs import inseparable_classes
from sagehound.diagnosis.learning_curve import learning_curve
from sagehound.diagnosis.leave_one_out import Array, leave_one_out, normalised, targets
from sagehound.diagnosis.outliers import outliers
from sagehound.diagnosis.suspicious_labels import suspicious_labels


def features(photos: int, classes: int, spread: float = 1.0, dimensions: int = 40) -> tuple[Array, Array]:
    """Each class is a cloud around its own centre."""
    rng = np.random.default_rng(0)
    labels = np.arange(photos) % classes
    centres = 3 * rng.normal(size=(classes, dimensions))
    return centres[labels] + spread * rng.normal(size=(photos, dimensions)), labels


@pytest.mark.parametrize("photos", [30, 90])  # fewer and more than features
def test_each_photo_is_predicted_by_the_others(photos: int) -> None:
    x, y = features(photos, 3, spread=4)
    scenes = [0, 0, 0, *range(1, photos - 2)]
    scores = leave_one_out(x, y, 3, strength=2, scenes=scenes)
    rows, (target, shares) = normalised(x, x), targets(y, 3)
    for left_out in ([0, 1, 2], [3], [photos - 1]):
        others = np.setdiff1d(np.arange(photos), left_out)
        a = rows[others]
        weights = np.linalg.solve(a.T @ a + 2 * np.eye(40), a.T @ target[others])
        assert scores[left_out] == pytest.approx(shares + rows[left_out] @ weights, abs=1e-4)


def test_ten_thousand_photos_are_solved_in_the_dimension_of_the_features() -> None:
    x, y = features(10_000, 5, spread=6)
    assert (leave_one_out(x, y, 5).argmax(1) == y).mean() > 0.9  # a matrix of all pairs would take 800 MB


def test_flipped_labels_come_first() -> None:
    x, y = features(200, 4)
    flipped = [3, 50, 77, 120]
    wrong = y.copy()
    wrong[flipped] = (y[flipped] + 1) % 4
    found = suspicious_labels(leave_one_out(x, wrong, 4), wrong)
    assert {one.photo for one in found} == set(flipped)
    assert all(one.suggested == y[one.photo] for one in found)
    assert suspicious_labels(leave_one_out(x, y, 4), y) == []


def test_a_copy_with_the_same_wrong_label_does_not_hide_it() -> None:
    x, y = features(60, 3)
    x = np.concatenate([x, *[x[:1]] * 8])
    wrong = np.concatenate([y, [0] * 8])
    wrong[[0, *range(60, 68)]] = 1
    scenes = [*range(60), *[0] * 8]
    assert 0 in {one.photo for one in suspicious_labels(leave_one_out(x, wrong, 3, scenes=scenes), wrong)}


def test_one_class_under_two_names_cannot_be_told_apart() -> None:
    x, y = features(240, 3)
    y = np.where(y == 2, 2 + np.arange(240) // 3 % 2, y)
    pairs = inseparable_classes(leave_one_out(x, y, 4), y)
    assert [(one.a, one.b, one.photos) for one in pairs] == [(2, 3, 80)]
    assert 0.35 < pairs[0].error < 0.65


def test_the_learning_curve_tells_what_more_photos_add() -> None:
    x, y = features(800, 5, spread=9)
    curve = learning_curve(x, y, 5)
    assert [point["photos"] for point in curve.points] == [100, 200, 400, 800]
    assert curve.points[0]["top1"] < curve.points[-1]["top1"] < 1
    assert curve.gain is not None
    assert curve.interval is not None
    assert 0 < curve.interval[0] <= curve.gain <= curve.interval[1]
    assert curve.sentence.startswith(f"25 more photos a class: about +{100 * curve.gain:.1f} points (")
    easy = learning_curve(*features(400, 5, spread=0.1), 5)
    assert easy.sentence == "25 more photos a class: no gain to expect"
    assert learning_curve(*features(12, 4), 4).sentence == ""


def test_a_photo_of_something_else_is_an_outlier() -> None:
    x, _ = features(300, 3)
    x[7] = 5 * np.random.default_rng(1).normal(size=40)
    assert outliers(x)[0].photo == 7
    assert outliers(x[:15]) == []
