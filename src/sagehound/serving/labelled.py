"""Scores of batch predictions whose photos lie in folders named after the classes."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from sagehound.artifact.archive import Card, opened
from sagehound.data.folders import SPLIT_NAMES, SPLITS
from sagehound.evaluation.tables import ClassScore, describe_interval, wilson, write_per_class
from sagehound.inference.spreadsheet import unmarked
from sagehound.storage.atomic import write_csv

_NUMBER = re.compile(r"^\d+\.")  # dogImages numbers its folders: 001.Affenpinscher


@dataclass(frozen=True)
class Scored:
    """What was scored."""

    photos: int
    correct: int
    per_class: Path
    trained: int  # photos in a folder of the split train

    def __str__(self) -> str:
        interval = describe_interval(wilson(self.correct, self.photos))
        return f"{self.correct / self.photos:.1%} of {self.photos:,} photos (95 % interval {interval})"


def score(model: str, predictions: Path) -> Scored | None:
    """Write STEM_per_class.csv and STEM_confusions.csv beside predictions.csv or predictions.jsonl.

    A photo's label is the name of the nearest folder above it that is a class of the model, without a number in front.
    Photos without a prediction and photos in other folders are not counted.

    Returns:
        None if no folder is named after a class; then nothing is written.
    """
    with opened(model) as folder:
        classes = Card.read(folder).classes
    labelled = list(_labelled(predictions, set(classes)))
    pairs = Counter((label, best) for _, label, best in labelled)
    trained = sum(SPLIT_NAMES.get(file.split("/")[0].lower()) == "train" for file, _, _ in labelled)
    if not pairs:
        return None
    labels, predicted = Counter[str](), Counter[str]()
    for (label, best), count in pairs.items():
        labels[label] += count
        predicted[best] += count
    counts = {name: dict.fromkeys(SPLITS, 0) | {"test": labels[name]} for name in classes}
    scores = [ClassScore(name, counts[name], pairs[name, name], predicted[name]) for name in classes]
    stem = predictions.stem
    per_class = predictions.with_name(f"{stem}_per_class.csv")
    write_per_class(per_class, scores)
    wrong = sorted(((a, b, n) for (a, b), n in pairs.items() if a != b), key=lambda row: (-row[2], row))
    rows = [[label, best, n, f"{n / labels[label]:.4f}"] for label, best, n in wrong]
    write_csv(predictions.with_name(f"{stem}_confusions.csv"), ["label", "prediction", "photos", "share"], rows)
    return Scored(len(labelled), sum(pairs[name, name] for name in classes), per_class, trained)


def _labelled(predictions: Path, classes: Set[str]) -> Iterator[tuple[str, str, str]]:
    """The file, the label and the prediction of each photo that has all of them."""
    for file, best in _read(predictions):
        names = (_NUMBER.sub("", folder.name) for folder in Path(file).parents)
        label = next((name for name in names if name in classes), None)
        if label and best:
            yield file, label, best


def _read(predictions: Path) -> Iterator[tuple[str, str]]:
    with predictions.open(encoding="utf-8", newline="") as lines:
        if predictions.suffix == ".jsonl":
            for line in lines:
                row = json.loads(line)
                yield row["file"], row.get("label", "")
        else:
            for cells in csv.DictReader(lines):
                yield unmarked(cells["file"]), unmarked(cells["prediction"])
