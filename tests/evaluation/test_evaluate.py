import csv
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from helpers import save_photo
from matplotlib.text import Text

from sagehound.data.folders import Photo
from sagehound.evaluation.evaluate import score
from sagehound.evaluation.plots import (
    accuracy_by_class_size,
    clustered,
    confusion_matrix,
    means_by_size,
    save,
    worst_mistakes,
)
from sagehound.evaluation.tables import (
    ClassScore,
    Predictions,
    confusion,
    per_class,
    wilson,
    write_confusions,
    write_per_class,
    write_predictions,
)


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


def overlapping(texts: list[Text]) -> list[tuple[str, str]]:
    """Pairs of drawn texts whose boxes overlap."""
    boxes = [(t.get_text(), Text.get_window_extent(t)) for t in texts]
    return [(a, b) for (a, one), (b, two) in combinations(boxes, 2) if one.overlaps(two)]


@pytest.mark.parametrize("classes", [3, 133])
def test_the_names_at_the_class_sizes_do_not_overlap(tmp_path: Path, classes: int) -> None:
    scores = [
        ClassScore(f"a breed with a rather long name {i}", {"train": 50, "valid": 6, "test": 6}, 2 + i % 2 + i // 8, 6)
        for i in range(min(classes, 8))
    ] + [ClassScore(f"breed {i}", {"train": 26 + i % 52, "valid": 6, "test": 6}, 5, 6) for i in range(8, classes)]
    figure = accuracy_by_class_size(scores)
    save(figure, tmp_path / "size.png")
    (axes,) = figure.axes
    named = list(axes.texts)
    assert len(named) == min(classes, 5)
    around = [axes.xaxis.label, axes.yaxis.label, axes.title, *axes.get_xticklabels(), *axes.get_yticklabels()]
    assert overlapping(named + [t for t in around if t.get_text()] + axes.get_legend().get_texts()) == []
    for name in named:
        box, frame = Text.get_window_extent(name), axes.get_window_extent()
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1


def test_classes_of_one_size_stand_side_by_side_without_a_scale(tmp_path: Path) -> None:
    figure = accuracy_by_class_size(
        [ClassScore(f"c{i}", {"train": 12, "valid": 3, "test": 3}, 3 - i, 3) for i in range(3)]
    )
    save(figure, tmp_path / "size.png")
    (axes,) = figure.axes
    assert not list(axes.get_xticks()), "a scale would tell them apart by a size that is the same"
    assert axes.get_xlabel() == "classes, lowest accuracy first; each has 12 training photos"
    assert "mean of a quarter of the classes" not in [t.get_text() for t in axes.get_legend().get_texts()]


@pytest.mark.parametrize("classes", [7, 8])
def test_eight_classes_or_more_have_means_of_quarters(classes: int) -> None:
    scores = [ClassScore(f"c{i}", {"train": 12 + i, "valid": 3, "test": 3}, 2, 3) for i in range(classes)]
    legend = accuracy_by_class_size(scores).axes[0].get_legend()
    assert ("mean of a quarter of the classes" in [t.get_text() for t in legend.get_texts()]) == (classes == 8)


def test_classes_without_a_test_photo_are_drawn_as_an_empty_plot(tmp_path: Path) -> None:
    figure = accuracy_by_class_size([ClassScore("a", {"train": 3, "valid": 0, "test": 0}, 0, 0)])
    assert save(figure, tmp_path / "size.png").startswith(b"\x89PNG")
    assert not figure.axes[0].lines


@pytest.mark.parametrize("classes", [2, 20, 133, 300])
def test_a_confusion_of_few_and_of_many_classes(tmp_path: Path, classes: int) -> None:
    counts = np.eye(classes, dtype=np.int64) * 3
    counts[0, classes - 1] = 2
    figure = confusion_matrix(counts, [f"class {i}$" for i in range(classes)])
    assert save(figure, tmp_path / "confusion.png").startswith(b"\x89PNG")
    names = [t for t in figure.axes[0].get_yticklabels() if t.get_text()]
    assert overlapping(names) == []
    whole = figure.bbox
    assert all(whole.x0 <= Text.get_window_extent(t).x0 for t in names)
    listed = "\n".join(t.get_text() for t in figure.texts)
    assert (f"2 of 5: class 0$ → class {classes - 1}$" in listed) == (classes > 20)


def test_classes_that_are_confused_stand_side_by_side() -> None:
    counts = np.eye(30, dtype=np.int64) * 8
    for a, b in ((0, 29), (5, 17), (9, 23)):
        counts[a, b], counts[b, a] = 4, 2
    order = clustered(counts).tolist()
    assert sorted(order) == list(range(30))
    for a, b in ((0, 29), (5, 17), (9, 23)):
        assert abs(order.index(a) - order.index(b)) == 1


def test_the_table_of_confusions(tmp_path: Path) -> None:
    counts = np.array([[5, 1, 0], [0, 2, 2], [1, 0, 1]])
    write_confusions(tmp_path / "confusions.csv", ["a", "b", "c"], counts)
    assert (tmp_path / "confusions.csv").read_text().splitlines() == [
        "label,prediction,photos,share",
        "b,c,2,0.5000",
        "c,a,1,0.5000",
        "a,b,1,0.1667",
    ]


def test_the_worst_mistakes_show_their_file_names(tmp_path: Path) -> None:
    names = ["a$b$c.jpg", "a" * 60 + ".jpg", "brok\udce9n.jpg"]
    for i, name in enumerate(names):
        save_photo(tmp_path / name, (200, 100, 50), seed=i)
    found = Predictions(
        [Photo(name, "test", "a") for name in names],
        np.zeros(3, np.int64),
        np.array([[0, 3], [0, 2], [0, 1]], np.float32),
    )
    figure = worst_mistakes(found, ["a", "b"], tmp_path)
    save(figure, tmp_path / "worst.png")
    below = [axes.texts[0] for axes in figure.axes]
    assert [t.get_text() for t in below] == ["a$b$c.jpg", "a" * 22 + "…" + "a" * 17 + ".jpg", r"brok\udce9n.jpg"]
    assert overlapping(below + [axes.title for axes in figure.axes]) == []


def test_a_mistake_shows_the_folder_of_its_photo_if_there_is_room(tmp_path: Path) -> None:
    names = ["test/Beagle/001.jpg", f"test/{'Beagle' * 9}/001.jpg"]
    for i, name in enumerate(names):
        save_photo(tmp_path / name, (200, 100, 50), seed=i)
    photos = [Photo(name, "test", "a") for name in names]
    found = Predictions(photos, np.zeros(2, np.int64), np.array([[0, 3], [0, 2]], np.float32))
    below = [axes.texts[0].get_text() for axes in worst_mistakes(found, ["a", "b"], tmp_path).axes]
    assert below == ["Beagle/001.jpg", "001.jpg"]


def test_without_a_mistake_the_picture_is_as_small_as_its_sentence(tmp_path: Path) -> None:
    right = Predictions([Photo("a.jpg", "test", "a")], np.zeros(1, np.int64), np.array([[3, 0]], np.float32))
    figure = worst_mistakes(right, ["a", "b"], tmp_path)
    save(figure, tmp_path / "worst.png")
    (text,) = figure.texts
    box = Text.get_window_extent(text)
    assert text.get_text() == "No test photo was mistaken"
    assert figure.bbox.width < 1.5 * box.width
    assert figure.bbox.height < 4 * box.height
