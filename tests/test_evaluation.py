import csv
from pathlib import Path

import numpy as np
import pytest

from sagehound.data.folders import Photo
from sagehound.evaluation import score
from sagehound.plots import accuracy_by_class_size, confusion_matrix, means_by_size, save
from sagehound.tables import Predictions, confusion, per_class, wilson, write_per_class, write_predictions


def predictions(labels: list[int], probabilities: list[list[float]], split: str = "test") -> Predictions:
    photos = [Photo(f"{split}/{i}.jpg", split, "abc"[label]) for i, label in enumerate(labels)]
    return Predictions(photos, np.array(labels), np.log(np.array(probabilities, np.float32)))


FOUND = predictions(
    [0, 0, 1, 1, 2],
    [[0.9, 0.05, 0.05], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2]],
)


def test_scores_by_hand() -> None:
    s = score(FOUND)
    assert s["top1"] == pytest.approx(3 / 5)
    assert s["top1_interval"] == pytest.approx([0.2307, 0.8824], abs=1e-4)
    assert s["top5"] == 1
    assert s["photos"] == 5
    f1 = [2 * 1 / (2 + 1 + 1), 2 * 2 / (2 * 2 + 1 + 0), 0.0]  # per class: 2 tp / (2 tp + fp + fn)
    assert s["macro_f1"] == pytest.approx(np.mean(f1), abs=1e-5)
    assert s["loss"] == pytest.approx(-np.mean(np.log([0.9, 0.2, 0.6, 0.8, 0.2])), abs=1e-5)
    # five bins of one photo each: the gap of confidence and right, weighed by a fifth
    assert s["ece"] == pytest.approx(np.mean([0.1, 0.7, 0.4, 0.2, 0.5]), abs=1e-5)


@pytest.mark.parametrize(
    ("right", "photos", "interval"),
    [
        (81, 263, (0.2553, 0.3662)),  # the first four as printed by Newcombe (1998), table I, method 3
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
        (20, 20, (0.8389, 1.0)),  # the third, mirrored
        (0, 1, (0.0, 0.7935)),  # z² / (1 + z²)
        (0, 0, (0.0, 1.0)),  # nothing is known
    ],
)
def test_an_accuracy_has_a_wilson_interval(right: int, photos: int, interval: tuple[float, float]) -> None:
    low, high = wilson(right, photos)
    assert (low, high) == pytest.approx(interval, abs=5e-5)
    assert 0 <= low <= high <= 1
    assert (low == 0) == (right == 0)
    assert (high == 1) == (right == photos)


def test_confusion_counts_labels_in_rows() -> None:
    assert confusion(FOUND).tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]


def test_the_table_per_class(tmp_path: Path) -> None:
    train = predictions([0, 0, 0, 1, 2, 2], [[0.4, 0.3, 0.3]] * 6, "train")
    valid = predictions([0], [[0.4, 0.3, 0.3]], "valid")
    no_third = predictions([0, 1], [[0.9, 0.05, 0.05], [0.9, 0.05, 0.05]])
    scores = per_class(["a", "b", "c"], {"train": train, "valid": valid, "test": no_third})
    write_per_class(tmp_path / "per_class.csv", scores)
    assert (tmp_path / "per_class.csv").read_text().splitlines() == [
        "class,train,valid,test,correct,accuracy,accuracy_low,accuracy_high,precision,recall,f1",
        "a,3,1,1,1,1.0000,0.2065,1.0000,0.5000,1.0000,0.6667",
        "b,1,0,1,0,0.0000,0.0000,0.7935,,0.0000,0.0000",
        "c,2,0,0,0,,,,,,",
    ]
    save(accuracy_by_class_size(scores), tmp_path / "size.png")
    save(confusion_matrix(confusion(no_third), ["a", "b", "c"]), tmp_path / "confusion.png")


def test_the_table_of_predictions(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.csv", ["a,1", "b", "c"], {"test": FOUND})
    with (tmp_path / "p.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert rows[1] == {
        "file": "test/1.jpg",
        "split": "test",
        "label": "a",
        "prediction": "b",
        "probability": "0.700000",
        "top5": "b:0.7000;a,1:0.2000;c:0.1000",
    }


def test_classes_of_one_size_have_one_mean() -> None:
    size, accuracy = means_by_size(np.full(6, 60), np.array([0.5, 0.6, 0.7, 0.8, 0.9, 1.0]))
    assert (size.tolist(), accuracy.tolist()) == ([60], [0.75])
    size, accuracy = means_by_size(np.array([10, 20, 30, 40, 40]), np.array([0.1, 0.2, 0.3, 0.4, 0.6]))
    assert size.tolist() == [15, 30, 40]
    assert accuracy.tolist() == pytest.approx([0.15, 0.3, 0.5])


@pytest.mark.parametrize("classes", [2, 133])
def test_plots_of_few_and_of_many_classes(tmp_path: Path, classes: int) -> None:
    counts = np.eye(classes, dtype=np.int64) * 3
    save(confusion_matrix(counts, [f"class {i}" for i in range(classes)]), tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
