"""The photos of an analysis: their labels, the model's predictions and the groups that they belong to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sagehound.data.folders import SPLITS, Photo
from sagehound.errors import InputError
from sagehound.runs.trained_model import load
from sagehound.storage.atomic import read_csv
from sagehound.system import console

Names: TypeAlias = npt.NDArray[np.object_]
PREDICTIONS = "predictions.csv"
CLASS = "class"  # the facet of each photo's class


@dataclass(frozen=True)
class PhotoRows:
    """n photos, each with its file, split, label and predicted class (empty: not predicted), and columns of groups."""

    files: Names
    splits: Names
    labels: Names
    predictions: Names
    facets: Mapping[str, Names]  # by column; empty: unknown

    @classmethod
    def make(cls, rows: Sequence[tuple[str, str, str, str]], facets: Mapping[str, Sequence[str]]) -> "PhotoRows":
        """Rows of file, split, label and prediction, and the columns."""
        files, splits, labels, predictions = (names([row[i] for row in rows]) for i in range(4))
        columns = {name: names(values) for name, values in facets.items()}
        return cls(files, splits, labels, predictions, columns)

    @property
    def classes(self) -> list[str]:
        """All labels and predicted classes, sorted."""
        return sorted({*self.labels, *self.predictions} - {""})

    def of_split(self, split: str) -> "PhotoRows":
        """The photos of one split."""
        return self.where(self.splits == split)

    def where(self, chosen: npt.NDArray[np.bool_]) -> "PhotoRows":
        """Some of the photos."""
        files, splits, labels, predictions = (
            column[chosen] for column in (self.files, self.splits, self.labels, self.predictions)
        )
        return PhotoRows(files, splits, labels, predictions, {name: c[chosen] for name, c in self.facets.items()})

    def with_facets(self, facets: Mapping[str, Sequence[str]]) -> "PhotoRows":
        """The same photos with these columns."""
        return replace(self, facets={name: names(values) for name, values in facets.items()})


def names(values: Sequence[str]) -> Names:
    """Text as an array."""
    return np.array(values, dtype=object)


def of_run(folder: Path) -> PhotoRows:
    """The photos of a run, from its predictions.csv.

    Raises:
        InputError: it cannot be read.
    """
    path = folder / PREDICTIONS
    try:
        rows = [(r["file"], r["split"], r["label"], r["prediction"]) for r in read_csv(path)]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is no table of predictions ({error!r}); train again, or give data.root=") from error
    if not rows:
        raise InputError(f"{path} has no predictions; train again with results=tables or results=all")
    return PhotoRows.make(rows, {})


def of_model(model: str, photos: Sequence[Photo], root: Path, split: str) -> PhotoRows:
    """Predict the photos of one split with a trained model; those of the other splits keep an empty prediction.

    Args:
        model: a run, a model.tar.gz or a checkpoint.
        photos: of all splits.
        root: their folder.
        split: train, valid or test.

    Raises:
        InputError: the split has no photos, the model does not know one of its classes, or a photo cannot be read.
    """
    chosen = [p.file for p in photos if p.split == split]
    if not chosen:
        have = [s for s in SPLITS if any(p.split == s for p in photos)]
        raise InputError(f"bias.split={split}: {root} has no such photos; choose from {', '.join(have)}")
    loaded = load(model)
    if unknown := {p.label for p in photos if p.split == split} - set(loaded.classes):
        raise InputError(
            f"{model} does not know the class {min(unknown)!r} of {root}; its classes are {', '.join(loaded.classes)}"
        )
    console.info(f"Predicting {len(chosen):,} {split} photos")
    found = loaded.predict([root / file for file in chosen], top_k=1)
    predicted = dict(zip(chosen, (p.label for p in found), strict=True))
    return PhotoRows.make([(p.file, p.split, p.label, predicted.get(p.file, "")) for p in photos], {})
